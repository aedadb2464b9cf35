"""Failures on demand: the n-th allocation of a command fails, and who made it is known.

Of the kernel's fault injection (Documentation/fault-injection) 2.6.31 on x86-64 has no filter by call trace. What aims
is the filter by task (a command's own allocations only) and the interval: an attempt is counted, and those fail whose
number the interval divides. The count cannot be read or set, but with an interval above it the next one that fails is
the interval itself, so that it stays known. Since 4.12 a task can be told the number of its own that fails.
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
_FILTER = "/proc/self/make-it-fail"
_NTH = "/proc/self/fail-nth"
# How many allocations a program makes until it gets to its first system call depends on where its memory lies.
_RANDOM = "/proc/sys/kernel/randomize_va_space"
# A page fault that gets no memory ends with a process killed. Let it be the command, whose fault it is: by themselves
# older kernels take whichever looks largest, and of its children. The second file is of kernels before 2.6.36.
_VICTIM = "{ echo 1000 > /proc/self/oom_score_adj || echo 15 > /proc/self/oom_adj; } 2>/dev/null"
# Above every order of pages.
_NEVER = 99
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
        self._by_task = False
        self._random = ""

    def __enter__(self) -> Self:
        self._set(**self._settings)
        self._random = self.guest.run(f"cat {_RANDOM} && echo 0 > {_RANDOM}").stdout.strip()
        self._by_task = self.guest.run(["test", "-e", _NTH], check=False).exit_code == 0
        if self._by_task:
            self._spare_others("Y", _NEVER)
        known = self.guest.run(f"cat {self._memory} 2>/dev/null", check=False).stdout.split()
        self._count, self._exact = (int(known[0]), known[1] == "exact") if known else (0, True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.guest.machine.console.death is None:
            if self._by_task:
                self._spare_others("N", 1)
            self._set(probability=0, **{"task-filter": "N"})
            self.guest.run(f"echo {self._random} > {_RANDOM}")
            known = "exact" if self._exact else "at most"
            self.guest.run(["sh", "-c", 'echo "$1" > "$0"', self._memory, f"{self._count} {known}"])

    def _set(self, **values: int | str) -> None:
        self.guest.run(" && ".join(f"echo {value} > {self._folder}/{file}" for file, value in values.items()))

    def _spare_others(self, cache_filter: str, min_order: int) -> None:
        """A task's number counts allocations of every kind: let those of the other kind not count, or count again."""
        if self._kind == "failslab":
            self.guest.run(f"echo {min_order} > {FOLDER}/fail_page_alloc/min-order")
        else:
            self.guest.run(f"echo {cache_filter} > {FOLDER}/failslab/cache-filter")

    def nth(self, n: int, command: str) -> Attempt:
        """Run a command of the guest's shell whose n-th allocation, from 1, fails. Raises CommandError, GuestError.

        The command is the shell's own, or begins with ``exec``: other processes' allocations may not be counted.
        """
        if self._by_task:
            return self._attempt(f"echo {n} > {_NTH}", command)
        if not self._exact:
            self._count_exactly()
        attempt = self._by_interval(self._count + n, command)
        if self._count + n > 1:  # with an interval of 1 nothing is counted
            self._count += n
            self._exact = attempt.hit
        return attempt

    def _count_exactly(self) -> None:
        """Allocate, and nothing else, until it fails, which ends the subshell."""
        if self._kind == "failslab":
            hit = self._by_interval(self._count + 1, "while :; do : < /dev/null; done").hit
        else:  # the stack of a new process, two pages: no other page may fail, lest memory count as exhausted
            before = self.guest.run(["cat", f"{self._folder}/min-order"]).stdout.strip()
            self._set(**{"min-order": 1})
            hit = self._by_interval(self._count + 1, "while :; do (:); done").hit
            self._set(**{"min-order": before})
        if not hit:
            raise MeasurementError(f"no allocation can be made to fail through {self._folder}")
        self._count, self._exact = self._count + 1, True

    def _by_interval(self, interval: int, command: str) -> Attempt:
        return self._attempt(f"echo {interval} > {self._folder}/interval && echo 1 > {_FILTER}", command)

    def _attempt(self, aim: str, command: str) -> Attempt:
        """aim: makes the shell's own allocations count. Those that say __GFP_NOWARN fail without a trace."""
        console = self.guest.machine.console
        start, marker = console.position, f"harness: attempt {next(_numbers)} is over"
        times = f"{self._folder}/times"
        done = self.guest.run(
            f"(echo 1 > {times} && {_VICTIM} && {aim} || exit 99; {command})\ncode=$?\n"
            f"echo; echo left $(cat {times}); echo 0 > {times}\n"
            f"echo '{marker}' > /dev/console; exit $code",
            check=False,
        )
        left = re.search(r"^left (\d)\n\Z", done.stdout, re.MULTILINE)
        if left is None:
            raise MeasurementError(f"{self._folder} is not usable: {done.stderr or done.stdout}")
        console.wait(marker, _TRACE_SECONDS * self.guest.machine.slowdown)
        trace = console.since(start).partition(_FORCED)[2].partition(marker)[0]
        return Attempt(left[1] == "0", done.exit_code, done.stderr, trace)
