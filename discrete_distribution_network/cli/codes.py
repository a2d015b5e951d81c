"""`ddn encode` and `ddn decode`: image files <-> one file of codes, a batch of images at a time."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from discrete_distribution_network.cli.runs import BATCH, BATCH_PIXELS, image_paths, load_model, parts
from discrete_distribution_network.codec.bitstream import MAGIC, CodeFileError, Reader
from discrete_distribution_network.codec.entropy_model import ENTROPY_MODEL, EntropyModel
from discrete_distribution_network.codec.image_codec import ImageCodec
from discrete_distribution_network.data.images import load_image, load_whole
from discrete_distribution_network.data.loader import in_unit_range
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, InvalidInput, require
from discrete_distribution_network.evaluation.metrics import psnr
from discrete_distribution_network.io.atomic_file import atomic_file, output_errors

NAME_BYTES = 200
"""Of a file's name as much is kept, since file systems take 255 bytes at most."""


def codec_of(folder: Path, device: str, beams: int = 1, rate: float = 0.0) -> ImageCodec:
    """The codec of a model's folder, which range codes if a code prior lies there."""
    ddn = load_model(folder, device)
    return ImageCodec(ddn, code_prior_of(ddn, folder), beams=beams, rate=rate)


def code_prior_of(ddn: DDN, folder: Path) -> EntropyModel | None:
    """The code prior beside a model, if there is one."""
    return EntropyModel.load(folder, ddn) if (folder / ENTROPY_MODEL).is_file() else None


# encode


def write_codes(codec: ImageCodec, files: Sequence[Path], out: Path | BinaryIO, tile: bool, levels: int | None) -> str:
    """Encode image files into one `.ddn` file, or their codes into a JSON file; gives what there is to tell.

    Args:
        tile: keep the images' own size, which must be the same for all, and cut them into tiles.

    Raises:
        DataError: an image cannot be read; nothing is written.
        OutputError: `out` cannot be written, as is known before the work where it can be.
    """
    paths = image_paths(files)
    listed = isinstance(out, Path) and out.suffix == ".json"
    require(not (listed and tile), "a .ddn file for --tile", out)
    size = codec.ddn.image_size if not tile else _common_size(paths, codec.ddn.channels)
    if not isinstance(out, Path):
        codes, _ = _encoded(codec, paths, size, tile, levels)
        out.write(codec.write(codes, size))
        return ""
    with atomic_file(out) as staging:
        staging.touch()
        codes, error = _encoded(codec, paths, size, tile, levels)
        if listed:
            staging.write_text(_as_json(codec.ddn, paths, codes), encoding="utf-8")
        else:
            data = codec.write(codes, size)
            staging.write_bytes(data)
    if listed:
        sizes = zip(codec.ddn.codes_per_level, codec.ddn.codebook_sizes, strict=True)
        first = list(sizes)[: codec.ddn.levels_of(codes.shape[1])]
        bits = sum(count * math.log2(size) for count, size in first)
        return f"{len(paths)} images, {bits / 8:g} bytes each, as codes in {out}"
    reader = Reader(data)
    each = sum(len(reader[place]) for place in range(len(reader))) / len(reader)
    return (
        f"{len(paths)} images in {out}: {len(data)} bytes, {each:.1f} an image without the header; "
        f"error {error:.5f} ({psnr(error):.1f} dB)"
    )


def _common_size(paths: Sequence[Path], channels: int) -> tuple[int, int]:
    """The size (height, width) of all these images, each decoded by itself."""
    sizes = {tuple(load_whole(path, channels).shape[1:]) for path in paths}
    require(len(sizes) == 1, "images of one size for --tile", f"{len(sizes)} sizes", "encode them one by one")
    ((height, width),) = sizes
    return height, width


def _encoded(
    codec: ImageCodec, paths: Sequence[Path], size: tuple[int, int], tile: bool, levels: int | None
) -> tuple[Tensor, float]:
    """The codes of image files, and the mean squared error of what they decode to."""
    channels, error = codec.ddn.channels, 0.0
    codes = []
    for part in parts(len(paths), _at_once(size)):
        some = paths[part.start : part.stop]
        loaded = [load_whole(path, channels) if tile else load_image(path, size, channels) for path in some]
        images = in_unit_range(torch.stack(loaded))
        codes.append(codec.encode(images, levels))
        back = codec.decode(codes[-1], size).cpu()
        error += float(back.sub_(images).square_().mean()) * len(some)
    return torch.cat(codes), error / len(paths)


def _at_once(size: tuple[int, int]) -> int:
    """How many images of this size are worked on at once."""
    return max(1, min(BATCH, BATCH_PIXELS // math.prod(size)))


def _as_json(ddn: DDN, paths: Sequence[Path], codes: Tensor) -> str:
    """Names and codes for people; of Taiji-DDN, whose codes are bits, as strings of them."""
    bits = set(ddn.codebook_sizes) == {2}
    rows = ("".join(map(str, own)) if bits else own for own in map(Tensor.tolist, codes))
    images = [json.dumps({"name": path.stem, "codes": own}) for path, own in zip(paths, rows, strict=True)]
    return '{"images": [' + ", ".join(images) + "]}\n"


# decode


class Stored(NamedTuple):
    """What a file of codes holds.

    Attributes:
        number: how many images.
        name: the name of each by its place.
        images: uint8 (C, H, W), one after another, decoded as they are asked for.
    """

    number: int
    name: Callable[[int], str]
    images: Iterator[Tensor]


def read_codes(codec: ImageCodec, source: Path | BinaryIO, levels: int | None) -> Stored:
    """The images of a `.ddn` or JSON file, by the first `levels` levels alone, if given.

    Raises:
        DataError, CodeFileError: the file is something else; the message names it.
        InvalidInput: the codes do not fit the model.
    """
    told = str(source) if isinstance(source, Path) else "the standard input"
    with _named(told):
        data = _read(source)
        if data[:1] != b"{":
            reader = codec.read(data)
            return Stored(len(reader), "{:05d}".format, _decoded(codec.each(reader, levels), told))
    names, codes = _from_json(codec.ddn, data, told, levels)
    return Stored(len(names), names.__getitem__, _drawn(codec, codes))


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Faults of a file of codes with its name."""
    try:
        yield
    except CodeFileError as error:
        raise type(error)(f"{source}: {error}") from error


def _decoded(images: Iterator[Tensor], source: str) -> Iterator[Tensor]:
    with _named(source):
        yield from images


def _drawn(codec: ImageCodec, codes: Tensor) -> Iterator[Tensor]:
    size = codec.ddn.image_size
    for some in codes.split(_at_once(size)):
        yield from codec.decode(some, size).mul_(255).round_().byte()


def _read(source: Path | BinaryIO) -> bytes:
    """All of a file, unless its first bytes are none of a file of codes."""
    if isinstance(source, Path):
        try:
            with source.open("rb") as file:
                return _read(file)
        except OSError as error:
            said = error.strerror or error
            raise DataError(f"expected a file of codes, got {source}, which cannot be read ({said})") from error
    start = source.read(len(MAGIC))
    if start[:1] != b"{" and start != MAGIC:
        Reader(start)  # says what is wrong
    return start + source.read()


def _from_json(ddn: DDN, data: bytes, source: str, levels: int | None) -> tuple[list[str], Tensor]:
    """Names and codes (B, number of codes) of the file for people."""
    try:
        told = json.loads(data.decode())
        listed = [(image["name"], image["codes"]) for image in told["images"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"expected codes that `ddn encode` wrote in {source}, got something else ({error!s:.80})"
        ) from error
    require(len(listed) >= 1, f"at least one image in {source}", "none")
    codes = []
    for place, (name, own) in enumerate(listed):
        if not isinstance(name, str):
            raise DataError(f"expected the name of image {place} of {source} as a string, got {name!s:.40}")
        codes.append(_row(own, f"image {place} of {source}"))
        if len(codes[-1]) != len(codes[0]):
            raise DataError(
                f"expected {len(codes[0])} codes of image {place} of {source} as of the first, got {len(codes[-1])}"
            )
    there = ddn.check_codes(torch.stack(codes))
    levels = there if levels is None else levels
    require(1 <= levels <= there, f"levels from 1 to {there}, those of {source}", levels)
    names = [_file_name(place, name) for place, (name, _) in enumerate(listed)]
    return names, torch.stack(codes)[:, : sum(ddn.codes_per_level[:levels])]


def _row(own: object, whose: str) -> Tensor:
    """The codes of an image: a string of bits, or a list of integers."""
    if isinstance(own, str) and set(own) <= {"0", "1"}:
        own = list(map(int, own))
    if not isinstance(own, list):
        raise DataError(f"expected the codes of {whose} as a list of integers or a string of bits, got {own!s:.40}")
    for code in own:
        if type(code) is not int or not 0 <= code < 1 << 63:
            raise DataError(f"expected the codes of {whose} as integers of at least 0, got {code!s:.40}")
    return torch.tensor(own, dtype=torch.long)


def _file_name(place: int, name: str) -> str:
    """A file's name of one that a file says: no folder, nothing that a file system refuses, not too long."""
    name = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]', "_", name.replace("\\", "/").rsplit("/", 1)[-1])[:NAME_BYTES]
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        name = name.encode("ascii", "replace").decode().replace("?", "_")
    while len(os.fsencode(name)) > NAME_BYTES:
        name = name[:-1]
    return f"{place:05d}-{name}" if name else f"{place:05d}"


def write_images(stored: Stored, out: Path) -> None:
    """One PNG an image into a folder, each written as soon as it is decoded.

    Raises:
        InvalidInput: a file of that name is there; nothing is written.
        OutputError: the folder or a file cannot be written; those before it stay.
    """
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        there = set(os.listdir(out))
    if taken := next((name for place in range(stored.number) if (name := f"{stored.name(place)}.png") in there), None):
        raise InvalidInput(f"expected a folder without {taken}, got {out}; use another --out")
    for place, image in enumerate(stored.images):
        with atomic_file(out / f"{stored.name(place)}.png") as staging:
            picture(image).save(staging, format="PNG")


def write_image(stored: Stored, out: BinaryIO) -> None:
    """The one image of a file as a PNG.

    Raises:
        InvalidInput: there are more.
    """
    require(stored.number == 1, "codes of one image for the standard output", stored.number, "use a folder")
    picture(next(stored.images)).save(out, format="PNG")


def picture(image: Tensor) -> Image.Image:
    """A Pillow image of uint8 (C, H, W)."""
    require(image.shape[0] in (1, 3), "images of 1 or 3 channels to show", f"{image.shape[0]} channels")
    pixels = image.cpu()
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy())
