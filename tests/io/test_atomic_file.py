"""A file is written whole or not at all, and an error of writing names its path."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from discrete_distribution_network.errors import DDNError, OutputError
from discrete_distribution_network.io.atomic_file import (
    STAGING,
    atomic_file,
    remove_unfinished,
    staging_in,
    write_bytes,
    write_text,
)

NO_PROCESS = 2**22 + 1


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "codes.ddn"
    with atomic_file(target) as staging:
        staging.write_bytes(b"half")
        assert staging.parent == tmp_path
        assert staging.suffix == ".ddn"
        assert not target.exists()
    assert target.read_bytes() == b"half"
    assert names(tmp_path) == ["codes.ddn"]
    write_text(str(target), "é\udc80")
    assert target.read_bytes() == b"\xc3\xa9\x80"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("no"), KeyboardInterrupt()])
def test_what_was_there_stays_where_writing_fails(tmp_path, error):
    target = tmp_path / "old.png"
    target.write_bytes(b"old")

    def fail():
        with atomic_file(target) as staging:
            staging.write_bytes(b"ne")
            raise error

    with pytest.raises(type(error) if not isinstance(error, OSError) else OutputError) as raised:
        fail()
    if isinstance(error, OSError):
        assert str(target) in str(raised.value)
        assert raised.value.errno == 28
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["old.png"]


def test_a_link_is_followed_and_permissions_stay(tmp_path):
    target, link = tmp_path / "kept" / "file.json", tmp_path / "link.json"
    target.parent.mkdir()
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert names(tmp_path) == ["kept", "link.json"]
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "made.txt")
    write_text(dangling, "made")
    assert (tmp_path / "made.txt").read_text() == "made"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_what_is_no_regular_file_is_written_directly(tmp_path):
    with pytest.raises(OutputError, match=r"/dev/full: No space left"):
        write_bytes("/dev/full", b"x")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"through")
    reader.join(10)
    assert read == [b"through"]
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize(
    "name", ["folder", "nowhere/file", "file/below", "x" * 300, "null\0", "proc"], ids=lambda name: name[:12]
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    target = tmp_path / name if name != "proc" else "/proc/nothing"
    with pytest.raises(OutputError) as raised:
        write_bytes(target, b"x")
    assert str(target) in str(raised.value)
    assert isinstance(raised.value, DDNError | OSError)
    assert names(tmp_path) == ["file", "folder"]


def test_long_names_and_endings_can_be_written(tmp_path):
    for name in ("a" * 250 + ".png", "a." + "b" * 250):
        write_bytes(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    left = [tmp_path / f"{STAGING}{NO_PROCESS}-0.ddn", tmp_path / f"{STAGING}{NO_PROCESS}-12"]
    left[0].write_bytes(b"half")
    left[1].mkdir()
    (left[1] / "model.safetensors").write_bytes(b"half")
    others = [
        tmp_path / f"{STAGING}{os.getppid()}-0.ddn",  # of a process that runs
        tmp_path / f"{STAGING}mine",
        tmp_path / f"{STAGING}{NO_PROCESS}",
        tmp_path / f"{STAGING}step-00000001-{NO_PROCESS}",
        tmp_path / f"my{STAGING}{NO_PROCESS}-0",
    ]
    for other in others:
        other.write_text("theirs")
    write_bytes(tmp_path / "new.ddn", b"x")
    assert names(tmp_path) == sorted(["new.ddn", *(other.name for other in others)])


def test_a_file_that_another_thread_writes_stays(tmp_path):
    with atomic_file(tmp_path / "slow") as staging:
        staging.write_bytes(b"slow")
        remove_unfinished(tmp_path)
        assert staging.exists()
    own = tmp_path / f"{STAGING}{os.getpid()}-{10**9}"  # of a killed process that had this one's number
    own.write_bytes(b"half")
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["slow"]


def test_a_kill_while_writing_leaves_the_old_file_and_the_next_writer_clears_up(tmp_path):
    write_text(tmp_path / "out.txt", "old")
    script = (
        "import os, sys; from discrete_distribution_network.io.atomic_file import atomic_file\n"
        "with atomic_file(sys.argv[1]) as staging:\n    staging.write_text('ne'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path / "out.txt"], timeout=60).returncode == -9
    assert (tmp_path / "out.txt").read_text() == "old"
    assert len(names(tmp_path)) == 2
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["out.txt"]


def test_what_is_staged_is_removed_in_the_end(tmp_path):
    with staging_in(tmp_path) as folder:
        folder.mkdir()
        (folder / "file").write_text("x")
    assert names(tmp_path) == []
