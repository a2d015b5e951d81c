"""The small models that come with the library: whole, small, and as good as their cards say."""

from pathlib import Path

import pytest
import torch

from discrete_distribution_network.cli import main as cli
from discrete_distribution_network.cli.images import load_images
from discrete_distribution_network.cli.runs import CLASSIFIER, EXAMPLE, classifier_of, model_folder
from discrete_distribution_network.codec.image_codec import ImageCodec
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError
from discrete_distribution_network.io.pretrained import RELEASED, released

NAMES = sorted(path.name for path in RELEASED.iterdir())


def test_there_are_some():
    assert {"fashion-mnist", "emoji"} <= set(NAMES)
    for name in NAMES:
        assert sum(path.stat().st_size for path in (RELEASED / name).iterdir()) <= 16 << 20


@pytest.mark.parametrize("name", NAMES)
def test_a_released_model_loads_by_its_name_and_draws(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = model_folder(Path(name))
    assert folder == RELEASED / name
    assert all(path.stat().st_size <= 8 << 20 for path in folder.iterdir())
    ddn = DDN.from_pretrained(name).eval()
    assert ddn.prior is not None
    assert ddn.entropy_model is not None or name != "fashion-mnist"
    labels = None if ddn.num_classes is None else torch.arange(4)
    samples = ddn.sample(4, labels=labels)
    assert samples.shape == (4, ddn.channels, *ddn.image_size)
    assert 0.1 < float(samples.std()) < 0.6
    assert load_images([folder / EXAMPLE], ddn)[1].shape == (1, ddn.channels, *ddn.image_size)
    if (folder / CLASSIFIER).is_file():
        assert classifier_of(ddn, folder)(samples.clamp(0, 1)).shape == (4, 10)
    card = (folder / "README.md").read_text()
    for word in ("Data:", "Recipe:", "error", "Licence: MIT"):
        assert word in card


def test_its_codes_are_files():
    ddn = DDN.from_pretrained("fashion-mnist").eval()
    images = ddn.sample(3).clamp(0, 1)
    for own in (None, ddn.entropy_model):
        codec = ImageCodec(ddn, own)
        back = codec.decompress_batch(codec.compress_batch(images))
        assert float((back - images).square().mean()) < 0.004


def test_a_folder_of_that_name_goes_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion-mnist").mkdir()
    assert released("fashion-mnist") is None
    assert released("no-such-model") is None
    assert released("../released/fashion-mnist") is None


def test_commands_take_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(["sample", "--model", "fashion-mnist", "--num", "4"])
    assert (tmp_path / "samples.png").is_file()


def test_it_reconstructs_real_images_as_its_card_says():
    ddn = DDN.from_pretrained("fashion-mnist").eval()
    try:
        split = open_data("fashion-mnist", ddn.image_size, 1)
    except DataError as error:
        pytest.skip(str(error))
    images = torch.cat([batch.images for batch in in_order(split.test, ddn, 100, limit=200)])
    error = float((ddn.reconstruct(images) - images).square().mean())
    assert error < 0.0022
    better = ddn.decode(ddn.encode(images, beams=8))
    assert float((better - images).square().mean()) < 0.95 * error
