"""The serial console: drained all the time, and watched for markers and for a kernel in trouble.

A dying kernel is noticed by what it prints, so that a run ends when the report is complete (within a
second) and never by a timeout. QEMU itself writes the console's log file; this module reads the same bytes
from a pipe.
"""

from __future__ import annotations

import copy
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pexpect
from pexpect.fdpexpect import fdspawn

from harness import oops
from harness.errors import GuestError, GuestLost, HarnessError, KernelHang, KernelOops, KernelPanic
from harness.oops import Sign

FAILED = "harness: FAILED"
"""What the guest's /init prints, followed by the step, when it cannot make the guest ready."""

# A report ends after this many seconds of silence: between its end marker and a panic that may follow,
# between two lines of it, and in any case. A report of 60 lines takes some 50 ms under emulation.
SILENCE_AT_END = 0.1
SILENCE = 0.3
LONGEST = 0.6

_LINE = re.compile(rb"[^\n]*\n")
_SWITCHED_OFF = re.compile(r"Power down\.?$|Restarting system|System halted|Rebooting in")
_ERRORS: dict[Sign, type[GuestError]] = {
    Sign.PANIC: KernelPanic,
    Sign.OOPS: KernelOops,
    Sign.HANG: KernelHang,
}


@dataclass(frozen=True)
class Event:
    """Something the kernel complained of and survived. text: its report. at: time.monotonic()."""

    sign: Sign
    text: str
    at: float


@dataclass
class _Report:
    """A report being printed. sign None: so far only a `cut here` line. first: what to call it by."""

    began: float
    lines: list[str] = field(default_factory=list)
    sign: Sign | None = None
    first: str = ""
    complete: bool = False

    def add(self, line: str) -> None:
        self.lines.append(line)
        sign = oops.classify(line)
        if sign is not None and (self.sign is None or sign.outweighs(self.sign)):
            self.sign, self.first = sign, oops.strip_stamp(line).strip()
        elif sign is Sign.PANIC and self.sign is not Sign.PANIC:
            self.sign, self.first = sign, f"{self.first}; {oops.strip_stamp(line)}"
        if oops.END_TRACE in line or sign is Sign.PANIC:
            self.complete = True


class Console:
    """What comes out of the guest's serial line.

    output: the pipe's end to read from; it is closed when the stream ends. log: the file that QEMU writes.
    ended: says, when the stream has ended, what became of QEMU. hung: makes the error for a guest that
    missed a deadline, evidence included. Both are called on threads of this module's callers or its own.
    """

    def __init__(
        self,
        output: int,
        *,
        log: Path,
        vmlinux: Path | None,
        ended: Callable[[], str],
        hung: Callable[[str], GuestError],
    ) -> None:
        self.log = log
        self.vmlinux = vmlinux
        self._events: list[Event] = []
        self._ended = ended
        self._hung = hung
        self._lines: list[tuple[float, str]] = []
        self._death: GuestError | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._report: _Report | None = None
        self._changed = threading.Condition()
        self._switched_off = False
        self._decoding = False
        self._spawn = fdspawn(output, timeout=None, maxread=4096, use_poll=True)
        self._thread = threading.Thread(target=self._watch, name="console", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the stream has ended, which it does when QEMU has."""
        if self._thread.ident is not None:
            self._thread.join()

    # ---- what was printed

    @property
    def text(self) -> str:
        """Everything printed so far."""
        with self._changed:
            return "".join(f"{line}\n" for _, line in self._lines)

    @property
    def position(self) -> int:
        """The number of lines so far, for `since`."""
        with self._changed:
            return len(self._lines)

    def since(self, position: int) -> str:
        """What was printed after ``position``."""
        with self._changed:
            return "".join(f"{line}\n" for _, line in self._lines[position:])

    def seen(self, marker: str) -> float | None:
        """When the first line with ``marker`` came (time.monotonic()), or None."""
        with self._changed:
            return self._find(marker, 0)[0]

    def _find(self, marker: str, start: int) -> tuple[float | None, int]:
        for at, line in self._lines[start:]:
            if marker in line:
                return at, 0
        return None, len(self._lines)

    @property
    def events(self) -> list[Event]:
        """What the kernel complained of so far; a complaint that is being printed is waited for."""
        with self._changed:
            self._changed.wait_for(lambda: self._report is None, LONGEST)
            return list(self._events)

    # ---- waiting

    def wait(self, marker: str, timeout: float | None) -> float:
        """Wait for a line with ``marker``, or find it; returns when it came (time.monotonic()).

        Raises GuestError: the kernel died or was lost first, or (KernelHang) ``timeout`` seconds went by.
        """
        at = self.wait_for(marker, timeout)
        if at is None:
            raise self._hung(f"no {marker!r} on the console within {timeout:.1f} s")
        return at

    def wait_for(self, marker: str, timeout: float | None) -> float | None:
        """As `wait`, but a guest that lets ``timeout`` seconds go by is left alone: None."""
        deadline = None if timeout is None else time.monotonic() + timeout
        looked = 0
        with self._changed:
            while True:
                at, looked = self._find(marker, looked)
                if at is not None:
                    return at
                self._raise_death()
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)

    def wait_quiet(self, silence: float, timeout: float) -> None:
        """Wait until nothing was printed for ``silence`` seconds, at most ``timeout`` seconds in all."""
        deadline = time.monotonic() + timeout
        with self._changed:
            count = -1
            while count != len(self._lines) and time.monotonic() < deadline:
                count = len(self._lines)
                self._changed.wait_for(lambda: len(self._lines) != count, silence)  # noqa: B023

    # ---- death

    @property
    def death(self) -> GuestError | None:
        """How the guest died or was lost; None while it lives."""
        with self._changed:
            return self._death

    def check(self) -> None:
        """Raise the GuestError if the guest has died."""
        with self._changed:
            self._raise_death()

    def wait_death(self, timeout: float) -> GuestError | None:
        """Give a death up to ``timeout`` seconds to be noticed; one that was noticed, until its report is decoded."""
        with self._changed:
            self._changed.wait_for(lambda: self._death is not None or self._decoding, timeout)
            self._changed.wait_for(lambda: not self._decoding)
            return self._death

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call ``callback``, which must not block, when the guest dies, or now if it has."""
        with self._changed:
            if self._death is None:
                self._callbacks.append(callback)
                return
        callback()

    def remove_on_death(self, callback: Callable[[], None]) -> None:
        """Forget a callback."""
        with self._changed, suppress(ValueError):
            self._callbacks.remove(callback)

    def die(self, error: GuestError) -> GuestError:
        """State the guest's death, wake everyone who waits; the first one stated stays, and is returned."""
        with self._changed:
            if self._death is not None:
                return self._death
            self._death = error
            callbacks, self._callbacks = self._callbacks, []
            self._changed.notify_all()
        for callback in callbacks:
            callback()
        return error

    def _raise_death(self) -> None:
        if self._death is not None:
            # Each thread raises an instance of its own: a traceback belongs to one thread.
            raise copy.copy(self._death)

    # ---- the thread

    def _watch(self) -> None:
        expected = [_LINE, pexpect.EOF, pexpect.TIMEOUT]
        while True:
            event = self._spawn.expect_list(expected, timeout=self._patience())
            if event == 0:
                self._line(self._spawn.after.decode(errors="replace").rstrip("\r\n"))
            elif event == 1:
                break
            if self._report is not None and (event == 2 or self._patience() == 0):
                self._finish()
        rest = self._spawn.before.decode(errors="replace").rstrip("\r\n")
        if rest:
            self._line(rest)
        if self._report is not None:
            self._finish()
        os.close(self._spawn.child_fd)
        what = "the guest switched itself off" if self._switched_off else "the guest is gone"
        self.die(GuestLost(f"{what}: {self._ended()}", trace=self._last_words(), log=self.log))

    def _patience(self) -> float | None:
        """Seconds of silence after which the report being printed is complete; None: there is none."""
        if self._report is None:
            return None
        silence = SILENCE_AT_END if self._report.complete else SILENCE
        return max(0.0, min(silence, self._report.began + LONGEST - time.monotonic()))

    def _line(self, line: str) -> None:
        now = time.monotonic()
        if self._report is None and (oops.CUT_HERE in line or oops.classify(line) is not None):
            self._report = _Report(began=now)
        if self._report is not None:
            self._report.add(line)
        if _SWITCHED_OFF.search(line):
            self._switched_off = True
        with self._changed:
            self._lines.append((now, line))
            self._changed.notify_all()
        if FAILED in line:
            step = line.partition(FAILED)[2].strip(" :")
            self.die(
                GuestLost(
                    f"the guest's /init failed: {step or 'no reason given'}",
                    trace=self._last_words(),
                    log=self.log,
                )
            )

    def _last_words(self) -> str:
        with self._changed:
            return "".join(f"{line}\n" for _, line in self._lines[-20:])

    def _finish(self) -> None:
        """The report is complete: keep it as an event, or state the guest's death."""
        with self._changed:
            report, self._report = self._report, None
            if report is None or report.sign is None:
                return
            raw = "".join(f"{line}\n" for line in report.lines)
            if not report.sign.fatal:
                self._events.append(Event(report.sign, raw, report.began))
            self._decoding = report.sign.fatal
            self._changed.notify_all()
        if not report.sign.fatal:
            return
        try:
            self.die(
                _ERRORS[report.sign](
                    f"the guest's kernel: {report.first}",
                    trace=self.decoded(raw),
                    raw=raw,
                    log=self.log,
                    hint="the trace is decoded with the kernel's vmlinux; the log has all that the kernel said",
                )
            )
        finally:
            with self._changed:
                self._decoding = False
                self._changed.notify_all()

    def decoded(self, raw: str) -> str:
        """A report with source lines; as it is where that fails: no report is lost to a missing tool."""
        if self.vmlinux is None:
            return raw
        try:
            return oops.decode(raw, self.vmlinux)
        except HarnessError as e:
            return f"{raw}(not decoded: {e.message})\n"
