"""The console's watch, fed through a pipe with what real kernels printed."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from harness.console import Console
from harness.errors import GuestError, GuestLost, KernelHang, KernelOops, KernelPanic
from harness.oops import Sign

DATA = Path(__file__).parent / "data"


class Line:
    """A serial line: `say` is what the guest prints."""

    def __init__(self) -> None:
        output, self.input = os.pipe()
        self.console = Console(
            output,
            log=Path("console.log"),
            vmlinux=None,
            ended=lambda: "QEMU exited with 0",
            hung=lambda message: KernelHang(f"hung: {message}"),
        )
        self.console.start()
        self.open = True

    def say(self, text: str) -> None:
        os.write(self.input, text.encode())

    def recorded(self, name: str) -> str:
        text = (DATA / name).read_text()
        self.say(text.replace("\n", "\r\n"))
        return text

    def end(self) -> None:
        if self.open:
            os.close(self.input)
            self.open = False


@pytest.fixture
def line():
    made = Line()
    yield made
    made.end()
    made.console.join()


def test_marker_that_comes_and_has_come(line):
    line.say("harness: in")
    assert line.console.wait_for("harness: init", 0.05) is None
    before = time.monotonic()
    line.say("it\r\nharness: ready 1.2\r\n")
    at = line.console.wait("harness: ready", 5)
    assert before <= at <= time.monotonic()
    assert line.console.wait("harness: init", 0) <= at
    assert line.console.seen("harness: other") is None
    assert line.console.text == "harness: init\nharness: ready 1.2\n"


def test_deadline(line):
    with pytest.raises(KernelHang, match=r"hung: no 'harness: ready' on the console within 0\.1 s"):
        line.console.wait("harness: ready", 0.1)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "2.6.31-panic",
            KernelPanic,
            "BUG: unable to handle kernel NULL pointer dereference at (null); "
            "Kernel panic - not syncing: Fatal exception",
        ),
        ("2.6.31-nullderef", KernelOops, "BUG: unable to handle kernel NULL pointer dereference at (null)"),
        ("2.6.31-invalid-opcode", KernelOops, "invalid opcode: 0000 [#1]"),
        ("2.6.31-divide", KernelOops, "divide error: 0000 [#1]"),
        ("2.6.31-gpf", KernelOops, "general protection fault: 0000 [#1]"),
        ("2.6.31-hung", KernelHang, "INFO: task dd:46 blocked for more than 1 seconds."),
        ("2.6.31-softlockup", KernelHang, "BUG: soft lockup - CPU#0 stuck for 2s! [hostname:44]"),
        ("6.1-panic", KernelPanic, "Kernel panic - not syncing: sysrq triggered crash"),
    ],
)
def test_death_is_told_within_a_second_while_the_line_stays_open(line, name, error, message):
    line.recorded("console-boot.txt")
    line.console.wait("harness: ready", 5)
    began = time.monotonic()
    text = line.recorded(f"oops/{name}.txt")
    with pytest.raises(error) as caught:
        line.console.wait("never printed", 5)
    assert time.monotonic() - began < 1.0
    assert caught.value.message == f"the guest's kernel: {message}"
    assert caught.value.raw == text
    assert caught.value.log == Path("console.log")


def test_a_death_that_was_noticed_is_told_however_long_its_report_takes_to_decode(line, monkeypatch):
    begun, over = threading.Event(), threading.Event()

    def decoded(raw):
        begun.set()
        assert over.wait(5)
        return raw

    monkeypatch.setattr(line.console, "decoded", decoded)
    line.recorded("oops/6.1-panic.txt")
    assert begun.wait(5)
    assert line.console.death is None
    threading.Timer(0.2, over.set).start()
    assert isinstance(line.console.wait_death(0), KernelPanic)


def test_report_that_never_ends_is_cut(line):
    stop = threading.Event()

    def babble() -> None:
        line.say("[    1.000000] BUG: spinlock lockup on CPU#0\n")
        while not stop.wait(0.02):
            line.say("[    1.000000]  and so on\n")

    thread = threading.Thread(target=babble)
    thread.start()
    began = time.monotonic()
    death = line.console.wait_death(5)
    stop.set()
    thread.join()
    assert isinstance(death, GuestError)
    assert time.monotonic() - began < 1.0


def test_complaint_that_is_survived(line):
    text = line.recorded("oops/2.6.31-oom.txt")
    line.console.wait("Killed process", 5)
    (event,) = line.console.events
    assert event.sign is Sign.OOM
    assert event.text == text
    assert line.console.death is None


def test_what_may_happen_hides_no_complaint(line):
    line.say("[    1.000000] dd: page allocation failure. order:0, mode:0x20\n")
    line.say("[    1.010000] WARNING: at kernel/softirq.c:143 local_bh_enable+0x50/0xb0()\n")
    line.console.wait("softirq.c", 5)
    (event,) = line.console.events
    assert event.sign is Sign.WARNING and "page allocation failure" in event.text


def test_complaint_that_turns_into_a_death(line):
    line.say("------------[ cut here ]------------\n")
    line.say("WARNING: at kernel/softirq.c:143 local_bh_enable+0x50/0xb0()\n")
    line.recorded("oops/2.6.31-nullderef.txt")
    death = line.console.wait_death(5)
    assert isinstance(death, KernelOops)
    assert death.raw.startswith("------------[ cut here")
    assert "BUG: unable" in death.message


def test_healthy_boot(line):
    line.recorded("console-boot.txt")
    line.console.wait("harness: ready", 5)
    assert line.console.events == []
    assert line.console.death is None


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("[    2.000000] Power down.\r\n", "the guest switched itself off: QEMU exited with 0"),
        ("[    2.000000] reboot: Power down\r\n", "the guest switched itself off: QEMU exited with 0"),
        ("nothing special, half a li", "the guest is gone: QEMU exited with 0"),
    ],
)
def test_end_of_the_stream(line, last, message):
    line.say(last)
    line.end()
    with pytest.raises(GuestLost) as caught:
        line.console.wait("harness: ready", 5)
    assert caught.value.message == message
    assert caught.value.trace.strip() == last.strip()


def test_init_that_fails(line):
    line.say("harness: FAILED mdev -s\r\n")
    with pytest.raises(GuestLost, match="/init failed: mdev -s"):
        line.console.wait("harness: ready", 5)


def test_everyone_is_woken(line):
    called = threading.Event()
    forgotten = threading.Event()
    line.console.on_death(called.set)
    line.console.on_death(forgotten.set)
    line.console.remove_on_death(forgotten.set)
    errors = []

    def wait() -> None:
        try:
            line.console.wait("harness: ready", 10)
        except GuestError as e:
            errors.append(e)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    line.recorded("oops/2.6.31-panic.txt")
    for thread in threads:
        thread.join(5)
    assert len({id(e) for e in errors}) == 3  # one instance each
    assert {e.message for e in errors} == {line.console.death.message}
    assert called.wait(1)
    assert not forgotten.is_set()
    late = threading.Event()
    line.console.on_death(late.set)
    assert late.is_set()
    with pytest.raises(KernelPanic):
        line.console.check()


def test_first_death_stays(line):
    line.recorded("oops/2.6.31-panic.txt")
    first = line.console.wait_death(5)
    assert line.console.die(KernelHang("later")) is first
    line.end()
    line.console.join()
    assert line.console.death is first
