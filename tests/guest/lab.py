"""What tests of the contract share: refusals with the kernel's words, a lower device that keeps what it is given."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from harness.dm import Linear, sectors
from harness.errors import CommandError
from harness.guest import Guest

DISK = "/dev/vda"
BLOCK = 4096

_marks = itertools.count(1)


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


@dataclass(frozen=True)
class Io:
    """What arrived at a block device: bios, and sectors of 512 bytes."""

    reads: int
    read_sectors: int
    writes: int
    write_sectors: int

    def __sub__(self, other: Io) -> Io:
        return Io(
            self.reads - other.reads,
            self.read_sectors - other.read_sectors,
            self.writes - other.writes,
            self.write_sectors - other.write_sectors,
        )


class Lower(Linear):
    """A dm-linear between the disk and what is tested. It counts what arrives, and can keep it.

    While it is suspended, whatever it is sent stays in flight: nothing completes until ``resume``. Its counters
    are those of dm, which counts a bio when it arrives, kept or not.
    """

    def __init__(self, guest: Guest, disk: str = DISK, name: str = "low") -> None:
        super().__init__(guest, name)
        self.disk = disk

    def __enter__(self) -> Lower:
        self.length = sectors(self.guest, self.disk)
        self.create([(self.disk, 0, self.length)])
        minor = self.guest.run(
            ["dmsetup", "info", "-c", "--noheadings", "-o", "minor", self.name]
        ).stdout.strip()
        self.stat = f"/sys/block/dm-{minor}/stat"
        return self

    def io(self) -> Io:
        """What has arrived since it was made."""
        words = [int(w) for w in self.guest.run(["cat", self.stat]).stdout.split()]
        return Io(words[0], words[2], words[4], words[6])

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Inside, what arrives stays in flight."""
        self.suspend()
        try:
            yield
        finally:
            self.resume()


class Submitters:
    """Processes of the guest that submit one bio each and wait for it; a context manager, which ends with them.

    What holds them up has to end inside the context.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
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
        self._futures.append(self._pool.submit(self.guest.run, script, timeout=300))
        until(
            self.guest,
            lambda: self.guest.run(["test", "-e", f"{folder}/pids"], check=False).exit_code == 0,
            "the processes have started",
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
        told: dict[int, tuple[str, str]] = {}

        def asleep() -> bool:
            told.update(self.where(pids))
            return all(state in "DXZ" for state, _ in told.values())

        until(self.guest, asleep, "each process waits for its I/O or has ended")
        return told

    def made_to_wait(self, pids: Sequence[int]) -> int:
        """How many sleep in the target because no more bios may be parked, once all are settled."""
        return held_up(self.settled(pids))

    def background(self, *argv: str) -> None:
        """Run a command that waits for something, beside the test."""
        self._futures.append(self._pool.submit(self.guest.run, argv, timeout=300))

    def wait(self) -> None:
        """Until all have ended. Raises CommandError for one that failed."""
        futures, self._futures = self._futures, []
        for future in futures:
            future.result()


def held_up(told: Mapping[int, tuple[str, str]]) -> int:
    """How many processes sleep in the target."""
    return sum(state == "D" and function.startswith("ioband_") for state, function in told.values())


def until(guest: Guest, told: Callable[[], bool], what: str) -> None:
    """Wait until a function of the test says so."""
    deadline = time.monotonic() + 60 * guest.machine.slowdown
    while not told():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.02)
