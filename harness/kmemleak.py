"""The kernel's leak detector: what it found, when it was allocated, and by whom.

A scan follows pointers through the kernel's memory; what nothing points to, and is older than five seconds, was
leaked. Since 2.6.33 it must also have been the same in the scan before. One scan takes seconds under emulation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import MeasurementError
from harness.guest import Guest

FILE = "/sys/kernel/debug/kmemleak"
MIN_AGE = 5.0
"""Seconds; a younger object is not reported (MSECS_MIN_AGE in mm/kmemleak.c): a register may hold its address."""
_NOT_BEFORE_THE_SECOND = (2, 6, 33)
"""The first release that reports an object only if its checksum is that of the scan before."""
# On the reference host a scan takes 2 to 5 s.
_SCAN_SECONDS = 60.0

_HEAD = re.compile(r"unreferenced object 0x(?P<address>[0-9a-f]+) \(size (?P<size>\d+)\):")
_WHO = re.compile(r'\s+comm "(?P<comm>.*)", pid (?P<pid>\d+), jiffies (?P<jiffies>\d+)(?: .*)?')
_DUMP = re.compile(r"  hex dump \(first \d+ bytes\):|    (?:[0-9a-f]{2} )+ .+")
_TRACE = "  backtrace:"
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
    # Newer kernels show the object's first bytes before.
    trace = lines.index(_TRACE) if _TRACE in lines else len(lines)
    shown = all(_DUMP.fullmatch(line) for line in lines[2:trace])
    frames = [_FRAME.fullmatch(line) for line in lines[trace + 1 :]]
    if head is None or who is None or not shown or trace == len(lines) or None in frames:
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
    """Scan the guest's memory, and once more if anything was found: what was found both times.

    The last one clears objects that were on their way from one place to another during the one before.
    Raises CommandError: EBUSY if kmemleak has switched itself off (the kernel's log says why).
    """
    if _release(guest) >= _NOT_BEFORE_THE_SECOND:
        _scan(guest)
    first = _scan(guest)
    if not first:
        return []
    again = {(leak.address, leak.jiffies) for leak in _scan(guest)}
    return [leak for leak in first if (leak.address, leak.jiffies) in again]


def _release(guest: Guest) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", guest.run(["uname", "-r"]).stdout)[:3])


def _scan(guest: Guest) -> list[Leak]:
    return parse(guest.run(f"echo scan > {FILE} && cat {FILE}", timeout=_SCAN_SECONDS).stdout)
