"""The images that are found in a folder, and the warnings of those that are left out."""

import os
import sys
import warnings

import pytest
import torch
from PIL import Image

from discrete_distribution_network.data import folder_split, image_folder, open_data
from discrete_distribution_network.data.image_folder import find_images, readable_extensions, search
from discrete_distribution_network.data.images import load_image
from discrete_distribution_network.errors import DataError

SIZE = (4, 4)


def picture(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (value,) * 3).save(path)


def found(folder):
    """The images' names, and what was warned of."""
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        images = find_images(folder)
    return [str(path.relative_to(folder)) for path in images], [str(one.message) for one in messages]


def test_hidden_and_system_files_are_left_out_and_counted(tmp_path):
    for name in ("cats/1.png", "cats/2.png", "dogs/1.png"):
        picture(tmp_path / name)
    for name in (".ipynb_checkpoints/1.png", ".Trash-0/a/1.png", "cats/.hidden/1.png", "__MACOSX/cats/1.png"):
        picture(tmp_path / name)
    for name in ("@eaDir/1.png", "$RECYCLE.BIN/1.png", ".thumbnail.jpg"):
        picture(tmp_path / name)
    (tmp_path / "cats" / "._1.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    names, messages = found(tmp_path)
    assert names == ["cats/1.png", "cats/2.png", "dogs/1.png"]
    (sentence,) = messages
    assert "hidden folders: 6 (" in sentence
    assert "hidden files: 2 (.thumbnail.jpg, cats/._1.png)" in sentence
    assert str(tmp_path) in sentence
    with pytest.warns(UserWarning, match="hidden folders"):
        split = folder_split(tmp_path, SIZE, 1)
    assert [split.train[index].label for index in range(2)] == [0, 0]
    assert split.test[0].label == 1


def test_a_folder_that_is_itself_hidden_is_read(tmp_path):
    picture(tmp_path / ".photos" / "1.png")
    assert found(tmp_path / ".photos") == (["1.png"], [])


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    picture(tmp_path / "elsewhere" / "1.png")
    picture(tmp_path / "photos" / "cats" / "1.png")
    photos = tmp_path / "photos"
    (photos / "dogs").symlink_to(tmp_path / "elsewhere")
    (photos / "alias.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (photos / "cats" / "back").symlink_to(photos)
    (photos / "cats" / "far").symlink_to(tmp_path)
    (photos / "cats" / "itself").symlink_to("itself")
    (tmp_path / "elsewhere" / "home").symlink_to(photos)
    (photos / "birds").symlink_to(tmp_path / "unplugged")
    names, (sentence,) = found(photos)
    assert names == ["alias.png", "cats/1.png", "dogs/1.png"]
    assert "links to a folder that they lie in: 3 (" in sentence
    assert "links that lead nowhere: 2 (birds, cats/itself)" in sentence


def test_folders_that_cannot_be_read_are_counted(tmp_path, monkeypatch):
    for name in ("cats/1.png", "dogs/1.png", "private/1.png", "dogs/also private/1.png"):
        picture(tmp_path / name)
    scandir = os.scandir

    def refusing(path):
        if "private" in os.path.basename(path):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    names, (sentence,) = found(tmp_path)
    assert names == ["cats/1.png", "dogs/1.png"]
    assert "folders that cannot be read: 2 (dogs/also private, private)" in sentence
    with pytest.raises(DataError, match=r"private, which cannot be read \(Permission denied\)"):
        find_images(tmp_path / "private")


def test_pictures_of_all_endings_that_pillow_reads(tmp_path):
    for index, ending in enumerate(("jfif", "jpe", "JPG", "avif", "tga", "qoi", "jp2", "pcx", "dds", "sgi", "apng")):
        if f".{ending.lower()}" in readable_extensions():
            picture(tmp_path / f"{index:02d}.{ending}")
    expected = len(list(tmp_path.iterdir()))
    assert expected >= 8
    for name in ("paper.pdf", "figure.eps", "film.mpg", "notes.txt", "cloud.pcd", "table.h5", "weather.grib"):
        (tmp_path / name).write_bytes(b"not a picture")
    names, messages = found(tmp_path)
    assert len(names) == expected
    assert not messages
    for name in names:
        assert load_image(tmp_path / name, SIZE, 1).shape == (1, 4, 4)


def test_pictures_without_a_reader_are_counted(tmp_path, monkeypatch):
    picture(tmp_path / "1.png")
    for name in ("2.HEIC", "3.heic", "4.cr2"):
        (tmp_path / name).write_bytes(b"....ftypheic")
    if ".heic" not in readable_extensions():
        names, (sentence,) = found(tmp_path)
        assert names == ["1.png"]
        assert "pictures without a reader, which pillow-heif is: 2 (2.HEIC, 3.heic)" in sentence
        assert "pictures without a reader: 1 (4.cr2)" in sentence
    # a reader that is registered is enough
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
    monkeypatch.setitem(Image.OPEN, "HEIF", (lambda *_: None, None))
    assert found(tmp_path)[0] == ["1.png", "2.HEIC", "3.heic"]


def test_a_reader_that_is_installed_is_used(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "pillow_heif.py").write_text(
        "from PIL import Image\n"
        "def register_heif_opener():\n"
        "    Image.EXTENSION['.heic'] = 'HEIF'\n"
        "    Image.OPEN['HEIF'] = (None, None)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "package")
    monkeypatch.setattr(
        Image, "EXTENSION", {key: one for key, one in Image.registered_extensions().items() if key != ".heic"}
    )
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.delitem(sys.modules, "pillow_heif", raising=False)
    image_folder.register_readers.cache_clear()
    assert ".heic" in readable_extensions()
    del sys.modules["pillow_heif"]
    image_folder.register_readers.cache_clear()


def test_own_output_is_never_read(tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    for name in ("1.png", "2.png", "below/3.png"):
        picture(photos / name)
    run = photos / "runs" / "train"
    for name in ("samples.png", "pictures/samples-00000100.png", "model/example.png"):
        picture(run / name)
    (run / "metrics.jsonl").write_text("")
    (run / "config.json").write_text("{}")
    for name in ("begun", "finished"):  # killed before its first figures; a model without its run
        picture(photos / name / "example.png")
        (photos / name / "config.json").write_text("{}")
    (photos / "begun" / "checkpoints").mkdir()
    (photos / "finished" / "model.safetensors").write_bytes(b"")
    names, (sentence,) = found(photos)
    assert names == ["1.png", "2.png", "below/3.png"]
    assert "output of trainings: 3 (begun, finished, runs/train)" in sentence
    monkeypatch.chdir(photos)
    with pytest.warns(UserWarning, match="output of trainings"):
        split = open_data(".", SIZE, 1)
    assert len(split.train) + len(split.test) == 3
    # a folder of data may hold a config.json, and a run's pictures are read where they are asked for
    picture(photos / "data" / "4.png")
    (photos / "data" / "config.json").write_text("{}")
    assert "data/4.png" in found(photos)[0]
    assert found(run / "pictures") == (["samples-00000100.png"], [])


def test_a_training_that_writes_into_the_folder_of_its_images(tmp_path):
    for name in ("1.png", "2.png", "samples.png", "pictures/samples-00000100.png"):
        picture(tmp_path / name)
    assert len(found(tmp_path)[0]) == 4
    (tmp_path / "metrics.jsonl").write_text("")
    names, (sentence,) = found(tmp_path)
    assert names == ["1.png", "2.png"]
    assert "output of trainings: 2 (pictures, samples.png)" in sentence


def test_no_images_says_what_was_left_out(tmp_path):
    picture(tmp_path / ".hidden" / "1.png")
    with pytest.raises(DataError, match=r"found none among its 0 files; left out: hidden folders: 1 \(\.hidden\)"):
        find_images(tmp_path)
    for missing in (tmp_path / "nothing", tmp_path / ("x" * 300), "null\0byte"):
        with pytest.raises(DataError, match="found no folder"):
            find_images(missing)


def test_names_that_are_no_utf8(tmp_path):
    try:
        folder = tmp_path / os.fsdecode(b"caf\xe9")
        picture(folder / os.fsdecode(b"\xff1.png"))
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    picture(folder / "\U0001f600" / "2.png")
    (folder / os.fsdecode(b"\xfe.heic")).write_bytes(b"")
    picture(folder / os.fsdecode(b".\xfd.png"))
    names, (sentence,) = found(folder)
    assert len(names) == 2
    sentence.encode()
    with pytest.warns(UserWarning, match="hidden files"):
        split = folder_split(folder, SIZE, 1)
    assert len(split.train) == len(split.test) == 1
    with pytest.raises(DataError) as error:
        find_images(folder / os.fsdecode(b"\xfc"))
    str(error.value).encode()
    (folder / os.fsdecode(b"\xff1.png")).write_bytes(b"torn")
    with pytest.raises(DataError) as error:
        [split.train[0], split.test[0]]
    assert "udcff1.png" in str(error.value)
    str(error.value).encode()


def test_stray_pictures_beside_classes_are_named(photograph_folder):
    Image.new("L", (20, 20)).save(photograph_folder / "cover.jpg")
    with pytest.warns(UserWarning, match=r"are no classes, since images lie beside them: 1 \(cover\.jpg\)"):
        split = folder_split(photograph_folder, SIZE, 3)
    assert len(split.train) + len(split.test) == 25
    assert split.train[0].label is None


def labels(part):
    return [part[index].label for index in range(len(part))]


@pytest.mark.parametrize("test", ["test", "val", "valid", "Validation"])
def test_train_and_test_folders_are_the_split(tmp_path, test):
    for index in range(6):
        picture(tmp_path / "train" / f"class {index % 3}" / f"{index}.png", 10 * index)
    for index in range(2):
        picture(tmp_path / test / "class 1" / f"{index}.png", 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split = open_data(tmp_path, SIZE, 1)
    assert labels(split.train) == [0, 0, 1, 1, 2, 2]
    assert labels(split.test) == [1, 1]
    assert {int(split.test[index].image[0, 0, 0]) for index in range(2)} == {200}


def test_train_and_test_without_classes(tmp_path):
    for name in ("train/1.png", "train/2.png", "test/3.png", "val/4.png", "cover.png"):
        picture(tmp_path / name)
    with pytest.warns(UserWarning, match=r"not in train or test: 2 \(cover\.png, val/4\.png\)"):
        split = folder_split(tmp_path, SIZE, 1)
    assert labels(split.train) == [None, None]
    assert labels(split.test) == [None]


def test_what_fits_the_classes_is_tested(tmp_path):
    for name in ("train/cat/1.png", "train/dog/2.png", "test/3.png", "val/dog/4.png", "val/emu/5.png"):
        picture(tmp_path / name)
    with pytest.warns(UserWarning, match=r"not in train or val: 1 \(test/3\.png\); of no class of train: 1 \(val/emu"):
        split = folder_split(tmp_path, SIZE, 1)
    assert labels(split.train) == [0, 1]
    assert labels(split.test) == [1]
    for path in (tmp_path / "val").rglob("*.png"):
        path.unlink()
    with pytest.warns(UserWarning, match="have no labels"):
        split = folder_split(tmp_path, SIZE, 1)
    assert labels(split.test) == [None]


def test_a_train_folder_alone_is_shared(tmp_path):
    for index in range(20):
        picture(tmp_path / "train" / "ab"[index % 2] / f"{index}.png")
    split = folder_split(tmp_path, SIZE, 1)
    assert (len(split.train), len(split.test)) == (18, 2)
    assert set(labels(split.train)) == {0, 1}


def test_trains_may_be_a_class(tmp_path):
    for name in ("bus", "car", "train"):
        for index in range(2):
            picture(tmp_path / name / f"{index}.png")
    split = folder_split(tmp_path, SIZE, 1, test_share=0.5)
    assert sorted(labels(split.train) + labels(split.test)) == [0, 0, 1, 1, 2, 2]


def test_the_order_of_files_is_that_of_their_paths(tmp_path):
    for name in ("b/1.png", "a/2.png", "a.png", "B/1.png", "a/b/1.png"):
        picture(tmp_path / name)
    images = search(tmp_path).images
    assert images == sorted(path for path in tmp_path.rglob("*.png"))
    assert torch.equal(load_image(images[0], SIZE, 1), torch.full((1, 4, 4), 100, dtype=torch.uint8))
