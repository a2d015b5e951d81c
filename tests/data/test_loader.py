"""A batch depends only on the seed and on its number."""

import io
import os
import signal
import struct
import subprocess
import sys
import time
import warnings
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset, IterableDataset

from discrete_distribution_network.data.loader import Loader, ResumableBatchSampler, first_batch, in_order
from discrete_distribution_network.errors import DataError, InvalidInput
from discrete_distribution_network.random_state import mix_seed


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


def test_mixed_seeds_are_apart():
    seeds = {mix_seed(seed, epoch, index) for seed in range(10) for epoch in range(10) for index in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= one < 1 << 63 for one in seeds)
    assert mix_seed(1, 2) != mix_seed(2, 1)


def test_fewer_images_than_a_batch():
    with pytest.raises(DataError, match="batch of 12 images, got 11"):
        ResumableBatchSampler(11, 6, 0, ranks=2)
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


def test_images_that_are_all_broken_are_an_error():
    def fail():
        raise DataError("all broken")

    class Broken(Decoding):
        def __getitem__(self, index):
            return fail()

    with pytest.raises(DataError, match=r"^expected at least one good image, got only bad ones, the last: all broken$"):
        next(Loader(Broken(fail), Shape, 5, max_bad_images=20).batches())


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_are_replaced_and_counted(workers):
    loader = Loader(Faulty(), Shape, 5, max_bad_images=2, workers=workers)
    assert sorted(sum(taken(loader, 2), [])) == [0, 1, 2, 5, 5, 5, 6, 7, 8, 9]
    assert sorted(loader.faults) == ["file 3 is broken", "file 4 is broken"]
    with pytest.raises(DataError, match="at most 1 bad images, got 2, the last: file"):
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
    with pytest.raises(DataError, match="data set, got 0"):
        first_batch(Numbers(0), Shape, 10)


class Decoding(Dataset):
    """A data set of the user's whose image 3 raises this."""

    def __init__(self, fail):
        self.fail = fail

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return self.fail() if index == 3 else numbered(10)[index]


def damaged(ending):
    """Opens and decodes a damaged file, as a data set of the user's does."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    file = io.BytesIO()
    noise.save(file, ending)
    content = bytearray(file.getvalue())
    if ending == "DDS":
        content[80:92] = bytes(12)  # no such pixel format
    content = content[: {"QOI": 40, "DDS": None}.get(ending, len(content) // 2)]
    return lambda: Image.open(io.BytesIO(bytes(content))).convert("L").resize((2, 2))


def badly_tagged():
    """Turns an image upright whose EXIF block has a tag of a wrong type, as many a data set does."""
    block = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    block += struct.pack("<HHI4s", 271, 11, 1, struct.pack("<f", 2.5)) + bytes(4)
    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "JPEG", exif=block)
    return ImageOps.exif_transpose(Image.open(file))


@pytest.mark.parametrize("ending", ["PNG", "JPEG", "AVIF", "QOI", "DDS", "TIFF", "EXIF"])
def test_what_any_decoder_raises_in_a_data_set_is_a_bad_image(ending):
    if ending != "EXIF" and ending not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {ending}")
    fail = badly_tagged if ending == "EXIF" else damaged(ending)
    with pytest.raises(DataError, match=r"image 3, which cannot be decoded \(.+\); remove it$"):
        list(islice(Loader(Decoding(fail), Shape, 5).batches(), 2))
    loader = Loader(Decoding(fail), Shape, 5, max_bad_images=1)
    assert sorted(sum(taken(loader, 2), [])) == [0, 1, 2, 4, 4, 5, 6, 7, 8, 9]
    assert len(loader.faults) == 1
    assert sum(len(batch.images) for batch in in_order(Decoding(fail), Shape, 4, max_bad_images=1)) == 9


def own_mistake():
    return {}["missing"]


def mistake_with_pillow():
    return Image.new("L", (2, 2)).resize("small")


def mistake_of_pixels():
    return Image.new("L", (2, 2)).rotate("a little").crop((1, "2", 3))


@pytest.mark.parametrize("mistake", [own_mistake, mistake_with_pillow, mistake_of_pixels])
def test_mistakes_in_the_code_of_a_data_set_are_no_bad_images(mistake):
    def stream():
        for index in range(10):
            yield mistake() if index == 3 else numbered(10)[index]

    for use in (
        lambda: list(islice(Loader(Decoding(mistake), Shape, 5, max_bad_images=5).batches(), 2)),
        lambda: list(in_order(Decoding(mistake), Shape, 5, max_bad_images=5)),
        lambda: list(in_order(stream(), Shape, 5, max_bad_images=5)),
        lambda: list(in_order(stream(), Shape, 5, rank=0, ranks=2, max_bad_images=5)),
    ):
        with pytest.raises((KeyError, TypeError, ValueError)):
            use()


def failing_augmentation(image):
    raise OSError("no such transform")


def test_mistakes_of_an_augmentation_are_no_bad_images():
    with pytest.raises(OSError, match="no such transform"):
        next(Loader(numbered(8), Shape, 4, augment=failing_augmentation, max_bad_images=5).batches())


def test_an_error_of_a_worker_is_one_sentence():
    with pytest.raises(DataError, match=r"^expected augmentation to keep the shape .+; crop last$"):
        next(Loader(numbered(4), Shape, 2, augment=lambda image: image[:, :1], workers=1).batches())
    with pytest.raises(DataError, match=r"^expected images in the data set, got an iterable without any$"):
        next(Loader(Numbers(0), Shape, 2, workers=1).batches())


class Given(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def warned(use):
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        use()
    return [str(one.message) for one in messages if "[0, 1]" in str(one.message)]


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 255), (-128, 127), (0, 2)])
def test_pixels_of_another_range_are_warned_of_once(low, high):
    images = torch.linspace(low, high, 64).reshape(16, 1, 2, 2)
    for dataset in (images, images.numpy(), list(images), Given(images), iter(images)):
        messages = warned(lambda: list(islice(Loader(dataset, Shape, 4).batches(), 4)))  # noqa: B023
        assert len(messages) == 1
        assert "got a range of [" in messages[0]
        assert "scale them to [0, 1]" in messages[0]
    (sentence,) = warned(lambda: list(in_order(images.clone(), Shape, 4)))
    assert f"[{low}, " in sentence


def test_pixels_in_range_are_not_warned_of():
    for images in (torch.linspace(-0.2, 1.2, 64).reshape(16, 1, 2, 2), numbered(16)):
        assert not warned(lambda: first_batch(images * torch.nan, Shape, 4))  # noqa: B023
        assert not warned(lambda: list(islice(Loader(images, Shape, 4).batches(), 8)))  # noqa: B023
        assert not warned(lambda: list(in_order(images, Shape, 4)))  # noqa: B023


def test_an_image_with_nan_is_named_where_each_counts_once():
    images = torch.rand(6, 1, 2, 2)
    images[4, 0, 1, 1] = torch.nan
    with pytest.raises(DataError, match="image 4 with infinity or NaN"):
        list(in_order(images, Shape, 3))
    assert sum(len(batch.images) for batch in in_order(images, Shape, 3, max_bad_images=1)) == 5
    images[4] = torch.inf
    with pytest.raises(DataError, match="image 4"):
        list(in_order(iter(images), Shape, 3))


LOADING = """
import os, sys, time, torch
import torch.utils.data._utils.worker as worker
worker.MP_STATUS_CHECK_INTERVAL = 0.2
from discrete_distribution_network.data.loader import Loader

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        os.write(1, b"%d\\n" % os.getpid())
        time.sleep(0.02)
        return torch.zeros(1, 2, 2)

class Shape:
    image_size, channels = (2, 2), 1

batches = Loader(Slow(), Shape, 2, workers=2).batches()
for _ in range(2):
    next(batches)
print("main", flush=True)
"""


def loading(more):
    """A process of its own group that loads with two workers; it and the workers' ids."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOADING + more], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    workers = set()
    for line in process.stdout:
        if line == "main\n":
            break
        workers.add(int(line))
    assert len(workers) == 2
    return process, workers


def gone(numbers, seconds=10):
    """Whether processes have ended, within so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        there = [number for number in numbers if is_running(number)]
        if not there:
            return True
        time.sleep(0.05)
    return False


def is_running(number):
    try:
        with open(f"/proc/{number}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_go_on_when_their_group_is_asked_to_end():
    process, workers = loading(
        "import signal\n"
        "received = []\n"
        "for number in (signal.SIGTERM, signal.SIGINT):\n"
        "    signal.signal(number, lambda number, frame: received.append(number))\n"
        "print('ready', flush=True)\n"
        "while len(received) < 2:\n"
        "    next(batches)\n"
        "for _ in range(20):\n"
        "    next(batches)\n"
        "batches.close()\n"
        "sys.exit(143)\n"
    )
    for line in process.stdout:
        if line == "ready\n":
            break
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGINT)
    process.stdout.read()
    assert process.wait(30) == 143
    assert gone(workers)


def test_workers_end_with_the_main_process():
    process, workers = loading("while True: next(batches)\n")
    process.kill()
    process.wait(10)
    assert gone(workers)


TRAINING = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from small import trainer, digits
made = trainer(Path(sys.argv[1]), num_train_steps=100_000, num_workers=2, checkpoint_every=100_000)
step = made.loop.step
def reporting(*arguments):
    done = step(*arguments)
    print(made.step, flush=True)
    return done
made.loop.step = reporting
made()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_whose_whole_group_is_asked_to_end_saves_first(tmp_path, number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(tmp_path), str(Path(__file__).parents[1])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line == "3\n":
            break
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert list((tmp_path / "checkpoints").glob("step-*"))
