"""What the page answers: each method of `Demo` computes what one event of the page shows.

An answer depends only on what the page sends, so visitors do not see each other's work; a place in the latent tree is
kept by the visitor's own page.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from discrete_distribution_network.codec.bitstream import Reader
from discrete_distribution_network.codec.image_codec import ImageCodec
from discrete_distribution_network.data.images import load_image
from discrete_distribution_network.data.loader import in_unit_range
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.demo.files import own_folder
from discrete_distribution_network.demo.uploads import MAX_DECODED_PIXELS, check_picture, flatten
from discrete_distribution_network.demo.walking import Choice, Codes, Walker
from discrete_distribution_network.errors import InvalidInput, require
from discrete_distribution_network.evaluation.classifier import Classifier as Net
from discrete_distribution_network.evaluation.metrics import psnr
from discrete_distribution_network.guidance import Classifier, Colorize, ColorStrokes, Condition, Inpaint, SuperResolve
from discrete_distribution_network.guidance.conditions import grey
from discrete_distribution_network.io.atomic_file import write_bytes
from discrete_distribution_network.io.run_folder import CONFIG, RUNS
from discrete_distribution_network.model.code_distribution import chosen_temperature, scaled, takes_labels
from discrete_distribution_network.model.tensors import resize
from discrete_distribution_network.prior.companions import number_of_classes
from discrete_distribution_network.training.report import read_metrics
from discrete_distribution_network.viz.pictures import MARGIN, grid, to_pil
from discrete_distribution_network.viz.tree import whole_levels

MAX_IMAGES, MAX_GUIDED, MAX_BEAMS, MAX_SEED, MAX_SCALE = 100, 16, 8, 2**31, 4
MAX_CODES = 1 << 20
"""Most bytes of a file of codes."""
ROLLOUTS = 16
"""Rollouts of images that are guided by the classifier."""
SIDE = 320
"""Pixels of a side at which one image is shown."""
SHOWN = 16
"""Candidates that are shown unless all are asked for."""
LIKELIEST, FINISHED, ALL = "the likeliest", "the likeliest, each finished by the prior", "all"
COLUMNS = {LIKELIEST: 4, FINISHED: 4, ALL: 16}
"""Views of the candidates at a place in the tree, and how many stand in a row."""
MISSING, STROKES, COLOURING = "what is missing", "colours", "nothing: colour the grey picture"
"""What the paint of the image editor can mean; the last for models of colour images."""


class Demo:
    """A model with what lies beside it, and what the page shows of them.

    Args:
        ddn: in evaluation mode.
        net: a classifier of the model's images.
        classes: names of the classes; numbers if None.
        example: an image (C, H, W) to begin with.
        runs: folder of the trainings that may be watched.
    """

    def __init__(
        self,
        ddn: DDN,
        net: Net | None = None,
        classes: list[str] | None = None,
        example: Tensor | None = None,
        runs: Path = RUNS,
    ):
        require(ddn.channels in (1, 3), "a model of grey or colour images", f"{ddn.channels} channels")
        require(ddn.cond_channels == 0, "a model without conditioning images", f"cond_channels={ddn.cond_channels}")
        self.ddn, self.net, self.runs = ddn, net, runs
        self.codec = ImageCodec(ddn)
        self.by_class = number_of_classes(ddn, ddn.prior)
        known = self.by_class or (None if net is None else net.head.out_features)
        self.classes = classes or [str(number) for number in range(known or 0)]
        self.example = ddn.reconstruct(ddn.sample(1))[0].clamp(0, 1) if example is None else example
        self._decoding = threading.Lock()

    def labels(self, count: int, name: str | None) -> Int[Tensor, " count"] | None:
        """Classes of samples by the name of one, all in turn for another name; None without classes."""
        if self.by_class is None:
            return None
        if not name or name not in self.classes:
            return torch.arange(count) % self.by_class
        return torch.full((count,), self.classes.index(name))

    # the tree

    def walker(self, name: str | None) -> Walker:
        label = self.classes.index(name) if name in self.classes else None
        return Walker(self.ddn, label)

    def likeliest(self, codes: Codes, name: str | None) -> Codes:
        """These codes and the likeliest next one, which is shown first."""
        walker = self.walker(name)
        return codes if walker.done(codes) else (*codes, _order(walker.choice(codes), LIKELIEST)[0])

    def place(self, codes: Codes, name: str | None, view: str = LIKELIEST) -> tuple[Any, ...]:
        """What is shown at a place in the tree: candidates, image, description, codes as text.

        Args:
            view: of the candidates, one of `COLUMNS`.
        """
        walker = self.walker(name)
        image, text = to_pil(self.enlarged(walker.image(codes))), walker.written(codes)
        total = sum(self.ddn.codes_per_level)
        if walker.done(codes):
            return None, image, f"**All {total} codes are chosen**: {self.ddn.bits_per_image / 8:g} bytes.", text
        choice = walker.choice(codes)
        where = f"Level {choice.level + 1} of {self.ddn.num_levels}"
        if choice.patch is not None:
            where += f", patch {choice.patch + 1} of {self.ddn.codes_per_level[choice.level]}"
        where = f"**{where}.** {len(codes)} of {total} codes are chosen. Click a candidate."
        if choice.chances is not None:
            where += f" They are sorted by probability: the first has {float(choice.chances.max()):.1%}."
        images = self._pictures(walker, codes, choice, view)
        return grid(images.clamp(0, 1), COLUMNS[view]), image, where, text

    def _pictures(self, walker: Walker, codes: Codes, choice: Choice, view: str) -> Tensor:
        """What is shown of the candidates, in the order of `_order`."""
        order = _order(choice, view)
        if view == FINISHED:
            return torch.stack([walker.image(walker.finish((*codes, code), seed=0)) for code in order])
        return choice.images[order] if view == ALL else choice.candidates[order]

    def clicked(self, codes: Codes, name: str | None, at: Sequence[int], view: str = LIKELIEST) -> Codes:
        """The codes after a click on the picture of candidates at pixel (x, y)."""
        walker = self.walker(name)
        if walker.done(codes):
            return codes
        choice = walker.choice(codes)
        order = _order(choice, view)
        columns = min(COLUMNS[view], len(order))
        size = (
            self.ddn.image_size if view == FINISHED else (choice.images if view == ALL else choice.candidates).shape[2:]
        )
        cell = (grid(torch.zeros(columns, 1, *size), columns).width - MARGIN) / columns
        index = int((at[1] - MARGIN) // cell) * columns + min(columns - 1, int((at[0] - MARGIN) // cell))
        return (*codes, order[index]) if 0 <= index < len(order) else codes

    # images

    def enlarged(self, image: Float[Tensor, "channels _ _"]) -> Float[Tensor, "channels _ _"]:
        """An image (C, H, W) enlarged to about `SIDE` pixels by repeating its pixels."""
        times = max(1, SIDE // max(image.shape[1:]))
        return image.repeat_interleave(times, 1).repeat_interleave(times, 2)

    def fitted(self, path: str | None) -> Float[Tensor, "channels height width"]:
        """An uploaded image at the model's size, in [0, 1].

        Raises:
            DataError: it is too large, animated, or not an image.
        """
        if path is None:
            raise InvalidInput("expected an image, got none; upload one")
        check_picture(Path(path))
        with self._decoding:  # one at a time: a large one takes hundreds of megabytes
            return in_unit_range(load_image(path, self.ddn.image_size, self.ddn.channels, name="the file"))

    def samples(
        self, count: float, seed: float, temperature: float, name: str | None, scale: float = 1.0
    ) -> Image.Image:
        """A grid of samples."""
        check_range("images", count, 1, MAX_IMAGES)
        check_range("seed", seed, 0, MAX_SEED)
        check_range("temperature", temperature, 0.1, 1.5)
        check_range("guidance scale", scale, 1, MAX_SCALE)
        number = int(count)
        labels = self.labels(number, name)
        by_prior: dict[str, Any] = {}
        if self.ddn.prior is not None:
            by_prior["temperature"] = scaled(chosen_temperature(self.ddn.prior, None), temperature)
        if takes_labels(self.ddn.prior):
            by_prior["guidance_scale"] = scale
        generator = torch.Generator().manual_seed(int(seed))
        return grid(self.ddn.sample(number, generator=generator, labels=labels, **by_prior).clamp(0, 1))

    def compressed(self, path: str | None, levels: float) -> tuple[Any, ...]:
        """The original, its reconstruction from a file of the first `levels` levels, a description, and the file."""
        image = self.fitted(path)
        check_range("levels", levels, 1, self.ddn.num_levels)
        data = self.codec.compress(image, int(levels))
        back = self.codec.decompress(data)
        packed = len(Reader(data)[0])
        error = float((back - image).square().mean())
        description = (
            f"**{packed} bytes** ({len(data)} with the header), {psnr(error):.1f} dB; as pixels it is "
            f"{image.numel()} bytes."
        )
        return to_pil(self.enlarged(image)), to_pil(self.enlarged(back)), description, self.kept(data)

    def kept(self, data: bytes) -> str:
        """The path of a file to download; the same one for the same bytes."""
        path = Path(own_folder().name, hashlib.sha256(data).hexdigest()[:16], "image.ddn")
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, data)
        return str(path)

    def opened(self, path: str | None) -> Image.Image:
        """The image of an uploaded file of codes."""
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
        """A grid of images guided by the paint over a picture, by its low-resolution version, and by a class.

        Args:
            editor: what `uploads.open_editor` gives.
            painted: `MISSING`, `STROKES` or `COLOURING`.
            pixels: side of the low-resolution version; 0 for none.
        """
        check_range("images", count, 1, MAX_GUIDED)
        check_range("beams", beams, 1, MAX_BEAMS)
        check_range("seed", seed, 0, MAX_SEED)
        check_range("pixels", pixels, 0, max(self.ddn.image_size))
        conditions: list[Condition] = []
        if editor is not None and editor.get("background") is not None:
            conditions = self._painted_conditions(editor, painted, int(pixels))
        rollouts = 0
        if name in self.classes and self.net is not None and self.by_class is None:
            levels = range(whole_levels(self.ddn) or self.ddn.num_levels)
            conditions.append(Classifier(self.net, self.classes.index(name), levels=levels))
            rollouts = ROLLOUTS
        if not conditions:
            if self.by_class is None:
                raise InvalidInput("expected something to go by, got nothing; paint, keep few pixels or choose a class")
            return self.samples(count, seed, 1, name)
        guided = self.ddn.guide(
            conditions,
            int(count),
            1,
            torch.Generator().manual_seed(int(seed)),
            beams=int(beams),
            rollouts=rollouts,
            labels=self.labels(int(count), name),
        )
        return grid(guided.images.clamp(0, 1))

    def _painted_conditions(self, editor: dict[str, Any], painted: str, pixels: int) -> list[Condition]:
        size = self.ddn.image_size
        conditions: list[Condition] = []
        image, paint, mask = flatten(editor, size, self.ddn.channels)
        if painted == MISSING and bool(mask.any()) and not bool(mask.all()):
            conditions.append(Inpaint(image, 1 - mask))
        elif painted == STROKES and bool(mask.any()):
            conditions.append(ColorStrokes(paint, mask, block=max(1, max(size) // 16)))
        elif painted == COLOURING and self.ddn.channels == 3:
            conditions.append(Colorize(grey(image.unsqueeze(0))))
        if pixels:
            conditions.append(SuperResolve(resize(image.unsqueeze(0), (pixels, pixels))))
        return conditions

    # training

    def trainings(self) -> list[str]:
        """Names of the runs that may be watched, the newest first."""
        found = sorted(self.runs.glob(f"*/{CONFIG}"), key=lambda path: path.stat().st_mtime, reverse=True)
        return [path.parent.name for path in found]

    def watched(self, name: str | None) -> tuple[Any, ...]:
        """Curves, the newest samples, and a description of a run."""
        if not name or name not in self.trainings():
            return None, None, "No training to watch: start one with `ddn train` in this folder."
        run = self.runs / name
        every = read_metrics(run)
        lines = [line for line in every if "loss" in line]
        if not lines:
            return None, None, "It has not written a figure yet."
        now = lines[-1]
        pictures = sorted((run / "pictures").glob("samples-*.png"))
        description = (
            f"Step {now['step']}, {now['seconds'] / 60:.1f} minutes, loss {now['loss']:.5f}, "
            f"{now['images_per_second']:.0f} images a second, {now['splits']} nodes pruned"
        )
        if fitted := [line for line in every if "bits" in line]:
            now = fitted[-1]
            description += f". Prior: {now['seconds'] / 60:.1f} minutes, {now['bits']:.1f} bits an image"
        return curves(lines), str(pictures[-1]) if pictures else None, description


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Check a value that the page's own sliders keep in range, for requests without them."""
    fits = isinstance(value, int | float) and least <= value <= most
    require(fits, f"{name} from {least} to {most}", str(value)[:40])


def curves(lines: list[dict[str, Any]]) -> Any:
    """A figure of the loss, and of the share of nodes in use, by step."""
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


def _order(choice: Choice, view: str) -> list[int]:
    """The codes of the candidates that are shown, the likeliest first."""
    chances = choice.chances
    order = list(range(len(choice.candidates))) if chances is None else chances.argsort(descending=True).tolist()
    return order if view == ALL else order[:SHOWN]
