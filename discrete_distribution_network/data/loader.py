"""From a data set to batches: order, augmentation, shares of the processes, images that cannot be decoded.

A batch depends only on the seed and on its number in the training: not on earlier batches, nor on the number of
workers. So a resumed training loads the batches from its step on, without any saved random state.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from discrete_distribution_network.data.datasets import Pixels, is_stream, require_dataset
from discrete_distribution_network.data.decoding import Augment, load_item, skip_item
from discrete_distribution_network.data.items import Item
from discrete_distribution_network.data.sources.hugging_face import undecoded
from discrete_distribution_network.data.workers import ignore_signals, iterate
from discrete_distribution_network.errors import DataError, require, require_integer
from discrete_distribution_network.model.pixels import out_of_range
from discrete_distribution_network.random_state import mix_seed, own_random_state

RANGE_CHECKS = 8
"""Batches of a data set whose pixels are checked to be in [0, 1]."""

_warned_of: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


@runtime_checkable
class ImageShape(Protocol):
    """The shape of a network's images; a `DDN` has one."""

    image_size: tuple[int, int]
    channels: int


class Batch(NamedTuple):
    """Images (B, C, H, W), their labels (B,) if all have one, and the error messages of those that were left out."""

    images: Tensor
    labels: Shaped[Tensor, " batch"] | None
    faults: tuple[str, ...] = ()

    def images_on(self, device: torch.device, channels_last: bool = False) -> Float[Tensor, "batch channels h w"]:
        """The images on a device, in [0, 1] as float32."""
        images = in_unit_range(self.images.to(device, non_blocking=True))
        return images.contiguous(memory_format=torch.channels_last) if channels_last else images


class ResumableBatchSampler:
    """Indices of one process's batches, without end: lists of (epoch, index).

    Each epoch is a permutation seeded by (seed, epoch). `batch_size * ranks` images of it at a time make a batch of all
    processes, of which each takes its share; the rest of an epoch is dropped.

    Args:
        images: number of images in the data set.
        start: number of the first batch, counted from the beginning of the training.

    Raises:
        DataError: an epoch is shorter than a batch.
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
            generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
            batches = torch.randperm(self.images, generator=generator).split(self.batch_size)
            for batch in range(offset, self.per_epoch):
                yield [(epoch, index) for index in batches[batch * self.ranks + self.rank].tolist()]
            offset = 0


@dataclass(frozen=True)
class _ItemOptions:
    """How one process loads items: their shape (see `as_item`), augmentation, random numbers, and its share of them."""

    size: tuple[int, int]
    channels: int
    augment: Augment | None
    seed: int
    rank: int
    ranks: int
    max_bad_images: int

    def load(self, fetch: Callable[[], Any], name: str) -> Item | str:
        return load_item(fetch, self.size, self.channels, name, self.augment)


class _Prepared(NamedTuple):
    """An item, and the messages of those that it replaces; None where no item could be decoded."""

    item: Item | None
    faults: tuple[str, ...]


class _IndexedItems(Dataset[_Prepared]):
    """Items by (epoch, index), checked and augmented; a bad one is replaced by the next, if bad images are allowed."""

    def __init__(self, dataset: Any, options: _ItemOptions):
        self.dataset, self.options = dataset, options

    def __getitem__(self, place: tuple[int, int]) -> _Prepared:
        epoch, index = place
        options = self.options
        faults: list[str] = []
        for offset in range(len(self.dataset) if options.max_bad_images else 1):
            other = (index + offset) % len(self.dataset)
            with own_random_state() as seed:
                seed(mix_seed(options.seed, epoch, index))
                result = options.load(partial(self.dataset.__getitem__, other), f"image {other}")
            if isinstance(result, Item):
                return _Prepared(result, tuple(faults))
            faults.append(result)
        return _Prepared(None, tuple(faults))

    def __getitems__(self, places: list[tuple[int, int]]) -> list[_Prepared]:
        """The items of a batch; those in memory at once, where nothing is random."""
        items = None if self.options.augment is not None else _in_memory(self.dataset, [index for _, index in places])
        if items is None:
            return [self[place] for place in places]
        results = [self.options.load(partial(next, iter((item,))), "an image in memory") for item in items]
        if any(isinstance(result, str) for result in results):
            return [self[place] for place in places]
        return [_Prepared(result, ()) for result in results if isinstance(result, Item)]


def _in_memory(dataset: Any, indices: Sequence[int]) -> list[Item] | None:
    """The items of these indices of `Pixels`, or of a subset of them; None for other data sets."""
    if type(dataset) is Subset:
        return _in_memory(dataset.dataset, [dataset.indices[index] for index in indices])
    return dataset.many(indices) if type(dataset) is Pixels else None


class _StreamItems(IterableDataset[_Prepared]):
    """The items of an iterable, epoch after epoch, from item number `start` of this process on."""

    def __init__(self, stream: Iterable[Any], options: _ItemOptions, start: int):
        self.stream, self.sharded = _shard(stream, options)
        self.options, self.start = options, start

    def __iter__(self) -> Iterator[_Prepared]:
        passed, faults = 0, []
        for result in self._results():
            if isinstance(result, str):
                faults.append(result)
                if len(faults) > self.options.max_bad_images:
                    yield _Prepared(None, tuple(faults))
            elif passed < self.start:
                passed, faults = passed + 1, []
            else:
                yield _Prepared(result, tuple(faults))
                faults = []

    def _results(self) -> Iterator[Item | str | None]:
        """This process's items without end, or the messages of bad ones; None for those before the start.

        Where bad images are allowed, those before the start are decoded too, to count how many were good.
        """
        options = self.options
        to_skip = 0 if options.max_bad_images else self.start
        for epoch in count():
            if hasattr(self.stream, "set_epoch"):
                self.stream.set_epoch(epoch)
            items, place = iter(self.stream), 0
            while True:
                own = self.sharded or place % options.ranks == options.rank
                # random numbers that the stream itself draws come from the item's seed too
                with own_random_state() as seed:
                    seed(mix_seed(options.seed, epoch, place, options.rank if self.sharded else 0))
                    try:
                        result: Item | str | None = None
                        if not own or to_skip > 0:
                            skip_item(items)
                        else:
                            result = options.load(partial(next, items), f"item {place} of the stream")
                    except StopIteration:
                        break
                if own:
                    to_skip -= 1
                    yield result
                place += 1
            if place == 0:
                raise DataError(
                    "expected images in the data set, got an iterable without any"
                    + (" the second time; give one that can be iterated again" if epoch else "")
                )


def _shard(stream: Any, options: _ItemOptions) -> tuple[Any, bool]:
    """A stream of Hugging Face, shuffled, and only this process's shard; any other as it is. Whether it was sharded."""
    if not (hasattr(stream, "shuffle") and hasattr(stream, "set_epoch")):
        return stream, False
    stream = undecoded(stream).shuffle(seed=mix_seed(options.seed) % (1 << 32), buffer_size=1000)
    if options.ranks == 1:
        return stream, True
    from datasets.distributed import split_dataset_by_node

    return split_dataset_by_node(stream, rank=options.rank, world_size=options.ranks), True


def collate(prepared: Sequence[_Prepared]) -> Batch:
    """One batch; without images if one of its items could not be decoded."""
    faults = tuple(chain.from_iterable(one.faults for one in prepared))
    items = [one.item for one in prepared if one.item is not None]
    if len(items) < len(prepared):
        return Batch(torch.empty(0), None, faults)
    images = [item.image for item in items]
    if any(image.dtype != images[0].dtype for image in images):
        images = [in_unit_range(image) for image in images]
    labels = [item.label for item in items if item.label is not None]
    return Batch(torch.stack(images), torch.tensor(labels) if len(labels) == len(items) else None, faults)


def in_unit_range(images: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """uint8 pixels as float32 in [0, 1]; floating-point ones as float32."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


class Loader:
    """Batches for training, from any step of it on.

    Args:
        dataset: see `datasets.py`; one without a length or without items by index is a stream: it is read in its own
            order, epoch after epoch, and resuming reads it up to the step.
        shape: has `image_size` and `channels`, such as the DDN.
        batch_size: images per batch of this process.
        augment: transform of one image (C, H, W) as the data set returns it, such as one of torchvision.transforms.v2.
            Its random numbers come from PyTorch's global generator, seeded by (seed, epoch, image).
        seed: of the order and the augmentation.
        rank: number of this process.
        ranks: number of processes.
        workers: worker processes that load; 0 to load in this one.
        pin_memory: copy batches into page-locked memory, from which transfer to a GPU is faster.
        max_bad_images: number of images that cannot be decoded and are replaced by others before it is an error, in
            this process.

    Attributes:
        faults: messages about images that could not be decoded, each once.
    """

    def __init__(
        self,
        dataset: Any,
        shape: ImageShape,
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
        require_integer(workers, "workers", 0)
        require_integer(max_bad_images, "max_bad_images", 0)
        require_integer(batch_size, "batch_size")
        require_dataset(dataset)
        self.dataset, self.batch_size, self.max_bad_images = dataset, batch_size, max_bad_images
        self.workers, self.pin_memory = workers, pin_memory
        self.faults: dict[str, None] = {}
        self.streamed = is_stream(dataset)
        self._options = _ItemOptions(shape.image_size, shape.channels, augment, seed, rank, ranks, max_bad_images)
        self.per_epoch = None if self.streamed else self._batch_sampler(0).per_epoch
        require(not self.streamed or workers <= 1, "at most one worker for a stream", workers)

    def _batch_sampler(self, start: int) -> ResumableBatchSampler:
        options = self._options
        return ResumableBatchSampler(
            len(self.dataset), self.batch_size, options.seed, options.rank, options.ranks, start
        )

    def _torch_loader(self, start: int) -> DataLoader[Any]:
        make: Any = partial(
            DataLoader,
            collate_fn=collate,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # else it would draw a number from PyTorch's global one
            worker_init_fn=ignore_signals,
        )
        if self.streamed:
            items = _StreamItems(self.dataset, self._options, start * self.batch_size)
            return make(items, batch_size=self.batch_size)
        return make(_IndexedItems(undecoded(self.dataset), self._options), batch_sampler=self._batch_sampler(start))

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Batches without end, from number `start` of the training on; images as the data set returns them.

        Raises:
            DataError: more than `max_bad_images` cannot be decoded, or all.
        """
        check = _RangeCheck(self.dataset)
        for batch in iterate(self._torch_loader(start)):
            self.faults |= dict.fromkeys(batch.faults)
            if len(self.faults) > self.max_bad_images or not len(batch.images):
                raise DataError(self._message())
            check(batch.images)
            yield batch

    def _message(self) -> str:
        last = next(reversed(self.faults))
        if self.max_bad_images == 0:
            return last
        if len(self.faults) > self.max_bad_images:
            return f"expected at most {self.max_bad_images} bad images, got {len(self.faults)}, the last: {last}"
        return f"expected at least one good image, got only bad ones, the last: {last}"


class _RangeCheck:
    """Warns, once for each data set, of float pixels far outside [0, 1] in the first batches."""

    def __init__(self, dataset: Any):
        self.dataset, self.left = dataset, RANGE_CHECKS

    def __call__(self, images: Tensor) -> None:
        if self.left == 0:
            return
        self.left -= 1
        message = out_of_range(images, "images of the data set") if id(self.dataset) not in _warned_of else None
        if message:
            warnings.warn(message, stacklevel=3)
            self.left = 0
            with suppress(TypeError):  # a list has no weak references
                _warned_of[id(self.dataset)] = self.dataset


def in_order(
    dataset: Any,
    shape: ImageShape,
    batch_size: int,
    *,
    rank: int = 0,
    ranks: int = 1,
    limit: int | None = None,
    max_bad_images: int = 0,
    finite: bool = True,
) -> Iterator[Batch]:
    """Batches of a data set's images in its own order, each once, as float32 in [0, 1]; of one process, its share.

    Args:
        shape: has `image_size` and `channels`, such as the DDN.
        rank: number of this process.
        ranks: number of processes.
        limit: number of images; None for all.
        max_bad_images: number of images that cannot be decoded and are left out before it is an error.
        finite: treat an image with infinity or NaN as one that cannot be decoded.

    Raises:
        DataError: more than `max_bad_images` cannot be decoded, or there are no images.
    """
    require_dataset(dataset)
    faults: list[str] = []
    items: list[_Prepared] = []
    check = _RangeCheck(dataset)
    for result in chain(_items_in_order(dataset, shape, rank, ranks, limit, finite), [None]):
        if isinstance(result, Item):
            items.append(_Prepared(result, ()))
        elif result is not None:
            faults.append(result)
            if len(faults) > max_bad_images:
                raise DataError(result)
        if len(items) == batch_size or (items and result is None):
            batch = collate(items)
            check(batch.images)
            yield batch._replace(images=in_unit_range(batch.images))
            items = []


def _items_in_order(
    dataset: Any, shape: ImageShape, rank: int, ranks: int, limit: int | None, finite: bool
) -> Iterator[Item | str]:
    """One process's items, or the messages of bad ones."""
    dataset = undecoded(dataset)
    items = iter(dataset) if is_stream(dataset) else None
    for place in count() if limit is None else range(limit):
        try:
            if items is None and place >= len(dataset):
                raise StopIteration
            if place % ranks == rank:
                fetch = partial(dataset.__getitem__, place) if items is None else partial(next, items)
                result = load_item(fetch, shape.image_size, shape.channels, f"image {place}", None)
                if finite and isinstance(result, Item) and not torch.isfinite(result.image).all():
                    result = f"expected finite pixels, got image {place} with infinity or NaN among them; remove it"
            elif items is not None:
                skip_item(items)
        except StopIteration:
            if place == 0:
                raise DataError("expected images in the data set, got 0; add some") from None
            return
        if place % ranks == rank:
            yield result


def first_batch(dataset: Any, shape: ImageShape, number: int, max_bad_images: int = 0) -> Batch:
    """The first images of a data set, at most `number`.

    Raises:
        DataError: more than `max_bad_images` cannot be decoded, or all, or there are no images.
    """
    batch = next(in_order(dataset, shape, number, max_bad_images=max_bad_images, finite=False), None)
    if batch is None:
        raise DataError("expected at least one good image in the data set, got only bad ones; repair or replace them")
    return batch
