"""From a data set to batches: order, augmentation, shares of the processes, images that cannot be decoded.

What a batch holds depends on the seed, on its place in the training and on nothing else: not on what came before, nor
on how many workers load. So a training that is resumed asks for the batches from there on.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, count
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from discrete_distribution_network.data.datasets import Item, as_item, is_stream, require_dataset, undecoded
from discrete_distribution_network.data.images import reason
from discrete_distribution_network.errors import DataError, DDNError, printable, require
from discrete_distribution_network.model.pixels import out_of_range
from discrete_distribution_network.signals import NOTED

Augment = Callable[[Tensor], Tensor]

MASK = (1 << 63) - 1


class Sized(Protocol):
    """What the images of a batch must measure; a `DDN` is one."""

    image_size: tuple[int, int]
    channels: int


class Batch(NamedTuple):
    """Images (B, C, H, W), float32 in [0, 1], their labels (B,) if there are any, and what could not be decoded."""

    images: Tensor
    labels: Tensor | None
    faults: tuple[str, ...] = ()


def key(*numbers: int) -> int:
    """A seed made of several numbers, each of which changes it thoroughly (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state ^ number) + 0x9E3779B97F4A7C15 & (1 << 64) - 1
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        state = (state ^ state >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
        state ^= state >> 31
    return state & MASK


class Order:
    """Which images make up the batches of one process, for ever: lists of (epoch, index).

    Each epoch is a fresh permutation by (seed, epoch). Every batch of all processes together is the next
    `batch_size * ranks` images of it, of which each process takes its part; what is left of an epoch is dropped.

    Args:
        start: the batch to begin with; 0 is the first of the training.
    """

    def __init__(self, images: int, batch_size: int, seed: int, rank: int = 0, ranks: int = 1, start: int = 0):
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.rank, self.ranks, self.start = rank, ranks, start
        self.per_epoch = images // (batch_size * ranks)
        if self.per_epoch == 0:
            raise DataError(
                f"expected at least one batch of {batch_size * ranks} images, got {images}; add images or lower the "
                "batch size"
            )

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first, offset = divmod(self.start, self.per_epoch)
        for epoch in count(first):
            generator = torch.Generator().manual_seed(key(self.seed, epoch))
            batches = torch.randperm(self.images, generator=generator).split(self.batch_size)
            for batch in range(offset, self.per_epoch):
                yield [(epoch, index) for index in batches[batch * self.ranks + self.rank].tolist()]
            offset = 0


class _Prepared(NamedTuple):
    item: Item | None
    faults: tuple[str, ...]


class _Keyed(Dataset[_Prepared]):
    """Items by (epoch, index): checked, augmented, and replaced by the next one where `skip` allows it."""

    def __init__(self, dataset: Any, shape: Sized, augment: Augment | None, seed: int, skip: bool):
        self.dataset, self.augment, self.seed, self.skip = dataset, augment, seed, skip
        self.size, self.channels = shape.image_size, shape.channels

    def __getitem__(self, place: tuple[int, int]) -> _Prepared:
        epoch, index = place
        faults: list[str] = []
        for tried in range(len(self.dataset) if self.skip else 1):
            there = (index + tried) % len(self.dataset)
            with _seeded(key(self.seed, epoch, index)):
                result = prepare(
                    partial(self.dataset.__getitem__, there), self.size, self.channels, f"image {there}", self.augment
                )
            if isinstance(result, Item):
                return _Prepared(result, tuple(faults))
            faults.append(result)
        return _Prepared(None, tuple(faults))


class _Stream(IterableDataset[_Prepared]):
    """The items of an iterable, for ever, from item `start` of this process on."""

    def __init__(
        self,
        stream: Iterable[Any],
        shape: Sized,
        augment: Augment | None,
        seed: int,
        max_bad_images: int,
        rank: int,
        ranks: int,
        start: int,
    ):
        self.stream, self.sharded = _share_of(stream, seed, rank, ranks)
        self.augment, self.seed, self.max_bad_images = augment, seed, max_bad_images
        self.size, self.channels = shape.image_size, shape.channels
        self.rank, self.ranks, self.start = rank, ranks, start

    def __iter__(self) -> Iterator[_Prepared]:
        passed, faults = 0, []
        for result in self._results():
            if isinstance(result, str):
                faults.append(result)
                if len(faults) > self.max_bad_images:
                    yield _Prepared(None, tuple(faults))
            elif passed < self.start:
                passed, faults = passed + 1, []
            else:
                yield _Prepared(result, tuple(faults))
                faults = []

    def _results(self) -> Iterator[Item | str | None]:
        """This process's items for ever, or why they cannot be had; None for those before the start.

        Where bad items are left out, those before the start are prepared too: only that tells how many were good.
        """
        blind = 0 if self.max_bad_images else self.start
        for epoch in count():
            if hasattr(self.stream, "set_epoch"):
                self.stream.set_epoch(epoch)
            items, place = iter(self.stream), 0
            while True:
                own = self.sharded or place % self.ranks == self.rank
                # what the stream itself draws at random comes from the item's seed too
                with _seeded(key(self.seed, epoch, place, self.rank if self.sharded else 0)):
                    try:
                        result: Item | str | None = None
                        if not own or blind > 0:
                            pass_over(items)
                        else:
                            name = f"item {place} of the stream"
                            result = prepare(partial(next, items), self.size, self.channels, name, self.augment)
                    except StopIteration:
                        break
                if own:
                    blind -= 1
                    yield result
                place += 1
            if place == 0:
                raise DataError(
                    "expected images in the data set, got an iterable without any"
                    + (" the second time; give one that can be iterated again" if epoch else "")
                )


def _share_of(stream: Any, seed: int, rank: int, ranks: int) -> tuple[Any, bool]:
    """A process's part of a stream, and whether it is one; a stream of Hugging Face knows how to shuffle and share."""
    if not (hasattr(stream, "shuffle") and hasattr(stream, "set_epoch")):
        return stream, False
    stream = undecoded(stream).shuffle(seed=key(seed) % (1 << 32), buffer_size=1000)
    if ranks == 1:
        return stream, True
    from datasets.distributed import split_dataset_by_node

    return split_dataset_by_node(stream, rank=rank, world_size=ranks), True


READING = (OSError, SyntaxError, Image.DecompressionBombError)
"""What is raised inside a data set of the user's where a file cannot be read or decoded, whoever raises it."""

DECODERS = re.compile(r"PIL\.(\w+Plugin|ImageFile)|(pillow_\w+|imageio|tifffile|torchvision\.io)(\..+)?")
"""Modules that decode images: whatever is raised in them says that an image cannot be decoded."""

DECODING = {"open", "load", "verify", "exif_transpose", "getexif", "tobytes"}
"""Functions of Pillow's that do, in modules whose other functions work on pixels."""


def is_reading(error: Exception) -> bool:
    """Whether an error inside a data set says that an image cannot be decoded, and not that its code is wrong."""
    return isinstance(error, READING) or any(
        DECODERS.fullmatch(module) or (module in ("PIL.Image", "PIL.ImageOps") and frame.f_code.co_name in DECODING)
        for frame, _ in traceback.walk_tb(error.__traceback__)
        for module in [frame.f_globals.get("__name__", "")]
    )


def pass_over(items: Iterator[Any]) -> None:
    """Go on by one item, whether it can be read or not."""
    try:
        next(items)
    except DataError:
        pass
    except (DDNError, StopIteration):
        raise
    except Exception as error:
        if not is_reading(error):
            raise


def prepare(
    fetch: Callable[[], Any], size: tuple[int, int], channels: int, name: str, augment: Augment | None
) -> Item | str:
    """The item that is fetched, checked and augmented; or, where it cannot be, the sentence that says why."""
    try:
        item = as_item(fetch(), size, channels, name)
    except DataError as error:
        return str(error)
    except (DDNError, StopIteration):
        raise
    except Exception as error:
        if not is_reading(error):
            raise
        return printable(f"expected an image, got {name}, which cannot be decoded ({reason(error)}); remove it")
    if augment is None:
        return item
    image = augment(item.image)
    if image.shape != item.image.shape:
        raise DataError(
            f"expected augmentation to keep the shape {tuple(item.image.shape)}, got {tuple(image.shape)} for {name}; "
            "crop last"
        )
    return Item(image, item.label)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """PyTorch's own generator seeded for a while, and put back; no other device's is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def collate(prepared: Sequence[_Prepared]) -> Batch:
    """One batch; without images if one of its items could not be had."""
    faults = tuple(chain.from_iterable(one.faults for one in prepared))
    items = [one.item for one in prepared if one.item is not None]
    if len(items) < len(prepared):
        return Batch(torch.empty(0), None, faults)
    images = [item.image for item in items]
    if any(image.dtype != images[0].dtype for image in images):
        images = [in_unit_range(image) for image in images]
    labels = [item.label for item in items if item.label is not None]
    return Batch(torch.stack(images), torch.tensor(labels) if len(labels) == len(items) else None, faults)


def in_unit_range(images: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1]; floating-point ones as float32."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


class Loader:
    """Batches for training, from any place of it.

    Args:
        dataset: see `data.py`; one without a length or without items by index is a stream: it is read in its own
            order, again and again, and resuming reads it up to the place.
        shape: what gives `image_size` and `channels`, such as the DDN.
        batch_size: images a batch of this process.
        augment: of one image (C, H, W) as the data set gives it, such as a transform of torchvision.transforms.v2.
            Its random numbers come from PyTorch's own generator, seeded by (seed, epoch, image).
        seed, rank, ranks: of the order; the number of this process, and of all.
        workers: processes that load; 0 for none but this.
        pin_memory: keep batches where a GPU takes them from faster.
        max_bad_images: how many images that cannot be decoded are replaced by others before it is an error, in this
            process.

    Attributes:
        faults: the sentences about images that could not be decoded, each once.
    """

    def __init__(
        self,
        dataset: Any,
        shape: Sized,
        batch_size: int,
        *,
        augment: Augment | None = None,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        max_bad_images: int = 0,
    ):
        require(workers >= 0, "workers of at least 0", workers)
        require(max_bad_images >= 0, "max_bad_images of at least 0", max_bad_images)
        require(batch_size >= 1, "batch_size of at least 1", batch_size)
        require_dataset(dataset)
        self.dataset = dataset
        self.shape, self.batch_size, self.augment = shape, batch_size, augment
        self.seed, self.rank, self.ranks, self.workers = seed, rank, ranks, workers
        self.pin_memory, self.max_bad_images = pin_memory, max_bad_images
        self.faults: dict[str, None] = {}
        self.streamed = is_stream(dataset)
        self.per_epoch = None if self.streamed else self._order(0).per_epoch
        require(not self.streamed or workers <= 1, "at most one worker for a stream", workers)

    def _order(self, start: int) -> Order:
        return Order(len(self.dataset), self.batch_size, self.seed, self.rank, self.ranks, start)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Batches for ever, from number `start` of the training on; images as the data set gives them, often uint8.

        Raises:
            DataError: an image cannot be decoded, once `max_bad_images` others could not be either.
        """
        options: dict[str, Any] = {
            "collate_fn": collate,
            "num_workers": self.workers,
            "pin_memory": self.pin_memory,
            "generator": torch.Generator(),  # else it would take a number from PyTorch's own
            "worker_init_fn": outlive_signals,
        }
        skip = self.max_bad_images > 0
        if self.streamed:
            place = start * self.batch_size
            stream = _Stream(
                self.dataset, self.shape, self.augment, self.seed, self.max_bad_images, self.rank, self.ranks, place
            )
            loader = DataLoader(stream, batch_size=self.batch_size, **options)
        else:
            keyed = _Keyed(undecoded(self.dataset), self.shape, self.augment, self.seed, skip)
            loader = DataLoader(keyed, batch_sampler=self._order(start), **options)
        looked_at = 0
        for batch in _from_workers(loader):
            self.faults |= dict.fromkeys(batch.faults)
            if len(self.faults) > self.max_bad_images:
                last = next(reversed(self.faults))
                raise DataError(last if not skip else f"more than {self.max_bad_images} images are bad: {last}")
            looked_at += LOOKED_AT if looked_at < LOOKED_AT and _warn_of_range(self.dataset, batch.images) else 1
            yield batch


LOOKED_AT = 8
"""Batches whose pixels are looked at for their range."""

_warned_of: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def _warn_of_range(dataset: Any, images: Tensor) -> bool:
    """Warn, once for each data set, of float pixels far outside [0, 1]; tells whether that is done."""
    if _warned_of.get(id(dataset)) is None and (said := out_of_range(images, "images of the data set")):
        warnings.warn(said, stacklevel=3)
        with suppress(TypeError):  # a list
            _warned_of[id(dataset)] = dataset
        return True
    return id(dataset) in _warned_of


def outlive_signals(worker: int = 0) -> None:
    """Let a worker of a loader go on when its whole process group is asked to end: it ends when its main process says.

    So the main process has the batches that it needs to save and end. Where the system does not tell who sent a signal,
    as on macOS, SIGTERM ends workers still.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, daemon=True).start()


def _end_when_told() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _from_workers(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Batches of a loader; signals wait until its workers outlive them, and what these raise is as raised here."""
    mask = getattr(signal, "pthread_sigmask", None)  # not on Windows
    before = mask(signal.SIG_BLOCK, NOTED) if mask else None
    try:
        batches = iter(loader)
    finally:
        if mask:
            mask(signal.SIG_SETMASK, before)
    try:
        yield from batches
    except DDNError as error:
        if "\n" not in str(error):
            raise
        # of a worker PyTorch gives the traceback as text, whose last line is "module.DataError: message"
        raise type(error)(str(error).strip().rsplit("\n", 1)[-1].partition(": ")[2]) from None
    finally:
        getattr(batches, "_shutdown_workers", lambda: None)()  # else only when it is collected, after five seconds


def in_order(
    dataset: Any,
    shape: Sized,
    batch_size: int,
    *,
    rank: int = 0,
    ranks: int = 1,
    limit: int | None = None,
    max_bad_images: int = 0,
    finite: bool = True,
) -> Iterator[Batch]:
    """A data set's images from the first on, each once, as float32 in [0, 1]; of several processes, this one's share.

    Args:
        finite: take an image with infinite pixels or NaN as one that cannot be decoded.

    Raises:
        DataError: one cannot be decoded, once `max_bad_images` others were left out; or there are none.
    """
    require_dataset(dataset)
    faults: list[str] = []
    items: list[_Prepared] = []
    looked_at = 0
    for result in chain(_in_order(dataset, shape, rank, ranks, limit, finite), [None]):
        if isinstance(result, Item):
            items.append(_Prepared(result, ()))
        elif result is not None:
            faults.append(result)
            if len(faults) > max_bad_images:
                raise DataError(result)
        if len(items) == batch_size or (items and result is None):
            batch = collate(items)
            looked_at += LOOKED_AT if looked_at < LOOKED_AT and _warn_of_range(dataset, batch.images) else 1
            yield batch._replace(images=in_unit_range(batch.images))
            items = []


def _in_order(
    dataset: Any, shape: Sized, rank: int, ranks: int, limit: int | None, finite: bool
) -> Iterator[Item | str]:
    """One process's items, or why they cannot be had."""
    dataset = undecoded(dataset)
    items = iter(dataset) if is_stream(dataset) else None
    for place in count() if limit is None else range(limit):
        try:
            if items is None and place >= len(dataset):
                raise StopIteration
            if place % ranks == rank:
                fetch = partial(dataset.__getitem__, place) if items is None else partial(next, items)
                result = prepare(fetch, shape.image_size, shape.channels, f"image {place}", None)
                if finite and isinstance(result, Item) and not torch.isfinite(result.image).all():
                    result = f"expected finite pixels, got image {place} with infinity or NaN among them; remove it"
            elif items is not None:
                pass_over(items)
        except StopIteration:
            if place == 0:
                raise DataError("expected images in the data set, got none; add some") from None
            return
        if place % ranks == rank:
            yield result


def first_batch(dataset: Any, shape: Sized, number: int, max_bad_images: int = 0) -> Batch:
    """The first images of a data set, as many as there are up to `number`."""
    batch = next(in_order(dataset, shape, number, max_bad_images=max_bad_images, finite=False), None)
    if batch is None:
        raise DataError("expected images in the data set, got none; add some")
    return batch
