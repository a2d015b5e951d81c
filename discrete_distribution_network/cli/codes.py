"""What `ddn encode` and `ddn decode` do: image files <-> one file of codes, a batch of images at a time."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from discrete_distribution_network.cli.images import batch_size, image_paths, parts
from discrete_distribution_network.cli.runs import load_model
from discrete_distribution_network.codec.bitstream import MAGIC, CodeFileError, Reader
from discrete_distribution_network.codec.image_codec import ImageCodec
from discrete_distribution_network.data.images import load_image, load_whole
from discrete_distribution_network.data.loader import in_unit_range
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, InvalidInput, require
from discrete_distribution_network.evaluation.metrics import psnr
from discrete_distribution_network.io.atomic_file import atomic_file, output_errors
from discrete_distribution_network.viz.pictures import save_picture, to_pil

NAME_BYTES = 200
"""Longest file name that is kept, in bytes; file systems take 255."""


def load_codec(folder: Path, device: str, beams: int = 1, rate: float = 0.0, uniform: bool = False) -> ImageCodec:
    """The codec of the model in a folder; it range codes if the model has an entropy model, unless `uniform`."""
    return ImageCodec(load_model(folder, device), None if uniform else "own", beams=beams, rate=rate)


@contextmanager
def standard_input(files: Sequence[Path]) -> Iterator[Sequence[Path]]:
    """The files, with - replaced by a temporary file that holds the standard input."""
    if not any(str(file) == "-" for file in files):
        yield files
        return
    with tempfile.TemporaryDirectory(prefix="ddn-") as folder:
        path = Path(folder, "standard input")
        with path.open("wb") as copy:
            shutil.copyfileobj(open_input(), copy)
        yield [path if str(file) == "-" else file for file in files]


def open_input() -> BinaryIO:
    """The standard input.

    Raises:
        InvalidInput: it is closed.
    """
    if sys.stdin is None:
        raise InvalidInput("expected a file on the standard input, which is closed; redirect one to it or name a file")
    return sys.stdin.buffer


# encode


def write_codes(codec: ImageCodec, files: Sequence[Path], out: Path | BinaryIO, tile: bool, levels: int | None) -> str:
    """Encode image files into one `.ddn` or JSON file.

    Args:
        out: the file; its ending .json chooses JSON.
        tile: keep the images' own size, which must be the same for all, and encode them in tiles.
        levels: number of first levels to keep; all if None.

    Returns:
        A summary to print; empty for a stream.

    Raises:
        DataError: an image cannot be read; nothing is written.
        OutputError: `out` cannot be written; raised before the images are encoded if possible.
    """
    paths = image_paths(files)
    as_json = isinstance(out, Path) and out.suffix == ".json"
    require(not (as_json and tile), "a .ddn file for --tile", out)
    size = codec.ddn.image_size if not tile else _common_size(paths, codec.ddn.channels)
    if not isinstance(out, Path):
        codes, _ = _encode(codec, paths, size, tile, levels)
        out.write(codec.write(codes, size))
        return ""
    with atomic_file(out) as staging:
        staging.touch()
        codes, error = _encode(codec, paths, size, tile, levels)
        if as_json:
            staging.write_text(_to_json(codec.ddn, paths, codes), encoding="utf-8")
        else:
            data = codec.write(codes, size)
            staging.write_bytes(data)
    if as_json:
        sizes = zip(codec.ddn.codes_per_level, codec.ddn.codebook_sizes, strict=True)
        kept = list(sizes)[: codec.ddn.levels_of(codes.shape[1])]
        bits = sum(count * math.log2(size) for count, size in kept)
        return f"{len(paths)} images, {bits / 8:g} bytes each, as codes in {out}"
    reader = Reader(data)
    mean = sum(len(reader[index]) for index in range(len(reader))) / len(reader)
    return (
        f"{len(paths)} images in {out}: {len(data)} bytes, {mean:.1f} an image without the header; "
        f"error {error:.5f} ({psnr(error):.1f} dB)"
    )


def _common_size(paths: Sequence[Path], channels: int) -> tuple[int, int]:
    """The common size (height, width) of these images."""
    sizes = {tuple(load_whole(path, channels).shape[1:]) for path in paths}
    if len(sizes) != 1:
        listed = ", ".join(f"{height}x{width}" for height, width in sorted(sizes)[:3])
        raise InvalidInput(
            f"expected images of one size for --tile, got {len(sizes)} sizes ({listed}); encode them one by one"
        )
    ((height, width),) = sizes
    return height, width


def _encode(
    codec: ImageCodec, paths: Sequence[Path], size: tuple[int, int], tile: bool, levels: int | None
) -> tuple[Tensor, float]:
    """The codes (B, number of codes) of image files, and the mean squared error of their reconstructions."""
    channels, error = codec.ddn.channels, 0.0
    codes = []
    for part in parts(len(paths), batch_size(size)):
        batch = paths[part.start : part.stop]
        loaded = [load_whole(path, channels) if tile else load_image(path, size, channels) for path in batch]
        images = in_unit_range(torch.stack(loaded))
        codes.append(codec.encode(images, levels))
        reconstructions = codec.decode(codes[-1], size).cpu()
        error += float(reconstructions.sub_(images).square_().mean()) * len(batch)
    return torch.cat(codes), error / len(paths)


def _to_json(ddn: DDN, paths: Sequence[Path], codes: Tensor) -> str:
    """Names and codes as JSON; codes of Taiji-DDN, which are bits, as strings of them."""
    binary = set(ddn.codebook_sizes) == {2}
    rows = ("".join(map(str, row)) if binary else row for row in map(Tensor.tolist, codes))
    images = [json.dumps({"name": path.stem, "codes": row}) for path, row in zip(paths, rows, strict=True)]
    return '{"images": [' + ", ".join(images) + "]}\n"


# decode


class Stored(NamedTuple):
    """The images of a file of codes.

    Attributes:
        number: number of images.
        name: index -> name of an image.
        images: uint8 (C, H, W) each, decoded one after another on demand.
    """

    number: int
    name: Callable[[int], str]
    images: Iterator[Tensor]


def read_codes(codec: ImageCodec, source: Path | BinaryIO, levels: int | None) -> Stored:
    """The images of a `.ddn` or JSON file, decoded from the first `levels` levels, all if None.

    Raises:
        DataError, CodeFileError: the file holds something else; the message names it.
        InvalidInput: the codes do not fit the model.
    """
    name = str(source) if isinstance(source, Path) else "the standard input"
    with _faults_named(name):
        data = _read(source)
        if data[:1] != b"{":
            reader = codec.read(data)
            return Stored(len(reader), "{:05d}".format, _decode_packed(codec.each(reader, levels), name))
    names, codes = _from_json(codec.ddn, data, name, levels)
    return Stored(len(names), names.__getitem__, _decode(codec, codes))


@contextmanager
def _faults_named(source: str) -> Iterator[None]:
    """Adds the name of a file to its errors."""
    try:
        yield
    except CodeFileError as error:
        raise type(error)(f"{source}: {error}") from error


def _decode_packed(images: Iterator[Tensor], source: str) -> Iterator[Tensor]:
    with _faults_named(source):
        yield from images


def _decode(codec: ImageCodec, codes: Tensor) -> Iterator[Tensor]:
    size = codec.ddn.image_size
    for batch in codes.split(batch_size(size)):
        yield from codec.decode(batch, size).mul_(255).round_().byte()


def _read(source: Path | BinaryIO) -> bytes:
    """The bytes of a file of codes; of any other file no more than the first are read."""
    if isinstance(source, Path):
        try:
            with source.open("rb") as file:
                return _read(file)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"expected a file of codes, got {source}, which cannot be read ({reason})") from error
    start = source.read(len(MAGIC))
    if start[:1] != b"{" and start != MAGIC:
        Reader(start)  # raises the error that fits
    return start + source.read()


def _from_json(ddn: DDN, data: bytes, source: str, levels: int | None) -> tuple[list[str], Tensor]:
    """Names and codes (B, number of codes) of a JSON file."""
    try:
        content = json.loads(data.decode())
        images = [(image["name"], image["codes"]) for image in content["images"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"expected codes that `ddn encode` wrote in {source}, got something else ({error!s:.80})"
        ) from error
    require(len(images) >= 1, f"at least one image in {source}", len(images))
    codes = []
    for index, (name, row) in enumerate(images):
        if not isinstance(name, str):
            raise DataError(f"expected the name of image {index} of {source} as a string, got {name!s:.40}")
        codes.append(_row(row, f"image {index} of {source}"))
        if len(codes[-1]) != len(codes[0]):
            raise DataError(
                f"expected {len(codes[0])} codes of image {index} of {source} as of the first, got {len(codes[-1])}"
            )
    stored = ddn.check_codes(torch.stack(codes))
    levels = stored if levels is None else levels
    require(1 <= levels <= stored, f"levels from 1 to {stored}, those of {source}", levels)
    names = [_file_name(index, name) for index, (name, _) in enumerate(images)]
    return names, torch.stack(codes)[:, : sum(ddn.codes_per_level[:levels])]


def _row(row: object, whose: str) -> Tensor:
    """The codes of an image from a string of bits or a list of integers."""
    if isinstance(row, str) and set(row) <= {"0", "1"}:
        row = list(map(int, row))
    if not isinstance(row, list):
        raise DataError(f"expected the codes of {whose} as a list of integers or a string of bits, got {row!s:.40}")
    for code in row:
        if type(code) is not int or not 0 <= code < 1 << 63:
            raise DataError(f"expected the codes of {whose} as integers of at least 0, got {code!s:.40}")
    return torch.tensor(row, dtype=torch.long)


def _file_name(index: int, name: str) -> str:
    """A safe file name from a name in a JSON file: without folders, special characters, and not too long."""
    name = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]', "_", name.replace("\\", "/").rsplit("/", 1)[-1])[:NAME_BYTES]
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        name = name.encode("ascii", "replace").decode().replace("?", "_")
    while len(os.fsencode(name)) > NAME_BYTES:
        name = name[:-1]
    return f"{index:05d}-{name}" if name else f"{index:05d}"


def write_images(stored: Stored, out: Path) -> None:
    """Write a PNG of each image into a folder, as soon as it is decoded.

    Raises:
        InvalidInput: a file of such a name exists; nothing is written.
        OutputError: the folder or a file cannot be written; files written before remain.
    """
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        existing = set(os.listdir(out))
    names = (f"{stored.name(index)}.png" for index in range(stored.number))
    if taken := next((name for name in names if name in existing), None):
        raise InvalidInput(f"expected a folder without {taken}, got {out}; use another --out")
    for index, image in enumerate(stored.images):
        save_picture(to_pil(image), out / f"{stored.name(index)}.png")


def write_image(stored: Stored, out: BinaryIO) -> None:
    """Write the only image of a file as a PNG.

    Raises:
        InvalidInput: there are more.
    """
    require(stored.number == 1, "codes of one image for the standard output", stored.number, "use a folder")
    to_pil(next(stored.images)).save(out, format="PNG")
