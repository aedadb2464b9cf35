"""The kernel's leak detector: what it found, when it was allocated, and by whom.

A scan follows pointers through the kernel's memory; what nothing points to, and is older than five seconds, was
leaked. One scan takes seconds under emulation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import MeasurementError
from harness.guest import Guest

FILE = "/sys/kernel/debug/kmemleak"
MIN_AGE = 5.0
"""Seconds; a younger object is not reported (MSECS_MIN_AGE in mm/kmemleak.c): a register may hold its address."""
# On the reference host a scan takes 2 to 5 s.
_SCAN_SECONDS = 60.0

_HEAD = re.compile(r"unreferenced object 0x(?P<address>[0-9a-f]+) \(size (?P<size>\d+)\):")
_WHO = re.compile(r'\s+comm "(?P<comm>.*)", pid (?P<pid>\d+), jiffies (?P<jiffies>\d+)(?: .*)?')
_FRAME = re.compile(r"\s+\[<[0-9a-fx]+>\] (?P<symbol>[^\s+]+)(?:\+\S+)?(?: \[\w+\])?")


@dataclass(frozen=True)
class Leak:
    """One object that nothing points to. jiffies: when it was allocated. trace: who allocated it, innermost first.

    text: as the kernel printed it.
    """

    address: int
    size: int
    comm: str
    pid: int
    jiffies: int
    trace: tuple[str, ...]
    text: str


def parse(text: str) -> list[Leak]:
    """Read /sys/kernel/debug/kmemleak. Raises MeasurementError for text of another form."""
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if _HEAD.fullmatch(line):
            blocks.append([line])
        elif blocks:
            blocks[-1].append(line)
        else:
            raise MeasurementError(f"kmemleak's report does not begin with an object: {line!r}")
    return [_leak(block) for block in blocks]


def _leak(lines: list[str]) -> Leak:
    head = _HEAD.fullmatch(lines[0])
    who = _WHO.fullmatch(lines[1]) if len(lines) > 1 else None
    frames = [_FRAME.fullmatch(line) for line in lines[3:]]
    if head is None or who is None or lines[2:3] != ["  backtrace:"] or None in frames:
        raise MeasurementError("an object of kmemleak's report is not understood:\n" + "\n".join(lines))
    return Leak(
        address=int(head["address"], 16),
        size=int(head["size"]),
        comm=who["comm"],
        pid=int(who["pid"]),
        jiffies=int(who["jiffies"]),
        trace=tuple(frame["symbol"] for frame in frames if frame),
        text="".join(f"{line}\n" for line in lines),
    )


def scan(guest: Guest) -> list[Leak]:
    """Scan the guest's memory, and a second time if anything was found: what both scans found.

    The second one clears objects that were on their way from one place to another during the first.
    Raises CommandError: EBUSY if kmemleak has switched itself off (the kernel's log says why).
    """
    first = _scan(guest)
    if not first:
        return []
    again = {(leak.address, leak.jiffies) for leak in _scan(guest)}
    return [leak for leak in first if (leak.address, leak.jiffies) in again]


def _scan(guest: Guest) -> list[Leak]:
    return parse(guest.run(f"echo scan > {FILE} && cat {FILE}", timeout=_SCAN_SECONDS).stdout)
