"""What an installed package must be able to do: run by `.ci/release` in a fresh environment, with the package alone."""

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

import discrete_distribution_network
from discrete_distribution_network import DDN, ImageCodec

DDN_COMMAND = Path(sys.executable).with_name("ddn")


def ddn(*arguments: str, cwd: Path) -> str:
    return subprocess.run([DDN_COMMAND, *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    package = Path(discrete_distribution_network.__file__).resolve()
    assert root / "discrete_distribution_network" not in package.parents, f"{package} is not an installed package"

    model = DDN.from_pretrained("fashion-mnist").eval()
    images = model.sample(2, generator=torch.Generator().manual_seed(0)).clamp(0, 1)
    codes = model.encode(images)
    assert torch.allclose(model.decode(codes), model.reconstruct(images), atol=1e-5)
    codec = ImageCodec(model)
    assert codec.decompress_batch(codec.compress_batch(images)).shape == images.shape

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        assert ddn("--version", cwd=place).strip() == f"ddn {version('discrete-distribution-network')}"
        assert "quickstart" in ddn("--help", cwd=place)
        ddn("sample", "--model", "fashion-mnist", "--num", "2", "--out", "two.png", cwd=place)
        ddn("encode", "two.png", "-o", "two.ddn", "--model", "fashion-mnist", cwd=place)
        ddn("decode", "two.ddn", "-o", "decoded", "--model", "fashion-mnist", cwd=place)
        assert list((place / "decoded").iterdir())
    print(f"{package}: import, ddn, encode and decode work")


if __name__ == "__main__":
    main()
