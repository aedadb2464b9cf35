"""The table line of the ioband target: ranges, defaults, rules, and each refusal with its words and its errno."""

from __future__ import annotations

import pytest
from lab import DISK, KernelLog, by_row, devices, refused, shown

from harness.dm import Ioband, sectors

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

ARGUMENTS = "Requires 6 or more arguments"
NAME = "Ioband device name is too long"
THROTTLE = "Invalid io_throttle"
LIMIT = "Invalid io_limit"
LOOKUP = "Device lookup failed"
POLICY = "Invalid policy parameter"
DEFAULT = "Cannot create default ioband group"
TYPE = "Cannot set ioband group type"
PARSE = "Invalid ioband group parameter"
GROUP = "Cannot create ioband group"

NO_SUCH_DISK = "no_such_disk"

# rows, the line after the word `ioband`, errno (or the fact that it is), the target's words
REFUSED = [
    (["ctr-01", "chk-01"], f"{DISK} s 0 0 none", "EINVAL", ARGUMENTS),
    (["ctr-01"], f"{DISK}", "EINVAL", ARGUMENTS),
    (["ctr-01"], "", "EINVAL", ARGUMENTS),
    (["ctr-04"], "/dev/nowhere s 0 0 none weight", NO_SUCH_DISK, LOOKUP),
    (["ctr-04"], "250:7 s 0 0 none weight", "ENXIO", LOOKUP),
    (["ctr-07", "chk-01"], f"{DISK} {'x' * 32} 0 0 none weight", "EINVAL", NAME),
    *((["ctr-09", "chk-01"], f"{DISK} s {n} 0 none weight", "EINVAL", THROTTLE)
      for n in ("-1", "32768", "4x", "x", "0x", "4.5", "99999999999999999999", "18446744073709551620")),
    *((["ctr-13"], f"{DISK} s 0 {n} none weight", "EINVAL", LIMIT)
      for n in ("-1", "32768", "128x", "x", "1,2", "99999999999999999999")),
    *((["ctr-16"], f"{DISK} s 0 0 {name} weight", "EINVAL", TYPE) for name in ("users", "NONE", "0", "grp")),
    *((["ctr-18"], f"{DISK} s 0 0 none {name}", "EINVAL", POLICY) for name in ("weights", "Weight", "bfq", "0")),
    *((["ctr-20"], f"{DISK} s 0 0 none weight {n}", "EINVAL", POLICY)
      for n in ("-1", "2147483648", "5x", "x", "99999999999999999999")),
    *((["ctr-21", "chk-03"], f"{DISK} s 0 0 none weight {text}", "EINVAL", POLICY) for text in (":40", "=40", ",40")),
    *((["ctr-24"], f"{DISK} s 0 0 none weight 0 {text}", "EINVAL", DEFAULT)
      for text in (":0", ":32768", ":-1", ":x", ":40x", ":", "=0", ",0", ":1:2")),
    *((["ctr-27", "chk-03"], f"{DISK} s 0 0 user weight 0 :40 {text}", "EINVAL", PARSE)
      for text in ("abc:10", "10x:10", "1.5:10", "4294967296:10", "99999999999999999999:10", "x=10")),
    (["ctr-28"], f"{DISK} s 0 0 user weight 0 :40 -5:10", "EINVAL", GROUP),
    (["ctr-28"], f"{DISK} s 0 0 user weight 0 :40 :10", "EINVAL", GROUP),
    (["ctr-28"], f"{DISK} s 0 0 user weight 0 :40 10", "EINVAL", GROUP),
    (["ctr-29", "chk-03"], f"{DISK} s 0 0 none weight 0 :40 1000:80", "EINVAL", GROUP),
    (["ctr-30", "chk-03"], f"{DISK} s 0 0 user weight 0 :40 1000:80 1000:90", "EEXIST", GROUP),
    (["ctr-30"], f"{DISK} s 0 0 user weight 0 :40 1000:80 0x3e8:90", "EEXIST", GROUP),
    *((["ctr-31", "chk-03"], f"{DISK} s 0 0 user weight 0 :40 1000:{value}", "EINVAL", GROUP)
      for value in ("0", "32768", "-1", "x", "10x", "", "1:2")),
]  # fmt: skip

# rows, the line after the word `ioband`, what the table shows after the device
ACCEPTED = [
    (["ctr-02", "chk-01"], f"{DISK} s 0 0 none weight", "s 4 128 none weight 512 :100"),
    (["ctr-06", "chk-01"], f"{DISK} {'x' * 31} 0 0 none weight", f"{'x' * 31} 4 128 none weight 512 :100"),
    (["ctr-06"], f"{DISK} S-1.a_/%:=,é 0 0 none weight", "S-1.a_/%:=,é 4 128 none weight 512 :100"),
    *((["ctr-08", "chk-01"], f"{DISK} s {n} 0 none weight", f"s {shown} {max(128, shown)} none weight {tokens} :100")
      for n, shown, tokens in (("0", 4, 512), ("1", 1, 512), ("0x10", 16, 512), ("010", 8, 512), ("128", 128, 512),
                               ("32767", 32767, 131068))),
    *((["ctr-10"], f"{DISK} s 1 {n} none weight", f"s 1 {shown} none weight {4 * shown} :100")
      for n, shown in (("1", 1), ("2", 2), ("0x20", 32), ("017", 15), ("400", 400), ("32767", 32767))),
    *((["ctr-12", "chk-02"], f"{DISK} s {throttle} {limit} none weight",
       f"s {shown} {shown} none weight {4 * shown} :100")
      for throttle, limit, shown in ((4, 2, 4), (0, 1, 4), (16, 2, 16), (500, 499, 500), (200, 0, 200))),
    *((["ctr-14"], f"{DISK} s 0 0 {name} weight", f"s 4 128 {name} weight 512 :100")
      for name in ("none", "user", "uid", "gid", "pid", "pgrp", "cgroup", "node", "cpuset")),
    *((["ctr-17"], f"{DISK} s 0 0 none {name}", f"s 4 128 none {name} 512 :100") for name in ("default", "weight")),
    *((["ctr-19"], f"{DISK} s 0 0 none weight {n}", f"s 4 128 none weight {shown} :100")
      for n, shown in (("0", 512), ("1", 1), ("2048", 2048), ("0x800", 2048), ("2147483647", 2147483647))),
    *((["ctr-22"], f"{DISK} s 0 0 none weight 0 {text}", f"s 4 128 none weight 512 :{shown}")
      for text, shown in ((":40", 40), ("=40", 40), (",40", 40), (":1", 1), (":32767", 32767), (":0x28", 40))),
    (["ctr-23"], f"{DISK} s 0 0 user weight 0", "s 4 128 user weight 512 :100"),
    (["ctr-25"], f"{DISK} s 0 0 user weight 0 :40 1000:80 0:1 2000:32767",
     "s 4 128 user weight 512 :40 0:1 1000:80 2000:32767"),
    (["ctr-25"], f"{DISK} s 0 0 user weight 0 :40 7=80 8,20 0x9:10 2147483647:5",
     "s 4 128 user weight 512 :40 7:80 8:20 9:10 2147483647:5"),
    (["ctr-26"], f"{DISK} s 0 0 user weight 0 1000:80 2000:20", "s 4 128 user weight 512 :100"),
    (["ctr-26"], f"{DISK} s 0 0 user weight 0 1000:80 :40 2000:20", "s 4 128 user weight 512 :40 2000:20"),
]  # fmt: skip


@pytest.fixture
def length(guest):
    return sectors(guest, DISK)


@pytest.fixture
def make(guest, length):
    """``make(line, name)``: a device of a line after the word `ioband`; gone with the test."""
    with devices(guest, length) as made:
        yield made


@pytest.mark.contract("ctr-37")
@pytest.mark.parametrize("some", by_row(REFUSED))
def test_refused(guest, make, fact, seen, some):
    for line, told, words in some:
        errno_name = fact(told) if told == NO_SUCH_DISK else told
        with KernelLog(guest) as log, refused(errno_name):
            make(line)
        assert f"ioband: {words}" in log.text, line
        seen(f"{line.removeprefix(DISK).strip() or 'nothing'} \N{RIGHTWARDS ARROW} {errno_name} {words!r}")
    made = make(f"{DISK} s 7 9 none weight")  # neither the name nor the share nor the disk is still in use
    assert shown(made) == "s 7 9 none weight 36 :100"


@pytest.mark.parametrize("some", by_row(ACCEPTED))
def test_accepted(make, seen, some):
    for line, table in some:
        device = make(line)
        assert shown(device) == table, line
        device.remove()
        seen(f"{line.removeprefix(DISK).strip()} \N{RIGHTWARDS ARROW} {table}")


@pytest.mark.contract("ctr-03")
def test_device_by_path_or_number(guest, make, seen):
    number = guest.run("cat /sys/block/vda/dev").stdout.strip()
    for name in (DISK, number):
        device = make(f"{name} s 0 0 none weight")
        assert device.table().device == number
        device.remove()
    seen(f"{DISK} and {number} both show {number}")


@pytest.mark.contract("ctr-05")
def test_device_in_use(guest, make, seen):
    guest.run(["mke2fs", "-q", "-F", "/dev/ram0"])
    guest.run(["mkdir", "-p", "/tmp/held"])
    guest.run(["mount", "-t", "ext2", "/dev/ram0", "/tmp/held"])
    try:
        with KernelLog(guest) as log, refused("EBUSY"):
            Ioband(guest, "d").create("0 64 ioband /dev/ram0 s 0 0 none weight")
        assert f"ioband: {LOOKUP}" in log.text
        seen(f"EBUSY {LOOKUP!r}")
    finally:
        guest.run(["umount", "/tmp/held"])
        guest.run(["dmsetup", "remove", "d"], check=False)


@pytest.mark.contract("ctr-41")
def test_device_too_small(guest, length, seen):
    with KernelLog(guest) as log, refused("EINVAL"):
        Ioband(guest, "d").create(f"0 {length + 8} ioband {DISK} s 0 0 none weight")
    assert "vda too small for target" in log.text
    assert not Ioband(guest, "d").exists()
    seen("EINVAL 'vda too small for target'")


@pytest.mark.contract("ctr-11", "chk-02")
@pytest.mark.parametrize("requests", [64, 128, 300])
def test_io_limit_0_is_the_queues(guest, make, fact, seen, requests):
    guest.run(f"echo {requests} > /sys/block/vda/queue/nr_requests")
    try:
        device = make(f"{DISK} s 0 0 none weight")
        io_limit = device.table().io_limit
        assert io_limit == max(requests, fact("least_default_io_limit"))
    finally:
        guest.run("echo 128 > /sys/block/vda/queue/nr_requests")
    seen(f"nr_requests {requests}: io_limit {io_limit}")


@pytest.mark.contract("ctr-32")
def test_the_first_mistake_is_the_one_that_is_named(guest, length, fact, seen):
    right = {"dev": DISK, "name": "s", "throttle": "4", "limit": "128", "type": "user", "policy": "weight",
             "base": "0", "default": ":40", "group": "7:10", "last": "8:10"}  # fmt: skip
    wrong = right | {"dev": "/dev/nowhere", "name": "x" * 32, "throttle": "x", "limit": "x", "type": "x",
                     "policy": "x", "default": ":0", "group": "abc:10", "last": "8:0"}  # fmt: skip
    order = [("name", NAME), ("throttle", THROTTLE), ("limit", LIMIT), ("dev", LOOKUP), ("policy", POLICY),
             ("default", DEFAULT), ("type", TYPE), ("group", PARSE), ("last", GROUP)]  # fmt: skip
    line = dict(wrong)
    for argument, words in order:
        text = " ".join(line[k] for k in right)
        with KernelLog(guest) as log, refused(fact(NO_SUCH_DISK) if argument == "dev" else "EINVAL"):
            Ioband(guest, "d").create(f"0 {length} ioband {text}")
        assert f"ioband: {words}" in log.text, f"{text}: {log.text}"
        line[argument] = right[argument]
    seen(" > ".join(argument for argument, _ in order))


@pytest.mark.contract("ctr-33", "chk-04")
def test_second_target_takes_the_shares_limits(make, seen):
    first, second = make(f"{DISK} s 7 9 none weight"), make(f"{DISK} s 20 30 user weight", "e")
    assert (shown(first), shown(second)) == ("s 7 9 none weight 36 :100", "s 7 9 user weight 36 :100")
    seen("second line's 20 30 shows as 7 9")


@pytest.mark.contract("ctr-34")
def test_second_target_leaves_the_policy_of_the_share_alone(make, seen):
    first = make(f"{DISK} s 0 0 user weight 1000 :40 7:80")
    second = make(f"{DISK} s 0 0 none weight 2000 :20", "e")
    assert shown(first) == "s 4 128 user weight 1000 :40 7:80"
    assert shown(second) == "s 4 128 none weight 1000 :20"
    seen(shown(second))


@pytest.mark.contract("ctr-35")
@pytest.mark.parametrize(("base", "tokens"), [("", 512), ("2000 :20", 2000)])
def test_second_target_with_another_policy_switches_the_share(make, seen, base, tokens):
    first = make(f"{DISK} s 0 0 user weight 1000 :40 7:80")
    second = make(f"{DISK} s 0 0 none default {base}", "e")
    assert shown(first) == f"s 4 128 user default {tokens} :100 7:100"
    assert shown(second) == f"s 4 128 none default {tokens} :{20 if base else 100}"
    seen(f"the first target: {shown(first)}")


@pytest.mark.contract("ctr-36")
def test_shares_of_other_names_have_nothing_in_common(make, seen):
    first, second = make(f"{DISK} s 7 9 none weight"), make(f"{DISK} S 20 30 user default 50 :40", "e")
    assert (shown(first), shown(second)) == ("s 7 9 none weight 36 :100", "S 20 30 user default 50 :40")
    first.message("io_limit", "100")
    assert shown(second) == "S 20 30 user default 50 :40"
    seen(shown(second))


@pytest.mark.contract("ctr-37")
@pytest.mark.parametrize(
    "rest",
    [
        *("user weight 0 :0", "user weight 0 :40 x:1", "user weight 0 :40 7:80 8:0", "user nonsense"),
        *("user default 0 :0", "user weight-iosize 0 :40 x:1", "user weight-iosize 0 :40 7:80 8:0"),
        *("user range-bw 0 :5:4", "none default 0 :40 8:1", "nosuchtype weight-iosize"),
    ],
)
def test_refused_line_leaves_the_share_as_it_was(make, seen, rest):
    first = make(f"{DISK} s 7 9 user weight 0 :40 7:80")
    with refused("EINVAL"):
        make(f"{DISK} s 20 30 {rest}", "e")
    assert shown(first) == "s 7 9 user weight 36 :40 7:80"
    seen("the other target's table has not changed")


@pytest.mark.contract("ctr-38")
def test_a_share_ends_with_its_last_target(make, seen):
    first, second = make(f"{DISK} s 7 9 none weight"), make(f"{DISK} s 0 0 none weight", "e")
    first.remove()
    assert shown(second) == "s 7 9 none weight 36 :100"
    second.remove()
    assert shown(make(f"{DISK} s 0 0 none weight")) == "s 4 128 none weight 512 :100"
    seen("7 9 as long as one target is left, then 4 128")


@pytest.mark.contract("ctr-39")
def test_targets_of_a_share_have_groups_and_types_of_their_own(make, seen):
    first = make(f"{DISK} s 0 0 user weight 0 :40 7:80")
    second = make(f"{DISK} s 0 0 gid weight 0 :30 7:20 8:10", "e")
    second.message("weight", "7:25")
    assert shown(first) == "s 4 128 user weight 512 :40 7:80"
    assert shown(second) == "s 4 128 gid weight 512 :30 7:25 8:10"
    seen("7:80 of one, 7:25 of the other")


@pytest.mark.contract("ctr-40")
def test_several_targets_in_one_device(guest, length, seen):
    half = length // 2
    lines = f"0 {half} ioband {DISK} s 0 0 none weight\n{half} {half} ioband {DISK} t 0 0 none weight"
    with Ioband(guest, "d").create(lines) as device:
        assert [line.split()[:5:4] for line in device.raw_table().splitlines()] == [["0", "s"], [str(half), "t"]]
    seen("two lines, two shares")
