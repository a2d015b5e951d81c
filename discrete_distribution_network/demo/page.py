"""The page of `ddn demo`: walk the tree, sample, compress, guide, and watch a training.

Every answer is made of what the page sends, so nobody sees what another does; a place in the tree is kept by the page
of its visitor. Files are looked at before they are opened: their size, their pixels, whether they move.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from discrete_distribution_network.bitstream import Reader
from discrete_distribution_network.classifier import Classifier as Net
from discrete_distribution_network.code_prior import CodePrior
from discrete_distribution_network.codec import ImageCodec
from discrete_distribution_network.conditions import Classifier, ColorStrokes, Condition, Inpaint, SuperResolve
from discrete_distribution_network.config import CONFIG
from discrete_distribution_network.ddn import DDN, takes_labels
from discrete_distribution_network.demo.walking import Codes, Walker
from discrete_distribution_network.errors import DataError, DDNError, InvalidInput, require
from discrete_distribution_network.images import faults_named, load_image
from discrete_distribution_network.loader import in_unit_range
from discrete_distribution_network.metrics import psnr
from discrete_distribution_network.pictures import MARGIN, grid, to_pil
from discrete_distribution_network.prior import LearnedPrior, temperatures
from discrete_distribution_network.report import read_metrics
from discrete_distribution_network.runs import RUNS
from discrete_distribution_network.selection import resize
from discrete_distribution_network.tree import whole_levels

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # the page works offline, and tells nobody

import gradio as gr

MAX_UPLOAD, MAX_UPLOAD_PIXELS, MAX_DECODED_PIXELS, MAX_IMAGES = "10mb", 25_000_000, 1 << 20, 100
MAX_GUIDED, MAX_BEAMS, MAX_SEED, MAX_SCALE = 16, 8, 2**31, 4
ROLLOUTS = 16
"""Images that are finished at first, for each that is to show a class."""
SHOWN = 320
"""Pixels of a side at which one image is shown."""
DAY = 86_400
"""Seconds after which pictures that were shown are deleted."""
AT_ONCE, WAITING = 2, 100
"""Visitors that are answered at the same time, and that may wait."""


class Demo:
    """What the page shows: a model with what lies beside it.

    Args:
        ddn: in evaluation mode.
        prior: draws samples; uniformly without.
        net: a classifier of the model's images.
        classes: their names; numbers if None.
        example: an image (C, H, W) to begin with.
        runs: folder of the trainings that may be watched.
        code_prior: by which files are packed; uniformly without.
    """

    def __init__(
        self,
        ddn: DDN,
        prior: LearnedPrior | None = None,
        net: Net | None = None,
        classes: list[str] | None = None,
        example: Tensor | None = None,
        runs: Path = RUNS,
        code_prior: CodePrior | None = None,
    ):
        require(ddn.channels in (1, 3), "a model of grey or colour images", f"{ddn.channels} channels")
        require(ddn.cond_channels == 0, "a model that learnt without other images", "one that needs them")
        self.ddn, self.prior, self.net, self.runs = ddn, prior, net, runs
        self.codec = ImageCodec(ddn, code_prior)
        self.by_class = ddn.num_classes or (None if prior is None else prior.num_classes)
        known = self.by_class or (None if net is None else net.head.out_features)
        self.classes = classes or [str(number) for number in range(known or 0)]
        self.example = ddn.reconstruct(ddn.sample(1))[0].clamp(0, 1) if example is None else example
        self.columns = 16
        self._files = tempfile.TemporaryDirectory(prefix="ddn-")  # those that may be downloaded; gone with the page

    def labels(self, count: int, name: str | None) -> Tensor | None:
        """Classes to draw with, for a model or prior by class."""
        if self.by_class is None:
            return None
        if not name or name not in self.classes:
            return torch.arange(count) % self.by_class
        return torch.full((count,), self.classes.index(name))

    # the tree

    def walker(self, name: str | None) -> Walker:
        label = self.classes.index(name) if name in self.classes else None
        return Walker(self.ddn, self.prior, label)

    def place(self, codes: Codes, name: str | None) -> tuple[Any, ...]:
        """What the tab shows at a place: codes, candidates, image, where it is, codes as text."""
        walker = self.walker(name)
        image, text = to_pil(self.enlarged(walker.image(codes))), walker.written(codes)
        bits = sum(
            torch.tensor(size).log2().item()
            for size, count in zip(self.ddn.codebook_sizes, self.ddn.codes_per_level, strict=True)
            for _ in range(count)
        )
        total = sum(self.ddn.codes_per_level)
        if walker.done(codes):
            return codes, None, image, f"**All {total} codes are chosen**: {bits / 8:g} bytes.", text
        choice = walker.choice(codes)
        where = f"Level {choice.level + 1} of {self.ddn.num_levels}"
        if choice.patch is not None:
            where += f", patch {choice.patch + 1} of {self.ddn.codes_per_level[choice.level]}"
        where = f"**{where}.** {len(codes)} of {total} codes are chosen. Click a candidate."
        images = choice.images
        if choice.chances is not None:
            order = choice.chances.argsort(descending=True)
            where += f" They stand by their chance: the first has {float(choice.chances[order[0]]):.1%}."
            images = images[order]
        return codes, grid(images.clamp(0, 1), self.columns), image, where, text

    def clicked(self, codes: Codes, name: str | None, picture: tuple[int, int], at: tuple[int, int]) -> tuple[Any, ...]:
        """The place after a click at (x, y) of the picture of candidates, of so many pixels."""
        walker = self.walker(name)
        if walker.done(codes):
            return self.place(codes, name)
        choice = walker.choice(codes)
        count = len(choice.images)
        columns = min(self.columns, count)
        cell = (picture[0] - MARGIN) / columns
        index = int((at[1] - MARGIN) // cell) * columns + min(columns - 1, int((at[0] - MARGIN) // cell))
        if not 0 <= index < count:
            return self.place(codes, name)
        if choice.chances is not None:
            index = int(choice.chances.argsort(descending=True)[index])
        return self.place((*codes, index), name)

    # images

    def enlarged(self, image: Tensor) -> Tensor:
        """At a size for people, pixels still pixels."""
        times = max(1, SHOWN // max(image.shape[1:]))
        return image.repeat_interleave(times, 1).repeat_interleave(times, 2)

    def fitted(self, path: str | None) -> Tensor:
        """An uploaded image (C, H, W) at the model's size.

        Raises:
            DataError: it is too large, or moves, or is no image.
        """
        if path is None:
            raise InvalidInput("expected an image, got none; upload one")
        look_at(Path(path))
        return in_unit_range(load_image(path, self.ddn.image_size, self.ddn.channels, name="the file"))

    def samples(
        self, count: float, seed: float, temperature: float, name: str | None, scale: float = 1.0
    ) -> Image.Image:
        number = int(count)
        within("images", number, 1, MAX_IMAGES)
        within("seed", seed, 0, MAX_SEED)
        within("temperature", temperature, 0.1, 1.5)
        within("guidance scale", scale, 1, MAX_SCALE)
        labels = self.labels(number, name)
        at = [temperature * own for own in temperatures(self.ddn)]
        how: dict[str, Any] = {} if self.prior is None else {"prior": self.prior, "temperature": at}
        if takes_labels(self.prior):
            how["guidance_scale"] = scale
        generator = torch.Generator().manual_seed(int(seed))
        return grid(self.ddn.sample(number, generator=generator, labels=labels, **how).clamp(0, 1))

    def compressed(self, path: str | None, levels: float) -> tuple[Any, ...]:
        """Original, what a file of so many levels gives back, what there is to tell, and the file."""
        image = self.fitted(path)
        data = self.codec.compress(image, int(levels))
        back = self.codec.decompress(data)
        packed = len(Reader(data)[0])
        error = float((back - image).square().mean())
        told = (
            f"**{packed} bytes** ({len(data)} with the header), {psnr(error):.1f} dB; as pixels it is "
            f"{image.numel()} bytes."
        )
        return to_pil(self.enlarged(image)), to_pil(self.enlarged(back)), told, self.kept(data)

    def kept(self, data: bytes) -> str:
        """A file that may be downloaded; the same one for the same bytes."""
        path = Path(self._files.name, hashlib.sha256(data).hexdigest()[:16], "image.ddn")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return str(path)

    def opened(self, path: str | None) -> Image.Image:
        if path is None:
            raise InvalidInput("expected a .ddn file, got none; upload one")
        data = Path(path).read_bytes()
        header = self.codec.read(data).header
        pixels = header.height * header.width
        require(pixels <= MAX_DECODED_PIXELS, f"an image of at most {MAX_DECODED_PIXELS} pixels here", pixels)
        return to_pil(self.enlarged(self.codec.decompress_batch(data, only=[0])[0]))

    def guided(
        self,
        editor: dict[str, Any] | None,
        painted: str,
        pixels: float,
        name: str | None,
        count: float,
        seed: float,
        beams: float,
    ) -> Image.Image:
        """Images by what is painted over the picture, by its few pixels, and by a class."""
        ddn, number = self.ddn, int(count)
        within("images", number, 1, MAX_GUIDED)
        within("beams", beams, 1, MAX_BEAMS)
        within("seed", seed, 0, MAX_SEED)
        within("pixels", pixels, 0, max(ddn.image_size))
        conditions: list[Condition] = []
        if editor is not None and editor.get("background") is not None:
            image, strokes, mask = self.painted(editor)
            if painted == MISSING and bool(mask.any()) and not bool(mask.all()):
                conditions.append(Inpaint(image, 1 - mask))
            elif painted == STROKES and bool(mask.any()):
                conditions.append(ColorStrokes(strokes, mask, block=max(1, max(ddn.image_size) // 16)))
            if pixels:
                conditions.append(SuperResolve(resize(image.unsqueeze(0), (int(pixels), int(pixels)))))
        rollouts = 0
        if name in self.classes and self.net is not None and self.by_class is None:
            levels = range(whole_levels(ddn) or ddn.num_levels)
            conditions.append(Classifier(self.net, self.classes.index(name), levels=levels))
            rollouts = ROLLOUTS
        if not conditions and self.by_class is None:
            raise InvalidInput("expected something to go by, got nothing; paint, keep few pixels or choose a class")
        generator = torch.Generator().manual_seed(int(seed))
        if not conditions:
            return self.samples(count, seed, 1, name)
        guided = ddn.guide(
            conditions,
            number,
            1,
            generator,
            beams=int(beams),
            prior=self.prior,
            rollouts=rollouts,
            labels=self.labels(number, name),
        )
        return grid(guided.images.clamp(0, 1))

    def painted(self, editor: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """The picture below the paint, the paint (C, H, W), and where it is (1, H, W), at the model's size."""
        size, channels = self.ddn.image_size, self.ddn.channels
        below = pixels_of(editor["background"], channels)
        image = resize(below.unsqueeze(0), size)[0]
        paint, mask = torch.zeros_like(image), torch.zeros(1, *size)
        for layer in editor.get("layers") or ():
            alpha = pixels_of(layer.getchannel("A"), 1)
            share = resize(alpha.unsqueeze(0), size)[0]
            color = resize((pixels_of(layer, channels) * alpha).unsqueeze(0), size)[0] / share.clamp_min(1e-6)
            paint, mask = torch.where(share > 0.5, color, paint), torch.maximum(mask, (share > 0.5).float())
        return image, paint.clamp(0, 1), mask

    # training

    def trainings(self) -> list[str]:
        """Names of the runs that may be watched, the newest first."""
        found = sorted(self.runs.glob(f"*/{CONFIG}"), key=lambda path: path.stat().st_mtime, reverse=True)
        return [path.parent.name for path in found]

    def watched(self, name: str | None) -> tuple[Any, ...]:
        """Curves, the newest samples, and what there is to tell of a run."""
        if not name or name not in self.trainings():
            return None, None, "No training to watch: start one with `ddn train` in this folder."
        run = self.runs / name
        lines = [line for line in read_metrics(run) if "loss" in line]
        if not lines:
            return None, None, "It has not written a figure yet."
        now = lines[-1]
        pictures = sorted((run / "pictures").glob("samples-*.png"))
        told = (
            f"Step {now['step']}, {now['seconds'] / 60:.1f} minutes, loss {now['loss']:.5f}, "
            f"{now['images_per_second']:.0f} images a second, {now['splits']} nodes pruned"
        )
        return curves(lines), str(pictures[-1]) if pictures else None, told


def within(name: str, value: float, least: float, most: float) -> None:
    """What the sliders see to, for those who ask without them."""
    require(least <= value <= most, f"{name} from {least} to {most}", value)


MISSING, STROKES = "what is missing", "colours"


def look_at(path: Path) -> None:
    """Refuse a file that is no still image of a size to work on; only its beginning is read.

    Raises:
        DataError: it is one.
    """
    with faults_named("the file"), Image.open(path) as image:
        width, height = image.size
        if width * height > MAX_UPLOAD_PIXELS:
            raise DataError(
                f"expected an image of at most {MAX_UPLOAD_PIXELS // 10**6} megapixels, got {width}x{height}; "
                "make it smaller"
            )
        if getattr(image, "n_frames", 1) > 1:
            raise DataError(f"expected a still image, got one of {image.n_frames} frames; upload a single frame")  # type: ignore[attr-defined]


def pixels_of(picture: Image.Image, channels: int) -> Tensor:
    """(C, H, W) in [0, 1]."""
    require(picture.width * picture.height <= MAX_DECODED_PIXELS, "a painting of the size shown", picture.size)
    picture = picture.convert("L" if channels == 1 else "RGB")
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).float() / 255
    return values.reshape(picture.height, picture.width, channels).permute(2, 0, 1).contiguous()


def curves(lines: list[dict[str, Any]]) -> Any:
    """Loss, and the least and mean use of nodes, by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    loss, use = figure.subplots(1, 2)
    steps = [line["step"] for line in lines]
    loss.plot(steps, [line["loss"] for line in lines], linewidth=1)
    loss.set(xlabel="step", ylabel="loss", yscale="log")
    used = [line["usage_by_level"] for line in lines]
    use.plot(steps, [sum(own) / len(own) for own in used], linewidth=1, label="mean level")
    use.plot(steps, [min(own) for own in used], linewidth=1, label="least used level")
    use.set(xlabel="step", ylabel="share of nodes in use", ylim=(0, 1.02))
    use.legend()
    for axes in (loss, use):
        axes.grid(alpha=0.3)
    return figure


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Faults that the library names become a sentence on the page; it lives on."""

    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        try:
            return function(*args)
        except DDNError as error:
            raise gr.Error(str(error), print_exception=False, title="") from error

    return wrapped


# the page


def page(demo: Demo) -> gr.Blocks:
    """The whole page, with a queue."""
    with gr.Blocks(title="Discrete Distribution Networks", analytics_enabled=False, delete_cache=(DAY, DAY)) as blocks:
        ddn = demo.ddn
        gr.Markdown(
            f"# Discrete Distribution Network\nA picture is {sum(ddn.codes_per_level)} choices, "
            f"{ddn.bits_per_image / 8:g} bytes. [How it works](https://arxiv.org/abs/2401.00036)"
        )
        with gr.Tab("Walk the tree"):
            _walk(demo)
        with gr.Tab("Sample"):
            _sample(demo)
        with gr.Tab("Reconstruct and compress"):
            _compress(demo)
        with gr.Tab("Guide"):
            _guide(demo)
        with gr.Tab("Train"):
            _train(demo)
    return blocks.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)


def _classes(demo: Demo, wanted: bool, every: str) -> gr.Dropdown:
    return gr.Dropdown([every, *demo.classes], value=every, label="Class", visible=wanted)


def _picture(label: str, name: str, **more: Any) -> gr.Image:
    return gr.Image(label=label, interactive=False, format="png", elem_id=name, **more)


def _walk(demo: Demo) -> None:
    codes = gr.State(())
    with gr.Row():
        with gr.Column(scale=3):
            where = gr.Markdown(min_height=60)  # two lines, so that the picture below stays under the mouse
            candidates = _picture("Candidates", "candidates", show_label=False, type="pil")
        with gr.Column(scale=1):
            gr.Markdown("The image so far")
            image = _picture("The image so far", "so-far", show_label=False)
            name = _classes(demo, demo.by_class is not None, "any")
            with gr.Row():
                back = gr.Button("Back")
                again = gr.Button("Begin again")
            likely = gr.Button("Take the likeliest" if demo.prior is not None else "Take the first")
            rest = gr.Button("Draw the rest")
            upload = gr.UploadButton("Follow an image", type="filepath", elem_id="follow")
            text = gr.Textbox(label="Code", lines=3, buttons=["copy"], elem_id="code")
            paste = gr.Button("Go to this code")
    shown = [codes, candidates, image, where, text]

    def click(codes: Codes, name: str, picture: Image.Image | None, event: gr.SelectData) -> tuple[Any, ...]:
        if picture is None:
            return demo.place(codes, name)
        return demo.clicked(codes, name, picture.size, tuple(event.index))

    def follow(path: str | None, name: str) -> tuple[Any, ...]:
        return demo.place((), name) if path is None else demo.place(demo.walker(name).follow(demo.fitted(path)), name)

    def take(codes: Codes, name: str) -> tuple[Any, ...]:
        walker = demo.walker(name)
        if walker.done(codes):
            return demo.place(codes, name)
        chances = walker.choice(codes).chances
        return demo.place((*codes, 0 if chances is None else int(chances.argmax())), name)

    quick: dict[str, Any] = {"show_progress": "hidden", "outputs": shown, "concurrency_limit": AT_ONCE}
    gr.on([again.click, name.change], told(lambda name: demo.place((), name)), name, **quick)
    candidates.select(select_told(click), [codes, name, candidates], **quick)
    back.click(told(lambda codes, name: demo.place(tuple(codes)[:-1], name)), [codes, name], **quick)
    likely.click(told(take), [codes, name], **quick)
    rest.click(
        told(lambda codes, name: demo.place(demo.walker(name).finish(codes), name)),
        [codes, name],
        **quick,
    )
    upload.upload(told(follow), [upload, name], **quick)
    paste.click(told(lambda text, name: demo.place(demo.walker(name).parse(text), name)), [text, name], **quick)
    gr.on(None, told(lambda name: demo.place((), name)), name, **quick)


def select_told(function: Callable[..., Any]) -> Callable[..., Any]:
    """`told`, for a function that gets the place of a click."""

    def wrapped(codes: Codes, name: str, picture: Any, event: gr.SelectData) -> Any:
        return told(function)(tuple(codes), name, picture, event)

    return wrapped


def _sample(demo: Demo) -> None:
    with gr.Row():
        with gr.Column(scale=1):
            count = gr.Slider(1, MAX_IMAGES, 36, step=1, label="Images")
            seed = gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed")
            temperature = gr.Slider(
                0.1, 1.5, 1, step=0.05, label="Temperature: 1 as ddn sample has it", visible=demo.prior is not None
            )
            name = _classes(demo, demo.by_class is not None, "one after the other")
            scale = gr.Slider(
                1, MAX_SCALE, 1, step=0.25, label="How much the class counts", visible=takes_labels(demo.prior)
            )
            button = gr.Button("Draw", variant="primary")
        with gr.Column(scale=3):
            drawn = _picture("Samples", "samples")
    button.click(told(demo.samples), [count, seed, temperature, name, scale], drawn)


def _compress(demo: Demo) -> None:
    levels = demo.ddn.num_levels
    with gr.Row():
        with gr.Column():
            upload = gr.File(label="An image", type="filepath", height=140, elem_id="image")
            number = gr.Slider(1, levels, levels, step=1, label="Levels")
            words = gr.Markdown()
            file = gr.File(label="As a file", interactive=False, elem_id="packed")
            stored = gr.UploadButton("Open a .ddn file", type="filepath", elem_id="stored")
        original = _picture("Original", "original")
        back = _picture("What the code gives back", "back")
    outputs = [original, back, words, file]

    def compress(path: str | None, levels: float) -> tuple[Any, ...]:
        return (None, None, "", None) if path is None else demo.compressed(path, levels)

    gr.on([upload.change, number.release], told(compress), [upload, number], outputs)
    stored.upload(told(demo.opened), stored, back)


def _guide(demo: Demo) -> None:
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
                brush=gr.Brush(default_size=24, colors=["#ff0000", "#ffffff", "#808080", "#000000", "#2060c0"]),
                elem_id="editor",
            )
            painted = gr.Radio([MISSING, STROKES], value=MISSING, label="The paint says")
            pixels = gr.Slider(0, side, 0, step=1, label="Keep only so many pixels a side (0: none)")
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

    upload.upload(told(load), upload, editor)
    button.click(told(demo.guided), [editor, painted, pixels, name, count, seed, beams], results)


def _train(demo: Demo) -> None:
    with gr.Row():
        names = demo.trainings()
        run = gr.Dropdown(names, value=names[0] if names else None, label="Training", allow_custom_value=False)
        renew = gr.Button("Look again")
    words = gr.Markdown()
    with gr.Row():
        plot = gr.Plot(label="Curves", elem_id="curves")
        samples = _picture("Newest samples", "newest")
    shown = [plot, samples, words]
    watch = told(demo.watched)
    gr.on([run.change, gr.Timer(5).tick], watch, run, shown, show_progress="hidden")

    def look() -> Any:
        names = demo.trainings()
        return gr.Dropdown(names, value=names[0] if names else None)

    renew.click(look, None, run)
    gr.on(None, watch, run, shown, show_progress="hidden")


def serve(demo: Demo, host: str = "127.0.0.1", port: int | None = None, browser: bool = False, **more: Any) -> Any:
    """Serve the page until it is stopped, at a free port from 7860 on unless told; gives what gradio gives.

    Args:
        more: for `gradio.Blocks.launch`; `prevent_thread_lock=True` returns at once.
    """
    fonts = ["system-ui", "sans-serif"]  # those of the visitor: nothing is fetched
    theme = gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"])
    return page(demo).launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        max_file_size=MAX_UPLOAD,
        theme=theme,
        share=False,
        footer_links=[],
        show_error=True,
        ssr_mode=False,
        **more,
    )
