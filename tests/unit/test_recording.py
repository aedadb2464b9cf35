"""What is recorded of a test."""

from __future__ import annotations

import pytest

from harness.recording import _message


def report(text: str) -> pytest.TestReport:
    return pytest.TestReport("f::t", ("f", 1, "t"), {}, "failed", text, "call")


def test_a_long_message_keeps_both_ends():
    told = _message(report("what it is about\n" + "between\n" * 2000 + "how it ended"))
    assert told.startswith("what it is about\n") and told.endswith("how it ended")
    assert 3000 < len(told) <= 4100 and "\n...\n" in told
    assert set(told.splitlines()) == {"what it is about", "between", "...", "how it ended"}


def test_a_short_one_is_kept():
    assert _message(report("short\ntext")) == "short\ntext"


def test_one_long_line():
    assert len(_message(report("x" * 10000))) <= 4100
