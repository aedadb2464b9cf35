"""The guests of the test suite: one at a time is shared by all tests that it fits; a test may have its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from harness import executed
from harness.checkup import Checkup, describe
from harness.errors import CommandError, DirtyGuest, GuestError
from harness.guest import Guest
from harness.kbuild import Build
from harness.machine import INIT, READY, Disk
from harness.oops import Sign
from harness.progress import Progress
from harness.record import MachineRecord, Recorder
from harness.testbed import FLAVOUR, MEMORY_MB, Testbed, build_record

DISK = Disk(name="disk", size_mb=64, iops=1000)
"""The disk of a guest for which nothing else is said: /dev/vda, throttled."""


@dataclass(frozen=True)
class Shape:
    """What a guest of the real clock is made of; the build is the series' in this flavour.

    config: symbols with another value than the flavour and the series give them.
    """

    flavour: str = FLAVOUR
    cpus: int = 1
    memory_mb: int = MEMORY_MB
    append: str = ""
    disks: tuple[Disk, ...] = (DISK,)
    config: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """For folders and the record."""
        return self.flavour if self.cpus == 1 else f"{self.flavour}-{self.cpus}cpus"


Leaked = Callable[[str, str], None]
"""Told of a test that leaked memory, and what; perhaps long after it ended."""


class _Checked(NamedTuple):
    guest: Guest
    checkup: Checkup


class Guests:
    """Boots guests, and keeps the one that is shared. A context manager, whose end ends that one.

    leaked: told of leaks that are found when the test which caused them is over. Where the test is not known,
    its name is empty.
    """

    def __init__(self, testbed: Testbed, recorder: Recorder, progress: Progress, leaked: Leaked) -> None:
        self.testbed = testbed
        self._recorder = recorder
        self._progress = progress
        self._leaked = leaked
        self._count = 0
        self._shape: Shape | None = None
        self._shared: _Checked | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Guests:
        return self

    def __exit__(self, *exc: object) -> None:
        self.discard()

    def build(self, shape: Shape) -> Build:
        """The kernel with the series; made, and recorded, when it is first asked for."""
        return self.testbed.flavour(shape.flavour, self._progress, self._built, dict(shape.config))

    def shared(self, shape: Shape) -> Guest:
        """The shared guest, booted unless there is one of this shape. Raises as `boot` does."""
        if self._shared is None or self._shape != shape:
            self.discard()
            self._shared, self._shape = self._stack.enter_context(self._checked(shape)), shape
        return self._shared.guest

    def check(self, test: str, expected: Collection[Sign] = ()) -> None:
        """Look at the shared guest after a test, which provokes the complaints that are expected.

        Raises DirtyGuest: it is thrown away then. GuestError: it died.
        """
        if self._shared is None:
            return
        try:
            self._shared.checkup.after(test, expected)
        except (DirtyGuest, GuestError):
            self.discard()
            raise

    def discard(self) -> None:
        """End the shared guest, once leaks were looked for: the next who asks gets a new one."""
        shared, self._shared, self._shape = self._shared, None, None
        with self._stack:
            if shared is not None:
                self._look_for_leaks(shared)

    @contextlib.contextmanager
    def own(self, shape: Shape, test: str, expected: Collection[Sign] = ()) -> Iterator[Guest]:
        """A guest for one test, checked as `check` does when the context ends. Raises as `boot` and `check` do."""
        with self._checked(shape) as mine:
            yield mine.guest
            if mine.guest.machine.console.death is None:
                mine.checkup.after(test, expected)
                self._look_for_leaks(mine)

    @contextlib.contextmanager
    def _checked(self, shape: Shape) -> Iterator[_Checked]:
        with self.boot(shape) as guest:
            yield _Checked(guest, Checkup(guest))

    def _look_for_leaks(self, checked: _Checked) -> None:
        if checked.guest.machine.console.death is not None:
            return
        try:
            found = checked.checkup.leaks()
        except (GuestError, CommandError) as e:
            # Whoever comes next has no part in it.
            self._leaked(checked.checkup.last_test, f"while leaks were looked for: {e}")
            return
        for test, leaks in found.items():
            self._leaked(test, describe(leaks))

    @contextlib.contextmanager
    def boot(self, shape: Shape) -> Iterator[Guest]:
        """A guest of one's own; it is recorded, and ends with the context.

        Raises UserError and InfrastructureError: no such flavour, or it does not build. GuestError.
        """
        build = self.build(shape)
        self._count += 1
        name = f"guest-{self._count}-{shape.name}"
        folder = self._recorder.folder / name
        started = datetime.now(UTC)
        with self.testbed.boot(
            folder,
            build,
            disks=shape.disks,
            append=shape.append,
            memory_mb=shape.memory_mb,
            cpus=shape.cpus,
        ) as guest:
            entry = _record(name, guest, build, started)
            with self._recorder.change() as run:
                run.machines.append(entry)
            try:
                yield guest
            finally:
                executed.keep(self._recorder, guest, build, entry, folder)
                with self._recorder.change():
                    entry.wall_seconds = time.monotonic() - guest.machine.started

    def _built(self, build: Build) -> None:
        with self._recorder.change() as run:
            run.builds.append(build_record(build))


def _record(name: str, guest: Guest, build: Build, started: datetime) -> MachineRecord:
    machine = guest.machine
    init, ready = machine.console.seen(INIT), machine.console.seen(READY)
    return MachineRecord(
        id=name,
        role="guest suite",
        argv=list(machine.argv),
        accel=machine.accel,
        clock="real",
        started=started,
        build=build.key,
        seconds_to_init=None if init is None else init - machine.started,
        seconds_to_ready=None if ready is None else ready - machine.started,
        seconds_to_ssh=time.monotonic() - machine.started,
        console=machine.console_log,
    )
