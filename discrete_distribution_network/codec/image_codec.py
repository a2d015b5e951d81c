"""`ImageCodec`: an image <-> a file of a few bytes, the codes that a DDN encodes it to.

Images larger than the model's are cut into tiles of its size, padded at the border by replication. Packed uniformly a
code takes log2 K bits; with an `EntropyModel` likely codes take fewer (`range_coding.py`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from discrete_distribution_network.codec import bitstream
from discrete_distribution_network.codec.bitstream import (
    MAX_CHANNELS,
    MAX_LEVELS,
    MAX_SIDE,
    RANGE,
    UNIFORM,
    DamagedCodes,
    Header,
    Level,
    OtherModelsCodes,
    Reader,
)
from discrete_distribution_network.codec.range_coding import least_bytes, pack_ranges, unpack_ranges
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, require
from discrete_distribution_network.guidance.conditions import RatePenalty
from discrete_distribution_network.model.code_distribution import Own
from discrete_distribution_network.model.fingerprint import fingerprints
from discrete_distribution_network.model.pixels import as_pixels, require_finite, warn_of_range
from discrete_distribution_network.model.sampler_checks import check_codes
from discrete_distribution_network.model.tensors import to_patches
from discrete_distribution_network.prior.entropy_model import EntropyModel

MAX_PIXELS = 1 << 26
"""Limit of pixels of an image, and of those decoded in one call: a file of a few bytes may claim any size."""

PIXELS_AT_ONCE, TILE_PIXELS = 1 << 22, 1 << 20
"""Pixels that `each` decodes in a batch, and pixels of the tiles in a batch, about."""


class ImageCodec:
    """Images <-> `.ddn` files (see `bitstream.py`), by a model.

    Args:
        ddn: the model; files are decoded by the same one.
        prior: an entropy model of its codes, for range coding; "own" is the model's `entropy_model`, None to pack
            uniformly. Uniform files are read by both.
        beams: beam width of the encoder; cost grows roughly linearly.
        rate: weight of a bit against the mean squared error of a tile, for rate-distortion optimisation with a prior;
            0 for the least error.
        batch_size: tiles encoded or decoded at once; None for 64, or fewer where tiles are large.

    Raises:
        InvalidInput: an argument is out of its range, or the model does not fit into the file format.
    """

    def __init__(
        self,
        ddn: DDN,
        prior: EntropyModel | Own | None = "own",
        *,
        beams: int = 1,
        rate: float = 0.0,
        batch_size: int | None = None,
    ):
        batch_size = max(1, min(64, TILE_PIXELS // math.prod(ddn.image_size))) if batch_size is None else batch_size
        if isinstance(prior, str):
            require(prior == "own", 'an EntropyModel, "own" or None as prior', repr(prior))
            prior = ddn.entropy_model
        if prior is not None and (list(prior.code_shapes), list(prior.codebook_sizes)) != (
            ddn.code_shapes,
            ddn.codebook_sizes,
        ):
            raise InvalidInput(
                f"expected a prior of this model's codes, with K {ddn.codebook_sizes}, got one with K "
                f"{list(prior.codebook_sizes)}; fit one with `ddn prior --kind codes`"
            )
        require(rate == 0 or prior is not None, "an entropy model with a rate above 0", f"rate {rate} and no prior")
        require(0 <= rate < math.inf, "a finite rate of at least 0", rate)
        for name, value in (("beams", beams), ("batch_size", batch_size)):
            require(_is_integer(value) and value >= 1, f"{name} to be an integer of at least 1", repr(value))
        require(
            ddn.cond_channels == 0, "a network that is not conditioned on images, cond_channels 0", ddn.cond_channels
        )
        require(min(ddn.codebook_sizes) >= 2, "a model with at least 2 candidates at every level", ddn.codebook_sizes)
        require(ddn.channels <= MAX_CHANNELS, f"a model of at most {MAX_CHANNELS} channels", ddn.channels)
        require(ddn.num_levels <= MAX_LEVELS, f"a model of at most {MAX_LEVELS} levels", ddn.num_levels)
        self.ddn, self.prior, self.beams, self.rate, self.batch_size = ddn, prior, beams, rate, batch_size
        self._cached: tuple[object, tuple[bytes, ...]] | None = None

    @property
    def fingerprint(self) -> bytes:
        """Fingerprint of the model's present weights."""
        return self._fingerprints()[0]

    def _fingerprints(self) -> tuple[bytes, ...]:
        """Cached until a weight changes."""
        weights = [
            (own.data_ptr(), own.dtype, 0 if own.is_inference() else own._version) for own in self.ddn.parameters()
        ]
        if self._cached is None or self._cached[0] != weights:
            self._cached = weights, fingerprints(self.ddn)
        return self._cached[1]

    # files

    def compress(self, image: Shaped[Tensor, "channels height width"], levels: int | None = None) -> bytes:
        """A file of an image of any size.

        Args:
            image: floats in [0, 1], or uint8.
            levels: only the codes of the first ones, for a smaller file; None for all.
        """
        image = as_pixels(image, (self.ddn.channels, None, None), "an image")
        return self.compress_batch(image.unsqueeze(0), levels)

    def decompress(self, data: bytes, levels: int | None = None) -> Float[Tensor, "channels height width"]:
        """The image of a file, in [0, 1].

        Args:
            levels: decode only the first ones, for a coarser image; None for all.

        Raises:
            CodeFileError: the file is damaged or of another model; see `bitstream.py`.
            InvalidInput: the file has more than one image.
        """
        reader = self.read(data)
        require(len(reader) == 1, "a file of one image", f"one of {len(reader)}", "use decompress_batch")
        return self._images(reader, [0], levels)[0]

    def compress_batch(self, images: Shaped[Tensor, "batch channels height width"], levels: int | None = None) -> bytes:
        """One file of images; see `compress`."""
        return self.write(self.encode(images, levels), (images.shape[2], images.shape[3]))

    def decompress_batch(
        self, data: bytes, levels: int | None = None, only: Sequence[int] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """The images of a file, in [0, 1].

        Args:
            levels: see `decompress`.
            only: indices of the images to decode; None for all.

        Raises:
            CodeFileError: see `decompress`.
            InvalidInput: an index is out of range, or the images have more than `MAX_PIXELS` pixels.
        """
        reader = self.read(data)
        return self._images(reader, range(len(reader)) if only is None else only, levels)

    def read(self, data: bytes) -> Reader:
        """The header and the packed codes of a file, validated against this model.

        Raises:
            CodeFileError: see `decompress`.
            InvalidInput: the file is range coded, and there is no prior.
        """
        reader, ddn = Reader(data), self.ddn
        header = reader.header
        if header.method == RANGE and self.prior is None:
            raise InvalidInput(
                f"expected the entropy model that the file was range coded with, got prior={self.prior}; give it"
            )
        own_fingerprints = self._fingerprints()
        files = [self._range_fingerprint(own) if header.method == RANGE else own for own in own_fingerprints]
        if header.model not in files:
            # a model whose weights are all exact in float16 may be the rounded copy of the one that wrote the file
            saved = "" if len(own_fingerprints) > 1 else ", or the one that this one was before it was saved in float16"
            raise OtherModelsCodes(
                f"expected codes of the model {files[0].hex()}, got {header.model.hex()}'s; use that one{saved}"
            )
        own = tuple(map(Level, ddn.codes_per_level, ddn.codebook_sizes))
        rows, columns = self._grid(header.height, header.width)
        found = (header.levels, header.tiles, header.channels)
        if found != (own[: len(header.levels)], rows * columns, ddn.channels):
            raise DamagedCodes(
                f"expected levels of this model, {rows * columns} tiles and {ddn.channels} channels, got "
                f"{len(header.levels)} levels, {header.tiles} tiles and {header.channels} channels; copy the file again"
            )
        if header.height * header.width > MAX_PIXELS:
            raise DamagedCodes(
                f"expected images of at most {MAX_PIXELS} pixels, got {header.height}x{header.width}; copy the file "
                "again"
            )
        if header.method == RANGE and self.prior is not None:
            least = header.images * least_bytes(self.prior, len(header.levels), header.tiles)
            if least > len(data):
                raise DamagedCodes(
                    f"expected at least {least} bytes for {header.images} images, got {len(data)}; copy the file again"
                )
        return reader

    def each(self, reader: Reader, levels: int | None = None) -> Iterator[Tensor]:
        """The images of a file from `read`, uint8 (C, H, W), decoded a batch at a time."""
        levels = self._levels(levels, len(reader.header.levels), ", those of the file")
        step = max(1, PIXELS_AT_ONCE // (reader.header.height * reader.header.width))
        parts = (range(start, min(start + step, len(reader))) for start in range(0, len(reader), step))
        return (image for part in parts for image in self._images(reader, part, levels, torch.uint8))

    # images <-> codes

    def encode(
        self, images: Shaped[Tensor, "batch channels height width"], levels: int | None = None
    ) -> Int[Tensor, "batch_tiles codes"]:
        """The codes of the tiles of images of any size, row by row, for `write` and `decode`."""
        levels = self._levels(levels, self.ddn.num_levels)
        images = as_pixels(images, (None, self.ddn.channels, None, None))
        height, width = images.shape[2:]
        require(max(height, width) <= MAX_SIDE, f"sides of at most {MAX_SIDE} pixels", (height, width))
        require(height * width <= MAX_PIXELS, f"images of at most {MAX_PIXELS} pixels", f"{height}x{width}", "cut them")
        require_finite(images)
        warn_of_range(images)
        codes = []
        for chunk in images.split(self._images_at_once(height, width)):
            codes += [self._encode(part, levels) for part in self._tiles(chunk).split(self.batch_size)]
        return torch.cat(codes)

    def write(self, codes: Int[Tensor, "batch_tiles codes"], size: tuple[int, int]) -> bytes:
        """A file of the codes from `encode`, of images of this (height, width)."""
        codes = self._checked(codes)
        header = self._header(codes.shape[1], len(codes), size)
        return bitstream.write(header, self._pack(codes, header))

    def decode(
        self, codes: Int[Tensor, "batch_tiles codes"], size: tuple[int, int]
    ) -> Float[Tensor, "batch channels height width"]:
        """The inverse of `encode`: images of this (height, width), in [0, 1]."""
        images = self._empty(len(codes) // math.prod(self._grid(*size)), size)
        self._draw(codes, images)
        return images

    def _empty(self, count: int, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(count, self.ddn.channels, *size, dtype=dtype, device=self.ddn.start.device)

    def _draw(self, codes: Tensor, images: Tensor) -> None:
        """Decode codes (B * tiles, number of codes) into images (B, C, H, W), floats or uint8, in place."""
        (h, _), (rows, columns) = self.ddn.image_size, self._grid(images.shape[2], images.shape[3])
        row = 0
        for chunk in codes.split(columns * max(1, self.batch_size // columns)):
            tiles = torch.cat([self.ddn.decode(part) for part in chunk.split(self.batch_size)]).float().clamp_(0, 1)
            if images.dtype == torch.uint8:
                tiles = tiles.mul_(255).round_()
            for strip in tiles.unflatten(0, (-1, columns)).permute(0, 2, 3, 1, 4):  # a row of tiles, side by side
                target = images[row // rows, :, row % rows * h : (row % rows + 1) * h]
                target.copy_(strip.flatten(2)[:, : target.shape[1], : target.shape[2]])
                row += 1

    def _images(
        self, reader: Reader, indices: Sequence[int], levels: int | None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The images of a file with these indices."""
        header, count = reader.header, len(reader)
        levels = self._levels(levels, len(header.levels), ", those of the file")
        if not isinstance(indices, Sequence) or isinstance(indices, str | bytes):
            raise InvalidInput(f"expected indices of images as a list of integers, got {indices!r:.80}")
        size = (header.height, header.width)
        if len(indices) * size[0] * size[1] > MAX_PIXELS:
            raise InvalidInput(
                f"expected at most {MAX_PIXELS} pixels at once, got {len(indices)} images of {size[0]}x{size[1]}; "
                f"decode a part of them with only, at most {MAX_PIXELS // (size[0] * size[1])}"
            )
        for index in indices:
            if not (_is_integer(index) and 0 <= index < count):
                raise InvalidInput(f"expected indices from 0 and below {count}, got {index!r:.80}")
        used, images = sum(self.ddn.codes_per_level[:levels]), self._empty(len(indices), size, dtype)
        step = self._images_at_once(*size)
        for start in range(0, len(indices), step):
            parts = [reader[index] for index in indices[start : start + step]]
            self._draw(self._unpack(parts, header)[:, :used], images[start : start + step])
        return images

    # headerless

    def pack(self, codes: Int[Tensor, "batch codes"]) -> list[bytes]:
        """The packed codes of each image, of the model's size, without a header; equally long unless range coded."""
        codes = self._checked(codes)
        return self._pack(codes, self._header(codes.shape[1], len(codes), self.ddn.image_size))

    def unpack(self, parts: Sequence[bytes], levels: int | None = None) -> Int[Tensor, "batch codes"]:
        """The inverse of `pack`, for codes of the first `levels` levels; None for all."""
        codes = sum(self.ddn.codes_per_level[: self._levels(levels, self.ddn.num_levels)])
        return self._unpack(parts, self._header(codes, len(parts), self.ddn.image_size))

    def _checked(self, codes: object) -> Tensor:
        """Codes (rows, number of codes) on the CPU, once they are valid for this model."""
        if not (isinstance(codes, Tensor) and codes.ndim == 2 and not codes.is_floating_point()):
            found = f"{codes.dtype} {tuple(codes.shape)}" if isinstance(codes, Tensor) else f"a {type(codes).__name__}"
            raise InvalidInput(f"expected codes as an integer tensor (B, number of codes), got {found}")
        levels = self.ddn.levels_of(codes.shape[1])
        for level, part in enumerate(codes.split(self.ddn.codes_per_level[:levels], dim=1)):
            check_codes(part, part.shape, self.ddn.codebook_sizes[level])
        return codes.cpu()

    def _header(self, codes: int, rows: int, size: tuple[int, int]) -> Header:
        """The header for codes (rows, codes) of images of this size."""
        levels, tiles = self.ddn.levels_of(codes), math.prod(self._grid(*size))
        require(rows % tiles == 0, f"the codes of {tiles} tiles for each image of {size[0]}x{size[1]}", f"{rows} rows")
        own = tuple(map(Level, self.ddn.codes_per_level[:levels], self.ddn.codebook_sizes))
        return Header(*self._method(), self.ddn.channels, *size, rows // tiles, tiles, own)

    def _method(self) -> tuple[int, bytes]:
        """The method of coding, and the fingerprint of the model and the prior that decode it."""
        return (UNIFORM, self.fingerprint) if self.prior is None else (RANGE, self._range_fingerprint(self.fingerprint))

    def _range_fingerprint(self, model: bytes) -> bytes:
        assert self.prior is not None
        return self.prior.fingerprint_with(model)

    def _pack(self, codes: Tensor, header: Header) -> list[bytes]:
        """Codes (images * tiles, number of codes) as the bytes of each image."""
        if header.method == UNIFORM:
            own = codes.reshape(-1, header.tiles * codes.shape[1]).tolist()
            return [bitstream.pack(one, header.sizes * header.tiles) for one in own]
        assert self.prior is not None
        return pack_ranges(self.prior, codes, len(header.levels), header.tiles)

    def _unpack(self, parts: Sequence[bytes], header: Header) -> Tensor:
        """The inverse of `_pack`."""
        if header.method == UNIFORM:
            sizes = header.sizes * header.tiles
            codes = [torch.tensor(bitstream.unpack(part, sizes)) for part in parts]
            return torch.cat([torch.empty(0, dtype=torch.long), *codes]).reshape(-1, len(header.sizes))
        assert self.prior is not None
        return unpack_ranges(self.prior, parts, len(header.levels), header.tiles)

    # tiles

    def _encode(self, tiles: Tensor, levels: int) -> Tensor:
        tiles = tiles.to(self.ddn.start.device, self.ddn.start.dtype)
        penalties = [] if self.rate == 0 or self.prior is None else [RatePenalty(self.prior, weight=self.rate)]
        return self.ddn.encode_walk(tiles, levels=levels, beams=self.beams, also=penalties).codes.cpu()

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of an image's tiles."""
        return -(-height // self.ddn.image_size[0]), -(-width // self.ddn.image_size[1])

    def _images_at_once(self, height: int, width: int) -> int:
        """Images with about `batch_size` tiles."""
        return max(1, self.batch_size // math.prod(self._grid(height, width)))

    def _tiles(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B * tiles, C, h, w), row by row, with replication padding."""
        height, width = images.shape[2:]
        (h, w), (rows, columns) = self.ddn.image_size, self._grid(height, width)
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        filled = F.pad(images, (0, columns * w - width, 0, rows * h - height), mode="replicate")
        return to_patches(filled, (h, w))

    def _levels(self, levels: int | None, most: int, of: str = "") -> int:
        if levels is None:
            return most
        require(_is_integer(levels) and 1 <= levels <= most, f"levels from 1 to {most}{of}", repr(levels))
        return int(levels)


def _is_integer(value: object) -> bool:
    """Whether it can be an index: an integer of Python, NumPy or PyTorch, and no bool."""
    try:
        operator.index(value)  # type: ignore[arg-type]
    except (TypeError, RuntimeError):
        return False
    return not isinstance(value, bool)


def fingerprint(ddn: DDN) -> bytes:
    """8 bytes of a hash of a model's weights; see `model.fingerprint`."""
    return fingerprints(ddn)[0]
