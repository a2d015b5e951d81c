"""How quickly the page answers, and pictures of its tabs.

    python benchmarks/demo.py            # the released model; chromium must be there

Clicks through the tree in a real browser, from the click to the new picture of candidates; writes
`benchmarks/results/demo.json` and `docs/demo/*.png`.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from statistics import median

from guided_sampler import machine
from playwright.sync_api import Page, sync_playwright

from discrete_distribution_network.cli.demo import load_demo
from discrete_distribution_network.cli.runs import EXAMPLE
from discrete_distribution_network.demo.page import serve
from discrete_distribution_network.io.pretrained import RELEASED

ROOT = Path(__file__).resolve().parent.parent
RESULTS, SHOTS = ROOT / "benchmarks" / "results" / "demo.json", ROOT / "docs" / "demo"
CLICKS = 30
CHANGED = "before => document.querySelector('#candidates img').getAttribute('src') !== before"


def click(page: Page, index: int) -> float:
    """Seconds until a click on the candidates has made others."""
    page.wait_for_timeout(200)  # the page takes no click before it is done with the one before
    image = page.locator("#candidates img")
    box, before = image.bounding_box(), image.get_attribute("src")
    assert box is not None
    started = time.perf_counter()
    page.mouse.click(box["x"] + box["width"] * (0.03 + 0.05 * (index % 3)), box["y"] + box["height"] * 0.03)
    page.wait_for_function(CHANGED, arg=before)
    return time.perf_counter() - started


def main() -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    _, address, _ = serve(load_demo(Path("fashion-mnist"), "cpu"), prevent_thread_lock=True, quiet=True)
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1250, "height": 950})
        page.goto(address)
        page.wait_for_selector("#candidates img")
        times = [click(page, index) for index in range(CLICKS)]
        page.wait_for_timeout(500)
        page.screenshot(path=SHOTS / "walk.png")
        page.get_by_role("tab", name="Sample").click()
        page.get_by_role("button", name="Draw", exact=True).click()
        page.wait_for_selector("#samples img")
        page.wait_for_timeout(500)
        page.screenshot(path=SHOTS / "sample.png")
        page.get_by_role("tab", name="Reconstruct").click()
        page.locator("#image input[type=file]").set_input_files(RELEASED / "fashion-mnist" / EXAMPLE)
        page.wait_for_selector("#back img")
        page.wait_for_timeout(500)
        page.screenshot(path=SHOTS / "compress.png")
        page.get_by_role("tab", name="Guide").click()
        page.wait_for_selector("#editor canvas")
        page.wait_for_timeout(1000)
        box = page.locator("#editor canvas").first.bounding_box()
        assert box is not None
        middle, side = box["x"] + box["width"] / 2, 150
        for row in range(8):  # the right half is painted over
            y = box["y"] + 20 + row * side / 4
            page.mouse.move(middle + 10, y)
            page.mouse.down()
            page.mouse.move(middle + side, y, steps=6)
            page.mouse.up()
        page.get_by_role("button", name="Guide", exact=True).click()
        page.wait_for_selector("#guided img")
        page.wait_for_timeout(500)
        page.screenshot(path=SHOTS / "guide.png")
        browser.close()
    results = {
        "machine": machine(),
        "clicks": CLICKS,
        "median, ms": 1000 * median(times),
        "worst, ms": 1000 * max(times),
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(results)


if __name__ == "__main__":
    main()
