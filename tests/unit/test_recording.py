"""What is recorded of a test."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness import record
from harness.errors import CommandError, DirtyGuest, KernelOops, MeasurementError
from harness.record import Recorder, TestRecord
from harness.recording import SessionPlugin, _in_order, _leading, _message


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


def caught(body):
    with pytest.raises(DirtyGuest) as told:
        body()
    return [str(e) for e in _in_order(told.value)]


def test_an_error_in_cleaning_up_comes_after_what_it_followed():
    def body():
        try:
            try:
                raise AssertionError("why")
            finally:
                raise CommandError(["umount", "/mnt"], 1, "", "busy")
        finally:
            raise DirtyGuest("a mount left behind")

    first, second, third = caught(body)
    assert (first, third) == ("why", "a mount left behind") and "umount" in second


def test_an_error_that_was_made_of_another_stands_for_it():
    def body():
        try:
            raise OSError("no such file")
        except OSError as e:
            raise DirtyGuest("the state is not understood") from e

    assert caught(body) == ["the state is not understood"]


def test_an_error_that_hides_another_on_purpose():
    def body():
        try:
            raise MeasurementError("not yet")
        except MeasurementError:
            raise DirtyGuest("at last") from None

    assert caught(body) == ["at last"]


class Watched:
    """A plugin, told of the phases of one test."""

    def __init__(self, folder):
        self.recorder = Recorder.start(folder, ["harness"])
        self.plugin = SessionPlugin(SimpleNamespace(recorder=self.recorder))

    def saw(self, when, outcome, said="", seconds=1.0):
        told = (("f", 1, "t"), {}, outcome, said, when)
        self.plugin.pytest_runtest_logreport(pytest.TestReport("f::t", *told, duration=seconds))

    @property
    def test(self) -> TestRecord:
        (only,) = self.recorder.run.tests
        return only


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path)


def test_a_test_that_fails_and_leaves_something_behind_has_failed_once(watched):
    watched.saw("call", "failed", "assert 1 == 2")
    watched.saw("teardown", "failed", "DirtyGuest: mount left behind")
    watched.saw("teardown", "failed", "DirtyGuest: an object leaked")
    assert watched.test.outcome == "failed" and watched.test.seconds == 3.0
    assert watched.test.message.startswith("assert 1 == 2\n")
    assert "mount left behind" in watched.test.message and "an object leaked" in watched.test.message
    assert record.closing_line(watched.recorder.run) == "0 passed, 1 failed"


@pytest.mark.parametrize("outcome", ["passed", "skipped"])
def test_a_test_that_leaves_something_behind_has_not_passed(watched, outcome):
    watched.saw("call", outcome)
    watched.saw("teardown", "failed", "DirtyGuest: mount left behind")
    assert watched.test.outcome == "error" and watched.test.message == "DirtyGuest: mount left behind"


def test_what_is_said_of_an_error_in_cleaning_up_begins_with_the_reason(watched):
    with pytest.raises(DirtyGuest) as told:
        try:
            raise MeasurementError("why")
        finally:
            raise DirtyGuest("a mount left behind")
    made = report("")
    making = watched.plugin.pytest_runtest_makereport(
        SimpleNamespace(nodeid="f::t"), SimpleNamespace(excinfo=told)
    )
    next(making)
    with pytest.raises(StopIteration):
        making.send(SimpleNamespace(get_result=lambda: made))
    first, *_, last = str(made.longrepr).splitlines()
    assert (first, last) == ("MeasurementError: why", "DirtyGuest: a mount left behind")
