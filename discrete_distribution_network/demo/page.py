"""The page of `ddn demo`: walk the tree, sample, compress, guide, and watch a training.

Every answer is made of what the page sends, so nobody sees what another does; a place in the tree is kept by the page
of its visitor. Files are looked at before they are opened: their size, their pixels, whether they move.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image
from torch import Tensor

from discrete_distribution_network.cli.config import CONFIG
from discrete_distribution_network.cli.options import RUNS
from discrete_distribution_network.codec.bitstream import Reader
from discrete_distribution_network.codec.entropy_model import EntropyModel
from discrete_distribution_network.codec.image_codec import ImageCodec
from discrete_distribution_network.data.images import decoding_errors, load_image
from discrete_distribution_network.data.loader import in_unit_range
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.demo.files import is_own, own_folder
from discrete_distribution_network.demo.launch import Served, sentence, started
from discrete_distribution_network.demo.walking import Codes, Walker
from discrete_distribution_network.errors import DataError, InvalidInput, require
from discrete_distribution_network.evaluation.classifier import Classifier as Net
from discrete_distribution_network.evaluation.metrics import psnr
from discrete_distribution_network.guidance import Classifier, ColorStrokes, Condition, Inpaint, SuperResolve
from discrete_distribution_network.io.atomic_file import write_bytes
from discrete_distribution_network.model.code_distribution import takes_labels
from discrete_distribution_network.model.tensors import resize
from discrete_distribution_network.prior.base import LearnedPrior, temperatures
from discrete_distribution_network.signals import Interrupted, Signals
from discrete_distribution_network.training.report import read_metrics
from discrete_distribution_network.viz.pictures import MARGIN, grid, to_pil
from discrete_distribution_network.viz.tree import whole_levels

MAX_UPLOAD_PIXELS, MAX_DECODED_PIXELS, MAX_IMAGES, MAX_LAYERS = 25_000_000, 1 << 20, 100, 4
MAX_CODES = 1 << 20
"""Bytes of a file of codes."""
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Of images that are opened; MPO is what some cameras write, a JPEG with a smaller one behind it."""
MAX_GUIDED, MAX_BEAMS, MAX_SEED, MAX_SCALE = 16, 8, 2**31, 4
ROLLOUTS = 16
"""Images that are finished at first, for each that is to show a class."""
SHOWN = 320
"""Pixels of a side at which one image is shown."""
DAY = 86_400
"""Seconds after which pictures that were shown are deleted."""
AT_ONCE, WAITING = 2, 100
"""Visitors that are answered at the same time, of those who walk, who guide, and of the others, and that may wait."""
VISITORS = 200
"""Visitors whose place in the tree is kept."""


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
        code_prior: EntropyModel | None = None,
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
        self._decoding = threading.Lock()

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

    def clicked(self, codes: Codes, name: str | None, at: Sequence[int]) -> tuple[Any, ...]:
        """The place after a click at (x, y) of the picture of candidates."""
        walker = self.walker(name)
        if walker.done(codes):
            return self.place(codes, name)
        choice = walker.choice(codes)
        count = len(choice.images)
        columns = min(self.columns, count)
        cell = (grid(choice.images[:columns], columns).width - MARGIN) / columns
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
        with self._decoding:  # a large one takes hundreds of megabytes
            return in_unit_range(load_image(path, self.ddn.image_size, self.ddn.channels, name="the file"))

    def samples(
        self, count: float, seed: float, temperature: float, name: str | None, scale: float = 1.0
    ) -> Image.Image:
        within("images", count, 1, MAX_IMAGES)
        within("seed", seed, 0, MAX_SEED)
        within("temperature", temperature, 0.1, 1.5)
        within("guidance scale", scale, 1, MAX_SCALE)
        number = int(count)
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
        within("levels", levels, 1, self.ddn.num_levels)
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
        path = Path(own_folder().name, hashlib.sha256(data).hexdigest()[:16], "image.ddn")
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, data)
        return str(path)

    def opened(self, path: str | None) -> Image.Image:
        if path is None:
            raise InvalidInput("expected a .ddn file, got none; upload one")
        size = Path(path).stat().st_size
        require(size <= MAX_CODES, f"a file of at most {MAX_CODES} bytes of codes here", size)
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
        ddn = self.ddn
        within("images", count, 1, MAX_GUIDED)
        within("beams", beams, 1, MAX_BEAMS)
        within("seed", seed, 0, MAX_SEED)
        within("pixels", pixels, 0, max(ddn.image_size))
        number = int(count)
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
    require(
        isinstance(value, (int, float)) and least <= value <= most, f"{name} from {least} to {most}", str(value)[:40]
    )


MISSING, STROKES = "what is missing", "colours"


def look_at(path: Path, most: int = MAX_UPLOAD_PIXELS) -> None:
    """Refuse a file that is no still image of a size to work on; only its beginning is read.

    Args:
        most: pixels.

    Raises:
        DataError: it is one.
    """
    with decoding_errors("the file"), Image.open(path) as image:
        if image.format not in FORMATS:
            raise DataError(f"expected an image such as a PNG or JPEG, got one of {image.format}; convert it")
        width, height = image.size
        tags: dict[int, Any] = getattr(image, "tag_v2", {})
        tile = [tags.get(tag, 1) for tag in (TILE_WIDTH, TILE_LENGTH)]  # a TIFF is decoded by whole tiles
        if max(width * height, tile[0] * tile[1]) > most:
            raise DataError(
                f"expected an image of at most {most // 10**6} megapixels, got {width}x{height}; make it smaller"
            )
        frames = 1 if image.format in ("MPO", "TIFF") else getattr(image, "n_frames", 1)  # pages do not move
        if frames > 1:
            raise DataError(f"expected a still image, got one of {frames} frames; upload a single frame")


TILE_WIDTH, TILE_LENGTH = 322, 323
"""Tags of a TIFF."""


def opened_pictures(editor: dict[str, Any] | None) -> dict[str, Any] | None:
    """The background and layers of the editor from its files, none of which is decoded before it was looked at.

    Raises:
        InvalidInput, DataError: there are too many layers, or one is no image or too large.
    """
    if editor is None:
        return None
    layers = [layer for layer in editor.get("layers") or () if layer is not None]
    require(len(layers) <= MAX_LAYERS, f"at most {MAX_LAYERS} layers of paint", len(layers))

    def picture(file: dict[str, Any]) -> Image.Image:
        path = file["path"]
        require(is_own(path), "a picture that was uploaded", "another file")
        look_at(Path(path), MAX_DECODED_PIXELS)
        with decoding_errors("the picture"), Image.open(path) as image:
            return image.convert("RGBA")

    below = editor.get("background")
    return {"background": None if below is None else picture(below), "layers": [picture(layer) for layer in layers]}


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


class Blocks(gr.Blocks):
    """gradio's page, but a fault is a sentence for its visitor alone, and the page lives on."""

    async def process_api(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().process_api(*args, **kwargs)
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False, title="") from error


# the page


def page(demo: Demo) -> gr.Blocks:
    """The whole page, with a queue."""
    with Blocks(title="Discrete Distribution Networks", analytics_enabled=False, delete_cache=(DAY, DAY)) as blocks:
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
    blocks.state_session_capacity = VISITORS
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

    def click(codes: Codes, name: str, event: gr.SelectData) -> tuple[Any, ...]:
        return demo.clicked(tuple(codes), name, event.index)

    def follow(path: str | None, name: str) -> tuple[Any, ...]:
        return demo.place((), name) if path is None else demo.place(demo.walker(name).follow(demo.fitted(path)), name)

    def take(codes: Codes, name: str) -> tuple[Any, ...]:
        walker = demo.walker(name)
        if walker.done(codes):
            return demo.place(codes, name)
        chances = walker.choice(codes).chances
        return demo.place((*codes, 0 if chances is None else int(chances.argmax())), name)

    quick: dict[str, Any] = {"show_progress": "hidden", "outputs": shown, "concurrency_id": "walk"}
    gr.on([again.click, name.change], lambda name: demo.place((), name), name, **quick)
    candidates.select(click, [codes, name], **quick)
    back.click(lambda codes, name: demo.place(tuple(codes)[:-1], name), [codes, name], **quick)
    likely.click(take, [codes, name], **quick)
    rest.click(lambda codes, name: demo.place(demo.walker(name).finish(codes), name), [codes, name], **quick)
    upload.upload(follow, [upload, name], **quick)
    paste.click(lambda text, name: demo.place(demo.walker(name).parse(text), name), [text, name], **quick)
    gr.on(None, lambda name: demo.place((), name), name, **quick)


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
    button.click(demo.samples, [count, seed, temperature, name, scale], drawn, concurrency_id="work")


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

    gr.on([upload.change, number.release], compress, [upload, number], outputs, concurrency_id="work")
    stored.upload(demo.opened, stored, back, concurrency_id="work")


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

    def guide(editor: dict[str, Any] | None, *how: Any) -> Image.Image:
        return demo.guided(opened_pictures(editor), *how)

    upload.upload(load, upload, editor, concurrency_id="work")
    asked = [editor, painted, pixels, name, count, seed, beams]
    button.click(guide, asked, results, concurrency_id="guide", preprocess=False)  # gradio would decode any picture


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
    gr.on([run.change, gr.Timer(5).tick], demo.watched, run, shown, show_progress="hidden", concurrency_id="watch")

    def look() -> Any:
        names = demo.trainings()
        return gr.Dropdown(names, value=names[0] if names else None)

    renew.click(look, None, run)
    gr.on(None, demo.watched, run, shown, show_progress="hidden", concurrency_id="watch")


def serve(
    demo: Demo,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = False,
    allow: Sequence[str] = (),
    prevent_thread_lock: bool = False,
    quiet: bool = False,
) -> Served:
    """Serve the page until SIGTERM or Ctrl-C, which end the program with their own code.

    Args:
        host, port: address; a free port from 7860 on if None.
        browser: whether to open the page in one.
        allow: names of the page beside `host` and localhost, such as that of a proxy before it.
        prevent_thread_lock: return at once; the page is served until `app.blocks.close()`, or the program ends.
        quiet: do not print the address.

    Raises:
        InvalidInput: the address is not free, or not one of this machine.
        Interrupted: one of the signals came.
    """
    if prevent_thread_lock:
        return started(lambda: page(demo), host, port, allow, browser, quiet)
    with Signals() as signals:
        served = started(lambda: page(demo), host, port, allow, browser, quiet)
        while signals.received is None and served.app.blocks.is_running:
            time.sleep(0.1)
    served.app.blocks.close(verbose=False)
    if signals.received is not None:
        raise Interrupted(signals.received)
    return served
