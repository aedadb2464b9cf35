"""What becomes of a group on the ioband devices when its directory is removed."""

from __future__ import annotations

import contextlib

import pytest
from lab import KernelLog, refused

from harness.dm import DEFAULT_GROUP

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]


def ids(device):
    return set(device.status().groups) - {DEFAULT_GROUP}


@pytest.mark.contract("rmdir-01", "chk-20")
def test_it_is_detached_everywhere(blkio, band, seen):
    devices = [band("x", "one"), band("y", "one"), band("z", "two")]
    gone, stays = blkio.create("a"), blkio.create("b")
    for device in devices:
        gone.set(device.name, 40)
        stays.set(device.name, 30)
    gone.remove()
    blkio.settle()
    assert [ids(device) for device in devices] == [{stays.id}] * 3
    assert stays.read("blkio.settings") == "x weight=30\ny weight=30\nz weight=30\n"
    seen("detached from two devices of one share and one of another; the other group stays on all three")


@pytest.mark.contract("rmdir-02")
def test_nothing_is_said_where_it_was_not_attached(guest, blkio, band, seen):
    device, _, _ = band("x", "one"), band("y", "one"), band("z", "two")
    attached, never = blkio.create("a"), blkio.create("b")
    attached.set("x", 40)
    with KernelLog(guest) as log:
        attached.remove()
        never.remove()
        blkio.settle()
    assert log.text == ""
    assert ids(device) == set()
    seen("attached to one device of three, or to none: the kernel's log says nothing")


@pytest.mark.contract("rmdir-03")
def test_another_types_group_of_that_number_stays(blkio, band, seen):
    cgroup, user = band("x"), band("u", type="user")
    group = blkio.create("a")
    group.set("x", 40)
    user.message("attach", str(group.id))
    number = group.id
    group.remove()
    blkio.settle()
    assert (ids(cgroup), ids(user)) == (set(), {number})
    seen("a user's group of the same number, on a device of type user, is none of its business")


@pytest.mark.contract("rmdir-04")
def test_busy(guest, blkio, band, seen):
    device = band("x")
    group = blkio.create("a")
    group.set("x", 40)
    blkio.create("a/b")
    with refused("EBUSY"):
        guest.run(["rmdir", group.path])
    tasks = blkio.create("t")
    tasks.set("x", 30)
    with refused("EBUSY"):
        guest.run(tasks.exec_prefix(["rmdir", tasks.path]))
    assert ids(device) == {group.id, tasks.id}
    assert (group.read("blkio.settings"), tasks.read("blkio.settings")) == ("x weight=40\n", "x weight=30\n")
    seen("with a child, with a task in it: EBUSY, and it stays attached")


@contextlib.contextmanager
def held_open(guest, file):
    """Somebody has the file open; when the context ends, it is closed."""
    folder = guest.run(["mktemp", "-d"]).stdout.strip()
    script = (
        'mkfifo "$0/up" "$0/down"; { exec 3< "$1"; echo > "$0/up"; cat "$0/down"; exec 3<&-; echo > "$0/up"; } '
        '< /dev/null > /dev/null 2>&1 & cat "$0/up"'
    )
    guest.run(["sh", "-c", script, folder, file])
    try:
        yield
    finally:
        if guest.machine.console.death is None:
            guest.run(["sh", "-c", 'echo > "$0/down"; cat "$0/up"; rm -r "$0"', folder])


@pytest.mark.contract("rmdir-05")
@pytest.mark.parametrize("file", ["blkio.settings", "blkio.id", "tasks"])
def test_an_open_file(guest, blkio, band, fact, seen, file):
    device = band("x")
    group = blkio.create("a")
    number = group.id
    group.set("x", 40)
    with held_open(guest, f"{group.path}/{file}"):
        group.remove()
        assert guest.run(["test", "-e", group.path], check=False).exit_code == 1
        if fact("an_open_file") == "keeps a removed group":
            assert ids(device) == {number}
            assert blkio.create("new").id != number
        else:
            blkio.settle()
            assert ids(device) == set()
    blkio.settle()
    assert ids(device) == set()
    assert blkio.create("heir").id == number
    seen(f"the directory is gone at once; an open file {fact('an_open_file')}; once it is closed the id is free")


@pytest.mark.contract("rmdir-06", "chk-18")
def test_the_next_group_of_that_id_begins_with_nothing(blkio, band, seen):
    device = band("x")
    group = blkio.create("a")
    group.set("x", 40)
    number = group.id
    group.remove()
    blkio.settle()
    heir = blkio.create("b")
    assert heir.id == number
    assert (heir.read("blkio.settings"), ids(device)) == ("", set())
    heir.set("x", 7)
    assert device.table().groups == {number: "7"}
    assert device.status().groups[number].reads == 0
    seen("the same id, but not attached; attached anew it counts from zero")


@pytest.mark.contract("rmdir-07")
def test_in_a_loop(guest, blkio, band, seen):
    device = band("x")
    script = (
        f"cd {blkio.path} && for i in $(seq 200); do mkdir l && echo x $i > l/blkio.settings && "
        "[ \"$(cat l/blkio.settings)\" = \"x weight=$i\" ] && rmdir l || exit; done"
    )
    guest.run(["sh", "-c", script])
    blkio.settle()
    assert ids(device) == set()
    seen("200 times mkdir, attach, rmdir: nothing is left attached")
