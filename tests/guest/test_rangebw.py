"""Policy range-bw: parameters, messages, tables, files, and what becomes of the bios of a group at its maximum.

How much a group gets per second is the scenarios' matter. Here a group is brought to its maximum for a minute: at
1 KB/s a read of 64 KiB, which is one bio, is let through and leaves a debt of 63 s.
"""

from __future__ import annotations

import contextlib
import shlex

import pytest
from lab import DISK, Lower, Submitters, refused, shown, until

from harness.cgroup import Hierarchy, Setting
from harness.dm import DEFAULT_GROUP, GroupCounters, Ioband, sectors

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

LARGEST = 1073741823
PLAIN = "s 4 128 user range-bw 16384 :0:0 7:0:0"
SET = "s 4 128 user range-bw 16384 :10:20 7:100:500"


def made(guest, arguments: str, name: str = "d") -> Ioband:
    """A device on the whole disk."""
    return Ioband(guest, name).create(f"0 {sectors(guest, DISK)} ioband {DISK} {arguments}")


RANGES = [("0:0", "0:0"), ("0:1", "0:1"), ("5:5", "5:5"), ("100:500", "100:500"), ("0x10:0x20", "16:32"),
          ("010:020", "8:16"), (f"{LARGEST}:{LARGEST}",) * 2, (f"0:{LARGEST}",) * 2]  # fmt: skip
WRONG = ["", "5", "5:", ":5", "5:4", "1:0", "-1:5", "-5:-1", "0:-1", "1:2:3", "a:b", "1:b", "1x:5", "1:5x", "1.0:2",
         f"0:{LARGEST + 1}", f"{LARGEST + 1}:{LARGEST + 1}", "0:4294967296", "0:99999999999999999999",
         "00000000000000000000000000000000001:5", "1=2", "1,2"]  # fmt: skip


@pytest.mark.contract("rbw-01", "rbw-03")
@pytest.mark.parametrize(("text", "value"), RANGES)
def test_ranges_in_a_table_line(guest, seen, text, value):
    with made(guest, f"s 0 0 user range-bw 0 :{text} 7:{text}") as device:
        assert shown(device) == f"s 4 128 user range-bw 16384 :{value} 7:{value}"
        seen(f"{text}: {value}")


@pytest.mark.contract("rbw-01")
@pytest.mark.parametrize(
    "arguments", ["s 0 0 user range-bw", "s 0 0 user range-bw 0", "s 0 0 user range-bw 0 :0:0"]
)
def test_no_range_is_none(guest, seen, arguments):
    with made(guest, arguments) as device:
        assert shown(device) == "s 4 128 user range-bw 16384 :0:0"
        device.message("attach", "7")
        assert shown(device) == PLAIN
        seen(shown(device))


@pytest.mark.contract("rbw-02", "chk-17")
@pytest.mark.parametrize("text", WRONG)
def test_ranges_refused_in_a_table_line(guest, seen, text):
    for arguments in (f":{text}", f":0:0 7:{text}"):
        device = Ioband(guest, "d")
        with refused("EINVAL"):
            device.create(f"0 64 ioband {DISK} s 0 0 user range-bw 0 {arguments}")
        assert not device.exists()
    seen(f"{text!r}: EINVAL")


@pytest.mark.contract("rbw-02")
def test_a_token_base_goes_before_the_range(guest):
    with refused("EINVAL"):
        Ioband(guest, "d").create(f"0 64 ioband {DISK} s 0 0 user range-bw :0:0")


@pytest.mark.contract("rbw-03")
def test_the_table_loads_again(guest, seen):
    with made(guest, "s 1 128 user range-bw 16384 :0:0 4:30000:35000 2:100:500 3:700:1000") as device:
        text = device.raw_table()
        assert shown(device) == "s 1 128 user range-bw 16384 :0:0 2:100:500 3:700:1000 4:30000:35000"
        seen(shown(device))
        device.reload(text.strip())
        device.resume()
        assert device.raw_table() == text
    with made(guest, " ".join(text.split()[4:])) as device:
        assert device.raw_table() == text


@pytest.mark.contract("rbw-04")
@pytest.mark.parametrize(
    ("limit", "tokens"), [(0, 16384), (64, 16384), (100, 16000), (192, 12288), (32767, 1048544)]
)
def test_tokens_follow_the_limit(guest, seen, limit, tokens):
    for base in (0, 1, 2147483647):
        with made(guest, f"s 4 {limit} none range-bw {base}") as device:
            assert shown(device).split()[5:] == [str(tokens), ":0:0"]
    with made(guest, "s 4 77 none range-bw 5") as device:
        device.message("io_limit", str(limit))
        assert shown(device).split()[5:] == [str(tokens), ":0:0"]
    seen(f"io_limit {limit}: {tokens}")


@pytest.mark.contract("rbw-05")
@pytest.mark.parametrize(("text", "value"), RANGES)
def test_range_by_message(guest, seen, text, value):
    with made(guest, "s 0 0 user range-bw 0 :10:20 7:100:500") as device:
        device.message("range-bw", f"7:{text}")
        assert shown(device) == f"s 4 128 user range-bw 16384 :10:20 7:{value}"
        for word in (f":{text}", f"-1:{text}"):
            device.message("range-bw", ":8:9")
            device.message("range-bw", word)
            assert shown(device) == f"s 4 128 user range-bw 16384 :{value} 7:{value}"
        seen(f"{text}: {value}")


@pytest.mark.contract("rbw-06", "chk-17")
@pytest.mark.parametrize("text", WRONG)
def test_range_refused_by_message(guest, seen, text):
    with made(guest, "s 0 0 user range-bw 0 :10:20 7:100:500") as device:
        for word in (f"7:{text}", f":{text}", f"-1:{text}"):
            with refused("EINVAL"):
                device.message("range-bw", word)
        assert shown(device) == SET
        seen(f"{text!r}: EINVAL")


@pytest.mark.contract("rbw-06")
@pytest.mark.parametrize("text", ["8:1:2", "100:500", "-2:1:2", "x:1:2", "1:2"])
def test_range_of_an_unknown_group(guest, seen, text):
    with made(guest, "s 0 0 user range-bw 0 :10:20 7:100:500") as device:
        with refused("EINVAL"):
            device.message("range-bw", text)
        assert shown(device) == SET
        seen(f"{text}: EINVAL")


@pytest.mark.contract("rbw-07")
@pytest.mark.parametrize(
    "words", ["weight 50", "weight 7:50", "token 5", "carryover 5", "min-bw 7:5", "max-bw 7:500", "min-bw 5"]
)
def test_parameters_of_others(guest, seen, words):
    with made(guest, "s 0 0 user range-bw 0 :10:20 7:100:500") as device:
        with refused("EINVAL"):
            device.message(*words.split())
        assert shown(device) == SET
        seen(f"{words}: EINVAL")


@pytest.mark.contract("rbw-07")
@pytest.mark.parametrize("policy", ["weight", "default", "weight-iosize"])
def test_ranges_are_for_range_bw(guest, seen, policy):
    with made(guest, f"s 0 0 user {policy} 0 :40 7:80") as device:
        before = shown(device)
        for word in ("7:100:500", ":100:500"):
            with refused("EINVAL"):
                device.message("range-bw", word)
        assert shown(device) == before
        seen(f"{policy}: EINVAL")


@pytest.mark.contract("rbw-08")
def test_switching(guest, seen):
    with made(guest, "s 4 128 user weight 999 :40 7:80") as device:
        device.message("policy", "range-bw")
        assert shown(device) == PLAIN
        seen(shown(device))
        device.message("range-bw", ":10:20")
        device.message("range-bw", "7:100:500")
        device.message("policy", "range-bw")
        assert shown(device) == SET
        device.message("policy", "weight-iosize")
        assert shown(device) == "s 4 128 user weight-iosize 4096 :100 7:100"
        device.message("policy", "range-bw")
        assert shown(device) == PLAIN
        device.message("policy", "weight")
        assert shown(device) == "s 4 128 user weight 512 :100 7:100"
        seen(shown(device))


@pytest.mark.contract("rbw-09", "chk-17")
def test_settings(guest, seen):
    with made(guest, "s 0 0 cgroup range-bw") as device, Hierarchy(guest, "blkio") as blkio:
        group = blkio.create("g")
        assert blkio.root.read("blkio.settings") == "d range-bw=0:0\n"
        assert group.read("blkio.settings") == ""
        for text in WRONG[1:]:
            with refused("EINVAL"):
                group.write("blkio.settings", f"d {text}")
            assert group.settings == {}, f"{text!r} attaches nothing"
        group.set("d", Setting(range_bw=(100, 500)))
        assert group.read("blkio.settings") == "d range-bw=100:500\n"
        seen(group.read("blkio.settings").strip())
        for text in WRONG[1:]:
            with refused("EINVAL"):
                group.write("blkio.settings", f"d {text}")
            assert group.settings == {"d": Setting(range_bw=(100, 500))}, f"{text!r} changes nothing"
        blkio.root.set("d", Setting(range_bw=(8, 9)))
        assert shown(device) == f"s 4 128 cgroup range-bw 16384 :8:9 {group.id}:100:500"
        assert blkio.root.read("blkio.settings") == "d range-bw=8:9\n"
        group.detach("d")
        assert group.settings == {}


@pytest.mark.contract("rbw-10")
def test_devices(guest, seen):
    with made(guest, "s 0 0 cgroup range-bw"), Hierarchy(guest, "blkio") as blkio:
        assert blkio.root.read("blkio.devices") == "s policy=range-bw io_throttle=4 io_limit=128\n  d\n"
        seen(blkio.root.read("blkio.devices").splitlines()[0])
        blkio.root.message("s", "policy", "weight")
        assert blkio.root.read("blkio.devices").startswith(
            "s policy=weight io_throttle=4 io_limit=128 token=512 "
        )


@pytest.fixture
def parked(guest, submitters):
    """``parked(count)``: the device, with this many reads of user 7 parked, who is at his maximum for a minute."""
    with contextlib.ExitStack() as stack:

        def park(count: int) -> tuple[Ioband, Submitters]:
            device = stack.enter_context(made(guest, "s 0 0 user range-bw 0 :0:0 7:0:1"))
            processes = stack.enter_context(submitters(guest))
            stack.callback(let_go, device)
            guest.run(["chmod", "666", device.path])
            device.message("reset")
            read(guest, device, "7", "64k")
            assert device.status().groups[7] == reads(1, 0, 128)
            processes.start(device.path, count, uid=7)
            assert device.status().groups[7] == reads(1, 0, 128), "none of them is let through"
            return device, processes

        yield park


def let_go(device: Ioband) -> None:
    """Lest a failed test waits for what is parked."""
    device.message("policy", "weight")


def reads(count: int, deferred: int, in_sectors: int) -> GroupCounters:
    """Counters of a group that has not written."""
    return GroupCounters(count, deferred, in_sectors, 0, 0, 0)


def read(guest, device: Ioband, uid: str, size: str) -> None:
    """One direct read by a user."""
    job = ["dd", f"if={device.path}", "of=/dev/null", f"bs={size}", "count=1", "iflag=direct"]
    guest.run(["chpst", "-u", f"{uid}:{uid}", *job])


@pytest.mark.contract("rbw-11")
def test_others_go_on(guest, parked, seen):
    device, _ = parked(3)
    for uid in ("0", "1000"):
        read(guest, device, uid, "4k")
    assert device.status().groups[DEFAULT_GROUP].reads == 2
    assert device.status().groups[7] == reads(1, 0, 128)
    seen("3 reads parked, 2 of others done")


@pytest.mark.contract("rbw-12")
def test_debts_are_paid(guest, seen):
    with made(guest, "s 0 0 user range-bw 0 :0:0 7:0:1") as device:
        guest.run(["chmod", "666", device.path])
        started = float(guest.run(["cat", "/proc/uptime"]).stdout.split()[0])
        read(guest, device, "7", "4k")
        read(guest, device, "7", "4k")
        took = float(guest.run(["cat", "/proc/uptime"]).stdout.split()[0]) - started
        assert device.status().groups[7] == reads(2, 1, 16)
    assert took >= 3.98, "4 KiB at 1 KB/s take 4 periods of a second"
    seen(f"second read of 4 KiB at 1 KB/s not before {int(took)} s")


# Reads 16 sectors where 6 per second are allowed, and lets nothing else run until the second of the seconds after that,
# so that the driver looks once for both. 4 sectors are left to pay off, less than the maximum.
UNSEEN = """
now() {{ read up rest < /proc/uptime; echo ${{up%.*}}${{up#*.}}; }}
limit=/proc/sys/kernel/sched_rt_runtime_us; before=$(cat $limit); echo -1 > $limit
started=$(now)
chpst -u 7:7 dd if={path} of=/dev/null bs=8k count=1 iflag=direct
chrt -f 50 sh -c "while read up rest < /proc/uptime; [ \\${{up%.*}}\\${{up#*.}} -lt $((started + 250)) ]; do :; done"
code=$?; echo $before > $limit; exit $code
"""


@pytest.mark.contract("rbw-18")
def test_a_debt_that_nobody_saw(guest, submitters, seen):
    with made(guest, "s 0 0 user range-bw 0 :0:0 7:0:3") as device, contextlib.ExitStack() as stack:
        guest.run(["chmod", "666", device.path])
        processes = stack.enter_context(submitters(guest))
        stack.callback(let_go, device)
        guest.run(UNSEEN.format(path=device.path))
        device.message("range-bw", "7:0:1")
        processes.start(device.path, 1, uid=7)
        until(guest, lambda: device.status().groups[7].reads == 2, "the group goes on")
    seen("owing 4 sectors, held by a maximum of 2: goes on")


@pytest.mark.contract("rbw-13")
def test_suspending_issues_all(guest, parked, seen):
    device, processes = parked(3)
    device.suspend()
    assert device.status().groups[7] == reads(4, 3, 128 + 24)
    processes.wait()
    device.resume()
    seen("suspended with 3 reads parked: all 3 done")


@pytest.mark.contract("rbw-14", "chk-17")
def test_noflush_hands_back(guest, parked, seen):
    device, processes = parked(3)
    device.suspend(noflush=True)
    assert device.status().groups[7] == reads(1, 0, 128)
    device.resume()
    processes.wait()
    # A thread of device-mapper's submits them again, and for type user a bio is its submitter's.
    assert device.status().groups[7] == reads(1, 0, 128)
    assert device.status().groups[DEFAULT_GROUP].read_sectors == 24
    seen("3 reads pushed back, done after the resume")


@pytest.mark.contract("rbw-15")
@pytest.mark.parametrize("words", ["detach 7", "policy weight", "policy weight-iosize", "range-bw 7:0:0"])
def test_let_go_at_once(parked, seen, words):
    device, processes = parked(3)
    device.message(*words.split())
    processes.wait()
    counted = device.status().groups
    group = counted[DEFAULT_GROUP if words == "detach 7" else 7]
    assert (group.reads, group.reads_deferred) == ((3, 3) if words == "detach 7" else (4, 3))
    seen(f"{words}: 3 parked reads done")


@pytest.mark.contract("rbw-16")
def test_delayed_writes_are_held(guest, submitters, seen):
    with (
        made(guest, "s 0 0 cgroup range-bw") as device,
        made(guest, "s 0 0 cgroup range-bw", "e") as beside,
        Hierarchy(guest, "blkio") as blkio,
        submitters(guest) as processes,
    ):
        held = blkio.create("held")
        held.set("d", Setting(range_bw=(0, 1)))
        device.message("reset")
        direct = ["dd", f"if={device.path}", "of=/dev/null", "bs=64k", "count=1", "iflag=direct", "skip=4"]
        guest.run(held.exec_prefix(direct))
        delayed = ["dd", "if=/dev/zero", f"of={device.path}", "bs=4k", "count=4", "conv=notrunc"]
        try:
            # Its close, the last one of the device, writes the pages out and waits for them.
            processes.run([shlex.join(held.exec_prefix(delayed))])
            read(guest, beside, "0", "4k")
            assert beside.status().groups[DEFAULT_GROUP] == reads(1, 0, 8)
            assert device.status().groups[held.id] == reads(1, 0, 128), "nothing written"
        finally:
            held.set("d", Setting(range_bw=(0, 0)))
        processes.wait()
        counted = device.status().groups[held.id]
        assert (counted.write_sectors, counted.writes_deferred) == (32, counted.writes)
        seen("4 pages parked until the maximum is lifted, a reader of another group of the share done")


@pytest.mark.contract("rbw-17")
def test_the_minimum_comes_first(guest, submitters, seen):
    """8 of the default group in flight, then 2 parked of each group, the default group's first; io_limit lets 4 go."""
    with contextlib.ExitStack() as stack:
        low = stack.enter_context(Lower(guest))
        line = f"{low.path} s 1 8 user range-bw 0 :0:0 7:1000:100000 8:1000:100000"
        device = stack.enter_context(Ioband(guest, "d").create(f"0 {low.length} ioband {line}"))
        device.message("reset")
        processes = stack.enter_context(submitters(guest))
        with low.holding():
            processes.start(device.path, 8)
            for uid in (0, 7, 8):
                processes.start(device.path, 2, uid=uid)
            # A second without a bio ends the count of seconds: nobody goes first for having starved in this one.
            guest.run(["sleep", "2"])
            device.message("io_limit", "12")
            until(guest, lambda: low.io().reads >= 12, "4 more are in flight")
            counted = {group: counters.reads for group, counters in device.status().groups.items()}
        processes.wait()
    assert counted == {DEFAULT_GROUP: 8, 7: 2, 8: 2}
    seen("2 of each group parked, room for 4: those of the two groups with a minimum")
