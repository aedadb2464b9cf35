"""What is recorded of a test."""

from __future__ import annotations

import pytest

from harness.errors import KernelOops
from harness.recording import _leading, _message


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


def test_a_death_among_several_errors_is_what_tells():
    death = KernelOops("Oops: 0000", trace="", raw="")
    several = ExceptionGroup("teardown", [OSError("gone"), ExceptionGroup("inner", [ValueError("x"), death])])
    assert _leading(several) is death


def test_without_a_death_the_first_error_tells():
    first = OSError("gone")
    assert _leading(ExceptionGroup("teardown", [first, ValueError("x")])) is first
