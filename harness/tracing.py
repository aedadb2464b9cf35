"""Trace events of the guest's kernel, through ftrace's files in debugfs."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from harness.errors import MeasurementError
from harness.guest import Guest

FOLDER = "/sys/kernel/debug/tracing"
# After the CPU newer kernels tell what was disabled then, interrupts for instance: a letter, a digit or a dot for each.
_LINE = re.compile(
    r"\s*(?P<task>.+)-(?P<pid>\d+)\s+\[(?P<cpu>\d+)\]\s+(?:[\w.#]{4,5}\s+)?(?P<time>\d+\.\d+): "
    r"(?P<name>\w+): (?P<text>.*)"
)


@dataclass(frozen=True)
class Event:
    """One event. task, pid: who ran when it happened. time: seconds of the trace clock. text: what it says."""

    task: str
    pid: int
    cpu: int
    time: float
    name: str
    text: str


def parse(text: str) -> list[Event]:
    """Read the lines of ``trace`` or ``trace_pipe``. Raises MeasurementError: one is no event."""
    events = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise MeasurementError(f"not a line of a trace: {line!r}")
        events.append(
            Event(
                found["task"],
                int(found["pid"]),
                int(found["cpu"]),
                float(found["time"]),
                found["name"],
                found["text"],
            )
        )
    return events


class Tracing:
    """The events of one system, e.g. ``block``. A context manager: they are on inside it, all or those named.

    Entering raises CommandError when the kernel has no such system or event.
    """

    def __init__(self, guest: Guest, system: str, *names: str) -> None:
        self.guest = guest
        self.folder = f"{FOLDER}/events/{system}"
        self._switches = [f"{self.folder}/{name}/enable" for name in names] or [f"{self.folder}/enable"]

    def _write(self, file: str, text: str) -> None:
        self.guest.run(["sh", "-c", 'echo "$1" > "$0"', file, text])

    def __enter__(self) -> Self:
        self._write(f"{FOLDER}/trace", "")
        for switch in self._switches:
            self._write(switch, "1")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.guest.machine.console.death is None:
            self._write(f"{self.folder}/enable", "0")

    def events(self) -> list[Event]:
        """All so far that were not taken; they stay."""
        return parse(self.guest.run(["cat", f"{FOLDER}/trace"]).stdout)

    def take(self, name: str, count: int, timeout: float = 30.0) -> list[Event]:
        """Wait until ``count`` events of that name have happened, and take all events up to then.

        For when nothing more happens then: what follows at once may be taken unseen. timeout: seconds on the
        reference host. Raises CommandError: they did not happen.
        """
        program = f"{{ print }} / {name}: / && ++n == {count} {{ exit }}"
        # The reader would go on in the guest, and take the events of the next test.
        limit = int(timeout * self.guest.machine.slowdown) + 1
        done = self.guest.run(f"timeout {limit} awk {shlex.quote(program)} {FOLDER}/trace_pipe", timeout=None)
        return parse(done.stdout)
