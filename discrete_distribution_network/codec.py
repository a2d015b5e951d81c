"""`ImageCodec`: an image <-> a file of a few bytes. The walk of a DDN is the encoder; its choices are the file.

Larger images than the model's are cut into tiles of its size, the last ones filled up with their edge. Packed uniformly
a code takes log2 K bits. Where a `CodePrior` lies in the model's folder, likely codes take fewer (`range_coding.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from discrete_distribution_network import bitstream
from discrete_distribution_network.bitstream import RANGE, UNIFORM, Header, Level, OtherModelsCodes, Reader
from discrete_distribution_network.code_prior import CodePrior
from discrete_distribution_network.conditions import Cheap
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, require
from discrete_distribution_network.guided_sampler import to_patches
from discrete_distribution_network.range_coding import pack_ranges, unpack_ranges

MAX_PIXELS = 1 << 26
"""An image of more pixels is not decoded: a file of a few bytes may claim any size."""


class ImageCodec:
    """Images <-> `.ddn` files (see `bitstream.py`), by a model.

    Args:
        ddn: the model; it is what reads the files, too.
        prior: how likely its codes are, to range code; None to pack uniformly. Uniform files are read either way.
        beams: walks of each tile that are followed, of which the best is taken.
        rate: what a bit costs against the mean squared error of a tile, where there is a prior: above 0, likely codes
            are preferred, and files get smaller and images worse.
        batch_size: tiles that are encoded or decoded at once.
    """

    def __init__(
        self, ddn: DDN, prior: CodePrior | None = None, *, beams: int = 1, rate: float = 0.0, batch_size: int = 64
    ):
        if prior is not None:
            own = (ddn.code_shapes, ddn.codebook_sizes)
            fits = (list(prior.code_shapes), list(prior.codebook_sizes)) == own
            require(fits, "a prior of this model's codes", "one of other levels")
        require(rate == 0 or prior is not None, "a code prior where rate is given", "none")
        require(rate >= 0, "a rate of at least 0", rate)
        require(
            ddn.cond_channels == 0, "a network that learnt without other images", f"cond_channels {ddn.cond_channels}"
        )
        require(min(ddn.codebook_sizes) >= 2, "a model with at least 2 candidates at every level", ddn.codebook_sizes)
        self.ddn, self.prior, self.beams, self.rate, self.batch_size = ddn, prior, beams, rate, batch_size
        self.fingerprint = fingerprint(ddn)

    def compress(self, image: Tensor, levels: int | None = None) -> bytes:
        """A file of an image (C, H, W) in [0, 1] of any size; of the first `levels` levels alone, if given."""
        require(image.ndim == 3, "an image (C, H, W)", tuple(image.shape))
        return self.compress_batch(image.unsqueeze(0), levels)

    def decompress(self, data: bytes, levels: int | None = None) -> Tensor:
        """The image (C, H, W) of a file; by the first `levels` levels alone, if given: a coarser image.

        Raises:
            CodeFileError: the file is damaged, of another model, or of more than one image; see `bitstream.py`.
        """
        images = self.decompress_batch(data, levels)
        require(len(images) == 1, "a file of one image", f"one of {len(images)}", "use decompress_batch")
        return images[0]

    def compress_batch(self, images: Tensor, levels: int | None = None) -> bytes:
        """One file of images (B, C, H, W) in [0, 1]."""
        ddn = self.ddn
        levels = ddn.num_levels if levels is None else levels
        require(1 <= levels <= ddn.num_levels, f"levels from 1 to {ddn.num_levels}", levels)
        require(
            images.ndim == 4 and images.shape[1] == ddn.channels and images.numel() > 0,
            f"images (B, {ddn.channels}, H, W)",
            tuple(images.shape),
        )
        batch, channels, height, width = images.shape
        require(max(height, width) < 1 << 16, "sides below 65536 pixels", (height, width))
        tiles = self._tiles(images)
        codes = torch.cat([self._encode(part, levels) for part in tiles.split(self.batch_size)])
        count = len(tiles) // batch
        method, model = self._method()
        header = Header(
            method,
            model,
            channels,
            height,
            width,
            batch,
            count,
            tuple(map(Level, ddn.codes_per_level[:levels], ddn.codebook_sizes)),
        )
        return bitstream.write(header, self._pack(codes, header))

    def decompress_batch(self, data: bytes, levels: int | None = None, only: Sequence[int] | None = None) -> Tensor:
        """The images (B, C, H, W) of a file; `only` those of these places, if given.

        Raises:
            CodeFileError: see `decompress`.
        """
        reader, ddn = self.read(data), self.ddn
        header, there = reader.header, len(reader.header.levels)
        levels = there if levels is None else levels
        require(1 <= levels <= there, f"levels from 1 to {there}, those of the file", levels)
        places = range(len(reader)) if only is None else only
        require(all(0 <= place < len(reader) for place in places), f"places below {len(reader)}", list(places)[:8])
        wanted = sum(ddn.codes_per_level[:levels])
        codes = self._unpack([reader[place] for place in places], header)[:, :wanted]
        tiles = torch.cat([ddn.decode(part) for part in codes.split(self.batch_size)])
        return self._joined(tiles, header)

    def read(self, data: bytes) -> Reader:
        """What a file holds, once it is sure that this model can decode it.

        Raises:
            CodeFileError: see `decompress`.
        """
        reader, ddn = Reader(data), self.ddn
        header = reader.header
        if header.method == RANGE and self.prior is None:
            raise InvalidInput("expected the code prior of the model for a range-coded file, got none; give it")
        wanted = self.fingerprint if header.method == UNIFORM else self._method()[1]
        if header.model != wanted:
            raise OtherModelsCodes(
                f"expected codes of the model {wanted.hex()}, got {header.model.hex()}'s; use that one"
            )
        own = tuple(map(Level, ddn.codes_per_level, ddn.codebook_sizes))
        rows, columns = self._grid(header.height, header.width)
        pixels = header.images * header.height * header.width
        fits = header.levels == own[: len(header.levels)] and header.tiles == rows * columns
        if not fits or header.channels != ddn.channels:
            raise bitstream.DamagedCodes("expected levels, tiles and channels as this model has them, got others")
        if pixels > MAX_PIXELS:
            raise bitstream.DamagedCodes(f"expected at most {MAX_PIXELS} pixels, got {pixels}")
        return reader

    # headerless

    def pack(self, codes: Tensor) -> list[bytes]:
        """The codes (B, number of codes) of images of the model's size without a header: equally long, if uniform."""
        return self._pack(codes, self._plain(codes.shape[1]))

    def unpack(self, parts: Sequence[bytes], levels: int | None = None) -> Tensor:
        """The codes (B, number of codes) that `pack` wrote, of all levels or the first `levels`."""
        levels = self.ddn.num_levels if levels is None else levels
        return self._unpack(parts, self._plain(sum(self.ddn.codes_per_level[:levels])))

    def _plain(self, codes: int) -> Header:
        levels = self.ddn.levels_of(codes)
        own = tuple(map(Level, self.ddn.codes_per_level[:levels], self.ddn.codebook_sizes))
        return Header(*self._method(), self.ddn.channels, *self.ddn.image_size, 1, 1, own)

    def _method(self) -> tuple[int, bytes]:
        """How files are written, and which model, and prior, can read them."""
        if self.prior is None:
            return UNIFORM, self.fingerprint
        return RANGE, hashlib.sha256(self.fingerprint + self.prior.fingerprint).digest()[:8]

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
            codes = [bitstream.unpack(part, header.sizes * header.tiles) for part in parts]
            return torch.tensor(codes).reshape(len(parts) * header.tiles, -1)
        assert self.prior is not None
        return unpack_ranges(self.prior, parts, len(header.levels), header.tiles)

    # tiles

    def _encode(self, tiles: Tensor, levels: int) -> Tensor:
        tiles = tiles.to(self.ddn.start.device, self.ddn.start.dtype)
        also = [] if self.rate == 0 or self.prior is None else [Cheap(self.prior, weight=self.rate)]
        return self.ddn.encode_walk(tiles, levels=levels, beams=self.beams, also=also).codes.cpu()

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """How many tiles an image is high and wide."""
        return -(-height // self.ddn.image_size[0]), -(-width // self.ddn.image_size[1])

    def _tiles(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B * tiles, C, h, w), row by row; what lies beyond the edge is as the edge."""
        height, width = images.shape[2:]
        (h, w), (rows, columns) = self.ddn.image_size, self._grid(height, width)
        filled = F.pad(images, (0, columns * w - width, 0, rows * h - height), mode="replicate")
        return to_patches(filled, (h, w))

    def _joined(self, tiles: Tensor, header: Header) -> Tensor:
        """The other way."""
        (h, w), (rows, columns) = self.ddn.image_size, self._grid(header.height, header.width)
        images = tiles.reshape(-1, rows, columns, header.channels, h, w).permute(0, 3, 1, 4, 2, 5)
        images = images.reshape(len(images), header.channels, rows * h, columns * w)
        return images[:, :, : header.height, : header.width].float().clamp(0, 1)


def fingerprint(ddn: DDN) -> bytes:
    """8 bytes that tell models apart: of all weights, rounded to bfloat16, so that it is the same in any precision."""
    digest = hashlib.sha256(repr((ddn.sizes, ddn.codebook_sizes, ddn.code_shapes)).encode())
    for name, parameter in sorted(ddn.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.digest()[:8]
