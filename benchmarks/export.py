"""Do exported graphs compute what the model does, and how fast is the page that runs them?

    python benchmarks/export.py                     # every included model, 1,000 test images
    python benchmarks/export.py --page web/dist     # the page, once it is built, in chromium

Writes `benchmarks/results/export.json` and, of the page, pictures in `docs/web/`. Needs the data sets (Debian's
dataset-fashion-mnist, `benchmarks/data.py emoji`) or, for the page, playwright and chromium.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from guided_sampler import machine

from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.export import export
from discrete_distribution_network.io.pretrained import RELEASED

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "export.json"
SHOTS = ROOT / "docs" / "web"
IMAGES, CLICKS = 1000, 15


def graphs() -> dict[str, Any]:
    """Of each included model the share of equal codes and the largest difference of images, by graph."""
    found = {}
    for name in sorted(path.name for path in RELEASED.iterdir()):
        ddn = DDN.from_pretrained(name).float()
        data = "emoji" if name.startswith("emoji") else "fashion-mnist"
        test = open_data(data, ddn.image_size, ddn.channels).test
        images = torch.cat([batch.images for batch in in_order(test, ddn, 100, limit=IMAGES)])
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            deviations = export(ddn, folder, ["encode", "decode"], images=images)
            found[name] = {graph: own._asdict() for graph, own in deviations.items()}
            found[name]["seconds"] = time.monotonic() - started
        print(name, found[name], flush=True)
    return found


class Counting(http.server.SimpleHTTPRequestHandler):
    """A static server that counts the bytes it sends."""

    sent = 0

    def log_message(self, *_: Any) -> None:
        pass

    def copyfile(self, source: Any, outputfile: Any) -> None:
        data = source.read()
        Counting.sent += len(data)
        outputfile.write(data)


def page(folder: Path) -> dict[str, float]:
    """Seconds until the first samples, for 16 others, and of a choice in the tree; megabytes that are loaded."""
    from playwright.sync_api import sync_playwright

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Counting, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        started = time.monotonic()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector(".pictures canvas")
        figures = {"first samples": time.monotonic() - started}
        drawing = []
        for _ in range(5):
            page.wait_for_function("document.getElementById('message').textContent.includes('samples in')")
            started = time.monotonic()
            page.click("text=Draw others")
            page.wait_for_selector("text=Drawing")
            page.wait_for_function("document.getElementById('message').textContent.includes('samples in')")
            drawing.append(time.monotonic() - started)
        figures["16 samples, median"] = statistics.median(drawing)
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SHOTS / "sample.png")
        page.click("#tab-walk")
        page.wait_for_selector(".pictures button")
        clicks = []
        for _ in range(CLICKS):
            page.wait_for_function("document.getElementById('message').textContent === ''")
            page.evaluate("""() => { window.seen = new Promise(done =>
                new MutationObserver(() => done(performance.now()))
                .observe(document.querySelector('main .pictures'), { childList: true })) }""")
            clicks.append(
                page.evaluate("""() => { const now = performance.now();
                document.querySelector('.pictures button').click(); return window.seen.then(end => end - now) }""")
            )
        figures["a click in the tree, median"] = statistics.median(clicks) / 1000
        page.check("input[type=checkbox]")
        page.wait_for_timeout(3000)
        page.screenshot(path=SHOTS / "walk.png")
        for tab in ("reconstruct", "inpaint"):
            page.click(f"#tab-{tab}")
            page.wait_for_selector("figure canvas")
            page.wait_for_function("document.getElementById('message').textContent === ''")
            page.screenshot(path=SHOTS / f"{tab}.png")
        page.click("text=Erase the right half")
        page.click("text=Fill in")
        page.wait_for_selector("main .pictures canvas")
        page.screenshot(path=SHOTS / "inpaint.png")
        browser.close()
    server.shutdown()
    return figures | {"megabytes, all tabs": Counting.sent / 1e6}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--page", type=Path, help="the built page")
    given = arguments.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if given.page is None:
        part = {"graphs": graphs()}
    else:
        name = sorted(path.name for path in (given.page / "models").iterdir())[0]  # the page opens it first
        part = {"page": results.get("page", {}) | {name: page(given.page)}}
    results |= part | {"machine": machine(), "torch": torch.__version__}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
