"""What tests of the contract share: refusals with the kernel's words, a lower device that keeps what it is given."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

from harness import patience
from harness.dm import Device, Ioband, Linear, sectors
from harness.errors import CommandError
from harness.guest import Guest

DISK = "/dev/vda"
BLOCK = 4096

# Where a submitter sleeps whom the target makes wait.
IN_TARGET = "ioband_"

_marks = itertools.count(1)

T = TypeVar("T")


class KernelLog:
    """What the kernel says within the context: ``text`` is its log, without time stamps, from there on."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._mark = f"contract test: mark {next(_marks)}"

    def __enter__(self) -> KernelLog:
        self.guest.run(f"echo '{self._mark}' > /dev/kmsg")
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    @property
    def text(self) -> str:
        """Without the mark itself."""
        lines = self.guest.run(["dmesg"]).stdout.splitlines()
        first = max(i for i, line in enumerate(lines) if line.endswith(self._mark))
        return "\n".join(line.partition("] ")[2] for line in lines[first + 1 :])


@contextlib.contextmanager
def refused(errno_name: str) -> Iterator[None]:
    """What is done inside fails with this errno."""
    with pytest.raises(CommandError) as caught:
        yield
    assert caught.value.errno_name == errno_name, str(caught.value)


def by_row(table: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Parameters for one test of each set of rows: of the lines (rows, what, ...), those that name the same rows."""
    found: dict[tuple[str, ...], list[list[Any]]] = {}
    for rows, *case in table:
        found.setdefault(tuple(rows), []).append(case)
    return [pytest.param(some, marks=pytest.mark.contract(*rows), id=rows[0]) for rows, some in found.items()]


def shown(device: Ioband) -> str:
    """Its table from the share on."""
    return " ".join(device.raw_table().split()[4:])


@contextlib.contextmanager
def devices(guest: Guest, length: int) -> Iterator[Callable[..., Ioband]]:
    """``make(line, name)``: a device of a line after the word `ioband`. Those that are still there at the end are
    removed, the last first.
    """
    names: set[str] = set()
    with contextlib.ExitStack() as stack:

        def make(line: str, name: str = "d", length: int = length) -> Ioband:
            device = Ioband(guest, name)
            if name not in names:
                names.add(name)
                stack.enter_context(device)
            return device.create(f"0 {length} ioband {line}")

        yield make


@contextlib.contextmanager
def plain_scheduler(guest: Guest, disk: str) -> Iterator[None]:
    """On a disk, for a while: first come, first served, whatever the kernel calls it. CFQ would wait for more from each
    process in turn.
    """
    path = f"/sys/block/{disk.removeprefix('/dev/')}/queue/scheduler"
    words = guest.run(["cat", path]).stdout.split()
    before = next(word.strip("[]") for word in words if word.startswith("["))
    plain = next(word.strip("[]") for word in words if word.strip("[]") in ("noop", "none"))
    guest.run(["sh", "-c", 'echo $0 >"$1"', plain, path])
    try:
        yield
    finally:
        if guest.machine.console.death is None:
            guest.run(["sh", "-c", 'echo $0 >"$1"', before, path])


def stat_file(device: Device) -> str:
    """Where its `Counters` are."""
    minor = device.guest.run(["dmsetup", "info", "-c", "--noheadings", "-o", "minor", device.name]).stdout
    return f"/sys/block/dm-{minor.strip()}/stat"


@dataclass(frozen=True)
class Counters:
    """/sys/block/*/stat of one device, as Documentation/iostats.txt numbers them; sectors of 512 bytes.

    A device of dm counts bios when they arrive. A disk's sectors are exact; its I/Os are not, nor its merges: those of
    two requests into one are not counted.
    """

    reads: int
    read_sectors: int
    writes: int
    write_sectors: int
    in_flight: int

    @classmethod
    def parse(cls, text: str) -> Self:
        words = [int(word) for word in text.split()]
        return cls(words[0], words[2], words[4], words[6], words[8])

    @property
    def ios(self) -> int:
        """Read and written."""
        return self.reads + self.writes

    @property
    def sectors(self) -> int:
        """Read and written."""
        return self.read_sectors + self.write_sectors

    def __sub__(self, other: Counters) -> Counters:
        mine, others = dataclasses.astuple(self), dataclasses.astuple(other)
        return Counters(*(now - before for now, before in zip(mine, others, strict=True)))


class Lower(Linear):
    """A dm-linear between the disk and what is tested. It counts what arrives, and can keep it. A context manager.

    What it is sent it passes on to ``below``, a dm-linear as well. While that is suspended everything stays in flight:
    nothing completes until ``release``. Two of them, because whether a device counts what comes while it is suspended
    differs from kernel to kernel.
    """

    def __init__(self, guest: Guest, disk: str = DISK, name: str = "low") -> None:
        super().__init__(guest, name)
        self.disk = disk
        self.below = Linear(guest, f"{name}-below")

    def __enter__(self) -> Self:
        self.length = sectors(self.guest, self.disk)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.below).create([(self.disk, 0, self.length)])
            self.create([(self.below.path, 0, self.length)])
            self.stat = stat_file(self)
            self._made = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._made:
            super().__exit__(kind, error, trace)

    def io(self) -> Counters:
        """What has arrived since it was made."""
        return Counters.parse(self.guest.run(["cat", self.stat]).stdout)

    def hold(self) -> None:
        """Keep what arrives from now on; what is in flight ends first."""
        self.guest.run(["dmsetup", "suspend", "--nolockfs", self.below.name])

    def release(self) -> None:
        """Pass on what was kept, and all that comes."""
        self.below.resume()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Inside, what arrives stays in flight."""
        self.hold()
        try:
            yield
        finally:
            self.release()


class Submitters:
    """Processes of the guest that submit one bio each and wait for it; a context manager, which ends with them.

    waits: the kernel's functions, or how their names begin, in which it waits for what has been submitted. In D a
    process may also be for a moment that has nothing to do with its I/O: for a page to be read, a lock, a child that it
    made with vfork.
    What holds them up has to end inside the context.
    """

    def __init__(self, guest: Guest, waits: tuple[str, ...]) -> None:
        self.guest = guest
        self._waits = (IN_TARGET, *waits)
        self._pool = ThreadPoolExecutor(max_workers=32)
        self._futures: list[Future[object]] = []
        self._folders: list[str] = []

    def __enter__(self) -> Submitters:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wait()
        self._pool.shutdown()
        self.guest.run(["rm", "-rf", *self._folders])

    def start(self, device: str, count: int, *, uid: int = 0, write: bool = False) -> list[int]:
        """``count`` processes of a user, each with a direct I/O of one block of its own; as `run`."""
        self.guest.run(["chmod", "666", device])
        if write:
            job = f"dd if=/dev/zero of={device} seek={{}} oflag=direct conv=notrunc bs={BLOCK} count=1"
        else:
            job = f"dd if={device} of=/dev/null skip={{}} iflag=direct bs={BLOCK} count=1"
        return self.run([f"chpst -u {uid}:{uid} {job.format(i)}" for i in range(count)])

    def run(self, jobs: Sequence[str]) -> list[int]:
        """Start a process for each command; their ids, once each of them waits in the kernel or has ended.

        They end with exit code 0, or `wait` raises CommandError.
        """
        folder = self.guest.run(["mktemp", "-d"]).stdout.strip()
        self._folders.append(folder)
        started = "".join(f"{job} 2>> {folder}/said &\necho $! >> {folder}/started\n" for job in jobs)
        script = (
            f"{started}mv {folder}/started {folder}/pids\n"
            f"code=0; for p in $(cat {folder}/pids); do wait $p || code=$?; done\n"
            f"[ $code = 0 ] || cat {folder}/said >&2; exit $code"
        )
        self._futures.append(self._pool.submit(self.guest.run, script, timeout=120))
        until(
            self.guest,
            lambda: self.guest.run(["test", "-e", f"{folder}/pids"], check=False).exit_code,
            "the processes have started",
            lambda code: code == 0,
        )
        pids = [int(p) for p in self.guest.run(["cat", f"{folder}/pids"]).stdout.split()]
        self.settled(pids)
        return pids

    def where(self, pids: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Each process's state (R, S, D, Z, or X once it is gone) and the kernel's function that it sleeps in."""
        script = (
            f"for p in {' '.join(map(str, pids))}; do s=$(cut -d' ' -f3 /proc/$p/stat 2>/dev/null)\n"
            "echo $p ${s:-X} $(cat /proc/$p/wchan 2>/dev/null); done"
        )
        told = [line.split() for line in self.guest.run(script).stdout.splitlines()]
        return {int(pid): (state, function[0] if function else "") for pid, state, *function in told}

    def settled(self, pids: Sequence[int]) -> dict[int, tuple[str, str]]:
        """`where`, once each process waits for I/O in the kernel or has ended."""
        return until(
            self.guest,
            lambda: self.where(pids),
            "each process waits for its I/O or has ended",
            lambda told: all(
                state in "XZ" or (state == "D" and function.startswith(self._waits))
                for state, function in told.values()
            ),
        )

    def made_to_wait(self, pids: Sequence[int]) -> int:
        """How many sleep in the target because no more bios may be parked, once all are settled."""
        return held_up(self.settled(pids))

    def background(self, *argv: str) -> None:
        """Run a command that waits for something, beside the test."""
        self._futures.append(self._pool.submit(self.guest.run, argv, timeout=120))

    def wait(self) -> None:
        """Until all have ended. Raises CommandError for one that failed."""
        futures, self._futures = self._futures, []
        for future in futures:
            future.result()


def held_up(told: Mapping[int, tuple[str, str]]) -> int:
    """How many processes sleep in the target."""
    return sum(state == "D" and function.startswith(IN_TARGET) for state, function in told.values())


def until(guest: Guest, look: Callable[[], T], what: str, enough: Callable[[T], bool] = bool) -> T:
    """Look at the guest until it is as it should be; what was seen then. For states that the kernel tells nobody of.

    what: in words. enough: of what is seen. Fails, with what was seen last, when it does not come.
    """
    return patience.until(
        guest, look, lambda seen: AssertionError(f"did not come: {what}; it is {seen}"), enough
    )
