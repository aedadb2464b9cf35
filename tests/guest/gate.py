"""An ioband device over a gate: what it lets down, what it parks, and what became of every single I/O.

The gate is a device below the ioband device. When it is closed it keeps all that reaches it, so that nothing completes
and what is parked above stays parked for as long as a test wants. Above the ioband device there is a linear one, to
which all I/O goes: it counts what comes, while the ioband device may count what it lets through only.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from lab import Counters, Lower, plain_scheduler, stat_file, until

from harness import fio
from harness.dm import Device, GroupCounters, Ioband, Linear, TableLine
from harness.errors import CommandError
from harness.guest import Completed, Guest

LOWER = "/dev/sda"
"""scsi_debug: a disk in memory whose I/Os complete a jiffy later, with a write cache, 8 MB."""

DELAY = "/sys/bus/pseudo/drivers/scsi_debug/delay"
BLOCK = 4096
SECTORS = BLOCK // 512


def total(groups: dict[int, GroupCounters]) -> int:
    """I/Os let through for all groups of one status."""
    return sum(g.reads + g.writes for g in groups.values())


@dataclass(frozen=True)
class Level:
    """How the I/Os stand. arrived: at the device above; passed: at the gate. pending: arrived and not completed."""

    arrived: int
    passed: int
    pending: int

    @property
    def above(self) -> int:
        """I/Os that have not gone down: parked, deferred, or asleep in the driver."""
        return self.arrived - self.passed


class Load:
    """A fio process in the guest, in the background."""

    def __init__(self, guest: Guest, name: str, future: Future[Completed]) -> None:
        self.guest = guest
        self.name = name
        self._future = future

    @property
    def done(self) -> bool:
        return self._future.done()

    def result(self) -> fio.Result:
        """Wait for it. Raises CommandError: fio failed, which includes a block that is not what was written."""
        self._future.result()
        return fio.Result.parse(self.guest.run(["cat", f"/tmp/{self.name}.json"]).stdout)

    def errors(self) -> dict[str, int]:
        """Wait for it, whether it succeeds or not: errno by job, 0 for none."""
        with contextlib.suppress(CommandError):
            self._future.result()
        text = self.guest.run(["cat", f"/tmp/{self.name}.json"]).stdout
        return {job["jobname"]: job["error"] for job in json.loads(text[text.index("{") :])["jobs"]}


@contextlib.contextmanager
def slow_disk(guest: Guest, jiffies: int) -> Iterator[None]:
    """The lower disk takes so many jiffies for a command. It may not let that be changed while it has any to do."""

    def take(delay: str) -> None:
        guest.run(f"until echo {delay} 2>/dev/null >{DELAY}; do usleep 1000; done")

    before = guest.run(["cat", DELAY]).stdout.strip()
    take(str(jiffies))
    try:
        yield
    finally:
        if guest.machine.console.death is None:
            take(before)


class Scene:
    """A device ``front`` over an ioband device ``band`` over ``gate`` over the lower disk.

    path: where I/O goes, that of ``front``.
    """

    def __init__(
        self, guest: Guest, gate: Lower, band: Ioband, front: Device, pool: ThreadPoolExecutor
    ) -> None:
        self.guest = guest
        self.gate = gate
        self.band = band
        self.path = front.path
        self.pool = pool
        self.length = gate.length
        self.front_stat = stat_file(front)
        self._lower_stat = f"/sys/block/{LOWER.removeprefix('/dev/')}/stat"
        self._lower_start = self.lower().sectors

    # ---- counting

    def level(self) -> Level:
        """Of now; exact while nothing moves."""
        text = self.guest.run(["cat", self.front_stat, self.gate.stat]).stdout.splitlines()
        front, gate = (Counters.parse(line) for line in text)
        return Level(front.ios, gate.ios, front.in_flight)

    def lower(self) -> Counters:
        """The disk's own."""
        return Counters.parse(self.guest.run(["cat", self._lower_stat]).stdout)

    def lower_sectors(self) -> int:
        """What the disk has read and written since the scene was set."""
        return self.lower().sectors - self._lower_start

    def wait(self, what: str, **wanted: int) -> Level:
        """Wait until the level has these values (arrived, passed, pending, above); fails when it does not come."""
        return until(
            self.guest,
            self.level,
            f"{what}, {wanted}",
            lambda level: all(getattr(level, key) == value for key, value in wanted.items()),
        )

    def wait_asleep(self, command: str, function: str) -> None:
        """Wait until the process of that name sleeps in that function of the kernel (/proc/PID/wchan)."""
        script = 'for pid in $(pidof "$0"); do cat /proc/$pid/wchan; done'
        until(
            self.guest,
            lambda: self.guest.run(["sh", "-c", script, command], check=False).stdout,
            f"{command} sleeps in {function}",
            lambda where: function in where,
        )

    # ---- driving

    def close(self) -> None:
        """Close the gate: once what is in flight below has ended, nothing more gets through."""
        self.gate.hold()

    def open(self) -> None:
        """Let through what has gathered, and all that comes."""
        self.gate.release()

    def load(self, name: str, jobs: Sequence[fio.Job], prefix: Sequence[str] = ()) -> Load:
        """Start a fio process."""
        job_file = f"/tmp/{name}.fio"
        self.guest.put(fio.render(jobs).encode(), job_file)
        argv = [*prefix, "fio", "--output-format=json", f"--output=/tmp/{name}.json", job_file]
        return Load(self.guest, name, self.pool.submit(self.guest.run, argv, timeout=120))

    def background(self, *argv: str) -> Future[Completed]:
        """Run a command that waits for I/O."""
        return self.pool.submit(self.guest.run, list(argv))

    def table(self, **changes: object) -> TableLine:
        """The table of ``band`` with some things changed."""
        fields = {"length": self.length, "device": self.gate.path, "share": "s", **changes}
        return TableLine(**fields)  # type: ignore[arg-type]


@contextlib.contextmanager
def scene(guest: Guest, *, counted: bool = True, **table: object) -> Iterator[Scene]:
    """Set the scene; ``table``: fields of the ioband table. Leaves nothing behind, whatever is parked or closed.

    counted: else there is no device above, and I/O goes to the ioband device itself.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(plain_scheduler(guest, LOWER))
        gate = stack.enter_context(Lower(guest, LOWER, "gate"))
        line = TableLine(length=gate.length, device=gate.path, **{"share": "s", **table})  # type: ignore[arg-type]
        band = stack.enter_context(Ioband(guest, "band").create(line))
        front: Device = band
        if counted:
            front = stack.enter_context(Linear(guest, "front").create([(band.path, 0, gate.length)]))
        guest.run(["chmod", "666", front.path])
        pool = stack.enter_context(ThreadPoolExecutor(8, thread_name_prefix="load"))
        made = Scene(guest, gate, band, front, pool)
        stack.callback(_let_go, made)
        yield made


def _let_go(made: Scene) -> None:
    """After a failure: whatever still waits in the guest must end, or the pool would never."""
    if made.guest.machine.console.death is not None:
        return
    for device in (made.gate.below, made.band):
        if device.exists():
            device.resume()
