"""How far a work is: a bar on a terminal, lines in a log."""

import io
import json
import math
import sys

import pytest

from discrete_distribution_network.training import report
from discrete_distribution_network.training.report import Bar, Report


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    return now


def run(clock, seconds, total=100, **kwargs):
    with Bar(total, **kwargs) as bar:
        for second in range(1, seconds + 1):
            clock[0] += 1
            bar.advance(total * second / seconds, f"loss {second}" if second % 10 == 0 else None)


def test_a_log_gets_a_line_every_thirty_seconds(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    run(clock, 120)
    lines = log.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0] == " 25% done, 00:30 gone, 01:30 left, loss 30"
    assert lines[-1].startswith("100% done, 02:00 gone")
    assert "\r" not in log.getvalue()


def test_a_short_work_is_one_line_and_one_not_begun_none(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    run(clock, 3)
    assert log.getvalue() == "100% done, 00:03 gone\n"
    with Bar(10):
        pass
    run(clock, 300, shown=False)
    assert log.getvalue().count("\n") == 1


def test_the_time_left_of_a_work_that_goes_on(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    with Bar(100, done=80) as bar:
        clock[0] += 30
        bar.advance(85)
    assert log.getvalue().splitlines()[0] == " 85% done, 00:30 gone, 01:30 left"
    with Bar(100, done=100):
        pass
    assert "100%" not in log.getvalue()


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Bar(10) as bar:
        bar.advance(4)
        bar.say("halfway")
        bar.advance(10, "loss 1")
    assert "\r" in terminal.getvalue()
    assert "100%|" in terminal.getvalue()
    assert "halfway\n" in terminal.getvalue()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_an_output_that_is_closed_or_breaks_ends_no_work(monkeypatch, kind):
    class Broken(kind):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    for output in (None, Broken(), kind()):
        monkeypatch.setattr(sys, "stderr", output)
        if type(output) is kind:
            output.close()
        with Bar(10, every=0.0) as bar:
            bar.advance(5, "text")
            bar.say("halfway")
            bar.advance(10)


def test_what_is_not_finite_is_null_in_the_figures(tmp_path):
    with Report(tmp_path, 1, False) as report:
        report.write(1, {"psnr": math.inf, "levels": [math.nan, 1.0]})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "psnr": None, "levels": [None, 1.0]}
