"""Whatever is done to an ioband device while I/Os are parked in it, each ends exactly once and with its own data.

Every test first has a known number of bios parked behind a closed gate (`gate`), then disturbs, then opens the gate;
fio reads everything back and compares, and all counters must agree to the single I/O.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import pytest
from gate import LOWER, SECTORS, Load, Scene, scene, total

from harness import fio
from harness.cgroup import Cgroup, Hierarchy
from harness.dm import DEFAULT_GROUP, Ioband, TableLine, sectors
from harness.errors import CommandError
from harness.guest import Completed, Guest

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

LIMIT, PARKED = 32, 12
VICTIM = 1000
# So many tokens that nobody runs out: a bio is parked for want of room and nothing else.
PLENTY = 1_000_000
USERS = {
    "io_limit": LIMIT,
    "io_throttle": 1,
    "type": "user",
    "token_base": PLENTY,
    "default": "100",
    "groups": {VICTIM: "300"},
}
LINEAR = "linear"


def writes(name: str, count: int, offset_kb: int, uid: int | None = None) -> fio.Job:
    """A job that writes so many blocks, all in flight at once, then reads them and compares."""
    return fio.Job(
        name=name,
        filename="/dev/mapper/front",
        rw="write",
        bs="4k",
        size=f"{4 * count}k",
        offset=f"{offset_kb}k",
        iodepth=count,
        direct=True,
        verify="crc32c",
        uid=uid,
        extra={"verify_fatal": "1"},
    )


@dataclass
class Parked:
    """The default group's bios fill what may be in flight, the victim's are all parked, and the gate is closed."""

    stage: Scene
    hog: Load
    victim: Load

    def finish(self, counted: int, *, by_driver: bool = True) -> int:
        """With the gate open: both loads end, and every count is what it must be; returns it.

        counted: I/Os in counters of the driver that are no more.
        """
        stage = self.stage
        done = self.hog.result().total("hog").total_ios + self.victim.result().total("victim").total_ios
        assert done == 2 * (LIMIT + PARKED), "each block is written once and read once"
        level = stage.level()
        assert (level.arrived, level.passed, level.pending) == (done, done, 0)
        assert stage.lower_sectors() == done * SECTORS
        if by_driver:
            counted += total(stage.band.status().groups)
        assert counted == done, "the driver has counted each bio once"
        return done


def fill(stage: Scene, prefix: list[str] | None = None) -> Parked:
    """Set it up on a scene without any I/O so far. prefix: of the victim's command."""
    stage.close()
    hog = stage.load("hog", [writes("hog", LIMIT, 0)])
    stage.wait("the hog's bios in flight", arrived=LIMIT, passed=LIMIT)
    job = writes("victim", PARKED, 1024, uid=None if prefix else VICTIM)
    victim = stage.load("victim", [job], prefix or [])
    stage.wait("the victim's bios parked", arrived=LIMIT + PARKED, passed=LIMIT, pending=LIMIT + PARKED)
    return Parked(stage, hog, victim)


def still_parked(stage: Scene) -> None:
    """Nothing has moved."""
    level = stage.level()
    assert (level.passed, level.above, level.pending) == (LIMIT, PARKED, LIMIT + PARKED)


# ---- what must not wait for any I/O, nor let a bio go, lose or double it


def by_messages(*messages: str) -> Callable[[Scene], int]:
    """A disturbance: messages to the device. Disturbances return how many counted I/Os were forgotten."""

    def disturb(stage: Scene) -> int:
        forgotten = 0
        for message in messages:
            if message == "reset":
                forgotten += total(stage.band.status().groups)
            stage.band.message(*message.split())
        return forgotten

    return disturb


def other_target(policy: str) -> Callable[[Scene], int]:
    """Another target joins the share and leaves it, with whatever that does to the policy of all."""

    def disturb(stage: Scene) -> int:
        line = TableLine(length=sectors(stage.guest, "/dev/vda"), device="/dev/vda", share="s", policy=policy)
        with Ioband(stage.guest, "other").create(line) as other:
            assert other.table().policy == policy
            still_parked(stage)
        return 0

    return disturb


def unused_table(stage: Scene) -> int:
    """A second table is loaded and dropped again."""
    stage.band.reload(stage.table(**USERS))
    stage.guest.run(["dmsetup", "clear", "band"])
    return 0


AT_ONCE = {
    "weights": by_messages("weight 1000:1", "weight 32767", "weight 1000:32767"),
    "tokens": by_messages("token 5", "carryover 1", "token 0", "carryover 0"),
    "io_throttle": by_messages("io_throttle 32", "io_throttle 1"),
    "lower-io_limit": by_messages("io_limit 8"),
    "reset": by_messages("reset"),
    "attach-detach": by_messages("attach 7", "weight 7:5", "detach 7"),
    "detach-victim": by_messages("detach 1000"),
    "detach-and-attach-victim": by_messages("detach 1000", "attach 1000"),
    "policy": by_messages("policy default", "policy weight"),
    "policy-to-another": by_messages("policy default"),
    "policy-by-size": by_messages("policy weight-iosize", "weight 1000:7"),
    "policy-by-range": by_messages("policy range-bw", "range-bw 1000:10:10000", "range-bw :0:100000"),
    "other-target": other_target("weight"),
    "other-target-other-policy": other_target("weight-iosize"),
    "unused-table": unused_table,
}


@pytest.mark.contract("int-01", "chk-09")
@pytest.mark.parametrize("name", AT_ONCE)
def test_parked_bios_outlive(guest, seen, name):
    with scene(guest, **USERS) as stage:
        parked = fill(stage)
        forgotten = AT_ONCE[name](stage)
        still_parked(stage)
        stage.open()
        done = parked.finish(forgotten)
        seen(f"{name} with {PARKED} parked and {LIMIT} in flight: {done} I/Os, counts equal, data right")


@pytest.mark.contract("int-02")
def test_a_higher_limit_lets_parked_bios_go_without_a_completion(guest, seen):
    with scene(guest, **USERS) as stage:
        parked = fill(stage)
        stage.band.message("io_limit", str(LIMIT + PARKED - 1))
        stage.wait("all but one to go", above=1)
        stage.band.message("io_limit", str(LIMIT + PARKED))
        stage.wait("all to go", above=0)
        stage.open()
        parked.finish(0)
        seen(f"{PARKED} parked bios went down in two steps while nothing completed")


@contextlib.contextmanager
def control_group(guest) -> Iterator[tuple[Hierarchy, Cgroup]]:
    with Hierarchy(guest, "blkio") as hierarchy:
        yield hierarchy, hierarchy.create("victim")


def cgroup_weights(stage: Scene, hierarchy: Hierarchy, group: Cgroup) -> None:
    for weight in (1, 32767, 300):
        group.set("band", weight)
        hierarchy.root.set("band", weight)


def cgroup_detach(stage: Scene, hierarchy: Hierarchy, group: Cgroup) -> None:
    group.detach("band")


def cgroup_rmdir(stage: Scene, hierarchy: Hierarchy, group: Cgroup) -> None:
    for thread in group.tasks:
        hierarchy.root.add(thread)
    number = group.id
    assert number in stage.band.status().groups
    group.remove()
    assert number not in stage.band.status().groups


def cgroup_messages(stage: Scene, hierarchy: Hierarchy, group: Cgroup) -> None:
    hierarchy.root.message("s", "policy", "default")
    hierarchy.root.message("band", "weight", f"{group.id}:7")
    hierarchy.root.message("band", "detach", str(group.id))


BY_CGROUP = {
    "settings": cgroup_weights,
    "settings-detach": cgroup_detach,
    "rmdir": cgroup_rmdir,
    "devices-messages": cgroup_messages,
}


@pytest.mark.contract("int-03", "chk-09")
@pytest.mark.parametrize("name", BY_CGROUP)
def test_parked_bios_outlive_cgroup(guest, seen, name):
    with (
        control_group(guest) as (hierarchy, group),
        scene(guest, **{**USERS, "type": "cgroup", "groups": {}}) as stage,
    ):
        group.set("band", 300)
        parked = fill(stage, group.exec_prefix([]))
        BY_CGROUP[name](stage, hierarchy, group)
        still_parked(stage)
        stage.open()
        done = parked.finish(0)
        seen(f"{name} with {PARKED} parked and {LIMIT} in flight: {done} I/Os, counts equal, data right")


def uptime(guest: Guest) -> float:
    """Seconds by the guest's clock."""
    return float(guest.run(["cat", "/proc/uptime"]).stdout.split()[0])


def suspend_and_resume(*options: str) -> Callable[[Scene], int]:
    """What is held goes down, or back, and the group is then free."""

    def disturb(stage: Scene) -> int:
        stage.background("dmsetup", "suspend", *options, "band").result()
        stage.band.message("range-bw", f"{VICTIM}:0:0")
        stage.band.resume()
        return 0

    return disturb


RELEASES = {
    "range": by_messages("range-bw 1000:0:0"),
    "policy": by_messages("policy weight"),
    "detach": by_messages("detach 1000"),
    "suspend": suspend_and_resume(),
    "noflush-suspend": suspend_and_resume("--noflush"),
}


@pytest.mark.contract("int-16", "chk-09")
@pytest.mark.parametrize("name", RELEASES)
def test_bios_held_at_the_maximum_are_released(guest, seen, name):
    """At 1 KB/s a block may go every four seconds, so that what goes soon goes because of what is done."""
    table = {**USERS, "policy": "range-bw", "default": "0:0", "groups": {VICTIM: "0:1"}}
    with scene(guest, **table) as stage:
        victim = stage.load("victim", [writes("victim", PARKED, 1024, uid=VICTIM)])
        stage.wait("all bios to be submitted", arrived=PARKED)
        held = stage.level().above
        assert held > PARKED // 2
        began = uptime(guest)
        RELEASES[name](stage)
        assert victim.result().total("victim").total_ios == 2 * PARKED
        level = stage.level()
        assert (level.arrived, level.passed, level.pending) == (2 * PARKED, 2 * PARKED, 0)
        assert stage.lower_sectors() == 2 * PARKED * SECTORS
        took = uptime(guest) - began
        assert took < 2 * held, "half of the time that the maximum would have taken"
        if name != "detach":  # which forgets what the group was counted for
            assert total(stage.band.status().groups) == 2 * PARKED
        seen(
            f"{name}: {held} bios held at 1 KB/s ended, and were read back, in {took:.1f} s; counts equal, data right"
        )


# ---- suspensions


def tables(stage: Scene) -> dict[str, TableLine | str | None]:
    """What a suspended device goes on with; None: the table it had."""
    return {
        "same": None,
        "other-parameters": stage.table(**{**USERS, "io_limit": 7, "groups": {VICTIM: "1", 5: "9"}}),
        "other-type": stage.table(type="pid", policy="default"),
        "other-share": stage.table(**{**USERS, "share": "t"}),
        LINEAR: f"0 {stage.length} linear {stage.gate.path} 0",
    }


SWAPS = ("same", "other-parameters", "other-type", "other-share", LINEAR)


def go_on(parked: Parked, swap: str) -> int:
    """The device is suspended: exchange its table, resume, and everything must end well."""
    stage = parked.stage
    counted = total(stage.band.status().groups)
    assert counted == stage.level().passed
    table = tables(stage)[swap]
    if table is not None:
        stage.band.reload(table)
    stage.band.resume()
    return parked.finish(0 if table is None else counted if swap != LINEAR else 2 * (LIMIT + PARKED),
                         by_driver=swap != LINEAR)  # fmt: skip


def suspend_noflush(stage: Scene) -> Future[Completed]:
    """Begin to; the parked bios have been pushed back, and the rest is waited for."""
    suspending = stage.background("dmsetup", "suspend", "--noflush", "band")
    stage.wait_asleep("dmsetup", "dm_wait_for")
    return suspending


@pytest.mark.contract("int-04", "chk-09")
@pytest.mark.parametrize("swap", SWAPS)
def test_suspend(guest, seen, swap):
    with scene(guest, **USERS) as stage:
        parked = fill(stage)
        suspending = stage.background("dmsetup", "suspend", "band")
        stage.wait_asleep("dmsetup", "dm_")
        still_parked(stage)
        stage.open()
        suspending.result()
        # What was parked has gone down; both jobs want to read it back.
        level = stage.wait("reads to wait for the resumption", above=LIMIT + PARKED)
        assert level.passed == LIMIT + PARKED
        done = go_on(parked, swap)
        seen(
            f"suspended with {PARKED} parked, resumed with table {swap!r}: {done} I/Os, counts equal, data right"
        )


@pytest.mark.contract("int-05", "chk-09")
@pytest.mark.parametrize("swap", SWAPS)
def test_noflush_suspend(guest, seen, swap):
    with scene(guest, **USERS) as stage:
        parked = fill(stage)
        suspending = suspend_noflush(stage)
        still_parked(stage)
        stage.open()
        suspending.result()
        level = stage.wait("the hog's reads to wait, too", above=PARKED + LIMIT)
        assert level.passed == LIMIT, "none of those that were pushed back has gone down"
        done = go_on(parked, swap)
        seen(f"{PARKED} pushed back, resumed with table {swap!r}: {done} I/Os, counts equal, data right")


@pytest.mark.contract("int-06")
def test_interrupted_noflush_suspend(guest, seen):
    with scene(guest, **USERS) as stage:
        parked = fill(stage)
        suspending = suspend_noflush(stage)
        guest.run(["killall", "-INT", "dmsetup"])
        with pytest.raises(CommandError):
            suspending.result()
        still_parked(stage)
        stage.band.message("io_limit", str(LIMIT + PARKED))
        stage.wait("the driver, which has them again, to let them go", passed=LIMIT + PARKED)
        stage.open()
        done = parked.finish(0)
        seen(f"{PARKED} pushed back, suspension interrupted: {done} I/Os, counts equal, data right")


@pytest.mark.contract("int-07")
def test_noflush_suspend_keeps_the_error_of_what_was_in_flight(guest, seen):
    with scene(guest, **USERS) as stage:
        parked = fill(stage)
        suspending = suspend_noflush(stage)
        stage.gate.below.reload(f"0 {stage.length} error")
        stage.open()
        suspending.result()
        assert parked.hog.errors() == {"hog": errno.EIO}
        assert not parked.victim.done
        stage.gate.below.reload(f"0 {stage.length} linear {LOWER} 0")
        stage.close()
        stage.open()
        stage.band.resume()
        assert parked.victim.result().total("victim").total_ios == 2 * PARKED
        groups = stage.band.status().groups
        assert total(groups) == LIMIT + 2 * PARKED == stage.level().arrived
        assert stage.lower_sectors() == 2 * PARKED * SECTORS
        seen(f"{LIMIT} in flight failed with EIO, {PARKED} pushed back ended well")


@pytest.mark.contract("int-08")
def test_parked_bios_take_the_error_of_the_disk(guest, seen):
    with scene(guest, **USERS) as stage:
        parked = fill(stage)
        stage.gate.below.reload(f"0 {stage.length} error")
        stage.open()
        assert parked.hog.errors() == {"hog": errno.EIO}
        assert parked.victim.errors() == {"victim": errno.EIO}
        level = stage.level()
        assert (level.arrived, level.passed, level.pending) == (LIMIT + PARKED, LIMIT + PARKED, 0)
        assert total(stage.band.status().groups) == LIMIT + PARKED
        assert stage.band.status().groups[DEFAULT_GROUP].writes == LIMIT
        assert stage.lower_sectors() == 0
        seen(f"{LIMIT} in flight and {PARKED} parked: each failed once, with EIO")
