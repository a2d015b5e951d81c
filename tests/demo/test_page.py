"""The page of `ddn demo`, in a real browser: what each tab is for, and what it must survive."""

import io
import json
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from browser import a_browser, playwright  # noqa: F401
from PIL import Image
from small import digits, small_ddn

from discrete_distribution_network.codec.image_codec import ImageCodec
from discrete_distribution_network.errors import DDNError
from discrete_distribution_network.evaluation.classifier import Classifier
from discrete_distribution_network.prior.heads import Prior
from discrete_distribution_network.viz.pictures import grid

gradio = pytest.importorskip("gradio")

SECONDS = 30_000


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "first" / "pictures").mkdir(parents=True)
    (folder / "first" / "config.json").write_text("{}")
    grid(digits(4) / 255).save(folder / "first" / "pictures" / "samples-00000020.png")
    lines = [
        {
            "step": step,
            "seconds": step,
            "loss": 1 / step,
            "images_per_second": 100,
            "splits": 3,
            "usage_by_level": [0.5, 0.9],
        }
        for step in (20, 40, 60)
    ]
    (folder / "first" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def demo(runs):
    from discrete_distribution_network.demo.handlers import Demo

    ddn = small_ddn(image_size=16, patch_size=[None, None, 8]).eval()
    torch.manual_seed(0)
    ddn.prior = Prior(ddn, dim=8).eval()
    return Demo(ddn, Classifier(1, 3).eval().requires_grad_(False), runs=runs)


@pytest.fixture(scope="module")
def address(demo):
    from discrete_distribution_network.demo.page import serve

    app, url, _ = serve(demo, prevent_thread_lock=True, quiet=True)
    yield url
    app.blocks.close() if hasattr(app, "blocks") else None


@pytest.fixture(scope="module")
def address_of_two(demo):
    from discrete_distribution_network.demo.handlers import Demo
    from discrete_distribution_network.demo.page import serve

    colour = small_ddn(image_size=16, channels=3, patch_size=[None, None, 8], levels_per_resolution=1).eval()
    app, url, _ = serve({"grey": demo, "colour": Demo(colour)}, prevent_thread_lock=True, quiet=True)
    yield url
    app.blocks.close()


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(SECONDS)
    page.goto(address)
    page.wait_for_selector("#candidates img")
    yield page
    page.close()


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def button(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def code(page):
    return page.locator("#code textarea").input_value()


def wait_for_code(page, length):
    page.wait_for_function(
        "n => document.querySelector('#code textarea').value.split(/[ |]+/).filter(w => w).length === n", arg=length
    )


def picture(page, name):
    """The picture in an element, once it is there."""
    source = page.locator(f"#{name} img").first.get_attribute("src")
    return Image.open(io.BytesIO(page.request.get(source if source.startswith("http") else page.url + source).body()))


def changed(page, name, action):
    """The picture in an element after an action that changes it."""
    image = page.locator(f"#{name} img")
    before = image.first.get_attribute("src") if image.count() else ""
    action()
    page.wait_for_function(
        "([name, before]) => { const i = document.querySelector(`#${name} img`); "
        "return i && i.getAttribute('src') !== before && i.complete }",
        arg=[name, before],
    )
    return picture(page, name)


def error(page, words):
    """An error is shown with these words; it is put away."""
    toast = page.locator(".toast-body", has_text=words)
    toast.wait_for()
    assert toast.count() == 1
    toast.locator("button").first.click()


def test_walking_the_tree(page, demo):
    box = page.locator("#candidates img").bounding_box()
    page.mouse.click(box["x"] + 3, box["y"] + 3)  # the first, which is the likeliest
    wait_for_code(page, 1)
    first = int(code(page))
    assert first == int(demo.walker(None).choice(()).chances.argmax())
    button(page, "Forward →")
    wait_for_code(page, 2)
    second = code(page)
    assert demo.walker(None).parse(second) == demo.likeliest((first,), None)
    button(page, "← Back")
    wait_for_code(page, 1)
    assert int(code(page)) == first
    button(page, "Draw the rest")
    total = sum(demo.ddn.codes_per_level)
    wait_for_code(page, total)
    page.get_by_text(f"All {total} codes are chosen").wait_for()
    whole = code(page)
    button(page, "Begin again")
    wait_for_code(page, 0)
    page.locator("#code textarea").fill(whole)
    image = changed(page, "so-far", lambda: button(page, "Go to this code"))
    codes = demo.walker(None).parse(whole)
    expected = demo.enlarged(demo.walker(None).image(codes))[0]
    assert np.abs(np.asarray(image.convert("L")) / 255 - expected.numpy()).max() < 0.01
    page.locator("#code textarea").fill("nonsense")
    button(page, "Go to this code")
    error(page, "numbers and bars")


def test_keys_go_back_and_forth_and_the_link_holds_the_code(page, browser, demo):
    box = page.locator("#candidates img").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 5, box["y"] + box["height"] - 5)  # the last, which is not the likeliest
    wait_for_code(page, 1)
    chosen = code(page)
    assert demo.walker(None).parse(chosen) != demo.likeliest((), None)
    page.keyboard.press("ArrowLeft")
    wait_for_code(page, 0)
    page.keyboard.press("ArrowRight")
    wait_for_code(page, 1)
    assert code(page) == chosen
    page.keyboard.press("ArrowLeft")
    wait_for_code(page, 0)
    changed(page, "candidates", lambda: page.get_by_label("all", exact=True).check())  # what lies ahead is kept
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("ArrowRight")
    wait_for_code(page, 1)
    assert code(page) == chosen
    page.keyboard.press("ArrowRight")
    wait_for_code(page, 2)
    page.wait_for_function("location.hash.split('.').length === 2")
    codes, link = code(page), page.url
    other = browser.new_page()
    other.set_default_timeout(SECONDS)
    other.goto(link)
    other.wait_for_selector("#candidates img")
    wait_for_code(other, 2)
    assert code(other) == codes
    other.close()
    other = browser.new_page()
    other.goto(f"{link}.99999.%E0")  # cut or edited
    other.wait_for_selector("#candidates img")
    other.close()


def test_following_an_image(page, demo, tmp_path):
    image = digits(1, 16)[0]
    Image.fromarray(image[0].numpy()).save(tmp_path / "digit.png")
    with page.expect_file_chooser() as chooser:
        page.locator("#follow").click()
    chooser.value.set_files(tmp_path / "digit.png")
    wait_for_code(page, sum(demo.ddn.codes_per_level))
    assert demo.walker(None).parse(code(page)) == demo.walker(None).follow(image / 255)


def test_sampling(page, demo):
    tab(page, "Sample")
    first = changed(page, "samples", lambda: button(page, "Draw"))
    assert np.array_equal(np.asarray(first), np.asarray(demo.samples(36, 0, 1, None)))
    page.get_by_label("Seed").first.fill("5")
    second = changed(page, "samples", lambda: button(page, "Draw"))
    assert not np.array_equal(np.asarray(first), np.asarray(second))


def test_compressing(page, demo, tmp_path):
    tab(page, "Reconstruct and compress")
    Image.fromarray(digits(1, 16)[0, 0].numpy()).save(tmp_path / "digit.png")
    back = changed(
        page, "back", lambda: page.locator("#image input[type=file]").set_input_files(tmp_path / "digit.png")
    )
    page.get_by_text("bytes").first.wait_for()
    with page.expect_download() as download:
        page.locator("#packed a").first.click()
    download.value.save_as(tmp_path / "image.ddn")
    stored = demo.codec.decompress((tmp_path / "image.ddn").read_bytes())
    assert np.abs(np.asarray(back.convert("L")) / 255 - demo.enlarged(stored)[0].numpy()).max() < 0.01
    other = ImageCodec(demo.ddn).compress(digits(2, 16)[1] / 255)
    (tmp_path / "other.ddn").write_bytes(other)

    def open_other():
        with page.expect_file_chooser() as chooser:
            page.locator("#stored").click()
        chooser.value.set_files(tmp_path / "other.ddn")

    opened = changed(page, "back", open_other)
    expected = demo.enlarged(demo.codec.decompress(other))[0].numpy()
    assert np.abs(np.asarray(opened.convert("L")) / 255 - expected).max() < 0.01
    (tmp_path / "bad.ddn").write_bytes(other[:-1])
    with page.expect_file_chooser() as chooser:
        page.locator("#stored").click()
    chooser.value.set_files(tmp_path / "bad.ddn")
    error(page, "copy the file again")


def test_guiding(page, demo):
    tab(page, "Guide")
    page.wait_for_selector("#editor canvas")
    page.wait_for_timeout(500)
    button(page, "Guide")
    error(page, "something to go by")
    box = page.locator("#editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x, y + 20, steps=5)
    page.mouse.move(x + 40, y - 20, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    painted = changed(page, "guided", lambda: button(page, "Guide"))
    page.get_by_label("Low resolution, pixels").last.fill("4")
    page.get_by_label("Low resolution, pixels").last.press("Enter")
    both = changed(page, "guided", lambda: button(page, "Guide"))
    assert painted.size == both.size
    assert not np.array_equal(np.asarray(painted), np.asarray(both))


def test_watching_a_training(page):
    tab(page, "Train")
    page.get_by_text("Step 60, 1.0 minutes").wait_for()
    page.wait_for_selector("#curves img")
    assert picture(page, "newest").size[0] > 100


@pytest.mark.parametrize(
    ("name", "words"),
    [("huge.png", "at most 25 megapixels"), ("text.png", "cannot be decoded"), ("moving.gif", "of 3 frames")],
)
def test_bad_uploads_are_a_sentence_and_the_page_lives_on(page, demo, tmp_path, name, words):
    path = tmp_path / name
    if name == "huge.png":
        Image.new("L", (10_000, 5_000)).save(path)
    elif name == "text.png":
        path.write_text("no image")
    else:
        frames = [Image.new("L", (8, 8), shade) for shade in (0, 100, 200)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    with page.expect_file_chooser() as chooser:
        page.locator("#follow").click()
    chooser.value.set_files(path)
    error(page, words)
    button(page, "Draw the rest")
    wait_for_code(page, sum(demo.ddn.codes_per_level))


@pytest.mark.parametrize("users", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_users_at_once_each_see_their_own(browser, address, demo, users):
    pages = [browser.new_page() for _ in range(users)]
    for seed, page in enumerate(pages):
        page.set_default_timeout(SECONDS)
        page.goto(address)
        page.wait_for_selector("#candidates img")
        tab(page, "Sample")
        page.get_by_label("Seed").first.fill(str(seed))
        page.get_by_label("number input for Images").first.fill("9")
    for page in pages:
        button(page, "Draw")
    for seed, page in enumerate(pages):
        page.wait_for_selector("#samples img")
        expected = np.asarray(demo.samples(9, seed, 1, None))
        assert np.array_equal(np.asarray(picture(page, "samples")), expected)
        page.close()


def test_no_file_outside_is_given_out_and_nobody_else_is_let_in(address):
    for path in ("/etc/passwd", __file__):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{address}gradio_api/file={path}")
        assert refusal.value.code in (403, 404)
    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port), timeout=5):
        pass


def test_what_the_sliders_forbid_is_refused_without_them_too(demo, tmp_path):
    for asked, words in (
        (lambda: demo.samples(10_000, 0, 0.7, None), "images from 1 to 100"),
        (lambda: demo.samples(4, -1, 0.7, None), "seed"),
        (lambda: demo.samples(4, 0, 0, None), "temperature"),
        (lambda: demo.guided(None, "", 10**9, None, 1, 0, 1), "pixels from 0 to 16"),
        (lambda: demo.guided(None, "", 0, None, 1, 0, 1000), "beams from 1 to 8"),
        (lambda: demo.compressed(None, 3), "upload one"),
    ):
        with pytest.raises(DDNError, match=words):
            asked()
    path = tmp_path / "large.ddn"
    path.write_bytes(demo.codec.compress(torch.zeros(1, 2048, 1024)))
    with pytest.raises(DDNError, match="at most 1048576 pixels"):
        demo.opened(str(path))


def test_a_model_is_chosen_at_the_top(browser, address_of_two):
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(SECONDS)
    page.goto(address_of_two)
    page.wait_for_selector("#candidates img")
    expect = playwright.expect(page.get_by_text("A picture is"))
    grey, colour = "A picture is 12 choices", "A picture is 6 choices"
    page.get_by_text(grey).wait_for()
    page.locator("#model input").click()
    page.get_by_role("option", name="colour").click()
    page.get_by_text(colour).wait_for()
    expect.to_have_count(1)
    button(page, "Draw the rest")
    wait_for_code(page, 6)
    tab(page, "Sample")
    button(page, "Draw")
    page.wait_for_selector("#samples img")
    assert picture(page, "samples").mode == "RGB"
    page.wait_for_function("location.hash.startsWith('#colour/')")
    other = browser.new_page()
    other.set_default_timeout(SECONDS)
    other.goto(page.url)
    other.get_by_text(colour).wait_for()
    wait_for_code(other, 6)
    other.close()
    page.close()
