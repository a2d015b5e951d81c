"""Fetch colour images to train on, into `data/NAME`: emoji, sprites, squares of photographs.

    python benchmarks/data.py emoji           # 64x64, three vendors, nine categories; needs npm
    python benchmarks/data.py emoji-256       # 256x256, Microsoft's alone
    python benchmarks/data.py sprites         # 64x64, units of Battle for Wesnoth; needs apt-get
    python benchmarks/data.py squares-64      # cut from photographs among wallpapers; squares-128 likewise
    ddn train emoji                           # then, in the same folder

Emoji over white: Google's (Apache-2.0) and Twitter's (CC-BY-4.0) of emoji-datasource 16, Microsoft's Fluent (MIT).
Every tenth emoji, by a hash of its name, is for testing with all its skin tones, genders and vendors, so that no test
emoji is in the training set by another hand. Sprites (GPL and CC-BY-SA): every tenth unit likewise. Photographs: see
`photographs.py`. Nothing fetched is committed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from photographs import shipped, squares, wallpapers
from PIL import Image

DATASOURCE = {vendor: f"emoji-datasource-{vendor}@16.0.0" for vendor in ("google", "twitter")}
FLUENT = "@lobehub/fluent-emoji-3d@1.1.0"
WESNOTH = "wesnoth-1.16-data"

SQUARES = {"train": 20_000, "test": 1_000}


def is_test(name: str) -> bool:
    """Whether an emoji or a unit is one of those held out, a tenth of all."""
    return hashlib.sha256(name.encode()).digest()[0] < 26


def fetch(command: list[str], folder: Path, what: str) -> None:
    """Run a command that writes into this folder."""
    if shutil.which(command[0]) is None:
        raise SystemExit(f"expected {command[0]}, which fetches {what}, found none; install it")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"expected {' '.join(command)} to fetch {what}, but it says: {done.stderr.strip()[-500:]}")


def npm(package: str, folder: Path) -> Path:
    """The content of a package of npm."""
    place = folder / re.sub(r"\W", "-", package)
    place.mkdir()
    fetch(["npm", "pack", "--silent", package], place, "emoji")
    with tarfile.open(next(place.glob("*.tgz"))) as archive:
        archive.extractall(place, filter="data")
    return place / "package"


def over_white(path: Path) -> Image.Image:
    """An image, which may be transparent, on a white ground."""
    image = Image.open(path).convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image).convert("RGB")


def code_points(name: str) -> str:
    """The code points of an emoji without those that only choose its presentation."""
    return "-".join(part for part in name.lower().split("-") if part != "fe0f")


def catalogue(package: Path) -> dict[str, tuple[str, str]]:
    """For the code points of every emoji in every skin tone: its category, and the emoji it is a variation of.

    Emoji of people that differ by gender alone count as one: their names differ by "man" and "woman".
    """
    found = {}
    for emoji in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
        if emoji["category"] == "Component":
            continue
        base = re.sub(r"\b(men|women|man|woman|male|female|person|people)\b", "", emoji["name"].lower())
        base = re.sub(r"\W+", " ", base).strip() or emoji["unified"].lower()
        for one in (emoji, *emoji.get("skin_variations", {}).values()):
            found[code_points(one["unified"])] = (emoji["category"], base)
    return found


def emoji(side: int) -> Iterator[tuple[str, str, Image.Image]]:
    """(part/category, name, image) of each emoji."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        vendors = DATASOURCE if side == 64 else ("google",)  # for its catalogue; its images are of 64 pixels
        packages = {vendor: npm(DATASOURCE[vendor], folder) for vendor in vendors}
        known = catalogue(packages["google"])
        files = [("microsoft", path) for path in npm(FLUENT, folder).rglob("*.webp")]
        for vendor, own in packages.items() if side == 64 else ():
            files += [(vendor, path) for path in (own / "img" / vendor / "64").glob("*.png")]
        for vendor, path in sorted(files):
            code = code_points(path.stem)
            if code in known:
                category, base = known[code]
                part = "test" if is_test(base) else "train"
                image = over_white(path).resize((side, side), Image.Resampling.LANCZOS)
                yield f"{part}/{re.sub(r'[^a-z]+', '-', category.lower())}", f"{vendor}-{code}", image


def sprites() -> Iterator[tuple[str, str, Image.Image]]:
    """(part, name, image) of each sprite, its middle 64x64 pixels."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fetch(["apt-get", "download", WESNOTH], folder, "sprites")
        fetch(["dpkg", "-x", next(folder.glob("*.deb")).name, "."], folder, "sprites")
        for path in sorted(folder.rglob("images/units/**/*.png")):
            image = over_white(path)
            if image.size == (72, 72):
                unit = re.split(r"[-+]", path.stem)[0]
                name = "-".join([*path.relative_to(folder).parts[-3:-1], path.stem])
                yield ("test" if is_test(unit) else "train"), name, image.crop((4, 4, 68, 68))


def photographs(side: int) -> Iterator[tuple[str, str, Image.Image]]:
    """(part, name, image) of squares cut from photographs, others for each part."""
    for part, images in (("train", wallpapers()), ("test", shipped())):
        for place, image in enumerate(squares(images, side, SQUARES[part], seed=len(part))):
            yield part, f"{place:05d}", image


MADE = {
    "emoji": lambda: emoji(64),
    "emoji-256": lambda: emoji(256),
    "sprites": sprites,
    "squares-64": lambda: photographs(64),
    "squares-128": lambda: photographs(128),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("names", nargs="+", choices=[*MADE])
    arguments.add_argument("--root", type=Path, default=Path("data"))
    given = arguments.parse_args()
    given.root.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        if (given.root / name).exists():
            raise SystemExit(f"expected no folder {given.root / name}; delete it to fetch {name} anew")
        with tempfile.TemporaryDirectory(dir=given.root) as temporary:
            made = Path(temporary) / name
            for place, stem, image in MADE[name]():
                (made / place).mkdir(parents=True, exist_ok=True)
                image.save(made / place / f"{stem}.png")
            train, test = (len([*(made / part).rglob("*.png")]) for part in ("train", "test"))
            made.rename(given.root / name)
        print(f"{name}: {train} images to train on and {test} to test with in {given.root / name}")


if __name__ == "__main__":
    main()
