"""The page against what the network can send: hosts, paths, sizes, pictures that grow, and how it ends."""

import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from small import digits, small_ddn

from discrete_distribution_network.codec import bitstream
from discrete_distribution_network.codec.image_codec import ImageCodec
from discrete_distribution_network.errors import DataError, DDNError, InvalidInput

pytest.importorskip("gradio")

from discrete_distribution_network.demo import files, guard, launch
from discrete_distribution_network.demo.handlers import Demo
from discrete_distribution_network.demo.page import serve
from discrete_distribution_network.demo.uploads import check_picture, open_editor

GIB = 1 << 30


class Page:
    """A page in a process of its own, started as a person does, where another's `gradio` lies in the way."""

    def __init__(self, folder, model, *arguments):
        self.temporary, self.here = folder / "temporary", folder / "here"
        self.temporary.mkdir()
        self.here.mkdir()
        (self.temporary / "gradio").write_text("another's")
        self.errors = folder / "errors"
        command = [sys.executable, "-m", "discrete_distribution_network", "demo", "--model", str(model)]
        self.process = subprocess.Popen(
            [*command, "--no-browser", "--port", "0", *arguments],
            cwd=self.here,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=self.errors.open("w"),
            text=True,
        )

    def begin(self):
        line = self.process.stdout.readline()
        assert "http://127.0.0.1:" in line, self.errors.read_text()
        self.port = int(line.rpartition(":")[2])
        return self

    def ask(self, method, path, body=None, **headers):
        """Status, headers and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def upload(self, *files):
        """Status, and where the page keeps files of these names and bytes."""
        form = b"".join(
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n' % (name.encode(), data)
            for name, data in files
        )
        kind = "multipart/form-data; boundary=x"
        status, _, told = self.ask("POST", "/gradio_api/upload", form + b"--x--\r\n", Content_Type=kind)
        return status, json.loads(told)

    def config(self):
        return json.loads(self.ask("GET", "/config")[2])

    def function(self, name):
        """The number of the last function that shows something in an element."""
        config = self.config()
        shown = [part["id"] for part in config["components"] if part["props"].get("elem_id") == name]
        return [one["id"] for one in config["dependencies"] if shown[0] in one["outputs"]][-1]

    def join(self, body):
        headers = {"Content-Type": "application/json"}
        return self.ask("POST", "/gradio_api/queue/join", body, **headers)

    def call(self, function, *data):
        """What a function of the page gives: success, and values or an error."""
        session = uuid.uuid4().hex
        body = json.dumps({"data": data, "fn_index": function, "session_hash": session})
        status, _, told = self.join(body)
        assert status == 200, told
        lines = self.ask("GET", f"/gradio_api/queue/data?session_hash={session}")[2].decode().splitlines()
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        (last,) = [event for event in events if event["msg"] == "process_completed"]
        return last["success"], last["output"]

    def peak(self):
        """Most memory it had, bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024

    def kept(self):
        return sum(path.stat().st_size for path in self.temporary.rglob("*") if path.is_file())

    def end(self, number):
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.process.stdout.close()
        return code


def file(path):
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    ddn = small_ddn(image_size=16).eval()
    folder = tmp_path_factory.mktemp("model") / "model"
    ddn.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory, model):
    made = Page(tmp_path_factory.mktemp("page"), model, "--allow", "page.example").begin()
    yield made
    made.process.kill()
    made.process.wait()
    made.process.stdout.close()


def works(page):
    success, output = page.call(page.function("samples"), 4, 0, 1, "all in turn", 1)
    assert success
    path = output["data"][0]["path"]
    status, _, picture = page.ask("GET", f"/gradio_api/file={path}")
    return status == 200 and Image.open(io.BytesIO(picture)).size[0] > 100


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:{}", 200),
        ("127.0.0.1:{}", 200),
        ("[::1]:{}", 200),
        ("127.0.0.1", 200),
        ("page.example:443", 200),
        ("evil.example:{}", 403),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("10.1.2.3:{}", 403),
        ("localhost@evil.example", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_other_hosts_are_refused(page, host, status):
    for path in ("/", "/config"):
        assert page.ask("GET", path, Host=host.format(page.port))[0] == status


def test_requests_of_other_sites_are_refused(page):
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"):
        assert page.ask("POST", "/gradio_api/queue/join", b"{}", Origin=origin)[0] == 403
    for origin in (f"http://127.0.0.1:{page.port}", "https://page.example"):
        assert page.ask("GET", "/", Origin=origin)[0] == 200


def test_every_answer_says_that_it_is_in_no_frame(page):
    for path in ("/", "/theme.css", "/nothing", "/gradio_api/info"):
        headers = page.ask("GET", path)[1]
        assert headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"] == "frame-ancestors 'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert page.ask("GET", "/", Host="evil.example")[1]["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", f"/gradio_api/file={Path(__file__).resolve()}"),
        ("GET", "/gradio_api/file=../../../../etc/passwd"),
        ("GET", "/gradio_api/file=%2e%2e/%2e%2e/etc/passwd"),
        ("GET", "/gradio_api/file=http://127.0.0.1:{}/"),
        ("GET", "/gradio_api/file=https://example.com/"),
        ("GET", "/gradio_api/file=/etc/passwd%00.png"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://127.0.0.1:{}/"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/run-history/records"),
        ("GET", "/gradio_api/stream/a/b/c/playlist.m3u8"),
        ("GET", "/static/../../../../../etc/passwd"),
        ("GET", "/assets/%2e%2e/%2e%2e/%2e%2e/routes.py"),
        ("GET", "/monitoring"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/call/samples"),
        ("POST", "/gradio_api/call/v2/samples"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-code/"),
        ("POST", "/login"),
        ("PUT", "/gradio_api/upload"),
        ("OPTIONS", "/"),
        ("DELETE", "/"),
    ],
)
def test_nothing_but_the_page_is_answered(page, method, path):
    assert page.ask(method, path.format(page.port), b"{}" if method == "POST" else None)[0] in (403, 404)


def test_large_bodies_are_refused_and_not_logged(page):
    filling = b"x" * (1 << 20)
    for length in (200_000, 300_000_000, 10**30):
        with socket.create_connection(("127.0.0.1", page.port), timeout=20) as raw:
            head = f"POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
            raw.sendall(head.encode())
            with contextlib.suppress(OSError):
                for _ in range(20):
                    raw.sendall(filling)
            with contextlib.suppress(ConnectionResetError):
                told = raw.recv(1000)
                assert b" 413 " in told or b" 400 " in told
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as raw:
        raw.sendall(b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b" 411 " in raw.recv(1000)
    assert page.ask("GET", "/?" + "a" * 5000)[0] == 414
    assert page.upload(("a.png", bytes(11 << 20)))[0] == 413
    assert page.errors.stat().st_size < 10_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 30_000,
        b"9" * 30_000,
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"data": 1, "fn_index": 0, "session_hash": "a"}',
        b'{"data": [], "fn_index": 99999, "session_hash": "a"}',
        b'{"data": [], "fn_index": -1, "session_hash": "a"}',
        b'{"data": [], "fn_index": 0}',
        b'{"data": [{"path": "http://127.0.0.1:1/a.png", "meta": {"_type": "gradio.FileData"}}], "fn_index": 0}',
        b'{"data": [{"p\\u0061th": "htt\\u0070s://example.com/a.png"}], "fn_index": 0, "session_hash": "a"}',
    ],
)
def test_what_is_no_request_of_the_page_is_refused(page, body):
    assert 400 <= page.join(body)[0] < 600
    assert "Traceback" not in page.errors.read_text()


def bomb(side, channels=1):
    """A PNG of a few kilobytes with so many pixels a side."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + side * channels)) for _ in range(side)) + rows.flush()

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, {1: 0, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiled(side):
    """A TIFF of 10x10 pixels in one tile of so many pixels a side."""
    data = zlib.compress(bytes(side * side), 9)
    entries = [(256, 10), (257, 10), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side)]
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries += [(324, start), (325, len(data))]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + data


def many_images(count=10**6):
    """A file of codes, of levels of one candidate, that takes no bytes for any number of images."""
    header = bitstream.Header(bitstream.UNIFORM, bytes(8), 1, 16, 16, 1, 1, (bitstream.Level(1, 1),))
    data = bitstream.write(header, [b""])
    start, end = bitstream._START.size, bitstream._CHECK.size
    length = struct.unpack("<H", data[5:7])[0]
    told = data[start : length - end]
    place = bitstream._FIXED.size
    told = told[:place] + bitstream._varint(count) + told[place + 1 :]
    whole = bitstream._START.pack(b"\x89DDN", 1, start + len(told) + end) + told
    return whole + struct.pack("<I", zlib.crc32(whole))


def test_hostile_files_take_no_memory_and_the_page_lives_on(page):
    guide, opened, compress = page.function("guided"), page.function("back"), page.function("packed")
    data = bomb(13_300)
    assert len(data) < 400_000
    (huge,) = page.upload(("huge.png", data))[1]
    (small,) = page.upload(("small.png", bomb(1000)))[1]
    (tile,) = page.upload(("tile.tif", tiled(16_384)))[1]
    (codes,) = page.upload(("many.ddn", many_images()))[1]
    (words,) = page.upload(("words.png", b"no image"))[1]

    def guided(background, layers):
        editor = {"background": background and file(background), "layers": [file(one) for one in layers]}
        return page.call(guide, {**editor, "composite": file(huge)}, "what is missing", 0, "any", 1, 0, 1)

    asked = [
        (lambda: guided(huge, [huge] * 6), "at most 4 layers"),
        (lambda: guided(huge, []), "an image of at most"),
        (lambda: guided(small, [huge]), "an image of at most"),
        (lambda: guided(small, [small] * 100), "at most 4 layers"),
        (lambda: guided(words, []), "cannot be decoded"),
        (lambda: page.call(compress, file(huge), 1), "an image of at most"),
        (lambda: page.call(compress, file(tile), 1), "megapixels"),
        (lambda: page.call(compress, file(words), 1), "cannot be decoded"),
        (lambda: page.call(opened, file(codes)), "expected"),
        (lambda: page.call(opened, file(huge)), "expected a file of codes"),
        (lambda: page.call(guide, {"background": file("/etc/passwd"), "layers": []}, "", 0, "", 1, 0, 1), "expected"),
        (lambda: page.call(compress, file("/etc/passwd"), 1), "expected"),
        (lambda: page.call(compress, {"path": "/etc/passwd"}, 1), "expected"),
        (lambda: page.call(page.function("samples"), [[[]]], {}, "a", 1, None), "expected"),
    ]
    with ThreadPoolExecutor(8) as together:
        answers = list(together.map(lambda one: one[0](), asked * 2))
    for (success, output), (_, words) in zip(answers, asked * 2, strict=True):
        assert not success
        assert words in output["error"], output
        assert str(page.temporary) not in output["error"]
        assert str(page.here) not in output["error"]
        assert "/" not in output["error"]
    allowed = [page.upload((f"{channels}.png", bomb(4990, channels)))[1][0] for channels in (4, 4, 1)]
    with ThreadPoolExecutor(8) as together:
        assert all(success for success, _ in together.map(lambda one: page.call(compress, file(one), 1), allowed * 2))
    assert works(page)
    assert page.peak() < 2 * GIB
    assert "Traceback" not in page.errors.read_text()


def test_many_uploads_are_not_kept_and_the_page_lives_on(page):
    noise = [os.urandom(9_900_000) for _ in range(2)]
    with ThreadPoolExecutor(4) as together:
        upload = lambda number: page.upload((f"{number}.png", bytes([number]) + noise[number % 2]))[0]  # noqa: E731
        assert set(together.map(upload, range(60))) == {200}
    assert page.kept() < files.MAX_KEPT + guard.UPLOADS * (guard.MAX_UPLOAD + guard.FORM)
    assert works(page)
    editor = next(part for part in page.config()["components"] if part["props"].get("elem_id") == "editor")
    path = editor["props"]["value"]["background"]["path"]
    assert page.ask("GET", f"/gradio_api/file={path}")[0] == 200
    assert page.peak() < 2 * GIB


def test_sigterm_ends_it_and_leaves_nothing(page):
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as held:
        held.sendall(b"GET /gradio_api/heartbeat/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in held.recv(1000)
        guide = page.function("guided")
        editor = {"background": file(page.upload(("a.png", bomb(1000)))[1][0]), "layers": []}

        def ask():
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                for _ in range(10):
                    page.call(guide, editor, "what is missing", 8, "any", 16, 0, 8)

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        time.sleep(1)
        assert page.end(signal.SIGTERM) == 143
    for thread in asking:
        thread.join()
    assert [path.name for path in page.temporary.iterdir()] == ["gradio"]
    assert (page.temporary / "gradio").read_text() == "another's"
    assert list(page.here.iterdir()) == []
    assert "Traceback" not in page.errors.read_text()


# without a network


@pytest.mark.parametrize(
    ("host", "known", "unknown"),
    [
        ("127.0.0.1", ["localhost:7860", "LOCALHOST", "[::1]:7860"], ["192.168.0.7", "evil.example"]),
        ("192.168.0.7", ["192.168.0.7:7860", "localhost"], ["10.0.0.1", "evil.example"]),
        ("0.0.0.0", ["10.0.0.1:7860", "[fe80::1]", socket.gethostname()], ["evil.example", "10.0.0.1.evil.example"]),
        ("::1", ["[::1]"], ["[::2]"]),
    ],
)
def test_names(host, known, unknown):
    names = guard.Names(host, ["Page.Example"])
    assert all(name in names for name in (*known, "page.example:443"))
    assert not any(name in names for name in unknown)


def test_the_oldest_files_make_room_and_the_first_stay(tmp_path):
    def write(name, size, age):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))

    write("first/a", 50, 900)
    kept = files.Files(tmp_path, most=100, count=3)
    for number in range(3):
        write(f"{number}/a", 30, 100 - number)
    kept.make_room(10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "first"]
    kept.make_room(60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "first"]
    for number in range(3, 8):
        write(f"{number}/a", 0, 0)
    kept.make_room(0)
    assert len(list(tmp_path.rglob("a"))) == 3


def test_an_address_that_is_not_free_is_one_sentence():
    with launch.bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"expected a free address, got 127.0.0.1 with port {port}"):
            launch.bind("127.0.0.1", port)
    for host, number in (("127.0.0.1", 70_000), ("127.0.0.1", -1), ("192.0.2.1", None), ("no such host", 0)):
        with pytest.raises(InvalidInput, match=r"expected a (free address|port)"):
            launch.bind(host, number)


def test_errors_name_no_folder():
    for error, said in (
        (DataError("expected x in /home/me/runs/a.png, got y"), "expected x in a.png, got y"),
        (InvalidInput("expected 1 / 2 of <b>"), "expected 1 / 2 of &lt;b&gt;"),
        (OSError(28, "No space left on device", "/tmp/x"), "expected to write"),
        (KeyError("/tmp/secret"), "expected values"),
        (MemoryError(), "expected values"),
    ):
        assert said in launch.sentence(error)
        assert "/tmp" not in launch.sentence(error)


def test_pictures_are_looked_at_before_they_are_decoded(tmp_path):
    (tmp_path / "huge.png").write_bytes(bomb(6000))
    (tmp_path / "tile.tif").write_bytes(tiled(6000))
    for name in ("huge.png", "tile.tif"):
        with pytest.raises(DataError, match="at most 25 megapixels"):
            check_picture(tmp_path / name)
    (tmp_path / "drawing.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(DataError, match="got one of EPS"):
        check_picture(tmp_path / "drawing.eps")
    for name, kind in (("camera.jpg", "MPO"), ("pages.tif", "TIFF")):
        frames = [Image.new("RGB", (20, 20)), Image.new("RGB", (10, 10))]
        frames[0].save(tmp_path / name, format=kind, save_all=True, append_images=frames[1:])
        check_picture(tmp_path / name)
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    with pytest.raises(DDNError, match="that was uploaded"):
        open_editor({"background": file(str(tmp_path / "small.png")), "layers": []})
    assert open_editor(None) is None


def test_codes_of_too_many_bytes_are_refused(tmp_path):
    demo = Demo(small_ddn().eval())
    (tmp_path / "large.ddn").write_bytes(bytes(2 << 20))
    with pytest.raises(DDNError, match="at most 1048576 bytes"):
        demo.opened(str(tmp_path / "large.ddn"))
    (tmp_path / "some.ddn").write_bytes(ImageCodec(demo.ddn).compress_batch(digits(3) / 255))
    assert demo.opened(str(tmp_path / "some.ddn")).size[0] > 100


def test_ctrl_c_ends_it_with_its_code():
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(SystemExit) as end:
        serve(Demo(small_ddn().eval()), port=0, quiet=True)
    assert end.value.code == 130


def test_a_full_disk_is_a_sentence(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    demo = Demo(small_ddn().eval())
    served = serve(demo, port=0, prevent_thread_lock=True, quiet=True)
    page = Page.__new__(Page)
    page.port = int(served.address.rstrip("/").rpartition(":")[2])
    try:
        monkeypatch.setattr(Path, "write_bytes", full)
        success, output = page.call(page.function("samples"), 4, 0, 1, "all in turn", 1)
        assert not success
        assert "No space left on device" in output["error"]
        monkeypatch.undo()
        monkeypatch.setattr("gradio.routes.upload_fn", full)
        status, told = page.upload(("a.png", b"some"))
        assert (status, "No space left on device" in told["detail"]) == (507, True)
        monkeypatch.undo()
        assert page.call(page.function("samples"), 4, 0, 1, "all in turn", 1)[0]
    finally:
        served.app.blocks.close(verbose=False)
    with pytest.raises(ConnectionRefusedError):
        page.ask("GET", "/")
