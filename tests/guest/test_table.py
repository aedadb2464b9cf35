"""What dmsetup table prints, and that it can be loaded again."""

from __future__ import annotations

import pytest
from lab import DISK

from harness.dm import Ioband, sectors

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]


@pytest.mark.contract("table-01")
def test_form_of_the_line(guest, seen):
    length = sectors(guest, DISK)
    number = guest.run("cat /sys/block/vda/dev").stdout.strip()
    with Ioband(guest, "d").create(f"0 {length} ioband {DISK} s 0 0 user weight 0 :40 7:30") as device:
        assert device.raw_table() == f"0 {length} ioband {number} s 4 128 user weight 512 :40 7:30\n"
        named = guest.run(["dmsetup", "table"]).stdout
        assert named == f"d: 0 {length} ioband {number} s 4 128 user weight 512 :40 7:30\n"
    seen(named.strip())


@pytest.mark.contract("table-02")
def test_groups_by_ascending_id(guest, seen):
    groups = "500:5 7:70 2147483647:1 0:9 66:6 65:6"
    with Ioband(guest, "d").create(f"0 64 ioband {DISK} s 0 0 user weight 0 :40 {groups}") as device:
        device.message("attach", "10")
        assert device.raw_table().split()[11:] == [
            "0:9", "7:70", "10:100", "65:6", "66:6", "500:5", "2147483647:1",
        ]  # fmt: skip
    seen("0 7 10 65 66 500 2147483647")


@pytest.mark.contract("table-03")
def test_the_table_shows_what_messages_have_changed(guest, seen):
    with Ioband(guest, "d").create(f"0 64 ioband {DISK} s 0 0 none weight") as device:
        for words in (["io_limit", "300"], ["io_throttle", "9"], ["type", "pgrp"], ["attach", "3"],
                      ["weight", "3:33"], ["weight", "44"], ["token", "999"]):  # fmt: skip
            device.message(*words)
        assert device.raw_table().split()[4:] == ["s", "9", "300", "pgrp", "weight", "999", ":44", "3:33"]
        seen(device.raw_table().strip())


LINES = [
    "s 0 0 none weight",
    "s 0 0 none default",
    "s 10 400 user weight 2048 :100 1000:80 2000:20",
    "s 0x10 2 uid default 0 =32767 0:1",
    "s 32767 32767 gid weight 1",
    "s 1 1 pid weight 2147483647 :1",
    "s 0 0 pgrp weight 77",
    "s 0 0 cgroup weight 0 :40 2:10 3:20",
    "s 0 0 node weight 0 ,5 1,2",
    "s 0 0 cpuset weight 0 :5",
]


@pytest.mark.contract("table-04", "chk-05")
@pytest.mark.parametrize("line", LINES)
def test_the_line_makes_the_same_target_again(guest, seen, line):
    with Ioband(guest, "d").create(f"0 64 ioband {DISK} {line}") as device:
        text = device.raw_table()
        device.remove()
        assert device.create(text.strip()).raw_table() == text
    seen(text.strip())


@pytest.mark.contract("table-05", "chk-05")
@pytest.mark.parametrize("line", LINES)
def test_the_line_can_be_loaded_in_place(guest, seen, line):
    with Ioband(guest, "d").create(f"0 64 ioband {DISK} {line}") as device:
        text = device.raw_table()
        device.reload(text.strip())
        assert device.raw_table() == text, "the live table"
        device.resume()
        assert device.raw_table() == text
    seen("equal before and after the swap")


@pytest.mark.contract("table-06")
def test_an_inactive_table_can_be_cleared(guest, seen):
    with Ioband(guest, "d").create(f"0 64 ioband {DISK} s 0 0 user weight 0 :40 7:30") as device:
        device.reload(f"0 64 ioband {DISK} s 0 0 user weight 0 :50 8:60")
        guest.run(["dmsetup", "clear", "d"])
        assert device.raw_table().split()[10:] == [":40", "7:30"]
        device.message("weight", "7:31")
        assert device.raw_table().split()[10:] == [":40", "7:31"]
    seen("an inactive 8:60 is cleared, and 7:30 is untouched")


@pytest.mark.contract("table-07")
def test_a_table_of_many_groups_is_shown_whole(guest, seen):
    groups = [f"{i}:{i % 100 + 1}" for i in range(1, 1501)]
    with Ioband(guest, "d").create(f"0 64 ioband {DISK} s 0 0 user weight 0 :40 {' '.join(groups)}") as device:
        assert device.raw_table().split()[10:] == [":40", *groups]
        assert list(device.status().groups) == [-1, *range(1, 1501)]
        seen(f"{len(groups)} groups in {len(device.raw_table())} characters")
