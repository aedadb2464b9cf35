"""What dmsetup status counts, to the single bio: a lower device that keeps what it is given makes it exact."""

from __future__ import annotations

import pytest
from lab import BLOCK

from harness.dm import DEFAULT_GROUP, GroupCounters

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

SECTORS = BLOCK // 512
NOTHING = GroupCounters(0, 0, 0, 0, 0, 0)


def read(guest, device, count=1, *, uid=0, block=BLOCK):
    guest.run(["chmod", "666", device.path])
    guest.run(["chpst", "-u", f"{uid}:{uid}", "dd", f"if={device.path}", "of=/dev/null", f"bs={block}",
               f"count={count}", "iflag=direct"])  # fmt: skip


def write(guest, device, count=1, *, uid=0, block=BLOCK):
    guest.run(["chmod", "666", device.path])
    guest.run(["chpst", "-u", f"{uid}:{uid}", "dd", "if=/dev/zero", f"of={device.path}", f"bs={block}",
               f"count={count}", "oflag=direct", "conv=notrunc"])  # fmt: skip


@pytest.mark.contract("status-01")
def test_form_of_the_line(make, low, seen):
    device = make("some-share 0 0 user weight 0 :40 500:1 7:80")
    assert device.raw_status() == (
        f"0 {low.length} ioband some-share -1 0 0 0 0 0 0 7 0 0 0 0 0 0 500 0 0 0 0 0 0\n"
    )
    seen(device.raw_status().strip())


@pytest.mark.contract("status-02", "chk-08")
def test_reads_and_writes_are_counted_apart_in_bios_and_sectors(guest, make, seen):
    device = make("s 0 0 user weight 0 :40 1000:80 1001:20")
    read(guest, device, 5, uid=1000)
    write(guest, device, 3, uid=1001, block=2 * BLOCK)
    read(guest, device, 2, block=4 * BLOCK)
    groups = device.status().groups
    assert groups[1000] == GroupCounters(5, 0, 5 * SECTORS, 0, 0, 0)
    assert groups[1001] == GroupCounters(0, 0, 0, 3, 0, 6 * SECTORS)
    assert groups[DEFAULT_GROUP] == GroupCounters(2, 0, 8 * SECTORS, 0, 0, 0)
    seen(device.raw_status().strip())


@pytest.mark.contract("status-03", "chk-08")
def test_who_has_no_group_counts_at_the_default(guest, make, seen):
    device = make("s 0 0 user weight 0 :40 1000:80")
    read(guest, device, 4, uid=1002)
    groups = device.status().groups
    assert (groups[DEFAULT_GROUP].reads, groups[1000]) == (4, NOTHING)
    seen("four reads of uid 1002 at -1")


@pytest.mark.contract("status-04", "status-05", "chk-08")
@pytest.mark.parametrize("kind", ["read", "write"])
def test_counted_when_let_through_and_parked_ones_as_deferred(guest, make, low, submitters, seen, kind):
    """io_limit 4: four go down and three are parked, which is as many as one group of four may."""
    device = make("s 1 4 none weight")
    with submitters(guest) as processes:
        with low.holding():
            before = low.io()
            processes.start(device.path, 7, write=kind == "write")
            arrived = low.io() - before
            held = device.status().groups[DEFAULT_GROUP]
        processes.wait()
    after = device.status().groups[DEFAULT_GROUP]
    if kind == "read":
        assert arrived.reads == 4
        assert held == GroupCounters(4, 0, 4 * SECTORS, 0, 0, 0), "none has completed, parked ones do not count yet"
        assert after == GroupCounters(7, 3, 7 * SECTORS, 0, 0, 0)
    else:
        assert arrived.writes == 4
        assert held == GroupCounters(0, 0, 0, 4, 0, 4 * SECTORS)
        assert after == GroupCounters(0, 0, 0, 7, 3, 7 * SECTORS)
    seen(f"{kind}s: 4 in flight count 4 and 0 deferred; at the end 7, of which 3 deferred")


@pytest.mark.contract("status-06", "chk-08")
def test_totals_are_what_arrives_below(guest, make, low, seen):
    device = make("s 0 0 user weight 0 :40 1000:80 1001:20")
    before = low.io()
    job = "--filename={d} --direct=1 --ioengine=libaio --iodepth=8 --size=4m --randrepeat=1 --output=/dev/null"
    guest.run(["chmod", "666", device.path])
    guest.run(
        f"chpst -u 1000:1000 fio --name=a --rw=randrw --bsrange=512-64k {job.format(d=device.path)} &\n"
        f"chpst -u 1001:1001 fio --name=b --rw=randrw --bsrange=4k-16k --offset=8m {job.format(d=device.path)} &\n"
        f"dd if=/dev/zero of={device.path} bs=4k count=256 seek=8192 conv=notrunc,fsync 2>/dev/null; wait",
        timeout=120,
    )
    arrived, groups = low.io() - before, device.status().groups.values()
    assert arrived.reads == sum(g.reads for g in groups)
    assert arrived.writes == sum(g.writes for g in groups)
    assert arrived.read_sectors == sum(g.read_sectors for g in groups)
    assert arrived.write_sectors == sum(g.write_sectors for g in groups)
    assert all(g.reads_deferred <= g.reads and g.writes_deferred <= g.writes for g in groups)
    assert arrived.writes > 256 and arrived.reads > 100
    seen(f"{arrived.reads} reads, {arrived.writes} writes, {arrived.read_sectors}+{arrived.write_sectors} sectors")


@pytest.mark.contract("status-07", "msg-reset-01", "chk-08")
def test_reset_zeroes_every_group_of_the_target(guest, make, seen):
    device = make("s 0 0 user weight 0 :40 1000:80")
    read(guest, device, 4, uid=1000)
    write(guest, device, 2)
    device.message("reset")
    assert set(device.status().groups.values()) == {NOTHING}
    read(guest, device, 1)
    assert device.status().groups[DEFAULT_GROUP].reads == 1
    seen("all zero, and counting goes on")


@pytest.mark.contract("msg-reset-02")
def test_reset_leaves_other_targets_of_the_share_alone(guest, make, seen):
    first, second = make("s 0 0 none weight"), make("s 0 0 none weight", "e")
    read(guest, first, 3)
    read(guest, second, 2)
    second.message("reset")
    assert first.status().groups[DEFAULT_GROUP].reads == 3
    assert second.status().groups[DEFAULT_GROUP] == NOTHING
    seen("the other target keeps its 3 reads")


@pytest.mark.contract("status-08")
def test_a_group_begins_at_zero_and_a_message_changes_no_counter(guest, make, seen):
    device = make("s 0 0 user weight 0 :40 1000:80")
    read(guest, device, 3, uid=1000)
    read(guest, device, 2)
    before = device.status().groups
    for words in (["weight", "1000:7"], ["policy", "default"], ["io_limit", "64"], ["attach", "5"]):
        device.message(*words)
    after = device.status().groups
    assert after == before | {5: NOTHING}
    device.message("detach", "1000")
    device.message("attach", "1000")
    assert device.status().groups[1000] == NOTHING
    seen("3 reads of 1000 stay through weight, policy, io_limit and attach, and are gone with the group")
