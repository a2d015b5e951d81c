"""`ImageCodec`: an image <-> a file of a few bytes. The walk of a DDN is the encoder; its choices are the file.

Larger images than the model's are cut into tiles of its size, the last ones filled up with their edge. Packed uniformly
a code takes log2 K bits. With an `EntropyModel` in the model's folder likely codes take fewer (`range_coding.py`).
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
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
from discrete_distribution_network.codec.entropy_model import EntropyModel
from discrete_distribution_network.codec.range_coding import least_bytes, pack_ranges, unpack_ranges
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, require
from discrete_distribution_network.guidance.conditions import RatePenalty
from discrete_distribution_network.model.fingerprint import fingerprints
from discrete_distribution_network.model.pixels import as_pixels, require_finite, warn_of_range
from discrete_distribution_network.model.sampler_checks import check_codes
from discrete_distribution_network.model.tensors import to_patches

MAX_PIXELS = 1 << 26
"""More pixels are not decoded at once, nor is an image of more encoded: a file of a few bytes may claim any size."""

PIXELS_AT_ONCE, TILE_PIXELS = 1 << 22, 1 << 20
"""About so many are decoded at once where images are asked for one after another, and walked at once as tiles."""


class ImageCodec:
    """Images <-> `.ddn` files (see `bitstream.py`), by a model.

    Args:
        ddn: the model; it is what reads the files, too.
        prior: how likely its codes are, to range code; None to pack uniformly. Uniform files are read either way.
        beams: walks of each tile that are followed, of which the best is taken.
        rate: what a bit costs against the mean squared error of a tile, where there is a prior: above 0, likely codes
            are preferred, and files get smaller and images worse.
        batch_size: tiles that are encoded or decoded at once; 64 if not given, and fewer where tiles are large.

    Raises:
        InvalidInput: an argument does not fit, or files have no room for what the model says.
    """

    def __init__(
        self,
        ddn: DDN,
        prior: EntropyModel | None = None,
        *,
        beams: int = 1,
        rate: float = 0.0,
        batch_size: int | None = None,
    ):
        batch_size = max(1, min(64, TILE_PIXELS // math.prod(ddn.image_size))) if batch_size is None else batch_size
        if prior is not None:
            own = (ddn.code_shapes, ddn.codebook_sizes)
            fits = (list(prior.code_shapes), list(prior.codebook_sizes)) == own
            require(fits, "a prior of this model's codes", "one of other levels")
        require(rate == 0 or prior is not None, "a code prior where rate is given", f"rate {rate} without")
        require(0 <= rate < math.inf, "a finite rate of at least 0", rate)
        for name, value in (("beams", beams), ("batch_size", batch_size)):
            require(_is_integer(value) and value >= 1, f"{name} to be an integer of at least 1", repr(value))
        require(
            ddn.cond_channels == 0, "a network that learnt without other images", f"cond_channels {ddn.cond_channels}"
        )
        require(min(ddn.codebook_sizes) >= 2, "a model with at least 2 candidates at every level", ddn.codebook_sizes)
        require(ddn.channels <= MAX_CHANNELS, f"a model of at most {MAX_CHANNELS} channels", ddn.channels)
        require(ddn.num_levels <= MAX_LEVELS, f"a model of at most {MAX_LEVELS} levels", ddn.num_levels)
        self.ddn, self.prior, self.beams, self.rate, self.batch_size = ddn, prior, beams, rate, batch_size
        self._known: tuple[object, tuple[bytes, ...]] | None = None

    @property
    def fingerprint(self) -> bytes:
        """That of the model as it is now."""
        return self._fingerprints()[0]

    def _fingerprints(self) -> tuple[bytes, ...]:
        """Computed anew where a weight has changed since the last time."""
        weights = [
            (own.data_ptr(), own.dtype, 0 if own.is_inference() else own._version) for own in self.ddn.parameters()
        ]
        if self._known is None or self._known[0] != weights:
            self._known = weights, fingerprints(self.ddn)
        return self._known[1]

    # files

    def compress(self, image: Tensor, levels: int | None = None) -> bytes:
        """A file of an image (C, H, W) of any size, floats in [0, 1] or uint8; of the first `levels` levels alone."""
        image = as_pixels(image, (self.ddn.channels, None, None), "an image")
        return self.compress_batch(image.unsqueeze(0), levels)

    def decompress(self, data: bytes, levels: int | None = None) -> Tensor:
        """The image (C, H, W) of a file; by the first `levels` levels alone, if given: a coarser image.

        Raises:
            CodeFileError: the file is damaged, of another model, or of more than one image; see `bitstream.py`.
        """
        reader = self.read(data)
        require(len(reader) == 1, "a file of one image", f"one of {len(reader)}", "use decompress_batch")
        return self._images(reader, [0], levels)[0]

    def compress_batch(self, images: Tensor, levels: int | None = None) -> bytes:
        """One file of images (B, C, H, W), floats in [0, 1] or uint8."""
        return self.write(self.encode(images, levels), (images.shape[2], images.shape[3]))

    def decompress_batch(self, data: bytes, levels: int | None = None, only: Sequence[int] | None = None) -> Tensor:
        """The images (B, C, H, W) of a file; `only` those of these places, if given.

        Raises:
            CodeFileError: see `decompress`.
            InvalidInput: places that are not there, or more images than fit into memory: ask for a part of them.
        """
        reader = self.read(data)
        return self._images(reader, range(len(reader)) if only is None else only, levels)

    def read(self, data: bytes) -> Reader:
        """What a file holds, once it is sure that this model can decode it.

        Raises:
            CodeFileError: see `decompress`.
        """
        reader, ddn = Reader(data), self.ddn
        header = reader.header
        if header.method == RANGE and self.prior is None:
            raise InvalidInput("expected the code prior of the model for a range-coded file, got none; give it")
        known = self._fingerprints()
        files = [self._with_prior(own) if header.method == RANGE else own for own in known]
        if header.model not in files:
            # weights that are as they are in float16 may be those of a model that was saved so
            saved = "" if len(known) > 1 else ", or the one that this one was before it was saved in float16"
            raise OtherModelsCodes(
                f"expected codes of the model {files[0].hex()}, got {header.model.hex()}'s; use that one{saved}"
            )
        own = tuple(map(Level, ddn.codes_per_level, ddn.codebook_sizes))
        rows, columns = self._grid(header.height, header.width)
        fits = header.levels == own[: len(header.levels)] and header.tiles == rows * columns
        if not fits or header.channels != ddn.channels:
            raise DamagedCodes("expected levels, tiles and channels as this model has them, got others")
        if header.height * header.width > MAX_PIXELS:
            raise DamagedCodes(
                f"expected images of at most {MAX_PIXELS} pixels, which alone are written, got "
                f"{header.height}x{header.width}; copy the file again"
            )
        if header.method == RANGE and self.prior is not None:
            least = header.images * least_bytes(self.prior, len(header.levels), header.tiles)
            if least > len(data):
                raise DamagedCodes(
                    f"expected at least {least} bytes for these images, got {len(data)}; copy them again"
                )
        return reader

    def each(self, reader: Reader, levels: int | None = None) -> Iterator[Tensor]:
        """The images of a file that `read` gave, one after another, as uint8 (C, H, W), however many there are."""
        levels = self._levels(levels, len(reader.header.levels), ", those of the file")
        step = max(1, PIXELS_AT_ONCE // (reader.header.height * reader.header.width))
        parts = (range(start, min(start + step, len(reader))) for start in range(0, len(reader), step))
        return (image for part in parts for image in self._images(reader, part, levels, torch.uint8))

    # images <-> codes

    def encode(self, images: Tensor, levels: int | None = None) -> Tensor:
        """The codes (B * tiles, number of codes) of images (B, C, H, W) of any size, for `write` and `decode`."""
        levels = self._levels(levels, self.ddn.num_levels)
        images = as_pixels(images, (None, self.ddn.channels, None, None))
        height, width = images.shape[2:]
        require(max(height, width) <= MAX_SIDE, f"sides of at most {MAX_SIDE} pixels", (height, width))
        require(height * width <= MAX_PIXELS, f"images of at most {MAX_PIXELS} pixels", f"{height}x{width}", "cut them")
        require_finite(images)
        warn_of_range(images)
        codes = []
        for some in images.split(self._images_at_once(height, width)):
            codes += [self._encode(part, levels) for part in self._tiles(some).split(self.batch_size)]
        return torch.cat(codes)

    def write(self, codes: Tensor, size: tuple[int, int]) -> bytes:
        """A file of the codes that `encode` gave for images of this (height, width)."""
        codes = self._checked(codes)
        header = self._header(codes.shape[1], len(codes), size)
        return bitstream.write(header, self._pack(codes, header))

    def decode(self, codes: Tensor, size: tuple[int, int]) -> Tensor:
        """The images (B, C, H, W) in [0, 1] that codes (B * tiles, number of codes) give back."""
        images = self._empty(len(codes) // math.prod(self._grid(*size)), size)
        self._draw(codes, images)
        return images

    def _empty(self, count: int, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(count, self.ddn.channels, *size, dtype=dtype, device=self.ddn.start.device)

    def _draw(self, codes: Tensor, images: Tensor) -> None:
        """Fill images (B, C, H, W), floats or uint8, by codes (B * tiles, number of codes)."""
        (h, _), (rows, columns) = self.ddn.image_size, self._grid(images.shape[2], images.shape[3])
        row = 0
        for some in codes.split(columns * max(1, self.batch_size // columns)):
            tiles = torch.cat([self.ddn.decode(part) for part in some.split(self.batch_size)]).float().clamp_(0, 1)
            if images.dtype == torch.uint8:
                tiles = tiles.mul_(255).round_()
            for strip in tiles.unflatten(0, (-1, columns)).permute(0, 2, 3, 1, 4):  # a row of tiles, side by side
                place = images[row // rows, :, row % rows * h : (row % rows + 1) * h]
                place.copy_(strip.flatten(2)[:, : place.shape[1], : place.shape[2]])
                row += 1

    def _images(
        self, reader: Reader, places: Sequence[int], levels: int | None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The images at these places of a file."""
        header, count = reader.header, len(reader)
        levels = self._levels(levels, len(header.levels), ", those of the file")
        if not isinstance(places, Sequence) or isinstance(places, str | bytes):
            raise InvalidInput(f"expected places of images as a list of integers, got {places!r:.80}")
        size = (header.height, header.width)
        if len(places) * size[0] * size[1] > MAX_PIXELS:
            raise InvalidInput(
                f"expected at most {MAX_PIXELS} pixels at once, got {len(places)} images of {size[0]}x{size[1]}; "
                f"ask for some of them with only, at most {MAX_PIXELS // (size[0] * size[1])}"
            )
        for place in places:
            if not (_is_integer(place) and 0 <= place < count):
                raise InvalidInput(f"expected places below {count}, from 0, got {place!r:.80}")
        wanted, images = sum(self.ddn.codes_per_level[:levels]), self._empty(len(places), size, dtype)
        step = self._images_at_once(*size)
        for start in range(0, len(places), step):
            parts = [reader[place] for place in places[start : start + step]]
            self._draw(self._unpack(parts, header)[:, :wanted], images[start : start + step])
        return images

    # headerless

    def pack(self, codes: Tensor) -> list[bytes]:
        """The codes (B, number of codes) of images of the model's size without a header: equally long, if uniform."""
        codes = self._checked(codes)
        return self._pack(codes, self._header(codes.shape[1], len(codes), self.ddn.image_size))

    def unpack(self, parts: Sequence[bytes], levels: int | None = None) -> Tensor:
        """The codes (B, number of codes) that `pack` wrote, of all levels or the first `levels`."""
        codes = sum(self.ddn.codes_per_level[: self._levels(levels, self.ddn.num_levels)])
        return self._unpack(parts, self._header(codes, len(parts), self.ddn.image_size))

    def _checked(self, codes: object) -> Tensor:
        """Codes (rows, number of codes) that are sure to be this model's."""
        if not (isinstance(codes, Tensor) and codes.ndim == 2 and not codes.is_floating_point()):
            came = f"{codes.dtype} {tuple(codes.shape)}" if isinstance(codes, Tensor) else f"a {type(codes).__name__}"
            raise InvalidInput(f"expected codes as an integer tensor (B, number of codes), got {came}")
        levels = self.ddn.levels_of(codes.shape[1])
        for level, part in enumerate(codes.split(self.ddn.codes_per_level[:levels], dim=1)):
            check_codes(part, part.shape, self.ddn.codebook_sizes[level])
        return codes.cpu()

    def _header(self, codes: int, rows: int, size: tuple[int, int]) -> Header:
        """Of a file of codes (rows, codes) of images of this size."""
        levels, tiles = self.ddn.levels_of(codes), math.prod(self._grid(*size))
        require(rows % tiles == 0, f"the codes of {tiles} tiles for each image of {size[0]}x{size[1]}", f"{rows} rows")
        own = tuple(map(Level, self.ddn.codes_per_level[:levels], self.ddn.codebook_sizes))
        return Header(*self._method(), self.ddn.channels, *size, rows // tiles, tiles, own)

    def _method(self) -> tuple[int, bytes]:
        """How files are written, and which model, and prior, can read them."""
        return (UNIFORM, self.fingerprint) if self.prior is None else (RANGE, self._with_prior(self.fingerprint))

    def _with_prior(self, model: bytes) -> bytes:
        assert self.prior is not None
        return hashlib.sha256(model + self.prior.fingerprint).digest()[:8]

    def _pack(self, codes: Tensor, header: Header) -> list[bytes]:
        """Codes (images * tiles, number of codes) as the bytes of each image."""
        if header.method == UNIFORM:
            own = codes.reshape(-1, header.tiles * codes.shape[1]).tolist()
            return [bitstream.pack(one, header.sizes * header.tiles) for one in own]
        assert self.prior is not None
        return pack_ranges(self.prior, codes, header.tiles)

    def _unpack(self, parts: Sequence[bytes], header: Header) -> Tensor:
        """The other way."""
        if header.method == UNIFORM:
            sizes = header.sizes * header.tiles
            codes = [torch.tensor(bitstream.unpack(part, sizes)) for part in parts]
            return torch.cat([torch.empty(0, dtype=torch.long), *codes]).reshape(-1, len(header.sizes))
        assert self.prior is not None
        return unpack_ranges(self.prior, parts, len(header.levels), header.tiles)

    # tiles

    def _encode(self, tiles: Tensor, levels: int) -> Tensor:
        tiles = tiles.to(self.ddn.start.device, self.ddn.start.dtype)
        also = [] if self.rate == 0 or self.prior is None else [RatePenalty(self.prior, weight=self.rate)]
        return self.ddn.encode_walk(tiles, levels=levels, beams=self.beams, also=also).codes.cpu()

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """How many tiles an image is high and wide."""
        return -(-height // self.ddn.image_size[0]), -(-width // self.ddn.image_size[1])

    def _images_at_once(self, height: int, width: int) -> int:
        """As many as have about `batch_size` tiles."""
        return max(1, self.batch_size // math.prod(self._grid(height, width)))

    def _tiles(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B * tiles, C, h, w), row by row; what lies beyond the edge is as the edge."""
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
    """Whether it is a number without a fraction; true and false are none."""
    try:
        operator.index(value)  # type: ignore[arg-type]
    except (TypeError, RuntimeError):
        return False
    return not isinstance(value, bool)


def fingerprint(ddn: DDN) -> bytes:
    """What tells models apart; see `fingerprint.py`."""
    return fingerprints(ddn)[0]
