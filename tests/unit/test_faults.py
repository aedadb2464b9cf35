"""Aiming: which allocation fails next, given what was counted before."""

from __future__ import annotations

import re
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from harness.errors import MeasurementError
from harness.faults import Faults


class Kernel:
    """should_fail() of lib/fault-inject.c, for commands that allocate as often as their name says."""

    def __init__(self) -> None:
        self.count = 0
        self.memory = ""
        self.hits: list[int] = []
        self.printed = ""
        self.machine = SimpleNamespace(console=Mock(position=0, death=None), slowdown=1.0)
        self.machine.console.since.side_effect = lambda _: self.printed

    def run(self, command: str | list[str], **_: object) -> SimpleNamespace:
        text = command if isinstance(command, str) else " ".join(command)
        if "make-it-fail" not in text:
            if "fail-nth" in text:
                return SimpleNamespace(stdout="", exit_code=1)
            if text.startswith("cat /run/"):
                return SimpleNamespace(stdout=self.memory, exit_code=0)
            if "/run/" in text:
                self.memory = text.partition("/run/harness-failslab ")[2]
            return SimpleNamespace(stdout="", exit_code=0)
        interval = int(re.search(r"echo (\d+) > \S+/interval", text)[1])  # type: ignore[index]
        endless = "while :" in text
        allocations = 10**6 if endless else int(re.search(r"allocate (\d+)", text)[1])  # type: ignore[index]
        hit = self._allocate(allocations, interval)
        self.printed = (
            f"FAULT_INJECTION: forcing a failure\n [<ffffffff810b94dc>] f{hit}+0x2/0x4\n" if hit else ""
        )
        return SimpleNamespace(stdout=f"\nleft {0 if hit else 1}\n", stderr="", exit_code=int(bool(hit)))

    def _allocate(self, times: int, interval: int) -> int:
        for n in range(1, times + 1):
            if interval > 1:
                self.count += 1
                if self.count % interval:
                    continue
            return n
        return 0


def test_each_allocation_in_turn_also_after_a_command_that_made_fewer() -> None:
    kernel = Kernel()
    with Faults(kernel) as faults:  # type: ignore[arg-type]
        for command in (3, 7, 1):
            for n in range(1, command + 1):
                attempt = faults.nth(n, f"allocate {command}")
                assert (attempt.hit, attempt.functions) == (True, (f"f{n}",))
            assert not faults.nth(command + 1, f"allocate {command}").hit
    with Faults(kernel) as faults:  # type: ignore[arg-type]
        assert faults.nth(5, "allocate 9").functions == ("f5",), "what was counted is remembered in the guest"


class NewKernel(Kernel):
    """One that takes a task's number."""

    def run(self, command: str | list[str], **_: object) -> SimpleNamespace:
        text = command if isinstance(command, str) else " ".join(command)
        found = re.search(r"echo (\d+) > /proc/self/fail-nth .*allocate (\d+)", text)
        if found is None:
            return SimpleNamespace(stdout="", exit_code=0)
        n, allocations = int(found[1]), int(found[2])
        hit = n <= allocations
        self.printed = f"FAULT_INJECTION: forcing a failure\n f{n}+0x2/0x4\n" if hit else "nothing\n"
        return SimpleNamespace(stdout=f"\nleft {0 if hit else 1}\n", stderr="", exit_code=int(hit))


def test_a_kernel_that_takes_a_tasks_number() -> None:
    kernel = NewKernel()
    with Faults(kernel) as faults:  # type: ignore[arg-type]
        for n in (1, 3, 2):
            attempt = faults.nth(n, "allocate 3")
            assert (attempt.hit, attempt.functions) == (True, (f"f{n}",))
        assert not faults.nth(4, "allocate 3").hit


def test_a_kernel_without_fault_injection() -> None:
    guest = Kernel()
    guest.run = lambda *_, **__: SimpleNamespace(stdout="", stderr="no such file", exit_code=99)  # type: ignore[method-assign]
    with Faults(guest) as faults, pytest.raises(MeasurementError, match="no such file"):  # type: ignore[arg-type]
        faults.nth(1, "allocate 1")
