"""The way of a bio: what may be in flight, who has to wait, in which order it goes on, and what dm core is told."""

from __future__ import annotations

import contextlib

import pytest
from lab import (
    BLOCK,
    DISK,
    Counters,
    Lower,
    devices,
    held_up,
    refused,
    stat_file,
    until,
)

from harness import dm
from harness.cgroup import Hierarchy
from harness.dm import DEFAULT_GROUP, Ioband, Linear, sectors

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]


@pytest.mark.contract("path-01", "path-03", "chk-15")
@pytest.mark.parametrize(
    ("kind", "limit", "parked"),
    [("read", 1, 1), ("write", 1, 1), ("read", 2, 2), ("read", 4, 3), ("write", 4, 3), ("read", 32, 17)],
)
def test_in_flight_parked_and_made_to_wait(guest, make, low, submitters, seen, limit, parked, kind):
    device = make(f"s 1 {limit} none weight")
    with submitters(guest) as processes:
        with low.holding():
            before = low.io()
            pids = processes.start(device.path, limit + parked + 3, write=kind == "write")
            waiting = processes.made_to_wait(pids)
            arrived = low.io() - before
        processes.wait()
    assert arrived.reads + arrived.writes == limit
    assert waiting == 3
    assert (low.io() - before).reads + (low.io() - before).writes == limit + parked + 3
    seen(f"io_limit {limit}: {limit} {kind}s in flight, {parked} parked, 3 of {limit + parked + 3} made to wait")


@pytest.mark.contract("path-02", "chk-15")
def test_delayed_writes_have_their_own_limit(guest, make, low, submitters, seen):
    """io_limit 4: beside 4 reads in flight 4 delayed writes go down, and sync waits until no more are parked."""
    device = make("s 1 4 none weight")
    # Held open: the last one to close a block device writes it back, and not as delayed writes.
    write = f"exec 3<> {device.path}; dd if=/dev/zero of={device.path} bs=4k count=64 conv=notrunc; exec sync"
    with submitters(guest) as processes:
        with low.holding():
            before = low.io()
            processes.start(device.path, 4)
            (sync,) = processes.run([f"sh -c '{write}'"])
            assert processes.made_to_wait([sync]) == 1
            arrived = low.io() - before
        processes.wait()
    assert (arrived.reads, arrived.writes) == (4, 4)
    assert (low.io() - before).write_sectors == 64 * 8
    seen("4 reads and 4 delayed writes in flight, and sync made to wait")


def kernel_threads(guest):
    """Their ids: the children of kthreadd, which is the second process."""
    lines = guest.run("grep '^PPid:.2$' /proc/[0-9]*/status").stdout.splitlines()
    return [int(line.split("/")[2]) for line in lines]


@pytest.mark.contract("path-06", "chk-15")
@pytest.mark.parametrize(("count", "waiting"), [(12, 0), (13, 1)])
def test_kernel_threads_wait_for_the_share_only(guest, make, low, submitters, seen, count, waiting):
    """io_limit 4, of which a group parks 3. What a suspended device keeps, dm's thread submits when it is resumed."""
    device = make("s 1 4 none weight")
    with Linear(guest, "up") as upper:
        upper.create([(device.path, 0, low.length)])
        device.message("reset")
        with submitters(guest) as processes:
            upper.suspend()
            with low.holding():
                before = low.io()
                processes.start(upper.path, count)
                upper.resume()
                until(guest, lambda: (low.io() - before).reads == 4, "4 in flight")
                told = until(
                    guest,
                    lambda: processes.where(kernel_threads(guest)),
                    "every kernel thread waits or has nothing to do",
                    lambda told: all(state != "R" for state, _ in told.values()),
                )
                assert held_up(told) == waiting
                assert (low.io() - before).reads == 4
            processes.wait()
    seen(f"{count} bios of a kernel thread: 4 in flight, {count - 4 - waiting} parked, {waiting} made to wait")


@pytest.mark.contract("path-03", "path-04", "chk-15")
@pytest.mark.parametrize(
    ("limit", "weights", "parked"),
    [
        (16, {DEFAULT_GROUP: 30, 1000: 40, 1001: 20, 1002: 10}, {DEFAULT_GROUP: 3, 1000: 4, 1001: 2, 1002: 1}),
        (8, {DEFAULT_GROUP: 1, 1000: 3}, {DEFAULT_GROUP: 2, 1000: 4}),
        # More than two in all, which is as many as kernel threads may park.
        (1, {DEFAULT_GROUP: 1, 1000: 1, 1001: 1, 1002: 1}, {DEFAULT_GROUP: 1, 1000: 1, 1001: 1, 1002: 1}),
    ],
)
def test_each_group_parks_by_its_weight(guest, make, low, submitters, seen, limit, weights, parked):
    groups = " ".join(f"{i}:{w}" for i, w in weights.items() if i != DEFAULT_GROUP)
    device = make(f"s 1 {limit} user weight 1000 :{weights[DEFAULT_GROUP]} {groups}")
    with submitters(guest) as processes:
        with low.holding():
            before = low.io()
            processes.start(device.path, limit)
            told = {}
            for group, most in parked.items():
                pids = processes.start(device.path, most + 2, uid=max(group, 0))
                told[group] = most + 2 - processes.made_to_wait(pids)
            assert (low.io() - before).reads == limit
        processes.wait()
    assert told == parked
    seen(f"io_limit {limit}, weights {weights}: parked {told}")


@pytest.mark.contract("path-05")
def test_woken_when_nothing_is_parked_any_more(guest, make, low, submitters, seen):
    """4 in flight, 3 parked, 2 wait. io_limit 6 lets two of the parked go, 7 the last one."""
    device = make("s 1 4 none weight 100")
    told = []
    with submitters(guest) as processes:
        with low.holding():
            before = low.io()
            pids = processes.start(device.path, 9)
            told.append(processes.made_to_wait(pids))
            for limit in (6, 7):
                device.message("io_limit", str(limit))
                until(guest, lambda limit=limit: (low.io() - before).reads == limit, f"{limit} in flight")
                told.append(processes.made_to_wait(pids))
        processes.wait()
    assert told == [2, 2, 0]
    seen("with 3 and with 1 parked 2 processes wait, with none they are woken")


@pytest.mark.contract("path-07", "path-08", "path-09")
def test_suspension_is_the_targets_own(guest, make, low, submitters, seen):
    """io_limit 8, two targets of equal weight: each parks 3 and lets 2 wait."""
    first, second = make("s 1 8 none weight 1000"), make("s 1 8 none weight 1000", "e")
    with submitters(guest) as processes:
        with low.holding():
            mine = processes.start(first.path, 13)
            others = processes.start(second.path, 5)
            assert (processes.made_to_wait(mine), processes.made_to_wait(others)) == (2, 2)
            processes.background("dmsetup", "suspend", "d")
            until(guest, lambda: processes.made_to_wait(mine) == 0, "those of the suspended target are let in")
            assert processes.made_to_wait(others) == 2
        processes.wait()
        assert guest.run(["dmsetup", "info", "-c", "--noheadings", "-o", "suspended", "d"]).stdout == "Suspended\n"
        guest.run(["dd", f"if={second.path}", "of=/dev/null", "bs=4k", "count=8", "iflag=direct"])
        first.resume()
        with low.holding():
            again = processes.start(first.path, 13)
            assert processes.made_to_wait(again) == 2
        processes.wait()
    seen("suspended: 2 who waited are let in, 2 of the other target are not; resumed: 2 wait again")


@pytest.mark.contract("path-18")
@pytest.mark.parametrize("message", ["policy default", "detach 1000", "attach 7", "weight 1000:5", "io_throttle 2"])
def test_messages_wait_for_nothing(guest, make, low, submitters, seen, message):
    device = make("s 1 4 user weight 0 :100 1000:100")
    with submitters(guest) as processes:
        with low.holding():
            before = low.io()
            processes.start(device.path, 8, uid=1000)
            device.message(*message.split())
            assert (low.io() - before).reads == 4
        processes.wait()
    groups = device.status().groups
    assert groups[DEFAULT_GROUP].reads + (groups[1000].reads if 1000 in groups else 4) == 8
    seen(f"{message}: done with 4 in flight and others parked")


@pytest.mark.contract("path-19")
@pytest.mark.parametrize("line", ["none weight 1", "user weight 1 :1 1000:32767", "none weight 1 :32767"])
def test_nobody_is_left_without_tokens(guest, make, seen, line):
    device = make(f"s 0 0 {line}")
    guest.run(["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=64", "iflag=direct"])
    assert device.status().groups[DEFAULT_GROUP].reads == 64
    seen(f"{line}: 64 reads, one after the other, with one token an epoch")


@pytest.mark.contract("path-10")
def test_order_within_a_group(guest, make, submitters, seen):
    """Five parked writes, each over all that the later ones write: what is on the disk tells the order of every pair.

    The disk is one in memory, which has done what it is told before it can be told something else.
    """
    count, disk = 5, "/dev/ram0"
    with Lower(guest, disk, "store") as store:
        device = make("s 1 8 none weight", "o", store)
        with submitters(guest) as processes:
            with store.holding():
                processes.start(device.path, 8)
                for k in range(1, count + 1):
                    size = (count + 1 - k) * BLOCK
                    guest.run(f"head -c {size} /dev/zero | tr '\\0' '{k}' > /tmp/order{k}")
                    write = f"dd if=/tmp/order{k} of={device.path} bs={size} count=1 oflag=direct conv=notrunc"
                    assert processes.made_to_wait(processes.run([write])) == 0
            processes.wait()
        blocks = guest.run(["dd", f"if={disk}", f"bs={BLOCK}", f"count={count}", "iflag=direct"]).stdout
        counted = device.status().groups[DEFAULT_GROUP]
        device.remove()
    guest.run("rm /tmp/order?")
    assert (counted.writes, counted.writes_deferred) == (count, count)
    found = "".join(dict.fromkeys(blocks))
    assert [blocks[i * BLOCK : (i + 1) * BLOCK] for i in range(count)] == [str(count - i) * BLOCK for i in range(count)]
    seen(f"blocks 0 to 4 hold the data of writers {', '.join(found)}")


@contextlib.contextmanager
def conductor_starved(guest):
    """On two CPUs: the driver's work is done on one of them only, which somebody more important keeps busy.

    A thread that is the driver's own may run there only. Threads that work for all serve a queue on the CPU that has
    given it work: the one that the disk interrupts, which newer kernels choose themselves, and tell. Softirqs that take
    long are a thread's, too: those are served, or the lower device's I/Os would never end.
    """

    def interrupts(device):
        of = guest.run(f"basename $(readlink -f {device})").stdout.strip()
        return guest.run(f"awk -F: '/{of}-/ {{ print $1 + 0 }}' /proc/interrupts").stdout.split()

    told = [f"/proc/irq/{i}/effective_affinity_list" for i in interrupts("/sys/block/vda/device")]
    cpus = guest.run(f"cat {' '.join(told)} 2> /dev/null || echo 1").stdout.split()
    starved = int(cpus[-1])
    here, there = 1 << starved, 1 << (1 - starved)
    everybody = f"for p in /proc/[0-9]*; do taskset -p {there} ${{p#/proc/}}; done > /dev/null 2>&1"
    driver = f"taskset -p {here} $(pidof kioband) > /dev/null 2>&1"
    network = "; ".join(f"echo {there} > /proc/irq/{i}/smp_affinity" for i in interrupts("/sys/class/net/eth0/device"))
    settings = "echo 0 > /sys/block/vda/queue/rq_affinity && echo -1 > /proc/sys/kernel/sched_rt_runtime_us"
    guest.run(f"{everybody}; {driver}; {network}; {settings}")
    guest.run(f"chrt -f -p 51 $(pidof ksoftirqd/{starved})")
    loop = "sh -c 'while :; do :; done' > /dev/null 2>&1 < /dev/null"
    hog = guest.run(f"taskset {here} chrt -f 50 {loop} & echo $!").stdout
    try:
        yield
    finally:
        guest.run(["kill", hog.strip()])


@pytest.mark.machine(cpus=2)
@pytest.mark.flavours("debug")
@pytest.mark.contract("path-10")
def test_nobody_overtakes_where_there_is_room(boot_guest, submitters, seen):
    """4 in flight and 2 parked; the 4 end. Until the driver's thread runs there is room, and one more comes."""
    guest = boot_guest()
    with Lower(guest) as low, devices(guest, low.length) as made, submitters(guest) as processes:
        device = made(f"{low.path} s 1 4 none weight")
        device.message("reset")
        before = low.io()
        with low.holding():
            processes.start(device.path, 6)
            with conductor_starved(guest):
                low.release()
                until(guest, lambda: low.io().in_flight == 0, "the 4 have ended")
                processes.start(device.path, 1)
                passed = (low.io() - before).reads
        processes.wait()
        counted = device.status().groups[DEFAULT_GROUP]
    assert passed == 4
    assert (counted.reads, counted.reads_deferred) == (7, 3)
    seen("with 4 of 4 places free and 2 parked, another one is parked behind them")


@pytest.mark.contract("path-11")
def test_sectors_count_from_the_targets_begin(guest, low, seen):
    guest.run(["dd", f"of={DISK}", "bs=512", "seek=5", "conv=notrunc,fsync"], stdin=b"five" * 128)
    table = f"0 1024 linear {DISK} 2048\n1024 2048 ioband {low.path} s 0 0 none weight"
    with Ioband(guest, "d").create(table) as device:
        found = guest.run(["dd", f"if={device.path}", "bs=512", "skip=1029", "count=1"]).stdout
        assert found == "five" * 128
    seen("sector 1024+5 of the device is sector 5 below")


@pytest.mark.contract("path-12")
@pytest.mark.parametrize("begin", [0, 1000])
def test_bios_are_as_large_as_the_lower_device_takes_them(guest, seen, begin):
    """Below lies a dm-linear of two segments: a bio must not cross the seam at its sector 1000."""
    with Linear(guest, "seam") as seam:
        seam.create([(DISK, 0, 1000), (DISK, 8192, 4000)])
        table = f"{begin} 5000 ioband {seam.path} s 0 0 none weight"
        table = f"0 {begin} linear {DISK} 16384\n{table}" if begin else table
        with Ioband(guest, "d").create(table) as device:
            told = []
            for first in (0, 960):
                before = Counters.parse(guest.run(["cat", stat_file(seam)]).stdout)
                guest.run(["fio", "--name=a", "--rw=read", "--direct=1", "--ioengine=psync", "--bs=64k", "--size=64k",
                           f"--filename={device.path}", f"--offset={(begin + first) * 512}",
                           "--output=/dev/null"])  # fmt: skip
                counted = Counters.parse(guest.run(["cat", stat_file(seam)]).stdout) - before
                told.append((counted.reads, counted.read_sectors))
    assert told == [(1, 128), (2, 128)]
    seen(f"target from sector {begin} on: 64 KiB are one bio, across the seam of the lower device two")


@pytest.mark.contract("path-13")
def test_queue_limits_are_those_below(guest, seen):
    queue = "/sys/block/vda/queue/max_sectors_kb"
    old = guest.run(["cat", queue]).stdout.strip()
    length = sectors(guest, DISK)
    told = {}
    try:
        for limit in ("64", "16"):
            guest.run(f"echo {limit} > {queue}")
            with Ioband(guest, "d").create(f"0 {length} ioband {DISK} s 0 0 none weight") as device:
                number = guest.run(["stat", "-c", "%T", device.path]).stdout.strip()
                told[limit] = guest.run(["cat", f"/sys/block/dm-{int(number, 16)}/queue/max_sectors_kb"]).stdout.strip()
    finally:
        guest.run(f"echo {old} > {queue}")
    assert told == {"64": "64", "16": "16"}
    seen("max_sectors_kb 64 and 16 below are 64 and 16 above")


@pytest.mark.contract("path-14", "chk-10")
@pytest.mark.parametrize("kind", ["none", "cgroup"])
def test_flush_passes(guest, make, seen, kind):
    """An ext3 journal's commits are barriers, which dm core turns into flushes and a write."""
    with Lower(guest, "/dev/sda", "store") as store:
        device = make(f"s 0 0 {kind} weight", "o", store)
        guest.run(["mkfs.ext3", "-q", "-F", "-b", "1024", device.path])
        guest.run(f"mkdir -p /tmp/flush; mount -t ext3 -o barrier=1 {device.path} /tmp/flush")
        try:
            guest.run("echo text > /tmp/flush/before; sync")
            device.message("reset")
            before = store.io()
            guest.run("echo text > /tmp/flush/file; sync")
            arrived = store.io() - before
        finally:
            guest.run(["umount", "/tmp/flush"])
        said = guest.run(["dmesg"]).stdout
        device.remove()
    assert "disabling barriers" not in said
    flushes = arrived.writes - arrived.write_sectors // 2  # a bio with data has a block of 2 sectors at least
    assert flushes >= 1, "no bio without data arrived"
    seen(f"type {kind}: {arrived.writes} writes of {arrived.write_sectors} sectors arrive: {flushes} without data")


@pytest.mark.contract("path-15")
def test_errors_pass(guest, seen):
    guest.run(["dmsetup", "create", "bad"], stdin="0 1024 error\n")
    try:
        with Ioband(guest, "d").create("0 1024 ioband /dev/mapper/bad s 0 0 none weight") as device:
            for job in (f"if={device.path} of=/dev/null iflag=direct", f"if=/dev/zero of={device.path} oflag=direct"):
                with refused("EIO"):
                    guest.run(f"dd {job} bs=4k count=1 conv=notrunc")
            seen("EIO, for a read and for a write")
    finally:
        guest.run(["dmsetup", "remove", "bad"])


@contextlib.contextmanager
def mapped(guest, count, pages):
    """Processes that have mapped so many pages of anonymous memory: process id by the folder that it obeys."""
    made = {}
    try:
        for i in range(count):
            folder = f"/tmp/mapped-{i}"
            guest.run(f"mkdir {folder}; mkfifo {folder}/in {folder}/out")
            made[folder] = int(guest.run(f"pages {folder} < /dev/null > /dev/null 2>&1 & echo $!").stdout)
            tell(guest, folder, f"anon {pages}")
        yield made
    finally:
        for folder in made:
            tell(guest, folder, "quit")
            guest.run(["rm", "-r", folder])


def telling(folder, command):
    return ["sh", "-c", f"echo {command} > {folder}/in; cat {folder}/out"]


def tell(guest, folder, command):
    assert guest.run(telling(folder, command)).stdout.startswith("ok")


@contextlib.contextmanager
def swapping(guest, device):
    """Swap on a device, page by page."""
    cluster = guest.run(["cat", "/proc/sys/vm/page-cluster"]).stdout.strip()
    guest.run(["mkswap", device.path])
    guest.run(["swapon", device.path])
    guest.run("echo 0 > /proc/sys/vm/page-cluster")
    try:
        yield
    finally:
        guest.run(["swapoff", device.path])
        guest.run(f"echo {cluster} > /proc/sys/vm/page-cluster")


def swapped(guest, pids):
    """KB on a swap device: of the mapping of each process that has most there; last, those that are in memory, too."""
    most = "awk '/^Swap:/ && $2 > most { most = $2 } END { print most + 0 }'"
    files = " ".join(f"/proc/{pid}/smaps" for pid in pids)
    script = f"for f in {files}; do {most} $f; done; awk '/^SwapCached:/ {{ print $2 }}' /proc/meminfo"
    return [int(word) for word in guest.run(script).stdout.split()]


@pytest.mark.contract("path-16", "status-09")
def test_urgent_bios_go_first_and_do_not_count(guest, make, low, submitters, seen):
    """Swapping in is urgent. 4 reads in flight, 3 parked, then 2 pages to swap in; each new place shows who is next."""
    device = make("s 1 4 none weight 1000000")
    told = []
    with Hierarchy(guest, "memory") as hierarchy, swapping(guest, device), mapped(guest, 2, 64) as users:
        group = hierarchy.create("small")
        for folder, pid in users.items():
            group.add(pid)
            tell(guest, folder, "write 0 64 1")
        limit_file = f"{group.path}/memory.limit_in_bytes"
        # It does not get down to that, and not at once: what is written out is freed the next time.
        until(
            guest,
            lambda: guest.run(f"echo 0 > {limit_file}", check=False) and swapped(guest, users.values()),
            "all 64 pages of each are on the swap device only",
            lambda kilobytes: min(kilobytes[:-1]) >= 256 and kilobytes[-1] == 0,
        )
        guest.run(f"echo 1G > {limit_file}")
        for folder in users:
            tell(guest, folder, "read 63 1")  # all but the mapping is back now
        device.message("reset")
        with submitters(guest) as processes:
            with low.holding():
                before = low.io()
                processes.start(device.path, 7)
                for folder in users:
                    processes.background(*telling(folder, "read 0 1"))
                swapping_in = list(users.values())
                until(guest, lambda: {s for s, _ in processes.where(swapping_in).values()} == {"D"}, "both swap in")
                for limit in range(4, 10):
                    device.message("io_limit", str(limit))
                    until(guest, lambda limit=limit: (low.io() - before).reads == limit, f"{limit} in flight")
                    told.append(device.status().groups[DEFAULT_GROUP].reads)
            processes.wait()
        assert (low.io() - before).reads == 9
        counted = device.status().groups[DEFAULT_GROUP]
    assert told == [4, 4, 4, 5, 6, 7]
    assert (counted.reads, counted.reads_deferred) == (7, 3)
    seen("9 reads arrive below, 2 swap-ins before 3 reads that were parked earlier; 7 are counted, 3 of them deferred")


@pytest.mark.contract("path-17")
def test_name_and_version(guest, seen):
    version = dm.targets(guest)["ioband"]
    assert version == (1, 12, 3)
    seen("ioband " + ".".join(map(str, version)))
