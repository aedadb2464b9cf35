"""Every allocation on the paths of the driver fails once, one at a time; and so does the device below."""

from __future__ import annotations

import bisect
import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from lab import DISK, until

from harness import kmemleak, slab
from harness.dm import DEFAULT_GROUP, Ioband, TableLine, sectors
from harness.faults import Attempt, Faults

# A failure in a page fault ends with the command killed, where the kernel does not try again.
pytestmark = [pytest.mark.guest, pytest.mark.flavours("debug"), pytest.mark.expects("oom")]

# That a new directory lacks files is what cgroup_mkdir() accepts, of every subsystem.
OURS = re.compile(r"(?!blkio_cgroup_populate)(ioband|blkio|blkcg_(owner|devices|settings)|weight|range_?bw)_\w+")
# Whose memory is counted: what makes a device of a table, down to the claim of the lower one. That of a cgroup is freed
# some time after it has gone.
DEVICES = re.compile(r"(ioband|weight|range|dm|bd)_\w+|(__)?alloc_disk_node")
# What newer kernels make up for below the driver: to dm core a path that cannot be looked up may be a name of the
# kernel's own, and lockdep calls a work queue's lock by a shorter name when there is no memory for the long one.
MADE_UP_FOR = (("lookup_bdev",), ("kasprintf", "alloc_workqueue"))
# What dm core allocates in once a target's constructor is done: 2.6.31 its memory pools, newer ones before them, too.
AFTER_CONSTRUCTOR = ("mempool_create_node", "dm_table_complete")
# A process makes so many allocations at most until the kernel has done what it asked for.
MOST = 2000
# And so many at most before the call, which is looked for below this number.
FEW = 512
# Where the start of a program allocates and newer kernels may make up for a failure.
START = frozenset(("exc_page_fault", "sys_execve", "sys_brk"))

# More than the slabs that are kept for later have room for.
GROUPS = 120


@dataclass
class Walk:
    """What a walk over a command's allocations saw.

    hits: those that failed. inside: of these, in the call. ours: in the series' own code. What fails without a trace is
    in neither of them.
    """

    hits: list[Attempt]
    inside: list[Attempt]
    ours: list[Attempt]

    def __str__(self) -> str:
        said = ", ".join(sorted({a.errno_name or "made up for" for a in self.ours})) or "none"
        numbers = f"{len(self.hits)} allocations failed, {len(self.inside)} in the call, {len(self.ours)} in the driver"
        return f"{numbers}: {said}"


def inside_of(functions: Sequence[str], callers: Sequence[str]) -> bool:
    """Whether these called each other, innermost first, and the last of them what follows, or it was so itself."""
    length = len(callers)
    return any(tuple(functions[i : i + length]) == tuple(callers) for i in range(len(functions)))


def walk(
    faults: Faults,
    command: str,
    state: Callable[[], Any],
    undo: Callable[[], None],
    *,
    call: str,
    from_call: bool = False,
    until: Sequence[str] = (),
    made_up_for: bool = False,
) -> Walk:
    """Make each allocation of the command fail, until it succeeds without.

    call: the system call, or what of it is to be judged. A failure within it leaves all as it was, or is made up for
    and all is done; outside it (when the program starts, say) only that is asked for which the call itself did. undo:
    takes back what was done.
    from_call: begin with the call; for programs whose start is walked over elsewhere, with another command.
    until: functions; the walk ends with the first allocation in one of them.
    made_up_for: the driver may succeed all the same.
    """
    before, seen = state(), Walk([], [], [])

    def fail(n: int) -> tuple[Attempt, bool]:
        """The n-th one; whether the call was done all the same."""
        attempt = faults.nth(n, command)
        after = state()
        inside = attempt.hit and call in attempt.functions
        if attempt.hit:
            assert attempt.exit_code == 0 or after == before or not inside, attempt
            ours = any(OURS.fullmatch(function) for function in attempt.functions)
            excused = made_up_for or any(inside_of(attempt.functions, callers) for callers in MADE_UP_FOR)
            assert attempt.exit_code != 0 or not ours or excused, f"the driver did without: {attempt}"
        else:
            assert attempt.exit_code == 0, attempt
            assert after != before, "the command changes something"
        if after != before:
            undo()
            assert state() == before, attempt
        return attempt, after != before

    def reached(n: int) -> bool:
        """Whether the call's first allocation is the n-th one or earlier. One that was made up for and left no trace
        does not tell: the next that does may lie behind the first of the call, and the walk begins too early then.
        """
        for m in range(n, MOST):
            attempt, done = fail(m)
            if not attempt.hit or call in attempt.functions:
                return True
            if not done:
                return False
            if attempt.functions:
                return START.isdisjoint(attempt.functions)
        raise AssertionError(f"{MOST} allocations, and none that tells whether {call} was reached: {command}")

    first = bisect.bisect_left(range(FEW), True, lo=1, key=reached) if from_call else 1
    for n in range(first, MOST):
        attempt, _ = fail(n)
        if not attempt.hit:
            assert seen.inside or not from_call, f"the walk began behind {call}"
            return seen
        seen.hits.append(attempt)
        if call in attempt.functions:
            seen.inside.append(attempt)
        if any(OURS.fullmatch(function) for function in attempt.functions):
            seen.ours.append(attempt)
        if not set(until).isdisjoint(attempt.functions):
            return seen
    raise AssertionError(f"still failing after {MOST} allocations: {command}")


def decoded(guest, attempt):
    return guest.machine.console.decoded(attempt.trace)


@pytest.fixture(autouse=True)
def nothing_kept(guest):
    """After a test there is as much memory in use as before, by every function that makes a device.

    Once some of it that others may still be looking at (RCU) has been freed as well.
    """
    before = kept(slab.users(guest))
    yield
    until(
        guest,
        lambda: kept(slab.users(guest)),
        f"memory in use as before, {before}",
        lambda users: users == before,
    )


def kept(users):
    return {function: count for function, count in users.items() if DEVICES.fullmatch(function)}


@pytest.fixture
def faults(guest):
    with Faults(guest) as controlled:
        yield controlled


@pytest.fixture
def line(guest):
    return TableLine(
        length=sectors(guest, DISK), device=DISK, share="s", type="user", default="100",
        groups={1000: "50", 2000: "20"},
    )  # fmt: skip


@pytest.fixture
def disk(guest):
    line = TableLine(length=sectors(guest, DISK), device=DISK, share="s", type="cgroup", default="100")
    with Ioband(guest, "d").create(line) as device:
        yield device


def read_a_block(guest, device):
    guest.run(["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"])


@pytest.mark.contract("fault-07")
def test_what_is_counted(guest, disk, seen):
    """Else `nothing_kept` would see nothing."""
    counted = kept(slab.users(guest))
    assert {"ioband_alloc_group", "dm_table_create"} <= counted.keys()
    assert {"alloc_disk_node", "__alloc_disk_node"} & counted.keys()
    seen(f"memory of a device in use: {counted}")


def test_the_command_would_be_killed_first(guest, faults):
    """When a page fault gets no memory; else its parent might be, which tells how it ended."""
    assert not faults.nth(MOST, "exec cat /proc/self/oom_adj > /tmp/adj").hit
    assert guest.run("cat /tmp/adj; rm /tmp/adj; cat /proc/self/oom_adj").stdout == "15\n0\n"


@pytest.mark.contract("fault-01")
def test_constructor(guest, faults, line, seen):
    # The device first: what dm_create() makes of failures is not the driver's to answer for.
    device, without_table = Ioband(guest, "d"), ["dmsetup", "create", "d", "--notable"]
    guest.run(without_table)

    def loaded():
        return re.findall("Tables present: .*", guest.run(["dmsetup", "info", "d"]).stdout)

    def usable():
        device.resume()
        read_a_block(guest, device)
        assert device.status().groups[DEFAULT_GROUP].reads == 1, (
            "the share is new: no counter is left of another"
        )
        device.remove()
        guest.run(without_table)

    with device:
        # When the first allocation after the constructor fails, the destructor is called. Later comes bioset_create(),
        # whose way out in 2.6.31 follows a null pointer.
        load = f"exec dmsetup load d --table '{line.render()}'"
        found = walk(
            faults, load, loaded, usable, call="sys_ioctl", from_call=True, until=AFTER_CONSTRUCTOR
        )
        guest.run(load)
        usable()
    for attempt in (attempt for attempt in found.ours if attempt.exit_code):
        where = decoded(guest, attempt)
        wanted = {"EINVAL"} if "ioband_alloc_device at " in where else {"ENOMEM"}
        assert attempt.errno_name in wanted, where
    made = "\n".join(decoded(guest, attempt) for attempt in found.ours)
    assert made.count("ioband_alloc_group at ") == 3, "the default group and two more"
    assert made.count("ioband_alloc_device at ") >= 2, "the share and its work queue"
    seen(str(found))


@pytest.mark.contract("fault-10")
def test_second_target_with_another_policy(guest, faults, line, seen):
    second = Ioband(guest, "d")
    without_table = ["dmsetup", "create", "d", "--notable"]
    other = dataclasses.replace(line, policy="default", default="40", groups={7: "80", 8: "10"})
    with Ioband(guest, "e").create(line) as first, second:
        guest.run(without_table)

        def undo():
            assert first.table().groups == {1000: "100", 2000: "100"}, "another policy, all weights reset"
            second.remove()
            guest.run(without_table)
            first.message("policy", "weight")
            first.message("weight", "1000:50")
            first.message("weight", "2000:20")

        # What dm does after the constructor is not judged: the target has joined the share by then.
        found = walk(
            faults,
            f"exec dmsetup load d --table '{other.render()}'",
            first.raw_table,
            undo,
            call="ioband_ctr",
            from_call=True,
            until=AFTER_CONSTRUCTOR,
        )
        read_a_block(guest, first)
    made = "\n".join(decoded(guest, attempt) for attempt in found.ours)
    assert made.count("ioband_alloc_group at ") == 3, "the default group and two more"
    seen(f"{found}; the share keeps policy and weights")


@pytest.mark.contract("fault-02")
def test_attach(guest, faults, line, seen):
    with Ioband(guest, "d").create(line) as device:

        def undo():
            device.message("detach", "3000")
            read_a_block(guest, device)

        found = walk(
            faults,
            "exec dmsetup message d 0 attach 3000",
            device.raw_table,
            undo,
            call="sys_ioctl",
            from_call=True,
        )
        assert [a.errno_name for a in found.ours] == ["ENOMEM"]
        seen(str(found))


@pytest.mark.contract("fault-03")
def test_policy_switch(guest, faults, line, seen):
    with Ioband(guest, "d").create(line) as device:

        def undo():
            assert device.table().groups == {1000: "100", 2000: "100"}, "another policy, all weights reset"
            device.message("policy", "weight")
            device.message("weight", "1000:50")
            device.message("weight", "2000:20")

        found = walk(
            faults,
            "exec dmsetup message d 0 policy weight-iosize",
            device.raw_table,
            undo,
            call="sys_ioctl",
            from_call=True,
        )
        assert found.ours == [] and found.inside
        read_a_block(guest, device)
        seen(str(found))


@pytest.mark.contract("fault-04")
def test_mkdir(guest, faults, disk, blkio, seen, fact):
    disk.message("attach", "0")  # the id of a cgroup that has got none, and of pages that nobody owns
    disk.message("weight", "0:50")

    def groups():
        number = guest.run("grep blkio /proc/cgroups").stdout.split()[2]
        return number, guest.run(["ls", blkio.path]).stdout, disk.raw_table()

    found = walk(
        faults,
        f"exec mkdir {blkio.path}/g",
        groups,
        lambda: guest.run(["rmdir", f"{blkio.path}/g"]),
        call="sys_mkdir",
        from_call=True,
    )
    made = fact("made_with_a_cgroup")
    assert len(found.ours) >= len(made) and bool(found.ours) == bool(made), made
    assert {a.errno_name for a in found.ours} <= {"ENOMEM"} and found.inside
    forgets = fact("mkdir_forgets")
    silent = [a for a in found.inside if any(f"{where} at " in decoded(guest, a) for where in forgets)]
    assert {a.exit_code for a in silent} == ({0} if forgets else set())
    assert disk.table().groups == {0: "50"}
    seen(f"{found}; {len(silent)} that mkdir does not report; group 0 stays attached")


@pytest.mark.contract("fault-05", "settings-18")
def test_settings_attach(guest, faults, disk, blkio, seen):
    group = blkio.create("g")
    write = f"echo 'd 40' > {group.path}/blkio.settings"
    found = walk(faults, write, lambda: group.settings, lambda: group.detach("d"), call="sys_write")
    assert len(found.ours) >= 1
    assert {a.errno_name for a in found.ours} == {"ENOMEM"}
    group.set("d", 40)
    guest.run(
        group.exec_prefix(["dd", f"if={disk.path}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"])
    )
    assert disk.status().groups[group.id].reads == 1
    seen(str(found))


@pytest.mark.contract("fault-06")
@pytest.mark.parametrize(
    ("command", "undo"),
    [
        ("echo 'd 50' > {group}/blkio.settings", "d 40"),
        ("echo d > {group}/blkio.settings", "d 40"),
        ("echo 'd weight 70' > {top}/blkio.devices", None),
    ],
    ids=["change", "detach", "message"],
)
def test_settings_and_messages(guest, faults, disk, blkio, seen, command, undo):
    group = blkio.create("g")
    group.set("d", 40)

    def back():
        if undo:
            group.write("blkio.settings", undo)
        else:
            disk.message("weight", "100")

    found = walk(
        faults, command.format(group=group.path, top=blkio.path), disk.raw_table, back, call="sys_write"
    )
    assert {a.errno_name for a in found.ours} <= {"ENOMEM"} and found.inside
    seen(f"{command}: {found}")


@pytest.mark.contract("fault-06")
@pytest.mark.parametrize("file", ["blkio.settings", "blkio.devices"])
def test_reading(guest, faults, disk, blkio, seen, file):
    group = blkio.create("g")
    group.set("d", 40)
    whole, ours = group.read(file), []
    assert whole
    for n in range(1, MOST):
        attempt = faults.nth(n, f"exec cat {group.path}/{file} > /tmp/read")
        if not attempt.hit:
            break
        if "sys_read" in attempt.functions and attempt.exit_code == 0:
            assert guest.run(["cat", "/tmp/read"]).stdout == whole, attempt
        if any(OURS.fullmatch(function) for function in attempt.functions):
            ours.append(attempt)
            assert attempt.errno_name == "ENOMEM", decoded(guest, attempt)
    assert not attempt.hit and attempt.exit_code == 0
    assert guest.run(["cat", "/tmp/read"]).stdout == whole == group.read(file)
    guest.run(["rm", "/tmp/read"])
    seen(f"{file}: {n - 1} allocations failed, {len(ours)} in the driver: ENOMEM")


@pytest.mark.contract("fault-07")
def test_nothing_leaked(guest, seen):
    """What the tests above allocated and lost, were it so; a second look than that after every module."""
    time.sleep(kmemleak.MIN_AGE)
    leaks = kmemleak.scan(guest)
    assert leaks == [], "\n".join(leak.text for leak in leaks)
    seen("kmemleak finds nothing after all of them")


@pytest.mark.contract("fault-08")
def test_pages(guest, disk, blkio, seen, fact):
    """Blocks of several pages only: were single ones to fail, a page fault might, and some process be killed for it."""
    names = " ".join(f"g{i}" for i in range(GROUPS))
    guest.run(f"cd {blkio.path} && mkdir {names}")
    each = f"for g in {names}; do echo {{}} > {blkio.path}/$g/blkio.settings || exit 1; done"

    def settings():
        return guest.run(f"cat {blkio.path}/g*/blkio.settings").stdout

    try:
        with Faults(guest, "fail_page_alloc", min_order=1) as faults:
            attach, detach = each.format("'d 40'"), each.format("d")
            found = walk(
                faults, attach, settings, lambda: guest.run(detach), call="sys_write", made_up_for=True
            )
            guest.run(attach)
            detaching = faults.nth(1, detach)
            # kmemleak notes every allocation, and its own slab may be full just then.
            assert not detaching.hit or "kmemleak_alloc" in detaching.functions, "only attaching takes blocks of pages"
        assert found.hits and all(attempt.exit_code == 0 for attempt in found.hits)
        assert bool(found.ours) == fact("failures_of_pages_are_told")
        guest.run(attach)
        read_a_block(guest, disk)
    finally:
        guest.run(f"cd {blkio.path} && rmdir {names}")
    assert set(disk.status().groups) == {DEFAULT_GROUP}
    seen(f"{GROUPS} groups attached: {found}")


@pytest.mark.contract("fault-09")
@pytest.mark.parametrize("failing", [1, 8, 64])
def test_errors_of_the_device_below(guest, disk, seen, failing):
    """Of 64 direct reads the first, every eighth, or all fail; what is counted and what the reader sees must agree."""
    folder, blocks = "/sys/kernel/debug/fail_make_request", 64
    every = {1: 1, 8: 8, 64: 1}[failing]
    disk.message("reset")
    guest.run(f"cd {folder} && echo 0 > verbose && echo {every} > interval && echo {failing} > times && "
              "echo 0 > space && echo 100 > probability && echo 1 > /sys/block/vda/make-it-fail")  # fmt: skip
    try:
        read = f"dd if={disk.path} of=/dev/null bs=4k count=1 skip=$i iflag=direct"
        done = guest.run(
            f"for i in $(seq 0 {blocks - 1}); do {read} 2>/tmp/said && echo read || cat /tmp/said; done; rm /tmp/said"
        ).stdout
    finally:
        left = guest.run(
            f"echo 0 > /sys/block/vda/make-it-fail; cat {folder}/times; echo 0 > {folder}/probability"
        )
    assert left.stdout == "0\n"
    errors = len(re.findall(r"I/O error", done))
    assert (errors, done.count("read\n")) == (failing, blocks - failing), done
    counters = disk.status().groups[DEFAULT_GROUP]
    assert (counters.reads, counters.read_sectors) == (blocks, blocks * 8)
    disk.suspend()  # returns when nothing is in flight
    disk.resume()
    read_a_block(guest, disk)
    assert disk.status().groups[DEFAULT_GROUP].reads == blocks + 1
    seen(
        f"{failing} of {blocks} reads fail below: {errors} end with EIO, {counters.reads} counted, none in flight"
    )
