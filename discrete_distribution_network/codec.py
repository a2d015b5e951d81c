"""`ImageCodec`: an image <-> a file of a few bytes. The walk of a DDN is the encoder; its choices are the file.

Larger images than the model's are cut into tiles of its size, the last ones filled up with their edge. Packed uniformly
a code takes log2 K bits. Where the model's folder holds counts of how often its codes occur (`CodeCounts`), the range
coder of the library constriction packs them tighter. Counts are integers, and their shares are dyadic numbers that
float64 holds exactly, so what decodes is in step with what encoded on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from discrete_distribution_network import bitstream
from discrete_distribution_network.bitstream import RANGE, UNIFORM, Header, Level, OtherModelsCodes, Reader
from discrete_distribution_network.conditions import Cheap
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, ModelFileError, require
from discrete_distribution_network.guided_sampler import to_patches
from discrete_distribution_network.pretrained import read_tensors, write_tensors

COUNTS = "counts.safetensors"
"""File of `CodeCounts`, beside its model."""

PRECISION = 16
"""Counts of a place sum to 2^16."""

WORD = 4
"""Bytes of a word of the range coder."""

MAX_PIXELS = 1 << 26
"""An image of more pixels is not decoded: a file of a few bytes may claim any size."""


class CodeCounts:
    """How often each code occurs at each place of a level, as integers that sum to 2^16.

    Args:
        tables: for each level the counts of its places, int64 (codes of the level, K), each at least 1.
    """

    def __init__(self, tables: Sequence[Tensor]):
        for level, table in enumerate(tables):
            whole = table.ndim == 2 and not table.is_floating_point() and bool((table >= 1).all())
            require(whole, f"counts of at least 1, (codes, K), of level {level}", tuple(table.shape))
            sums = table.sum(1)
            require(bool((sums == 1 << PRECISION).all()), f"counts that sum to 2^{PRECISION}", sums.tolist()[:4])
        self.tables = [table.cpu() for table in tables]
        self._made: list[list[Any]] = []

    @classmethod
    def of(cls, ddn: DDN, codes: Tensor) -> CodeCounts:
        """Of the codes (B, number of codes) of a training set: of each place, leaning on all places of its level."""
        tables = []
        for part, size in zip(codes.cpu().split(ddn.codes_per_level, 1), ddn.codebook_sizes, strict=True):
            require(size < 1 << PRECISION, f"K below 2^{PRECISION} for counts", size)
            everywhere = torch.bincount(part.flatten(), minlength=size).double() + 0.5
            here = torch.zeros(part.shape[1], size, dtype=torch.float64)
            here.scatter_add_(1, part.T, torch.ones(part.T.shape, dtype=torch.float64))
            shares = here + LEAN * everywhere / everywhere.sum()
            tables.append(_integers(shares / shares.sum(1, keepdim=True)))
        return cls(tables)

    def bits(self, level: int) -> Tensor:
        """What each code costs, (codes of the level, K)."""
        return PRECISION - self.tables[level].double().log2()

    def check(self, ddn: DDN) -> None:
        shapes = [tuple(table.shape) for table in self.tables]
        wanted = list(zip(ddn.codes_per_level, ddn.codebook_sizes, strict=True))
        require(shapes == wanted, f"counts of shape {wanted}", shapes)

    def save(self, folder: str | Path) -> None:
        """Write `counts.safetensors` into the folder of their model."""
        write_tensors(Path(folder) / COUNTS, {f"{i:03d}": table.int() for i, table in enumerate(self.tables)})

    @classmethod
    def load(cls, folder: str | Path) -> CodeCounts:
        """The counts beside a model.

        Raises:
            ModelFileError: there are none, or they are damaged.
        """
        path = Path(folder) / COUNTS
        if not path.is_file():
            raise ModelFileError(f"expected counts of codes in {path}, found none; run `ddn prior --kind counts`")
        tables = [table.long() for _, table in sorted(read_tensors(path).items())]
        try:
            return cls(tables)
        except InvalidInput as error:
            raise ModelFileError(f"expected counts of codes in {path}, but {error}; make them anew") from error

    def pack(self, codes: Sequence[int], levels: int, tiles: int) -> bytes:
        """The codes of the first `levels` levels of all tiles of an image, range coded.

        The coder ends with a whole word; of that as few bytes are kept as decode to the same codes.
        """
        coder = _constriction().stream.queue.RangeEncoder()
        columns = np.ascontiguousarray(np.asarray(codes, np.int32).reshape(tiles, -1).T)
        for model, column in zip(self._models(levels), columns, strict=True):
            coder.encode(column, model)
        whole = coder.get_compressed().astype(">u4").tobytes()
        for length in range(max(0, len(whole) - WORD), len(whole)):
            lower = int.from_bytes(whole[:length], "big")
            for number in (lower, lower + 1):  # cut off, or rounded up
                if number < 1 << 8 * length:
                    short = number.to_bytes(length, "big")
                    if self._decoded(short, levels, tiles) == list(codes):
                        return short
        return whole

    def unpack(self, data: bytes, levels: int, tiles: int) -> list[int]:
        """The codes that `pack` wrote.

        Raises:
            DamagedCodes: they are not what `pack` writes.
        """
        codes = self._decoded(data, levels, tiles)
        if codes is None or self.pack(codes, levels, tiles) != data:
            raise bitstream.DamagedCodes("expected range-coded codes, got bytes that no codes make; copy them again")
        return codes

    def _decoded(self, data: bytes, levels: int, tiles: int) -> list[int] | None:
        """The codes of bytes that go on with zeros; None if the coder cannot have made them."""
        words = np.frombuffer(data + bytes(-len(data) % WORD), ">u4").astype(np.uint32)
        decoder = _constriction().stream.queue.RangeDecoder(words)
        try:
            columns = [decoder.decode(model, tiles) for model in self._models(levels)]
        except AssertionError:
            return None
        return np.stack(columns, 1).flatten().tolist()

    def _models(self, levels: int) -> list[Any]:
        """constriction's of the places of the first levels."""
        if not self._made:
            categorical = _constriction().stream.model.Categorical
            shares = [table.double().numpy() / (1 << PRECISION) for table in self.tables]
            self._made = [[categorical(row, perfect=False) for row in table] for table in shares]
        return [model for table in self._made[:levels] for model in table]


LEAN = 32
"""The counts of a place are as if so many more images had been seen, whose codes occur as in its whole level."""


def _integers(shares: Tensor) -> Tensor:
    """Shares (places, K) as integers of at least 1 that sum to 2^16."""
    total, size = 1 << PRECISION, shares.shape[1]
    exact = shares * (total - size)
    whole = exact.floor().long()
    left = total - size - whole.sum(1, keepdim=True)
    rank = (whole - exact).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return whole + (rank < left) + 1


def _constriction() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise InvalidInput(
            "expected the library constriction for range-coded files, found none; "
            "pip install 'discrete-distribution-network[codec]'"
        ) from error
    return constriction


class ImageCodec:
    """Images <-> `.ddn` files (see `bitstream.py`), by a model.

    Args:
        ddn: the model; it is what reads the files, too.
        counts: of its codes, to range code; None to pack uniformly. Uniform files are read either way.
        beams: walks of each tile that are followed, of which the best is taken.
        rate: what a bit costs against the mean squared error of a tile, where there are counts: above 0, codes that
            occur often are preferred, and files get smaller and images worse.
        batch_size: tiles that are encoded or decoded at once.
    """

    def __init__(
        self, ddn: DDN, counts: CodeCounts | None = None, *, beams: int = 1, rate: float = 0.0, batch_size: int = 64
    ):
        if counts is not None:
            counts.check(ddn)
        require(rate == 0 or counts is not None, "counts where rate is given", "none")
        require(rate >= 0, "a rate of at least 0", rate)
        require(
            ddn.cond_channels == 0, "a network that learnt without other images", f"cond_channels {ddn.cond_channels}"
        )
        require(min(ddn.codebook_sizes) >= 2, "a model with at least 2 candidates at every level", ddn.codebook_sizes)
        self.ddn, self.counts, self.beams, self.rate, self.batch_size = ddn, counts, beams, rate, batch_size
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
        per_image = codes.reshape(batch, -1).tolist()
        count = len(tiles) // batch
        header = Header(
            UNIFORM if self.counts is None else RANGE,
            self.fingerprint,
            channels,
            height,
            width,
            batch,
            count,
            tuple(map(Level, ddn.codes_per_level[:levels], ddn.codebook_sizes)),
        )
        return bitstream.write(header, [self._pack(own, header) for own in per_image])

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
        codes = torch.tensor([self._unpack(reader[place], header) for place in places])
        codes = codes.reshape(len(places) * header.tiles, -1)[:, :wanted]
        tiles = torch.cat([ddn.decode(part) for part in codes.split(self.batch_size)])
        return self._joined(tiles, header)

    def read(self, data: bytes) -> Reader:
        """What a file holds, once it is sure that this model can decode it.

        Raises:
            CodeFileError: see `decompress`.
        """
        reader, ddn = Reader(data), self.ddn
        header = reader.header
        if header.model != self.fingerprint:
            raise OtherModelsCodes(
                f"expected codes of the model {self.fingerprint.hex()}, got {header.model.hex()}'s; use that one"
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
        header = self._plain(codes.shape[1])
        return [self._pack(own, header) for own in codes.tolist()]

    def unpack(self, parts: Sequence[bytes], levels: int | None = None) -> Tensor:
        """The codes (B, number of codes) that `pack` wrote, of all levels or the first `levels`."""
        levels = self.ddn.num_levels if levels is None else levels
        header = self._plain(sum(self.ddn.codes_per_level[:levels]))
        return torch.tensor([self._unpack(part, header) for part in parts])

    def _plain(self, codes: int) -> Header:
        levels = self.ddn.levels_of(codes)
        own = tuple(map(Level, self.ddn.codes_per_level[:levels], self.ddn.codebook_sizes))
        method = UNIFORM if self.counts is None else RANGE
        return Header(method, self.fingerprint, self.ddn.channels, *self.ddn.image_size, 1, 1, own)

    def _pack(self, codes: list[int], header: Header) -> bytes:
        if header.method == UNIFORM:
            return bitstream.pack(codes, header.sizes * header.tiles)
        assert self.counts is not None
        return self.counts.pack(codes, len(header.levels), header.tiles)

    def _unpack(self, data: bytes, header: Header) -> list[int]:
        if header.method == UNIFORM:
            return bitstream.unpack(data, header.sizes * header.tiles)
        if self.counts is None:
            raise InvalidInput("expected the counts of the model's codes for a range-coded file, got none; give them")
        return self.counts.unpack(data, len(header.levels), header.tiles)

    # tiles

    def _encode(self, tiles: Tensor, levels: int) -> Tensor:
        tiles = tiles.to(self.ddn.start.device, self.ddn.start.dtype)
        if self.rate == 0 or self.counts is None:
            return self.ddn.encode_walk(tiles, levels, beams=self.beams).codes.cpu()
        cheap = Cheap([self.counts.bits(level) for level in range(levels)], weight=self.rate)
        return self.ddn.encode_walk(tiles, levels, beams=self.beams, also=[cheap]).codes.cpu()

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
