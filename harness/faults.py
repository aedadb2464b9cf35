"""Failures on demand: the n-th allocation of a command fails, and who made it is known.

Of the kernel's fault injection (Documentation/fault-injection) 2.6.31 on x86-64 has no filter by call trace. What aims
is the filter by task (a command's own allocations only) and the interval: an attempt is counted, and those fail whose
number the interval divides. The count cannot be read or set, but with an interval above it the next one that fails is
the interval itself, so that it stays known.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from harness import oops
from harness.errnos import errno_name
from harness.errors import MeasurementError
from harness.guest import Guest

Kind = Literal["failslab", "fail_page_alloc"]

FOLDER = "/sys/kernel/debug"
# Since 4.17 before the name of a system call that takes its arguments from x86-64's registers.
_ENTRY = "__x64_"
_FORCED = "FAULT_INJECTION: forcing a failure"
# Seconds for a call trace to get through the serial port, on the reference host.
_TRACE_SECONDS = 10.0
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Attempt:
    """A command, one of whose allocations was to fail.

    hit: whether it came to that; else it made fewer of them. trace: of the allocation. functions: in the trace,
    innermost first; what is inlined is not named.
    """

    hit: bool
    exit_code: int
    stderr: str
    trace: str

    @property
    def errno_name(self) -> str | None:
        """What the command said."""
        return errno_name(self.stderr)

    @property
    def functions(self) -> tuple[str, ...]:
        """From the allocator to the system call, which is called ``sys_read``, say, on every kernel."""
        return tuple(name.removeprefix(_ENTRY) for name in oops.callers(self.trace))


class Faults:
    """One kind of failure, under control. A context manager: nothing fails outside it.

    options: other files of the kind's folder, as they are to be set: ``min_order=1``.
    """

    def __init__(self, guest: Guest, kind: Kind = "failslab", **options: int | str) -> None:
        self.guest = guest
        self._kind = kind
        self._folder = f"{FOLDER}/{kind}"
        self._memory = f"/run/harness-{kind}"
        self._settings: dict[str, int | str] = {
            "times": 0,
            "task-filter": "Y",
            "space": 0,
            "verbose": 2,
            "ignore-gfp-wait": "N",
            **{name.replace("_", "-"): value for name, value in options.items()},
            "probability": 100,
        }
        self._count = 0
        self._exact = True

    def __enter__(self) -> Self:
        self._set(**self._settings)
        known = self.guest.run(f"cat {self._memory} 2>/dev/null", check=False).stdout.split()
        self._count, self._exact = (int(known[0]), known[1] == "exact") if known else (0, True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.guest.machine.console.death is None:
            self._set(probability=0, **{"task-filter": "N"})
            known = "exact" if self._exact else "at most"
            self.guest.run(["sh", "-c", 'echo "$1" > "$0"', self._memory, f"{self._count} {known}"])

    def _set(self, **values: int | str) -> None:
        self.guest.run(" && ".join(f"echo {value} > {self._folder}/{file}" for file, value in values.items()))

    def nth(self, n: int, command: str) -> Attempt:
        """Run a command of the guest's shell whose n-th allocation, from 1, fails. Raises CommandError, GuestError."""
        if not self._exact:
            self._count_exactly()
        attempt = self._attempt(self._count + n, command)
        if self._count + n > 1:  # with an interval of 1 nothing is counted
            self._count += n
            self._exact = attempt.hit
        return attempt

    def _count_exactly(self) -> None:
        """Allocate, and nothing else, until it fails, which ends the subshell."""
        if self._kind == "failslab":
            hit = self._attempt(self._count + 1, "while :; do : < /dev/null; done").hit
        else:  # the stack of a new process, two pages: no other page may fail, lest memory count as exhausted
            before = self.guest.run(["cat", f"{self._folder}/min-order"]).stdout.strip()
            self._set(**{"min-order": 1})
            hit = self._attempt(self._count + 1, "while :; do (:); done").hit
            self._set(**{"min-order": before})
        if not hit:
            raise MeasurementError(f"no allocation can be made to fail through {self._folder}")
        self._count, self._exact = self._count + 1, True

    def _attempt(self, interval: int, command: str) -> Attempt:
        console = self.guest.machine.console
        start, marker = console.position, f"harness: attempt {next(_numbers)} is over"
        done = self.guest.run(
            f"cd {self._folder} && echo {interval} > interval && echo 1 > times && cd / || exit 99\n"
            f"(echo 1 > /proc/self/make-it-fail; {command})\ncode=$?\n"
            f"echo; echo left $(cat {self._folder}/times); echo 0 > {self._folder}/times\n"
            f"echo '{marker}' > /dev/console; exit $code",
            check=False,
        )
        left = re.search(r"^left (\d)\n\Z", done.stdout, re.MULTILINE)
        if left is None:
            raise MeasurementError(f"{self._folder} is not usable: {done.stderr or done.stdout}")
        console.wait(marker, _TRACE_SECONDS * self.guest.machine.slowdown)
        trace = console.since(start).partition(_FORCED)[2]
        return Attempt(left[1] == "0", done.exit_code, done.stderr, trace.partition(marker)[0])
