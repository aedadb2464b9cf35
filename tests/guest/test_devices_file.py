"""blkio.devices: what it shows, to the byte, and what a write does, each refusal in its order."""

from __future__ import annotations

import pytest
from lab import refused

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

WEIGHTS = "policy=weight io_throttle=4 io_limit=128 token=512 carryover=4"


@pytest.fixture
def band(band):
    """As elsewhere, but with the same io_limit whatever the disk's queue has."""
    return lambda name, share="s", **parameters: band(name, share, **{"io_limit": 128, **parameters})


# ---- reading


@pytest.mark.contract("devices-01")
def test_nothing_to_show(guest, blkio, seen):
    child = blkio.create("a")
    assert (blkio.root.read("blkio.devices"), child.read("blkio.devices")) == ("", "")
    seen("empty")


@pytest.mark.contract("devices-02")
def test_a_share_and_its_devices(blkio, band, seen):
    for name in ("zebra", "ant", "cow"):
        band(name, "share1")
    assert blkio.root.read("blkio.devices") == f"share1 {WEIGHTS}\n  zebra\n  ant\n  cow\n"
    seen(f"share1 {WEIGHTS}; then zebra, ant, cow, as they were made, after two blanks")


@pytest.mark.contract("devices-03")
def test_shares_in_the_order_they_came(blkio, band, seen):
    band("one", "zebra")
    band("two", "ant", io_throttle=7, io_limit=64)
    band("three", "zebra")
    assert blkio.root.read("blkio.devices") == (
        f"zebra {WEIGHTS}\n  one\n  three\n"
        "ant policy=weight io_throttle=7 io_limit=64 token=256 carryover=8\n  two\n"
    )
    seen("zebra before ant; each device below its share")


@pytest.mark.contract("devices-04", "chk-20")
def test_only_devices_of_type_cgroup(blkio, band, seen):
    band("u", "share1", type="user")
    band("c", "share1")
    band("n", "share2", type="none")
    assert blkio.root.read("blkio.devices") == f"share1 {WEIGHTS}\n  c\nshare2 {WEIGHTS}\n"
    seen("a share without a device of type cgroup shows its line only; others of its devices are left out")


@pytest.mark.contract("devices-05")
def test_the_same_everywhere(guest, blkio, band, seen):
    band("d", "share1")
    groups = [blkio.root, blkio.create("a"), blkio.create("a/b")]
    assert {group.read("blkio.devices") for group in groups} == {f"share1 {WEIGHTS}\n  d\n"}
    guest.run(["chpst", "-u", "1000:1000", "cat", f"{groups[1].path}/blkio.devices"])
    seen("the same text in the top group, in a child and in its child; any user may read it")


@pytest.mark.contract("devices-06")
def test_policies_show_what_they_have(blkio, band, seen):
    band("b", "bytes", policy="weight-iosize")
    band("r", "range", policy="range-bw", default="0:0")
    band("d", "alias", policy="default")
    lines = blkio.root.read("blkio.devices").splitlines()
    assert lines[0] == "bytes policy=weight-iosize io_throttle=4 io_limit=128 token=4096 carryover=4"
    assert lines[2] == "range policy=range-bw io_throttle=4 io_limit=128"
    assert lines[4] == f"alias {WEIGHTS.replace('policy=weight', 'policy=default')}"
    assert lines[1::2] == ["  b", "  r", "  d"]
    seen(f"{lines[0]}; {lines[2]}; {lines[4]}")


@pytest.mark.contract("devices-07")
def test_it_shows_what_is(blkio, band, seen):
    device = band("d", "s")
    device.message("io_throttle", "9")
    device.message("token", "1024")
    device.message("carryover", "3")
    text = blkio.root.read("blkio.devices")
    assert text == "s policy=weight io_throttle=9 io_limit=128 token=1024 carryover=3\n  d\n"
    device.message("type", "user")
    assert blkio.root.read("blkio.devices").splitlines()[1:] == []
    device.remove()
    assert blkio.root.read("blkio.devices") == ""
    seen("after messages: " + text.splitlines()[0])


# ---- writing: who is meant


@pytest.mark.contract("devices-08")
def test_a_share_means_its_first_device(blkio, band, seen):
    first, second = band("x", "share1"), band("y", "share1")
    blkio.root.message("share1", "weight", "33")
    assert (first.table().default, second.table().default) == ("33", "100")
    seen("share1 weight 33: the first device's default group has 33, the second's still 100")


@pytest.mark.contract("devices-08")
def test_a_share_means_its_first_device_of_type_cgroup(blkio, band, seen):
    user, cgroup = band("x", "share1", type="user"), band("y", "share1")
    blkio.root.message("share1", "weight", "33")
    assert (user.table().default, cgroup.table().default) == ("100", "33")
    seen("a first device of another type is passed over")


@pytest.mark.contract("devices-09")
def test_a_device_by_its_name(blkio, band, seen):
    first, second, other = band("x", "share1"), band("y", "share1"), band("z", "share2")
    blkio.root.message("y", "weight", "44")
    blkio.root.message("z", "weight", "55")
    assert [device.table().default for device in (first, second, other)] == ["100", "44", "55"]
    seen("y and z have their new weights, x has its old one")


@pytest.mark.contract("devices-10", "chk-20")
def test_a_device_named_like_a_later_share(blkio, band, seen):
    first, second = band("later", "early"), band("x", "later")
    blkio.root.message("later", "weight", "33")
    assert (first.table().default, second.table().default) == ("33", "100")
    seen("device `later` of share `early`, then share `later`: the device has it")


@pytest.mark.contract("devices-10")
def test_a_device_named_like_an_earlier_share(blkio, band, seen):
    first, second = band("x", "early"), band("early", "later")
    blkio.root.message("early", "weight", "33")
    assert (first.table().default, second.table().default) == ("33", "100")
    seen("share `early`, then device `early`: the share has it")


@pytest.mark.contract("devices-10")
def test_a_device_named_like_its_share(blkio, band, seen):
    first, second = band("x", "s"), band("s", "s")
    blkio.root.message("s", "weight", "33")
    assert (first.table().default, second.table().default) == ("33", "100")
    seen("share s with devices x and s: the share goes first, so x has it")


# ---- writing: refusals


@pytest.mark.contract("devices-11", "chk-20")
@pytest.mark.parametrize("text", ["s io_throttle 7", "nowhere", " \n", "s nonsense", "x" * 62])
def test_top_group_only(blkio, band, seen, text):
    device = band("d", "s")
    child = blkio.create("a")
    with refused("EACCES"):
        child.write("blkio.devices", text)
    with refused("EACCES"):
        blkio.create("a/b").write("blkio.devices", text)
    assert device.table().io_throttle == 4
    seen("in a child EACCES: a good message, an unknown device, no words, bad words")


@pytest.mark.contract("devices-12")
def test_no_words(blkio, band, seen):
    band("d", "s")
    for text in ("\n", "   ", " \t\n"):
        with refused("EINVAL"):
            blkio.root.write("blkio.devices", text)
    seen("a newline, blanks: EINVAL")


@pytest.mark.contract("devices-13")
@pytest.mark.parametrize("text", ["nowhere reset", "nowhere", "nowhere nonsense words", "D reset", "ss reset"])
def test_no_such_device(blkio, band, seen, text):
    band("d", "s")
    with refused("ENODEV"):
        blkio.root.write("blkio.devices", text)
    seen("an unknown name: ENODEV, with or without a message, be it good or bad")


@pytest.mark.contract("devices-14", "chk-20")
@pytest.mark.parametrize("name", ["u", "users"])
@pytest.mark.parametrize("message", ["reset", "weight 5", "nonsense", ""])
def test_a_device_of_another_type(blkio, band, seen, name, message):
    device = band("u", "users", type="user")
    band("d", "s")
    with refused("ENODEV"):
        blkio.root.write("blkio.devices", f"{name} {message}".strip())
    assert device.table().default == "100"
    seen("by its name and by its share's: ENODEV, whatever the message; nothing was changed")


@pytest.mark.contract("devices-14")
def test_a_name_of_another_type_beside_one_of_type_cgroup(blkio, band, seen):
    user, cgroup = band("u", "s", type="user"), band("c", "s")
    with refused("ENODEV"):
        blkio.root.message("u", "weight", "5")
    assert (user.table().default, cgroup.table().default) == ("100", "100")
    seen("device u of type user in a share with a device of type cgroup: ENODEV")


@pytest.mark.contract("devices-15")
def test_a_name_alone(blkio, band, seen):
    band("d", "s")
    for name in ("s", "d", "  d  \n"):
        with refused("EINVAL"):
            blkio.root.write("blkio.devices", name)
    seen("EINVAL, by the share's name and by the device's")


MESSAGES = [
    ("io_throttle 129", "EINVAL"),
    ("io_throttle -1", "EINVAL"),
    ("io_throttle 4x", "EINVAL"),
    ("io_limit 3", "EINVAL"),
    ("io_limit 32768", "EINVAL"),
    ("type nonsense", "EINVAL"),
    ("type user", "EBUSY"),
    ("attach 7", "EEXIST"),
    ("attach -1", "EINVAL"),
    ("attach x", "EINVAL"),
    ("detach 8", "EINVAL"),
    ("policy nonsense", "EINVAL"),
    ("weight 0", "EINVAL"),
    ("weight 32768", "EINVAL"),
    ("weight 8:50", "EINVAL"),
    ("weight x:50", "EINVAL"),
    ("nonsense 1", "EINVAL"),
    ("weight 1 2", "EINVAL"),
    ("weight", "EINVAL"),
]


@pytest.mark.contract("devices-16", "chk-20")
@pytest.mark.parametrize(("message", "errno_name"), MESSAGES)
@pytest.mark.parametrize("name", ["s", "d"])
def test_a_messages_refusals(blkio, band, seen, name, message, errno_name):
    device = band("d", "s", groups={7: "20"})
    before = device.raw_table()
    with refused(errno_name):
        blkio.root.write("blkio.devices", f"{name} {message}")
    assert device.raw_table() == before
    seen(f"{message}: {errno_name}")


@pytest.mark.contract("devices-17")
def test_messages(guest, blkio, band, seen):
    device = band("d", "s")
    blkio.root.message("d", "io_throttle", "7")
    blkio.root.message("s", "io_limit", "64")
    assert (device.table().io_throttle, device.table().io_limit) == (7, 64)
    blkio.root.message("s", "attach", "5")
    blkio.root.message("s", "weight", "5:30")
    assert device.table().groups == {5: "30"}
    guest.run(["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"])
    assert device.status().groups[-1].reads == 1
    blkio.root.message("s", "reset")
    assert device.status().groups[-1].reads == 0
    blkio.root.message("s", "token", "1000")
    assert device.table().token_base == 1000
    blkio.root.message("s", "policy", "weight-iosize")
    assert device.table().policy == "weight-iosize"
    assert device.table().groups == {5: "100"}, "another policy begins with its defaults"
    blkio.root.message("s", "detach", "5")
    blkio.root.message("s", "type", "user")
    assert (device.table().type, device.table().groups) == ("user", {})
    with refused("ENODEV"):
        blkio.root.message("s", "type", "cgroup")
    seen("io_throttle, io_limit, attach, weight, reset, token, policy, detach, type: each did its work")


@pytest.mark.contract("devices-17")
def test_blanks_between_words(blkio, band, seen):
    device = band("d", "s")
    blkio.root.write("blkio.devices", " \t s   io_throttle \t 7 \n")
    assert device.table().io_throttle == 7
    seen("any blanks around and between the words")


@pytest.mark.contract("devices-18")
def test_the_top_directory_not_the_super_user(guest, blkio, band, seen):
    device = band("d", "s")
    file = f"{blkio.path}/blkio.devices"
    write = ["chpst", "-u", "1000:1000", "sh", "-c", 'echo s io_throttle 7 > "$0"', file]
    with refused("EACCES"):
        guest.run(write)
    assert device.table().io_throttle == 4
    guest.run(["chmod", "666", file])
    guest.run(write)
    assert device.table().io_throttle == 7
    seen("user 1000: EACCES by the mode of the file; with mode 0666 the write is taken")


@pytest.mark.contract("devices-19", "chk-21")
def test_length_of_a_write(guest, blkio, band, fact, seen):
    device = band("d", "s")
    longest = fact("longest_write")
    for file in ("blkio.devices", "blkio.settings"):
        with refused("E2BIG"):
            blkio.root.write(file, "y" * (longest + 1))
        with refused("E2BIG"):
            blkio.create(f"too-long-{file}").write(file, "y" * (longest + 1))
    blkio.root.write("blkio.devices", "s io_throttle 7".ljust(longest))
    assert device.table().io_throttle == 7
    blkio.root.write("blkio.settings", "d 55".ljust(longest))
    assert device.table().default == "55"
    seen(f"{longest} bytes are taken, {longest + 1} are E2BIG, also where it would have been EACCES")
