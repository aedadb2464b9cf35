"""The series' interface on a booted kernel: table, status, messages, blkio.id, blkio.devices, blkio.settings."""

from __future__ import annotations

import contextlib
import re

import pytest

from harness.cgroup import Hierarchy, Setting, Share
from harness.dm import DEFAULT_GROUP, Ioband, TableLine, sectors
from harness.errors import CommandError

pytestmark = pytest.mark.guest

DISK = "/dev/vda"


@contextlib.contextmanager
def refused(errno_name):
    with pytest.raises(CommandError) as caught:
        yield
    assert caught.value.errno_name == errno_name, str(caught.value)


@pytest.fixture
def length(guest):
    return sectors(guest, DISK)


@pytest.fixture
def disk(guest, length):
    """A device of type cgroup on the whole disk."""
    line = TableLine(length=length, device=DISK, share="share1", type="cgroup", token_base=0, default="100")
    with Ioband(guest, "disk").create(line) as device:
        yield device


@pytest.fixture
def blkio(guest):
    with Hierarchy(guest, "blkio") as hierarchy:
        yield hierarchy


def test_table_shows_defaults(guest, length):
    with Ioband(guest, "d").create(f"0 {length} ioband {DISK} s 0 0 none weight") as device:
        assert re.fullmatch(rf"0 {length} ioband \d+:\d+ s 4 128 none weight 512 :100\n", device.raw_table())


def test_table_can_be_loaded_again(guest, length):
    line = TableLine(
        length=length, device=DISK, share="s", io_throttle=10, io_limit=400, type="user", token_base=2048,
        default="100", groups={1000: "80", 2000: "20"},
    )  # fmt: skip
    with Ioband(guest, "d").create(line) as device:
        text = device.raw_table()
        assert text.split()[4:] == ["s", "10", "400", "user", "weight", "2048", ":100", "1000:80", "2000:20"]
        device.reload(text.replace("\n", ""))
        device.resume()
        assert device.raw_table() == text


@pytest.mark.parametrize(
    ("rest", "errno_name"),
    [
        ("s 4 128 none", "EINVAL"),
        ("s -1 128 none weight", "EINVAL"),
        ("s 4x 128 none weight", "EINVAL"),
        ("s 32768 0 none weight", "EINVAL"),
        (f"{'x' * 32} 0 0 none weight", "EINVAL"),
        ("s 0 0 nonsense weight", "EINVAL"),
        ("s 0 0 none nonsense", "EINVAL"),
        ("s 0 0 none weight :40", "EINVAL"),
        ("s 0 0 none weight 0 :40 1000:80", "EINVAL"),
        ("s 0 0 user weight 0 :40 1000:80 1000:90", "EEXIST"),
        ("s 0 0 user weight 0 :40 1000:0", "EINVAL"),
        ("s 0 0 user weight 0 :40 1000:32768", "EINVAL"),
        ("s 0 0 user weight 0 :40 abc:10", "EINVAL"),
    ],
)
def test_constructor_refuses(guest, length, rest, errno_name):
    device = Ioband(guest, "d")
    with refused(errno_name):
        device.create(f"0 {length} ioband {DISK} {rest}")
    guest.run(["dmsetup", "remove", "d"], check=False)


def test_limits(guest, length):
    with Ioband(guest, "d").create(f"0 {length} ioband {DISK} s 0x10 2 none weight") as device:
        assert device.raw_table().split()[5:7] == ["16", "16"]
        with refused("EINVAL"):
            device.message("io_throttle", "17")
        with refused("EINVAL"):
            device.message("io_limit", "15")
        device.message("io_limit", "0")
        device.message("io_throttle", "0")
        assert device.raw_table().split()[5:7] == ["4", "128"]


def test_messages(guest, length):
    with Ioband(guest, "d").create(f"0 {length} ioband {DISK} s 0 0 user weight 0 :100") as device:
        device.message("attach", "1000")
        device.message("weight", "1000:50")
        device.message("weight", "40")
        assert device.raw_table().split()[-2:] == [":40", "1000:50"]
        with refused("EEXIST"):
            device.message("attach", "1000")
        for words in (["attach", "-1"], ["attach", "x"], ["detach", "77"], ["weight", "77:50"], ["weight", "0"],
                      ["nonsense", "1"], ["weight", "1", "2"], ["weight"], ["policy", "x"], ["type", "x"]):  # fmt: skip
            with refused("EINVAL"):
                device.message(*words)
        with refused("EBUSY"):
            device.message("type", "gid")
        device.message("policy", "weight")
        assert device.raw_table().split()[-2:] == [":40", "1000:50"], "the same policy is left alone"
        device.message("detach", "1000")
        device.message("type", "gid")


def test_status_counts_to_the_single_bio(guest, length):
    with Ioband(guest, "d").create(f"0 {length} ioband {DISK} s 0 0 user weight 0 :100 1000:50") as device:
        device.message("reset")
        guest.run(["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=16", "iflag=direct"])
        guest.run(["chpst", "-u", "1000:1000", "dd", "if=/dev/zero", f"of={device.path}", "bs=8k", "count=8",
                   "oflag=direct", "conv=notrunc"])  # fmt: skip
        groups = device.status().groups
        assert (groups[DEFAULT_GROUP].reads, groups[DEFAULT_GROUP].read_sectors) == (16, 128)
        assert (groups[DEFAULT_GROUP].writes, groups[1000].reads) == (0, 0)
        assert (groups[1000].writes, groups[1000].write_sectors) == (8, 128)
        device.message("reset")
        assert all(c.reads == c.writes == c.read_sectors == 0 for c in device.status().groups.values())


def test_blkio_ids(blkio):
    top, first, second = blkio.root, blkio.create("first"), blkio.create("second")
    assert top.id == 1
    assert len({1, first.id, second.id}) == 3


def test_settings(disk, blkio):
    group = blkio.create("g")
    assert group.settings == {}
    with refused("EINVAL"):
        group.detach("disk")
    for wrong in ("0", "32768", "x", "weight=5"):
        with refused("EINVAL"):
            group.write("blkio.settings", f"disk {wrong}")
        assert group.settings == {}, "a refused value attaches nothing"
    group.set("disk", 40)
    assert group.read("blkio.settings") == "disk weight=40\n"
    with refused("EINVAL"):
        group.write("blkio.settings", "disk 0")
    assert group.settings == {"disk": Setting(weight=40)}, "a refused value changes nothing"
    with refused("ENODEV"):
        group.write("blkio.settings", "share1 40")
    with refused("EINVAL"):
        group.write("blkio.settings", "disk 1 2")
    group.detach("disk")
    assert group.settings == {}
    blkio.root.set("disk", 70)
    assert disk.table().default == "70"
    with refused("EINVAL"):
        blkio.root.detach("disk")


def test_devices(disk, blkio):
    assert blkio.root.devices == [Share("share1", "weight", 4, 128, 512, 4, ("disk",))]
    with refused("EACCES"):
        blkio.create("g").write("blkio.devices", "nonsense")
    with refused("ENODEV"):
        blkio.root.message("nowhere", "reset")
    with refused("EINVAL"):
        blkio.root.write("blkio.devices", "share1")
    blkio.root.message("share1", "io_throttle", "7")
    blkio.root.message("disk", "io_limit", "64")
    assert (disk.table().io_throttle, disk.table().io_limit) == (7, 64)


def test_rmdir_detaches(disk, blkio):
    group = blkio.create("g")
    group.set("disk", 40)
    number = group.id
    assert number in disk.status().groups
    group.remove()
    assert number not in disk.status().groups


def test_direct_and_delayed_writes_belong_to_who_made_them(guest, disk, blkio):
    group = blkio.create("g")
    group.set("disk", 40)
    disk.message("reset")
    direct = ["dd", "if=/dev/zero", f"of={disk.path}", "bs=4k", "count=10", "oflag=direct", "conv=notrunc"]
    guest.run(group.exec_prefix(direct))
    assert disk.status().groups[group.id].writes == 10
    disk.message("reset")
    buffered = ["dd", "if=/dev/zero", f"of={disk.path}", "bs=4k", "count=64", "conv=notrunc"]
    guest.run(group.exec_prefix(buffered))
    guest.run(["sync"])
    counted = disk.status().groups
    assert counted[group.id].write_sectors == 64 * 8, "64 pages of 8 sectors, written by the flusher"
    assert counted[DEFAULT_GROUP].write_sectors == 0


def test_kernel_log_is_clean(guest):
    said = guest.run(["dmesg"]).stdout
    assert not re.search(r"BUG|WARNING|Oops|INFO: task|leak", said), said
