"""What tests of the contract share: refusals with the kernel's words, a lower device that keeps what it is given."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
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

    def start(self, device: str, count: int, *, uid: int = 0, write: bool = False, first: int = 0) -> list[int]:
        """Start ``count`` processes of a user, each with a direct I/O of one block, from block ``first`` on; their ids.

        Returns once each of them waits in the kernel or has ended.
        """
        folder = self.guest.run(["mktemp", "-d"]).stdout.strip()
        self._folders.append(folder)
        if write:
            job = f"dd if=/dev/zero of={device} seek=$i oflag=direct conv=notrunc"
        else:
            job = f"dd if={device} of=/dev/null skip=$i iflag=direct"
        script = (
            f"for i in $(seq {first} {first + count - 1}); do\n"
            f"chpst -u {uid}:{uid} {job} bs={BLOCK} count=1 2> {folder}/$i &\n"
            f"echo $! >> {folder}/pids.new\ndone\nmv {folder}/pids.new {folder}/pids\nwait\n"
        )
        self.guest.run(["chmod", "666", device])
        self._futures.append(self._pool.submit(self.guest.run, script, timeout=300))
        until(self.guest, f"test -e {folder}/pids", "")
        pids = [int(p) for p in self.guest.run(["cat", f"{folder}/pids"]).stdout.split()]
        self.settled(pids)
        return pids

    def settled(self, pids: Sequence[int]) -> dict[int, str]:
        """Wait until each process sleeps in the kernel or has ended; where each sleeps, "" if it has ended."""
        names = " ".join(map(str, pids))
        script = (
            f"for p in {names}; do s=$(cut -d' ' -f3 /proc/$p/stat 2>/dev/null); w=$(cat /proc/$p/wchan 2>/dev/null)\n"
            "echo $p ${s:-X} $w; done"
        )
        deadline = time.monotonic() + 60 * self.guest.machine.slowdown
        while True:
            told = [line.split() for line in self.guest.run(script).stdout.splitlines()]
            if all(state in "DXZ" for _, state, *_ in told):
                return {int(pid): where[0] if state == "D" and where else "" for pid, state, *where in told}
            assert time.monotonic() < deadline, f"some process neither waits for its I/O nor ends: {told}"
            time.sleep(0.05)

    def made_to_wait(self, pids: Sequence[int]) -> int:
        """How many sleep in the target because their group may not park more bios."""
        return sum(where.startswith("ioband_") for where in self.settled(pids).values())

    def wait(self) -> None:
        """Until all have ended."""
        for future in self._futures:
            future.result()
        self._futures.clear()


def until(guest: Guest, command: str, what: str) -> None:
    """Wait until a command of the guest's shell succeeds."""
    deadline = time.monotonic() + 60 * guest.machine.slowdown
    while guest.run(command, check=False).exit_code != 0:
        assert time.monotonic() < deadline, f"never came true: {what or command}"
        time.sleep(0.02)
