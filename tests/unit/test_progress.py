"""progress.py: what a terminal, a log and silence get to see."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from harness.progress import BarProgress, LineProgress, Progress, SilentProgress, default


def work(progress: Progress) -> None:
    with progress.task("copying files", 10) as task, progress.task("inner", 4e6, unit="bytes") as inner:
        task.advance(4)
        inner.update(completed=1e6, detail="some file")
        progress.say("a line")


def test_lines() -> None:
    stream = io.StringIO()
    work(LineProgress(stream))
    lines = stream.getvalue().splitlines()
    assert lines[:3] == ["copying files ...", "inner ...", "a line"]
    assert lines[3].startswith("inner: ")
    assert lines[4].startswith("copying files: ")


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    work(SilentProgress())
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and when something in particular was shown on it."""

    def __init__(self, expected: str = "") -> None:
        super().__init__()
        self.expected = expected
        self.shown = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.expected in text:
            self.shown.set()
        return super().write(text)


def test_bars_show_amounts_and_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal("4/10")
    progress = BarProgress(stream)
    with progress.task("copying files", 10) as task, progress.task("inner", 4e6, unit="bytes") as inner:
        task.advance(4)
        inner.update(completed=1e6, detail="some file")
        progress.say("a line")
        assert stream.shown.wait(30), "bars are drawn again by themselves"
    shown = stream.getvalue()
    assert "1.0 MB/4.0 MB" in shown
    assert "some file" in shown
    assert "a line\n" in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l"), "the cursor is shown again"
    progress.say("afterwards")
    assert stream.getvalue().endswith("afterwards\n")


def test_failure_closes_the_bar() -> None:
    stream = Terminal()
    progress = BarProgress(stream)
    with pytest.raises(ValueError, match="no"), progress.task("x"):
        raise ValueError("no")
    progress.say("after")
    assert stream.getvalue().endswith("after\n")


def test_default_follows_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(default(), BarProgress)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(default(), LineProgress)
