"""The tabs of the page: their components, and which handler answers each event."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from discrete_distribution_network.demo.handlers import (
    COLOURING,
    COLUMNS,
    LIKELIEST,
    MAX_BEAMS,
    MAX_GUIDED,
    MAX_IMAGES,
    MAX_SCALE,
    MAX_SEED,
    MISSING,
    STROKES,
    Demo,
)
from discrete_distribution_network.demo.uploads import open_editor
from discrete_distribution_network.demo.walking import Codes
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.model.code_distribution import takes_labels
from discrete_distribution_network.viz.pictures import to_pil

PAINT = ("#ff0000", "#ffd030", "#30a040", "#2060c0", "#804020", "#ffffff", "#808080", "#000000")
"""Colours of the brush of the image editor."""


ANY = "any"
"""Of the classes, at a walk through the tree."""

MODEL = """(document.querySelector("#model input")?.value ?? "")"""
"""The name of the model that is shown."""

OPEN_LINK = f"""() => {{
    document.onkeydown = (event) => {{
        const id = {{ ArrowLeft: "walk-back", ArrowRight: "walk-forward" }}[event.key];
        const elsewhere = event.target.closest("input, textarea, [role=tablist], [role=listbox]");
        const button = document.getElementById(id);
        if (!button?.offsetParent || elsewhere || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        button.click();
    }};
    try {{
        const [model, name, codes] = location.hash.slice(1).split("/").map(decodeURIComponent);
        if (codes && model === {MODEL}) return [codes.replaceAll(".", " "), name];
    }} catch {{}}
    return ["", ""];
}}"""
"""Run where the tab is opened: listens to keys, and gives codes and class of a link, #model/class/code.code..."""

KEEP_LINK = f"""(text, name) => {{
    const codes = (text.match(/\\d+/g) ?? []).join(".");
    if (!codes && !location.hash) return;
    history.replaceState(null, "", "#" + [{MODEL}, name, codes].map(encodeURIComponent).join("/"));
}}"""
"""Run where the code changes: the address of the page holds it."""


def _classes(demo: Demo, visible: bool, every: str) -> gr.Dropdown:
    return gr.Dropdown([every, *demo.classes], value=every, label="Class", visible=visible)


def _picture(label: str, name: str, **more: Any) -> gr.Image:
    return gr.Image(label=label, interactive=False, format="png", elem_id=name, **more)


class _Moves:
    """Moves through the tree: each gives the new codes, the furthest ones, and what is shown there."""

    def __init__(self, demo: Demo):
        self.demo = demo

    def place(self, codes: Codes, furthest: Codes, name: str, view: str) -> tuple[Any, ...]:
        codes, furthest = tuple(codes), tuple(furthest)
        ahead = furthest if furthest[: len(codes)] == codes else codes
        return (codes, ahead, *self.demo.place(codes, name, view))

    def click(self, codes: Codes, furthest: Codes, name: str, view: str, event: gr.SelectData) -> tuple[Any, ...]:
        return self.place(self.demo.clicked(tuple(codes), name, event.index, view), furthest, name, view)

    def follow(self, path: str | None, name: str, view: str) -> tuple[Any, ...]:
        return self.place(() if path is None else self.demo.walker(name).follow(self.demo.fitted(path)), (), name, view)

    def back(self, codes: Codes, furthest: Codes, name: str, view: str) -> tuple[Any, ...]:
        return self.place(codes[:-1], furthest, name, view)

    def forward(self, codes: Codes, furthest: Codes, name: str, view: str) -> tuple[Any, ...]:
        codes = tuple(codes)
        if len(furthest) > len(codes):
            return self.place(furthest[: len(codes) + 1], furthest, name, view)
        return self.place(self.demo.likeliest(codes, name), furthest, name, view)

    def draw(self, codes: Codes, furthest: Codes, name: str, view: str) -> tuple[Any, ...]:
        return self.place(self.demo.walker(name).finish(codes), furthest, name, view)

    def go(self, text: str, name: str, view: str) -> tuple[Any, ...]:
        return self.place(self.demo.walker(name).parse(text), (), name, view)

    def open_link(self, text: str, name: str) -> tuple[Any, ...]:
        try:
            shown = self.go(text, name, LIKELIEST)
        except InvalidInput as error:
            gr.Warning(str(error))
            shown = self.go("", name, LIKELIEST)
        return (*shown, name if name in self.demo.classes else ANY)


def walk_tab(demo: Demo) -> None:
    codes = gr.State(())
    furthest = gr.State(())  # the codes that were gone back from begin with `codes`
    with gr.Row():
        with gr.Column(scale=3):
            where = gr.Markdown(min_height=60)  # two lines, so that the picture below stays under the mouse
            view = gr.Radio([*COLUMNS], value=LIKELIEST, label="Candidates")
            candidates = _picture("Candidates", "candidates", show_label=False, type="pil")
        with gr.Column(scale=1):
            gr.Markdown("The image so far")
            image = _picture("The image so far", "so-far", show_label=False)
            name = _classes(demo, demo.by_class is not None, ANY)
            with gr.Row():
                back = gr.Button("← Back", elem_id="walk-back")
                forward = gr.Button("Forward →", elem_id="walk-forward")
            again = gr.Button("Begin again")
            rest = gr.Button("Draw the rest")
            upload = gr.UploadButton("Follow an image", type="filepath", elem_id="follow")
            text = gr.Textbox(label="Code", lines=3, buttons=["copy"], elem_id="code")
            paste = gr.Button("Go to this code")
            gr.Markdown(
                "Keys: ← and → go back and forth, where nothing was chosen yet to the likeliest candidate. "
                "The address of this page holds the code."
            )
    shown, moves = [codes, furthest, candidates, image, where, text], _Moves(demo)

    quick: dict[str, Any] = {"show_progress": "hidden", "outputs": shown, "concurrency_id": "walk"}
    quick["concurrency_limit"] = 1  # one step after the other
    here = [codes, furthest, name, view]
    gr.on([again.click, name.input], lambda name, view: moves.place((), (), name, view), [name, view], **quick)
    view.change(moves.place, here, **quick)
    candidates.select(moves.click, here, **quick)
    back.click(moves.back, here, **quick)
    forward.click(moves.forward, here, **quick)
    rest.click(moves.draw, here, **quick)
    upload.upload(moves.follow, [upload, name, view], **quick)
    paste.click(moves.go, [text, name, view], **quick)
    codes.change(None, [text, name], js=KEEP_LINK)
    # without a trigger it is run where the tab is opened, and where an input changes: these two never do
    link = [gr.Textbox(visible=False), gr.Textbox(visible=False)]
    gr.on(None, moves.open_link, link, js=OPEN_LINK, **{**quick, "outputs": [*shown, name]})


def sample_tab(demo: Demo) -> None:
    with gr.Row():
        with gr.Column(scale=1):
            count = gr.Slider(1, MAX_IMAGES, 36, step=1, label="Images")
            seed = gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed")
            temperature = gr.Slider(
                0.1,
                1.5,
                1,
                step=0.05,
                label="Temperature, times that of ddn sample",
                visible=demo.ddn.prior is not None,
            )
            name = _classes(demo, demo.by_class is not None, "all in turn")
            scale = gr.Slider(1, MAX_SCALE, 1, step=0.25, label="Guidance scale", visible=takes_labels(demo.ddn.prior))
            button = gr.Button("Draw", variant="primary")
        with gr.Column(scale=3):
            drawn = _picture("Samples", "samples")
    button.click(demo.samples, [count, seed, temperature, name, scale], drawn, concurrency_id="work")


def compress_tab(demo: Demo) -> None:
    levels = demo.ddn.num_levels
    with gr.Row():
        with gr.Column():
            upload = gr.File(label="An image", type="filepath", height=140, elem_id="image")
            number = gr.Slider(1, levels, levels, step=1, label="Levels")
            words = gr.Markdown()
            file = gr.File(label="As a file", interactive=False, elem_id="packed")
            stored = gr.UploadButton("Open a .ddn file", type="filepath", elem_id="stored")
        original = _picture("Original", "original")
        back = _picture("Reconstruction", "back")
    outputs = [original, back, words, file]

    def compress(path: str | None, levels: float) -> tuple[Any, ...]:
        return (None, None, "", None) if path is None else demo.compressed(path, levels)

    gr.on([upload.change, number.release], compress, [upload, number], outputs, concurrency_id="work")
    stored.upload(demo.opened, stored, back, concurrency_id="work")


def guide_tab(demo: Demo) -> None:
    side = max(demo.ddn.image_size)
    example = to_pil(demo.enlarged(demo.example))
    with gr.Row():
        with gr.Column():
            upload = gr.UploadButton("Another picture", type="filepath", elem_id="another")
            editor = gr.ImageEditor(
                {"background": example, "layers": [], "composite": example},
                type="pil",
                label="Paint over it",
                sources=(),
                transforms=(),
                layers=False,
                canvas_size=example.size,
                fixed_canvas=True,
                brush=gr.Brush(default_size=24, colors=list(PAINT)),
                elem_id="editor",
            )
            meanings = [MISSING, STROKES, COLOURING] if demo.ddn.channels == 3 else [MISSING, STROKES]
            painted = gr.Radio(meanings, value=MISSING, label="The paint marks")
            pixels = gr.Slider(0, side, 0, step=1, label="Low resolution, pixels a side (0: none)")
            name = _classes(demo, bool(demo.classes) and (demo.net is not None or demo.by_class is not None), "any")
            with gr.Row():
                count = gr.Slider(1, MAX_GUIDED, 8, step=1, label="Images")
                beams = gr.Slider(1, MAX_BEAMS, 1, step=1, label="Beams")
                seed = gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed")
            button = gr.Button("Guide", variant="primary")
        results = _picture("Results", "guided")

    def load(path: str | None) -> dict[str, Any]:
        picture = example if path is None else to_pil(demo.enlarged(demo.fitted(path)))
        return {"background": picture, "layers": [], "composite": picture}

    def guide(editor: dict[str, Any] | None, *options: Any) -> Image.Image:
        return demo.guided(open_editor(editor), *options)

    upload.upload(load, upload, editor, concurrency_id="work")
    inputs = [editor, painted, pixels, name, count, seed, beams]
    button.click(guide, inputs, results, concurrency_id="guide", preprocess=False)  # gradio would decode any picture


def train_tab(demo: Demo) -> None:
    with gr.Row():
        names = demo.trainings()
        run = gr.Dropdown(names, value=names[0] if names else None, label="Training", allow_custom_value=False)
        renew = gr.Button("Look again")
    words = gr.Markdown()
    with gr.Row():
        plot = gr.Plot(label="Curves", elem_id="curves")
        samples = _picture("Newest samples", "newest")
    shown = [plot, samples, words]
    gr.on([run.change, gr.Timer(5).tick], demo.watched, run, shown, show_progress="hidden", concurrency_id="watch")

    def look() -> Any:
        names = demo.trainings()
        return gr.Dropdown(names, value=names[0] if names else None)

    renew.click(look, None, run)
    gr.on(None, demo.watched, run, shown, show_progress="hidden", concurrency_id="watch")
