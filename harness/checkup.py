"""What a guest must look like after each test: as before the first, and without a word of complaint from its kernel."""

from __future__ import annotations

import bisect
import re
import time
from collections.abc import Collection
from dataclasses import dataclass

from harness import kmemleak
from harness.errors import DirtyGuest, MeasurementError
from harness.guest import Guest
from harness.kmemleak import Leak
from harness.oops import Sign

# One process and one round trip, 20 ms: the names of the files stand before their lines.
_FILES = ("mounts", "swaps", "cgroups", "modules", "partitions", "sys/kernel/tainted")
_LOOK = (
    f"cd /proc && grep -H '' {' '.join(_FILES)}; for d in /sys/block/dm-*; do [ -e $d ] && echo dm:$d; done; "
    "grep -H -m 1 ^jiffies: timer_list"
)
# Seconds for a line to get through the serial port, on the reference host.
_LINE_SECONDS = 10.0


@dataclass(frozen=True)
class State:
    """What can be left behind. things: by kind, how each calls itself. taint: /proc/sys/kernel/tainted."""

    things: dict[str, frozenset[str]]
    taint: int
    jiffies: int


def parse_state(text: str) -> State:
    """Read what the guest printed: ``FILE:line``. Raises MeasurementError: something is missing."""
    lines: dict[str, list[str]] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(":")
        lines.setdefault(kind, []).append(rest)
    try:
        rows = {kind: [line.split() for line in found if line.strip()] for kind, found in lines.items()}
        return State(
            things={
                "dm device": frozenset(row[0].rpartition("/")[2] for row in rows.get("dm", ())),
                # The kernel itself mounts tracefs when somebody first looks for it in debugfs.
                "mount": frozenset(f"{row[1]} ({row[2]})" for row in rows["mounts"] if row[2] != "tracefs"),
                "swap area": frozenset(row[0] for row in rows["swaps"][1:]),
                "subsystem in a cgroup hierarchy": frozenset(
                    row[0] for row in rows["cgroups"][1:] if row[1] != "0"
                ),
                "module": frozenset(row[0] for row in rows.get("modules", ())),
                "block device": frozenset(
                    row[3] for row in rows["partitions"][1:] if not row[3].startswith("dm-")
                ),
            },
            taint=int(rows["sys/kernel/tainted"][0][0]),
            jiffies=int(rows["timer_list"][0][-1]),
        )
    except (KeyError, IndexError, ValueError) as e:
        raise MeasurementError(f"the guest's state is not understood ({e}):\n{text}") from e


class Checkup:
    """Keeps the state of a guest as it was when it was booted, and who ran a test in it when.

    A debug kernel's leaks are looked for at the end (`leaks`), as that takes seconds: each is the test's in whose time
    it was allocated.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._first = self._look()
        self._complaints = len(guest.machine.console.events)
        self._tests: list[str] = []
        self._ends: list[int] = []  # jiffies, of each test
        self._last_end = time.monotonic()
        self._told: set[tuple[int, int]] = set()
        self.detector = guest.run(["test", "-e", kmemleak.FILE], check=False).exit_code == 0

    @property
    def last_test(self) -> str:
        """The test after which the guest was looked at last."""
        return self._tests[-1] if self._tests else ""

    def _look(self) -> State:
        return parse_state(self.guest.run(_LOOK).stdout)

    def after(self, test: str, expected: Collection[Sign] = ()) -> None:
        """Look at the guest after a test. Raises DirtyGuest: what it left behind, or what the kernel said.

        expected: complaints that it provokes.

        Raises GuestError: the guest died.
        """
        console = self.guest.machine.console
        # All that the kernel printed before has been read once this line has. A test's name may hold anything.
        marker = f"harness: end {len(self._tests) + 1} of " + re.sub(
            r"[^\w:./\[\]-]", "_", test, flags=re.ASCII
        )
        state = parse_state(self.guest.run(f"{_LOOK}; echo '{marker}' > /dev/console").stdout)
        console.wait(marker, _LINE_SECONDS * self.guest.machine.slowdown)
        self._tests.append(test)
        self._ends.append(state.jiffies)
        self._last_end = time.monotonic()
        found = [
            f"{kind} left behind: {name}"
            for kind, names in state.things.items()
            for name in sorted(names - self._first.things[kind])
        ]
        found += [
            f"{kind} gone: {name}"
            for kind, names in self._first.things.items()
            for name in sorted(names - state.things[kind])
        ]
        if state.taint & ~self._first.taint:
            found.append(f"the kernel is tainted: {state.taint:#x}, at boot {self._first.taint:#x}")
        events = console.events
        said = events[self._complaints :]
        complaints = [e for e in said if e.sign.complaint and e.sign not in expected]
        self._complaints = len(events)
        found += [f"the kernel complains:\n{console.decoded(event.text)}" for event in complaints]
        if found:
            raise DirtyGuest("\n".join(found), log=self.guest.machine.console_log)

    def leaks(self) -> dict[str, list[Leak]]:
        """What was leaked and not told before, by test; "" is the time before the first test.

        What the last test allocated becomes old enough first. Raises CommandError: kmemleak has switched itself off.
        GuestError.
        """
        if not self.detector:
            return {}
        self.guest.run(["sleep", f"{max(0.0, kmemleak.MIN_AGE - (time.monotonic() - self._last_end)):.1f}"])
        found: dict[str, list[Leak]] = {}
        for leak in kmemleak.scan(self.guest):
            if (leak.address, leak.jiffies) not in self._told:
                self._told.add((leak.address, leak.jiffies))
                found.setdefault(self._test_at(leak.jiffies), []).append(leak)
        return found

    def _test_at(self, jiffies: int) -> str:
        """Whose time it was: of the first test that ended at that time or later."""
        if jiffies < self._first.jiffies or not self._tests:
            return ""
        return self._tests[min(bisect.bisect_left(self._ends, jiffies), len(self._tests) - 1)]


def describe(leaks: list[Leak]) -> str:
    """For a report: the objects as the kernel shows them, the first five in full."""
    shown = "".join(leak.text for leak in leaks[:5])
    more = f"and {len(leaks) - 5} more\n" if len(leaks) > 5 else ""
    count = "an object" if len(leaks) == 1 else f"{len(leaks)} objects"
    return f"kmemleak: {count} leaked\n{shown}{more}"
