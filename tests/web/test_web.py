"""The page in `web/`, built and opened in a real browser: each tab, files to and from Python, and bad input."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import a_browser  # noqa: F401
from filelock import FileLock
from PIL import Image
from small import prefer, small_ddn

from discrete_distribution_network.codec import bitstream
from discrete_distribution_network.codec.image_codec import ImageCodec
from discrete_distribution_network.export import export
from discrete_distribution_network.prior.entropy_model import EntropyModel

pytest.importorskip("onnxruntime")
NPM = shutil.which("npm")
if NPM is None:
    pytest.skip("no npm: apt-get install npm", allow_module_level=True)

WEB = Path(__file__).parents[2] / "web"
SECONDS = 60_000


def model(seed):
    ddn = small_ddn(image_size=16, channels=3, levels_per_resolution=[1, 1, 2], patch_size=[None, None, 8], seed=seed)
    prefer(ddn)
    ddn.entropy_model = EntropyModel.of(ddn, dim=8, hidden=16).exact()
    return ddn.half().float().eval()


@pytest.fixture(scope="module")
def ddn():
    return model(3)


@pytest.fixture(scope="module")
def site(ddn, tmp_path_factory):
    """The built page; one for all processes that run tests, since it takes minutes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(base / "site.lock"):
        if not (base / "site" / "dist").is_dir():
            build(ddn, base / "site")
    return base / "site" / "dist"


def build(ddn, web):
    shutil.rmtree(web, ignore_errors=True)
    shutil.copytree(WEB, web, ignore=shutil.ignore_patterns("node_modules", "dist", "models"))
    installed = subprocess.run([NPM, "ci", "--no-audit", "--no-fund"], cwd=web, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"npm ci: {installed.stderr[-300:]}")
    export(ddn, web / "public" / "models" / "small")
    models = web / "public" / "models"
    shutil.copytree(models / "small", models / "tiny")
    about = json.loads((models / "tiny" / "model.json").read_text())
    (models / "tiny" / "model.json").write_text(json.dumps(about | {"entropy_model": None}))
    subprocess.run([NPM, "run", "build"], cwd=web, check=True, capture_output=True)


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(Quiet, directory=site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def page(browser, address):
    """A page on the first tab; other hosts and errors in the console fail the test."""
    context = browser.new_context(viewport={"width": 1000, "height": 900}, accept_downloads=True)
    page, wrong = context.new_page(), []
    page.set_default_timeout(SECONDS)
    page.on("request", lambda one: None if one.url.startswith((address, "blob:", "data:")) else wrong.append(one.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".pictures canvas")
    yield page
    context.close()
    assert wrong == []


def message(page, text):
    page.wait_for_function("text => document.getElementById('message').textContent.includes(text)", arg=text)
    return page.inner_text("#message")


def drawn(page, index=0):
    return page.evaluate("index => document.querySelectorAll('.pictures canvas')[index].toDataURL()", index)


def saved(page, button):
    with page.expect_download() as download:
        page.click(f"text={button}")
    return Path(download.value.path()).read_bytes()


def codes_of(codec, data):
    reader = codec.read(data)
    return codec.unpack([reader[image] for image in range(len(reader))])


def upload(page, index, path):
    page.locator("input[type=file]").nth(index).set_input_files(str(path))


def open_tab(page, name, waits_for):
    page.click(f"#tab-{name}")
    page.wait_for_selector(waits_for)
    page.wait_for_function("document.getElementById('message').textContent === ''")


def picture(folder, side=16):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder / "picture.png"


def test_samples_are_of_their_seed_and_are_saved_as_python_saves_them(page, ddn):
    message(page, "16 samples")
    assert page.locator(".pictures canvas").count() == 16
    first = drawn(page)
    data = saved(page, "Save all as .ddn")
    codec = ImageCodec(ddn)
    codes = codes_of(codec, data)
    assert codes.shape == (16, sum(ddn.codes_per_level))
    assert len(codes.unique(dim=0)) > 1
    assert codec.write(codes, (16, 16)) == data
    page.click("text=Draw others")
    page.wait_for_function("before => document.querySelector('.pictures canvas').toDataURL() !== before", arg=first)
    page.fill("input[type=number]", "1")
    page.keyboard.press("Enter")
    page.wait_for_function("before => document.querySelector('.pictures canvas').toDataURL() === before", arg=first)


@pytest.mark.parametrize("levels", [4, 3])
@pytest.mark.parametrize("method", ["range", "uniform"])
def test_a_file_of_python_is_opened_and_saved_as_python_saves_it(page, ddn, tmp_path, method, levels):
    open_tab(page, "reconstruct", "figure canvas")
    codec, count = ImageCodec(ddn), sum(ddn.codes_per_level[:levels])
    codes = ddn.sample(3, return_codes=True, generator=torch.Generator().manual_seed(5))[1][:, :count]
    written = (codec if method == "range" else ImageCodec(ddn, prior=None)).write(codes, (16, 16))
    (tmp_path / "python.ddn").write_bytes(written)
    upload(page, 1, tmp_path / "python.ddn")
    page.wait_for_selector("text=no original")
    message(page, "The first of 3 images.")
    assert saved(page, "Save as .ddn") == codec.write(codes[:1], (16, 16))


def test_a_picture_has_the_codes_of_python(page, ddn, tmp_path):
    open_tab(page, "reconstruct", "figure canvas")
    codec = ImageCodec(ddn)
    upload(page, 0, picture(tmp_path))
    page.wait_for_selector("text=original, 768 bytes")
    with Image.open(picture(tmp_path)) as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
    assert torch.equal(codes_of(codec, saved(page, "Save as .ddn")), ddn.encode(pixels))
    page.locator("input[type=range]").fill("2")
    page.wait_for_selector("text=2 of 4 levels: 1 bytes")


@pytest.mark.parametrize("kind", ["text", "huge", "truncated", "other", "damaged"])
def test_bad_input_is_told_in_a_sentence_and_the_page_lives_on(page, ddn, tmp_path, kind):
    open_tab(page, "reconstruct", "figure canvas")
    codes = ddn.sample(1, return_codes=True)[1]
    data = ImageCodec(ddn, prior=None).write(codes, (16, 16))
    path, index, expected = tmp_path / "bad.ddn", 1, ""
    if kind == "text":
        path, index, expected = tmp_path / "text.png", 0, "Expected a picture such as a PNG or JPEG"
        path.write_text("no picture")
    elif kind == "huge":
        path, index, expected = tmp_path / "huge.png", 0, "Expected a picture of at most 25 megapixels, got 10000x5000"
        Image.new("1", (10_000, 5_000)).save(path)
    elif kind == "truncated":
        path.write_bytes(data[:-1])
        expected = "truncated"
    elif kind == "other":
        path.write_bytes(ImageCodec(model(4), prior=None).write(codes, (16, 16)))
        expected = "choose the model that wrote the file"
    else:
        reader = ImageCodec(ddn).read(ImageCodec(ddn).write(codes, (16, 16)))
        path.write_bytes(bitstream.write(reader.header, [reader[0] + bytes(9)]))
        expected = "bytes that the range coder wrote"
    upload(page, index, path)
    assert message(page, expected).startswith("Expected")
    assert "error" in page.get_attribute("#message", "class")
    upload(page, 0, picture(tmp_path))
    page.wait_for_selector("text=original, 768 bytes")
    page.wait_for_function("document.getElementById('message').textContent === ''")


def test_the_tree_is_walked_by_clicks_and_keys_and_kept_in_the_link(page, ddn):
    open_tab(page, "walk", ".pictures button")
    assert page.locator(".pictures button").count() == 8
    page.locator(".pictures button").nth(1).click()
    page.wait_for_selector("text=code 2 of 10")
    page.keyboard.press("1")
    page.wait_for_selector("text=code 3 of 10: level 3 of 4, patch 1 of 4")
    link = page.url
    codes = [int(code, 36) for code in link.split("/")[-1].split(".")]
    assert len(codes) == 2
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("text=code 2 of 10")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("text=code 3 of 10")
    assert page.url == link
    page.check("input[type=checkbox]")
    page.click("text=Draw the rest")
    page.wait_for_selector("text=all 10 codes chosen")
    whole = [int(code, 36) for code in page.url.split("/")[-1].split(".")]
    assert whole[:2] == codes
    shown = page.evaluate(
        "[...document.querySelector('figure canvas').getContext('2d').getImageData(0, 0, 16, 16).data]"
    )
    expected = (ddn.decode(torch.tensor([whole]))[0].clamp(0, 1) * 255).round().permute(1, 2, 0)
    assert (torch.tensor(shown).reshape(16, 16, 4)[..., :3] - expected).abs().max() <= 1
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector("text=code 1 of 10")
    page.click("text=To the end")
    page.wait_for_selector("text=code 3 of 10")


def test_what_is_erased_is_filled_in(page):
    open_tab(page, "inpaint", "figure canvas")
    page.click("text=Fill in")
    message(page, "Paint over a part")
    page.click("text=Erase the right half")
    page.click("text=Fill in")
    message(page, "4 in")
    assert page.locator(".pictures canvas").count() == 4


def test_another_model_is_chosen(page, ddn):
    page.select_option("#model", "tiny")
    message(page, "16 samples")
    assert "tiny" in page.url
    codec = ImageCodec(ddn, prior=None)
    data = saved(page, "Save all as .ddn")
    assert codec.write(codes_of(codec, data), (16, 16)) == data  # a model without an entropy model


@pytest.mark.parametrize("tab", ["sample", "walk", "reconstruct", "inpaint"])
def test_it_fits_a_phone_and_the_tabs_are_reached_by_keys(page, tab):
    page.set_viewport_size({"width": 360, "height": 700})
    page.focus("#tab-sample")
    for _ in range(["sample", "walk", "reconstruct", "inpaint"].index(tab)):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector(f"#tab-{tab}[aria-selected=true]")
    page.wait_for_selector("main canvas")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
