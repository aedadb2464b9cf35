"""What a group's id stands for, seen from which group the I/O of a process is counted at."""

from __future__ import annotations

import pytest
from lab import DISK, devices

from harness.dm import DEFAULT_GROUP, sectors

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]


@pytest.fixture
def make(guest):
    """``make(line, name)``: a device of a line after the lower device, for everybody to read; gone with the test."""
    with devices(guest, sectors(guest, DISK)) as made:

        def one(line, name="d"):
            device = made(f"{DISK} {line}", name)
            guest.run(["chmod", "666", device.path])
            device.message("reset")
            return device

        yield one


def read(device, count, user="0:0"):
    """That many direct reads of a user and group."""
    device.guest.run(["chpst", "-u", user, *reading(device, count).split()])


def reading(device, count):
    return f"dd if={device.path} of=/dev/null bs=4k count={count} iflag=direct"


def reads(device):
    """By group, those that read."""
    return {i: g.reads for i, g in device.status().groups.items() if g.reads}


@pytest.mark.contract("type-01")
def test_none(make, seen):
    device = make("s 0 0 none weight")
    for count, user in ((1, "0:0"), (2, "1000:1000"), (4, "1001:1002")):
        read(device, count, user)
    assert reads(device) == {DEFAULT_GROUP: 7}
    seen("root's, 1000's and 1001's at -1")


@pytest.mark.contract("type-02")
@pytest.mark.parametrize("name", ["user", "uid"])
def test_user(make, seen, name):
    device = make(f"s 0 0 {name} weight 0 :40 0:1 1000:2 1001:3")
    for count, user in ((1, "0:1001"), (2, "1000:1001"), (4, "1001:1000"), (8, "1002:1000")):
        read(device, count, user)
    assert reads(device) == {0: 1, 1000: 2, 1001: 4, DEFAULT_GROUP: 8}
    seen(f"{name}: {reads(device)}")


@pytest.mark.contract("type-03")
def test_gid(make, seen):
    device = make("s 0 0 gid weight 0 :40 0:1 1000:2 1001:3")
    for count, user in ((1, "1001:0"), (2, "1001:1000"), (4, "1000:1001"), (8, "1000:1002")):
        read(device, count, user)
    assert reads(device) == {0: 1, 1000: 2, 1001: 4, DEFAULT_GROUP: 8}
    seen(f"gid: {reads(device)}")


@pytest.mark.contract("type-04")
def test_pid(guest, make, seen):
    device = make("s 0 0 pid weight 0 :40")
    pid = int(guest.run(f"dmsetup message d 0 attach $$; echo $$; exec {reading(device, 3)}").stdout)
    read(device, 2)
    assert reads(device) == {pid: 3, DEFAULT_GROUP: 2}
    seen("three reads of the attached process at its id, two of another at -1")


@pytest.mark.contract("type-04")
def test_pid_is_that_of_the_process_for_a_thread(guest, make, seen):
    """fio --thread: the I/O comes from a thread with another id than the process's."""
    device = make("s 0 0 pid weight 0 :40")
    job = (f"fio --name=a --thread --rw=read --bs=4k --size=64k --direct=1 --ioengine=psync --filename={device.path} "
           "--output=/dev/null")  # fmt: skip
    pid = int(guest.run(f"dmsetup message d 0 attach $$; echo $$; exec {job}").stdout)
    assert reads(device)[pid] == 16
    seen("16 reads of a thread at the id of its process")


@pytest.mark.contract("type-05")
def test_pgrp(guest, make, seen):
    device = make("s 0 0 pgrp weight 0 :40")
    lead = f"dmsetup message d 0 attach $$; echo $$; {reading(device, 3)}; {reading(device, 2)}; :"
    pgrp = int(guest.run(["setsid", "sh", "-c", lead]).stdout)
    read(device, 1)
    assert reads(device) == {pgrp: 5, DEFAULT_GROUP: 1}
    seen("five reads of two processes of the group at its id, one of another at -1")


@pytest.mark.contract("type-06")
@pytest.mark.parametrize("name", ["node", "cpuset"])
def test_without_an_id_as_yet(make, seen, name):
    device = make(f"s 0 0 {name} weight 0 :40 0:1 1:2 1000:3")
    read(device, 2)
    read(device, 3, "1000:1000")
    assert reads(device) == {0: 5}
    seen(f"{name}: all at group 0")


@pytest.mark.contract("type-07")
def test_delayed_writes_are_those_of_who_writes_them_back(guest, make, seen):
    device = make("s 0 0 uid weight 0 :40 0:1 1000:2")
    dirty = ["dd", "if=/dev/zero", f"of={device.path}", "bs=4k", "count=64", "conv=notrunc"]
    # Held open: the last one to close a block device writes it back.
    guest.run(f"exec 3<> {device.path}; chpst -u 1000:1000 {' '.join(dirty)} 2>/dev/null; sync")
    groups = device.status().groups
    assert (groups[1000].write_sectors, groups[DEFAULT_GROUP].write_sectors) == (0, 0)
    assert groups[0].write_sectors == 64 * 8
    seen("64 pages that 1000 has written are charged to root, who ran sync")


@pytest.mark.contract("type-08")
def test_type_changes_from_the_next_bio_on(make, seen):
    device = make("s 0 0 none weight")
    read(device, 1, "1000:1001")
    told = []
    for name in ("uid", "gid"):
        device.message("type", name)
        device.message("attach", "1000")
        read(device, 2, "1000:1001")
        told.append(reads(device).get(1000, 0))
        device.message("detach", "1000")
    assert told == [2, 0]
    seen("1000:1001 reads at 1000 under uid, at -1 under gid")


@pytest.mark.contract("type-09")
def test_attach_and_detach_move_an_ids_io(make, seen):
    device = make("s 0 0 uid weight 0 :40")
    read(device, 1, "1000:1000")
    assert reads(device) == {DEFAULT_GROUP: 1}
    device.message("attach", "1000")
    read(device, 2, "1000:1000")
    assert reads(device) == {DEFAULT_GROUP: 1, 1000: 2}
    device.message("detach", "1000")
    read(device, 4, "1000:1000")
    assert reads(device) == {DEFAULT_GROUP: 5}
    seen("at -1, at 1000, at -1 again")


@pytest.mark.contract("type-10")
def test_each_target_has_its_own_type_and_groups(make, seen):
    by_user = make("s 0 0 uid weight 0 :40 1000:2")
    by_group = make("s 0 0 gid weight 0 :40 1000:2", "e")
    for device in (by_user, by_group):
        read(device, 1, "1000:1001")
        read(device, 2, "1001:1000")
    assert (reads(by_user), reads(by_group)) == ({1000: 1, DEFAULT_GROUP: 2}, {1000: 2, DEFAULT_GROUP: 1})
    seen(f"by user {reads(by_user)}, by group {reads(by_group)}")
