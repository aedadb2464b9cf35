"""The driver as a module: without it the cgroup files are empty and take everything, with it they work."""

from __future__ import annotations

import contextlib

import pytest
from lab import refused

from harness import dm
from harness.dm import DEFAULT_GROUP, Ioband, TableLine
from harness.errnos import errno_name

AS_A_MODULE = (("CONFIG_DM_IOBAND", "m"),)
pytestmark = [
    pytest.mark.guest,
    pytest.mark.flavours("perf", "debug"),
    pytest.mark.machine(config=AS_A_MODULE),
]

LENGTH = 8192
LINE = TableLine(length=LENGTH, device="/dev/vda", share="s", type="cgroup", token_base=0, default="100")
SHOWN = "s policy=weight io_throttle=4 io_limit=128 token=512 carryover=4\n  d\n"
WORDS = ("d 40", "d 0", "nowhere 40", "s reset", "nowhere", "\n", "a b c d e f", "  ")


@contextlib.contextmanager
def loaded(guest):
    guest.run(["insmod", "/lib/modules/dm-ioband.ko"])
    try:
        yield
    finally:
        assert unload(guest) is None


def unload(guest):
    """The errno of the refusal, if it is refused: busybox prints it and exits with 0."""
    return errno_name(guest.run(["rmmod", "dm-ioband"]).stderr)


def files_are_idle(blkio, *groups):
    """Both files of the groups read empty, and whatever is written does nothing."""
    for group in (blkio.root, *groups):
        assert (group.read("blkio.devices"), group.read("blkio.settings")) == ("", "")
        for words in WORDS:
            group.write("blkio.settings", words)
    for words in WORDS:
        blkio.root.write("blkio.devices", words)
    for group in groups:
        with refused("EACCES"):
            group.write("blkio.devices", "nowhere")


@pytest.mark.contract("module-01", "module-02", "chk-20")
def test_without_the_driver(guest, blkio, fact, seen):
    assert "ioband" not in dm.targets(guest)
    files_are_idle(blkio, blkio.create("a"), blkio.create("a/b"))
    with refused("E2BIG"):
        blkio.root.write("blkio.devices", "x" * (fact("longest_write") + 1))
    seen("reads are empty; writes return 0: good ones, bad ones, blanks; EACCES in a child all the same")


@pytest.mark.contract("module-06")
def test_no_device_without_the_driver(guest, seen):
    device = Ioband(guest, "d")
    with refused("EINVAL"):
        device.create(LINE)
    guest.run(["dmsetup", "remove", "d"], check=False)
    seen("dmsetup create: EINVAL")


@pytest.mark.contract("module-03", "module-05", "chk-20")
def test_load_unload_load(guest, blkio, seen):
    group = blkio.create("a")
    for turn in range(3):
        with loaded(guest):
            assert (blkio.root.read("blkio.devices"), group.read("blkio.settings")) == ("", "")
            with Ioband(guest, "d").create(LINE) as device:
                assert group.read("blkio.devices") == SHOWN
                assert group.read("blkio.settings") == ""
                group.set("d", 40 + turn)
                assert group.read("blkio.settings") == f"d weight={40 + turn}\n"
                read = ["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=5", "iflag=direct"]
                guest.run(group.exec_prefix(read))
                assert device.status().groups[group.id].reads == 5
        files_are_idle(blkio, group)
    seen("three times: works when loaded, idle when unloaded, and nothing of before is left")


@pytest.mark.contract("module-04", "chk-20")
def test_in_use(guest, blkio, seen):
    with loaded(guest), Ioband(guest, "d").create(LINE) as device:
        group = blkio.create("a")
        group.set("d", 40)
        assert unload(guest) == "EAGAIN"
        assert group.read("blkio.settings") == "d weight=40\n"
        device.suspend()
        assert unload(guest) == "EAGAIN"
        device.resume()
        assert set(device.status().groups) == {DEFAULT_GROUP, group.id}
    seen("rmmod: EAGAIN, running or suspended, and everything goes on")


@pytest.mark.contract("module-05")
def test_a_group_is_removed_after_the_driver(guest, blkio, seen):
    group = blkio.create("a")
    with loaded(guest), Ioband(guest, "d").create(LINE):
        group.set("d", 40)
    number = group.id
    group.remove()
    with loaded(guest), Ioband(guest, "d").create(LINE) as device:
        heir = blkio.create("b")
        assert heir.id == number
        assert heir.read("blkio.settings") == ""
        assert set(device.status().groups) == {DEFAULT_GROUP}
    seen("rmdir without the driver; loaded again, the id's next group is not attached")


@pytest.mark.contract("module-05")
def test_pages_that_were_dirtied_before_it_came(guest, blkio, seen):
    """Ownership is the kernel's, not the driver's."""
    group = blkio.create("a")
    guest.run(group.exec_prefix(["dd", "if=/dev/zero", "of=/tmp/data", "bs=4k", "count=16"]))
    with loaded(guest), Ioband(guest, "d").create(LINE) as device:
        group.set("d", 40)
        device.message("reset")
        guest.run(group.exec_prefix(["dd", "if=/tmp/data", f"of={device.path}", "bs=4k", "conv=notrunc"]))
        guest.run(["sync"])
        assert device.status().groups[group.id].write_sectors == 16 * 8
    guest.run(["rm", "/tmp/data"])
    seen("16 pages by the group: 128 sectors")


@pytest.mark.machine(config=AS_A_MODULE, append="cgroup_disable=blkio")
@pytest.mark.contract("module-07")
def test_with_blkio_disabled(guest, seen):
    for _ in range(2):
        with loaded(guest), Ioband(guest, "d").create(LINE) as device:
            guest.run(["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=5", "iflag=direct"])
            assert device.status().groups[DEFAULT_GROUP].reads == 5
            device.message("type", "user")
            device.message("attach", "1000")
            assert device.table().groups == {1000: "100"}
        assert "ioband" not in dm.targets(guest)
    seen("loaded and unloaded twice; a type other than cgroup has its groups")
