"""What a batch holds depends on the seed and its place alone."""

from itertools import islice

import datasets
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from discrete_distribution_network.errors import DataError, InvalidInput
from discrete_distribution_network.loader import Loader, Order, first_batch, in_order, key


class Shape:
    image_size, channels = (2, 2), 1


def numbered(count):
    """Images that say which they are."""
    return torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def taken(loader, batches, start=0):
    return [batch.images[:, 0, 0, 0].tolist() for batch in islice(loader.batches(start), batches)]


class Numbers(IterableDataset):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return iter(numbered(self.count))


class Labelled(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return numbered(10)[index], index * 2


class Faulty(Dataset):
    """Images 3 and 4 cannot be decoded."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index in (3, 4):
            raise DataError(f"file {index} is broken")
        return numbered(10)[index]


def test_an_epoch_has_every_image_once_and_each_its_own_order():
    batches = taken(Loader(numbered(20), Shape, 5), 8)
    first, second = sum(batches[:4], []), sum(batches[4:], [])
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert taken(Loader(numbered(20), Shape, 5, seed=1), 4) != batches[:4]


@pytest.mark.parametrize("start", [0, 1, 5, 6, 7, 23])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_any_place_are_those_of_the_whole(start, workers):
    noisy = dict(augment=lambda image: image + torch.randint(0, 100, (1,), dtype=torch.uint8))
    whole = taken(Loader(numbered(25), Shape, 4, **noisy), 30)
    assert taken(Loader(numbered(25), Shape, 4, workers=workers, **noisy), 4, start) == whole[start : start + 4]


def test_an_image_is_augmented_in_another_way_each_epoch():
    batches = taken(Loader(numbered(4), Shape, 4, augment=lambda image: torch.randint_like(image, 200)), 3)
    assert len({tuple(sorted(batch)) for batch in batches}) == 3


def test_processes_share_each_batch():
    whole = taken(Loader(numbered(22), Shape, 6), 9)
    parts = [taken(Loader(numbered(22), Shape, 2, rank=rank, ranks=3), 9) for rank in range(3)]
    assert [sum(batch, []) for batch in zip(*parts)] == whole  # noqa: B905


def test_random_numbers_of_the_training_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    batches = Loader(numbered(8), Shape, 4, augment=lambda image: image + (torch.rand(1) > 0.5)).batches()
    next(batches)
    next(batches)
    assert torch.equal(torch.rand(3), expected)


def test_keys_are_apart():
    keys = {key(seed, epoch, index) for seed in range(10) for epoch in range(10) for index in range(100)}
    assert len(keys) == 10_000
    assert all(0 <= one < 1 << 63 for one in keys)
    assert key(1, 2) != key(2, 1)


def test_fewer_images_than_a_batch():
    with pytest.raises(DataError, match="batch of 12 images, got 11"):
        Order(11, 6, 0, ranks=2)
    with pytest.raises(InvalidInput, match="batch_size"):
        Loader(numbered(4), Shape, 0)


def test_labels_pass_through():
    batch = next(Loader(Labelled(), Shape, 5).batches())
    assert batch.labels.tolist() == [2 * int(image[0, 0, 0]) for image in batch.images]
    assert next(Loader(numbered(5), Shape, 5).batches()).labels is None
    assert torch.cat([batch.labels for batch in in_order(Labelled(), Shape, 3)]).tolist() == list(range(0, 20, 2))


def test_a_broken_image_is_an_error_that_names_it():
    with pytest.raises(DataError, match=r"file [34] is broken"):
        list(islice(Loader(Faulty(), Shape, 5).batches(), 2))
    with pytest.raises(DataError, match=r"^file [34] is broken$"):
        list(islice(Loader(Faulty(), Shape, 5, workers=1).batches(), 2))


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_are_replaced_and_counted(workers):
    loader = Loader(Faulty(), Shape, 5, max_bad_images=2, workers=workers)
    assert sorted(sum(taken(loader, 2), [])) == [0, 1, 2, 5, 5, 5, 6, 7, 8, 9]
    assert sorted(loader.faults) == ["file 3 is broken", "file 4 is broken"]
    with pytest.raises(DataError, match="more than 1 images"):
        taken(Loader(Faulty(), Shape, 5, max_bad_images=1, workers=workers), 2)


def test_streams_are_read_in_order_again_and_again():
    assert sum(taken(Loader(Numbers(5), Shape, 4), 3), []) == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert sum(taken(Loader(Numbers(5), Shape, 4), 2, start=1), []) == [4, 0, 1, 2, 3, 4, 0, 1]
    parts = [taken(Loader(Numbers(8), Shape, 2, rank=rank, ranks=2), 2) for rank in (0, 1)]
    assert parts == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]


class BrokenNumbers(Numbers):
    """Every fourth number cannot be had."""

    def __iter__(self):
        self.place = -1
        return self

    def __next__(self):
        self.place += 1
        if self.place == self.count:
            raise StopIteration
        if self.place % 4 == 3:
            raise DataError(f"number {self.place} is broken")
        return numbered(self.count)[self.place]


def test_what_is_broken_in_anothers_share_is_no_matter():
    for rank in (0, 1):
        parts = [batch.images for batch in in_order(BrokenNumbers(8), Shape, 2, rank=rank, ranks=2, max_bad_images=2)]
        numbers = (torch.cat(parts)[:, 0, 0, 0] * 255).round().tolist()
        assert numbers == ([0, 2, 4, 6] if rank == 0 else [1, 5])
        assert taken(Loader(BrokenNumbers(8), Shape, 2, rank=rank, ranks=2, max_bad_images=2), 1) == [numbers[:2]]


def test_a_stream_that_ends_for_good_is_an_error():
    with pytest.raises(DataError, match="iterated again"):
        taken(Loader(iter(numbered(5)), Shape, 4), 2)
    with pytest.raises(DataError, match="without any"):
        taken(Loader(Numbers(0), Shape, 4), 1)


def test_hugging_face_streams_shuffle_and_are_shared():
    def make():
        for index in range(40):
            yield {"image": Image.new("L", (2, 2), index)}

    stream = datasets.IterableDataset.from_generator(make, features=datasets.Features(image=datasets.Image()))
    whole = taken(Loader(stream, Shape, 5), 16)
    assert sorted(sum(whole[:8], [])) == list(range(40))
    assert sum(whole[:8], []) != sum(whole[8:], [])
    assert taken(Loader(stream, Shape, 5), 2, start=9) == whole[9:11]
    parts = [sum(taken(Loader(stream, Shape, 5, rank=rank, ranks=2), 4), []) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == list(range(40))


def test_transforms_of_torchvision(torchvision):
    from torchvision.transforms import v2

    class Photograph:
        image_size, channels = (8, 8), 3

    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    transforms = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(8, padding=2), v2.ColorJitter(0.3)])
    first, again = (next(Loader(images, Photograph, 6, augment=transforms).batches(3)) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert first.images.dtype == torch.uint8
    assert not torch.equal(first.images, next(Loader(images, Photograph, 6).batches(3)).images)


def test_an_augmentation_that_changes_the_shape():
    with pytest.raises(DataError, match=r"keep the shape \(1, 2, 2\)"):
        next(Loader(numbered(4), Shape, 2, augment=lambda image: image[:, :1]).batches())


def test_in_order_gives_every_image_once_over_all_processes():
    parts = [torch.cat([b.images for b in in_order(numbered(11), Shape, 2, rank=rank, ranks=3)]) for rank in range(3)]
    assert sorted((torch.cat(parts)[:, 0, 0, 0] * 255).round().tolist()) == list(range(11))
    assert torch.cat([b.images for b in in_order(numbered(11), Shape, 4, limit=7)]).shape[0] == 7
    assert first_batch(Numbers(5), Shape, 10).images.shape == (5, 1, 2, 2)
    with pytest.raises(DataError, match="got none"):
        first_batch(Numbers(0), Shape, 10)
