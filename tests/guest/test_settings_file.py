"""blkio.settings: what it shows, to the byte, and what a write does, each refusal in its order."""

from __future__ import annotations

import pytest
from lab import refused

from harness.cgroup import Setting
from harness.dm import DEFAULT_GROUP

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

# Not a weight. 65537 and 4294967297 are 1 in 16 and 32 bits.
BAD_WEIGHTS = ["0", "-1", "32768", "65537", "4294967297", "x", "5x", "weight=5", "5:5", ":5", "0x", "5,"]


def settings(group):
    return group.read("blkio.settings")


# ---- reading


@pytest.mark.contract("settings-01", "chk-20")
def test_nothing_is_attached(blkio, band, seen):
    band("d")
    assert settings(blkio.create("a")) == ""
    seen("empty in a group that has nothing attached")


@pytest.mark.contract("settings-02")
def test_the_top_group_stands_for_the_default_groups(blkio, band, seen):
    band("x", "one")
    band("y", "two", default="7")
    band("z", "one", default="32767")
    band("u", "one", type="user")
    blkio.create("a").set("x", 5)
    assert settings(blkio.root) == "x weight=100\nz weight=32767\ny weight=7\n"
    seen("x weight=100, z weight=32767, y weight=7: share by share; a device of type user is left out")


@pytest.mark.contract("settings-03")
def test_a_group_shows_where_it_is_attached(blkio, band, seen):
    for name, share in (("x", "one"), ("y", "two"), ("z", "one")):
        band(name, share)
    first, second = blkio.create("a"), blkio.create("b")
    first.set("y", 40)
    first.set("z", 1)
    second.set("x", 9)
    assert settings(first) == "z weight=1\ny weight=40\n"
    assert settings(second) == "x weight=9\n"
    seen("z weight=1, y weight=40; the other group: x weight=9")


@pytest.mark.contract("settings-03")
def test_a_group_attached_by_a_message(blkio, band, seen):
    device = band("d")
    group = blkio.create("a")
    device.message("attach", str(group.id))
    assert settings(group) == "d weight=100\n"
    device.message("weight", f"{group.id}:20")
    assert settings(group) == "d weight=20\n"
    device.message("detach", str(group.id))
    assert settings(group) == ""
    seen("attached, changed and detached by messages, the file says the same")


@pytest.mark.contract("settings-04")
def test_a_range(blkio, band, seen):
    device = band("d", policy="range-bw", default="0:0")
    group = blkio.create("a")
    group.write("blkio.settings", "d 100:500")
    assert settings(group) == "d range-bw=100:500\n"
    assert settings(blkio.root) == "d range-bw=0:0\n"
    group.write("blkio.settings", "d 0:0")
    assert settings(group) == "d range-bw=0:0\n"
    for wrong in ("500:100", "100", "100:", ":100:500", "x:500", "1:0", "-1:5", "range-bw=1:2"):
        with refused("EINVAL"):
            group.write("blkio.settings", f"d {wrong}")
    assert group.settings == {"d": Setting(range_bw=(0, 0))}
    blkio.root.write("blkio.settings", "d 3:4")
    assert device.table().default == "3:4"
    seen("d range-bw=100:500; the top group: d range-bw=0:0; MIN over MAX and half ranges: EINVAL")


# ---- writing: refusals, in the order of the checks


@pytest.mark.contract("settings-05")
@pytest.mark.parametrize("text", ["\n", "  \n", "d 1 2", "nowhere 1 2", "u 1 2", "d 0 x y"])
def test_count_of_words(blkio, band, seen, text):
    band("d")
    band("u", type="user")
    for group in (blkio.root, blkio.create("a")):
        with refused("EINVAL"):
            group.write("blkio.settings", text)
    assert settings(blkio.root) == "d weight=100\n"
    seen("none or three words: EINVAL, also with an unknown device")


@pytest.mark.contract("settings-06", "chk-20")
@pytest.mark.parametrize("name", ["s", "nowhere", "D", "u", "users"])
@pytest.mark.parametrize("value", [" 40", " 0", " x", ""])
def test_not_a_device_of_type_cgroup(blkio, band, seen, name, value):
    band("d", "s")
    band("u", "users", type="user")
    group = blkio.create("a")
    for one in (group, blkio.root):
        with refused("ENODEV"):
            one.write("blkio.settings", f"{name}{value}")
    assert (settings(group), settings(blkio.root)) == ("", "d weight=100\n")
    seen("a share, an unknown name, a device of another type: ENODEV, whatever the value, in any group")


@pytest.mark.contract("settings-07")
def test_detach_in_the_top_group(blkio, band, seen):
    band("d")
    with refused("EINVAL"):
        blkio.root.detach("d")
    assert settings(blkio.root) == "d weight=100\n"
    seen("EINVAL, and the default group stays")


@pytest.mark.contract("settings-08")
def test_detach(blkio, band, seen):
    device = band("d")
    group, other = blkio.create("a"), blkio.create("b")
    other.set("d", 30)
    with refused("EINVAL"):
        group.detach("d")
    group.set("d", 40)
    assert set(device.status().groups) == {DEFAULT_GROUP, group.id, other.id}
    group.detach("d")
    assert (settings(group), settings(other)) == ("", "d weight=30\n")
    assert set(device.status().groups) == {DEFAULT_GROUP, other.id}
    with refused("EINVAL"):
        group.detach("d")
    seen("not attached: EINVAL; attached: done, others stay; once more: EINVAL")


@pytest.mark.contract("settings-08")
def test_what_is_detached_goes_to_the_default_group(guest, blkio, band, seen):
    device = band("d")
    group = blkio.create("a")
    group.set("d", 40)
    device.message("reset")
    read = ["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=3", "iflag=direct"]
    guest.run(group.exec_prefix(read))
    group.detach("d")
    guest.run(group.exec_prefix(read))
    assert device.status().groups[DEFAULT_GROUP].reads == 3
    group.set("d", 40)
    assert device.status().groups[group.id].reads == 0
    seen("3 reads before: the group's; 3 after: the default group's")


@pytest.mark.contract("settings-09")
def test_set_the_default_group(blkio, band, seen):
    one, two = band("x"), band("y")
    blkio.root.set("y", 70)
    assert (one.table().default, two.table().default) == ("100", "70")
    for wrong in BAD_WEIGHTS:
        with refused("EINVAL"):
            blkio.root.write("blkio.settings", f"y {wrong}")
    assert settings(blkio.root) == "x weight=100\ny weight=70\n"
    seen(f"70 is taken; {', '.join(BAD_WEIGHTS)} are EINVAL and change nothing")


@pytest.mark.contract("settings-10", "chk-20")
@pytest.mark.parametrize("wrong", BAD_WEIGHTS)
def test_a_bad_value_attaches_nothing(blkio, band, seen, wrong):
    device = band("d")
    group = blkio.create("a")
    before = device.raw_table()
    with refused("EINVAL"):
        group.write("blkio.settings", f"d {wrong}")
    assert settings(group) == ""
    assert set(device.status().groups) == {DEFAULT_GROUP}
    assert device.raw_table() == before
    with refused("EINVAL"):
        group.detach("d")
    seen(f"{wrong}: EINVAL, and nothing is attached")


@pytest.mark.contract("settings-11")
@pytest.mark.parametrize("wrong", BAD_WEIGHTS)
def test_a_bad_value_changes_nothing(blkio, band, seen, wrong):
    band("d")
    group = blkio.create("a")
    group.set("d", 40)
    with refused("EINVAL"):
        group.write("blkio.settings", f"d {wrong}")
    assert settings(group) == "d weight=40\n"
    seen(f"{wrong}: EINVAL, and the weight is still 40")


@pytest.mark.contract("settings-12")
@pytest.mark.parametrize(
    ("text", "weight"), [("1", 1), ("32767", 32767), ("0x10", 16), ("010", 8), (" 40 ", 40), ("\t40\n", 40)]
)
def test_values(blkio, band, seen, text, weight):
    device = band("d")
    group = blkio.create("a")
    for _ in ("attached by it", "set again"):
        group.write("blkio.settings", f"d {text}")
        assert settings(group) == f"d weight={weight}\n"
    assert device.table().groups == {group.id: str(weight)}
    seen(f"{text.strip()}: weight={weight}")


@pytest.mark.contract("settings-13")
def test_devices_are_independent(blkio, band, seen):
    first, second, third = band("x", "one"), band("y", "one"), band("z", "two")
    group = blkio.create("a")
    group.set("x", 10)
    group.set("z", 30)
    assert first.table().groups == {group.id: "10"}
    assert second.table().groups == {}
    assert third.table().groups == {group.id: "30"}
    group.set("x", 20)
    group.detach("z")
    assert settings(group) == "x weight=20\n"
    assert (first.table().groups, third.table().groups) == ({group.id: "20"}, {})
    seen("attached to x and z, not to y of the same share; changed on x and detached from z only")


@pytest.mark.contract("settings-14")
def test_directories_are_flat(guest, blkio, band, seen):
    device = band("d")
    parent, child = blkio.create("a"), blkio.create("a/b")
    parent.set("d", 40)
    device.message("reset")
    read = ["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=3", "iflag=direct"]
    guest.run(child.exec_prefix(read))
    groups = device.status().groups
    assert (groups[DEFAULT_GROUP].reads, groups[parent.id].reads) == (3, 0)
    assert settings(child) == ""
    child.set("d", 32767)
    assert (settings(parent), settings(child)) == ("d weight=40\n", "d weight=32767\n")
    guest.run(child.exec_prefix(read))
    groups = device.status().groups
    assert [groups[i].reads for i in (DEFAULT_GROUP, parent.id, child.id)] == [3, 0, 3]
    seen("a child that is not attached is the default group's, not its parent's; its weight has no limit")


@pytest.mark.contract("settings-15")
def test_types_change(blkio, band, seen):
    device = band("d")
    group = blkio.create("a")
    group.set("d", 40)
    with refused("EBUSY"):
        device.message("type", "user")
    group.detach("d")
    device.message("type", "user")
    assert (settings(blkio.root), settings(group)) == ("", "")
    with refused("ENODEV"):
        group.set("d", 40)
    device.message("type", "cgroup")
    group.set("d", 40)
    assert settings(group) == "d weight=40\n"
    seen("EBUSY while a group is attached; type user: gone from the file, ENODEV; type cgroup again: back")


@pytest.mark.contract("settings-16")
def test_attach_and_change_keep_what_is_counted(guest, blkio, band, seen):
    device = band("d")
    group, other = blkio.create("a"), blkio.create("b")
    group.set("d", 40)
    device.message("reset")
    read = ["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=3", "iflag=direct"]
    guest.run(group.exec_prefix(read))
    group.set("d", 50)
    other.set("d", 60)
    assert device.status().groups[group.id].reads == 3
    assert device.table().groups == {group.id: "50", other.id: "60"}
    seen("a new weight and another group leave the counters as they were")


@pytest.mark.contract("settings-17")
def test_a_renamed_device(guest, blkio, band, seen):
    device = band("d")
    group = blkio.create("a")
    group.set("d", 40)
    guest.run(["dmsetup", "rename", "d", "e"])
    device.name = "e"
    assert settings(group) == "e weight=40\n"
    assert blkio.root.devices[0].devices == ("e",)
    with refused("ENODEV"):
        group.set("d", 50)
    group.set("e", 50)
    assert settings(group) == "e weight=50\n"
    seen("d renamed to e: e weight=40, d is ENODEV")
