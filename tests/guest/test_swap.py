"""Memory runs out: swapping through an ioband device goes on, however little its group is worth there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from owners import Domain, Pages

from harness import fio
from harness.cgroup import Cgroup, Hierarchy
from harness.dm import Ioband, Linear, TableLine, sectors
from harness.machine import Disk

SWAP_DISK = (Disk(name="swap", size_mb=160),)
# With 96 MiB a 6.1 kernel that checks itself is left 2 of its users' pages: there it kills processes, swap free or not.
MEMORY_MB = 128

pytestmark = [
    pytest.mark.guest,
    pytest.mark.flavours("perf", "debug"),
    pytest.mark.machine(memory_mb=MEMORY_MB, disks=SWAP_DISK),
]

DISK = "/dev/vda"
SWAP_MB = 128
PAGE_KB = 4
# What is used beyond all that is free; so much, and in fact more, must be swapped.
EXCESS_KB = 16 << 10

LOAD = fio.Job(
    name="rich",
    filename="/dev/mapper/data",
    rw="randwrite",
    bs="4k",
    size="24m",
    iodepth=32,
    direct=True,
    verify="crc32c",
    extra={"verify_fatal": "1", "verify_backlog": "256", "verify_state_save": "0", "io_size": "8m"},
)


@contextlib.contextmanager
def competitors(guest) -> Iterator[tuple[Domain, Ioband, Cgroup]]:
    """Swap in group poor, weight 1, and a second device of the same share for group rich, weight 100."""
    swap_part = SWAP_MB << 11
    with contextlib.ExitStack() as stack:
        hierarchy = stack.enter_context(Hierarchy(guest, "blkio"))
        poor, rich = hierarchy.create("poor"), hierarchy.create("rich")
        devices = {}
        for name, start, end in (("swap", 0, swap_part), ("data", swap_part, sectors(guest, DISK))):
            part = stack.enter_context(Linear(guest, f"part-{name}").create([(DISK, start, end - start)]))
            line = TableLine(
                length=end - start, device=part.path, share="s", io_limit=8, io_throttle=1, type="cgroup"
            )
            devices[name] = stack.enter_context(Ioband(guest, name).create(line))
            poor.set(name, 1)
            rich.set(name, 100)
        guest.run(["mkswap", devices["swap"].path])
        guest.run(["swapon", devices["swap"].path])
        stack.callback(guest.run, ["swapoff", devices["swap"].path], timeout=300)
        yield Domain(guest, hierarchy, devices["swap"], {"poor": poor}), devices["data"], rich


@contextlib.contextmanager
def busy(guest, group: Cgroup) -> Iterator[None]:
    """fio after fio in a group; all of them succeed."""
    guest.put(fio.render([LOAD]), "/tmp/load.fio")
    guest.run(["rm", "-f", "/tmp/over"])
    script = "until [ -e /tmp/over ]; do fio --output=/dev/null /tmp/load.fio || exit 1; done"
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(guest.run, group.exec_prefix(["sh", "-c", script]), timeout=600)
        try:
            yield
        finally:
            if guest.machine.console.death is None:
                guest.run(["touch", "/tmp/over"])
        ended.result()


def vmstat(guest) -> dict[str, int]:
    words = guest.run(["cat", "/proc/vmstat"]).stdout.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


@pytest.mark.contract("stress-06", "chk-16")
def test_swapping_goes_on_beside_a_group_of_a_hundred_times_the_weight(guest, seen):
    swapping_goes_on(guest, seen, EXCESS_KB)


@pytest.mark.contract("stress-06", "chk-16")
@pytest.mark.flavours("perf")
@pytest.mark.machine(cpus=2, memory_mb=MEMORY_MB, disks=SWAP_DISK)
def test_swapping_goes_on_with_two_cpus(guest, seen):
    """Who reclaims and whose pages they are run at the same time; less of it."""
    swapping_goes_on(guest, seen, EXCESS_KB // 2)


def swapping_goes_on(guest, seen, excess_kb: int) -> None:
    with competitors(guest) as (domain, data, rich):
        free_kb = sum(
            int(line.split()[1])
            for line in guest.run(["cat", "/proc/meminfo"]).stdout.splitlines()
            if line.startswith(("MemFree:", "Buffers:", "Cached:"))
        )
        count = (free_kb + excess_kb) // PAGE_KB
        with busy(guest, rich), Pages(domain, "poor") as pages:
            pages.tell(f"anon {count}")
            before, beside = vmstat(guest), data.status().groups[rich.id]
            pages.tell(f"write 0 {count} 3")
            assert pages.tell(f"read 0 {count}") == 3 * count, "memory is not what was written"
            after, done = vmstat(guest), data.status().groups[rich.id]
            swapped = [after[what] - before[what] for what in ("pswpout", "pswpin")]
            parked = done.writes_deferred + done.reads_deferred
            parked -= beside.writes_deferred + beside.reads_deferred
            seen(
                f"pages out and in: {swapped[0]}, {swapped[1]}; meanwhile {parked} I/Os of weight 100 were parked"
            )
            assert min(swapped) > excess_kb // PAGE_KB
            assert parked > 0, "nobody competed"
