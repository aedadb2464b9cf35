"""The trace events of dm-ioband.

What is parked is made certain by a lower device that is suspended: nothing completes until it is resumed.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from places import settings

from harness.cgroup import Hierarchy
from harness.dm import Ioband, Linear
from harness.tracing import FOLDER, Tracing

pytestmark = [pytest.mark.guest, pytest.mark.flavours("debug")]

SYSTEM = "dm-ioband"
EVENTS = {
    "ioband_hold_bio",
    "ioband_hold_urgent_bio",
    "ioband_make_issue_list",
    "ioband_make_pback_list",
    "ioband_make_request",
    "ioband_pushback_bio",
    "ioband_release_urgent_bios",
}
LIMIT = 8
LENGTH = 4096
# Two targets of one device on the same sectors: the second one's sectors differ above and below.
TABLE = (
    f"0 {LENGTH} ioband {{low}} share1 0 {LIMIT} uid weight 0 :1\n"
    f"{LENGTH} {LENGTH} ioband {{low}} share1 0 {LIMIT} uid weight 0 :1 1000:1000"
)


@pytest.fixture
def low(guest):
    with Linear(guest, "low").create([("/dev/vda", 0, LENGTH)]) as device:
        yield device


@pytest.fixture
def number(guest, low):
    """MAJ,MIN of the lower device."""
    return guest.run(
        ["dmsetup", "info", "-c", "--noheadings", "-o", "major,minor", "--separator", ",", "low"]
    ).stdout.strip()


@pytest.fixture
def background():
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


@contextlib.contextmanager
def standing(device):
    """Nothing that is sent to the device is answered."""
    device.suspend()
    try:
        yield
    finally:
        device.resume()


def reads(device, count):
    """fio as user 1000: count reads at once from sector LENGTH on."""
    return ["chpst", "-u", "1000:1000", "fio", "--name=reads", f"--filename={device.path}", "--readonly", "--direct=1",
            "--rw=read", "--bs=4k", f"--offset={LENGTH * 512}", f"--size={count * 4}k", "--ioengine=libaio",
            f"--iodepth={count}", f"--iodepth_batch={count}"]  # fmt: skip


def named(events, name):
    return [event.text for event in events if event.name == name]


@pytest.mark.contract("trace-02", "trace-03", "trace-04")
def test_a_parked_read(guest, low, number, background, fact, seen):
    parked = 3
    sectors = [8 * i for i in range(LIMIT, LIMIT + parked)]
    with Ioband(guest, "top").create(TABLE.format(low=low.path)) as top, Tracing(guest, SYSTEM) as tracing:
        with standing(low):
            fio = background(guest.run, reads(top, LIMIT + parked))
            held = tracing.take("ioband_hold_bio", parked)
        fio.result()
        issued = tracing.events()
        counters = top.raw_status()

    expected = [f"share1,1000: {number} R {s} + 8 0/0 {n}/{n}" for n, s in enumerate(sectors, 1)]
    assert [(event.name, event.text) for event in held] == [("ioband_hold_bio", text) for text in expected]
    assert {event.task for event in held} == {"fio"}
    seen(f"ioband_hold_bio: {expected[-1]}")

    left = range(parked - 1, -1, -1)
    expected = [f"share1,1000: {number} R {s} + 8 0/0 {n}/{n}" for n, s in zip(left, sectors, strict=True)]
    assert named(issued, "ioband_make_issue_list") == expected
    seen(f"ioband_make_issue_list: {expected[0]}")

    requests = named(issued, "ioband_make_request")
    assert requests == [f"share1: {number} R {s} + 8" for s in sectors]
    assert {event.name for event in issued} == {"ioband_make_issue_list", "ioband_make_request"}
    assert all(event.task.startswith(fact("work_queue_thread")) for event in issued), issued
    assert f" 1000 {LIMIT + parked} {parked} " in counters, "the status says the same"
    seen(f"ioband_make_request: {requests[0]}")


@pytest.mark.contract("trace-02", "trace-03")
def test_a_parked_delayed_write(guest, low, number, background, fact, seen):
    """What nobody waits for is asynchronous."""
    parked = 4
    table = f"0 {LENGTH} ioband {low.path} share1 0 {LIMIT} none weight"
    with contextlib.ExitStack() as stack:
        top = stack.enter_context(Ioband(guest, "top").create(table))
        # Whoever closes a device as the last one writes its dirty pages himself; this keeps it open.
        stack.enter_context(Linear(guest, "opener").create([(top.path, 0, 8)]))
        tracing = stack.enter_context(Tracing(guest, SYSTEM))
        with standing(low):
            guest.run(
                ["dd", "if=/dev/zero", f"of={top.path}", "bs=4k", f"count={LIMIT + parked}", "conv=notrunc"]
            )
            with contextlib.ExitStack() as writing:
                if fact("writes_for_nobody") == "sync":
                    background(guest.run, ["sync"])
                else:
                    writing.enter_context(settings(guest, dirty_expire_centisecs=1, dirty_writeback_centisecs=1))
                held = tracing.take("ioband_hold_bio", parked)
        guest.run(["sync"])
        issued = tracing.events()

    expected = re.compile(rf"share1,-1: {number} W (\d+) \+ 8 (\d)/\2 0/0")
    found = [expected.fullmatch(text) for text in named(held, "ioband_hold_bio")]
    assert all(found) and len(held) == parked, held
    assert [int(f[2]) for f in found] == list(range(1, parked + 1))
    assert all(int(f[1]) % 8 == 0 and int(f[1]) < 8 * (LIMIT + parked) for f in found)
    seen(f"ioband_hold_bio: {held[-1].text}")

    found = [expected.fullmatch(text) for text in named(issued, "ioband_make_issue_list")]
    assert [int(f[2]) for f in found] == list(range(parked - 1, -1, -1))
    assert {f[1] for f in found} == {expected.fullmatch(event.text)[1] for event in held}
    seen(f"ioband_make_issue_list: {issued[0].text}")


@pytest.mark.contract("trace-07", "trace-08")
def test_a_parked_read_is_pushed_back(guest, low, number, background, seen):
    parked = 3
    sectors = [8 * i for i in range(LIMIT, LIMIT + parked)]
    with Ioband(guest, "top").create(TABLE.format(low=low.path)) as top:
        with Tracing(guest, SYSTEM) as tracing, ThreadPoolExecutor(1) as pool:
            with standing(low):
                fio = background(guest.run, reads(top, LIMIT + parked))
                tracing.take("ioband_hold_bio", parked)
                suspend = pool.submit(top.suspend, noflush=True)
                back = tracing.take("ioband_pushback_bio", parked)
            suspend.result()
        top.resume()
        assert "err= 0" in fio.result().stdout, "they were read after all"

    left = range(parked - 1, -1, -1)
    chosen = [f"share1,1000: {number} R {s} + 8 0/0 {n}/{n}" for n, s in zip(left, sectors, strict=True)]
    assert named(back, "ioband_make_pback_list") == chosen
    seen(f"ioband_make_pback_list: {chosen[0]}")
    handed = [f"share1: {number} R {s} + 8" for s in sectors]
    assert named(back, "ioband_pushback_bio") == handed
    assert len(back) == 2 * parked
    seen(f"ioband_pushback_bio: {handed[0]}")


URGENT = re.compile(
    r"share1(?:,(?P<group>-?\d+))?: (?P<bio>\d+,\d+ [RW] \d+ \+ \d+)"
    r"(?: (?P<c0>\d+)/(?P<g0>\d+) (?P<c1>\d+)/(?P<g1>\d+)| (?P<r0>\d+) (?P<r1>\d+))?"
)


def replay(events):
    """Hold every line against the counts that follow from the lines before it."""
    counts = {"c0": 0, "g0": 0, "c1": 0, "g1": 0}
    for event in events:
        found = URGENT.fullmatch(event.text)
        assert found, event
        if event.name == "ioband_make_request":
            continue
        step = 1 if "hold" in event.name else -1
        names = ("g0", "g1") if "urgent" in event.name else ("c0", "g0", "c1", "g1")
        if event.name == "ioband_release_urgent_bios":
            now = {"g0": int(found["r0"]), "g1": int(found["r1"])}
        else:
            now = {name: int(found[name]) for name in counts}
        changes = Counter({name: now.get(name, counts[name]) - counts[name] for name in counts})
        moved = {name for name, change in changes.items() if change}
        assert {changes[name] for name in moved} == {step}, (event, counts)
        assert {name[1] for name in moved} in ({"0"}, {"1"}), (event, counts, "one class")
        assert moved == {name for name in names if name[1] == next(iter(moved))[1]}, (event, counts)
        counts.update(now)
    assert set(counts.values()) == {0}, "in the end nothing is parked"


@pytest.mark.contract("trace-05", "trace-06")
def test_parked_swap(guest, seen):
    """A cgroup that may have 4 MiB of memory and uses 12: with one bio in flight at a time, swapping is parked."""
    table = "0 131072 ioband /dev/vda share1 1 1 none weight"
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(Hierarchy(guest, "memory", path="/cgroup-memory"))
        top = stack.enter_context(Ioband(guest, "top").create(table))
        guest.run(["mkswap", top.path])
        guest.run(["swapon", top.path])
        stack.callback(guest.run, ["swapoff", top.path])
        group = memory.create("small")
        group.write("memory.limit_in_bytes", "4M")
        tracing = stack.enter_context(Tracing(guest, SYSTEM))
        program = (
            "BEGIN { for (i = 0; i < 60000; i++) a[i] = i; for (i = 0; i < 60000; i++) s += a[i]; print s }"
        )
        assert guest.run(group.exec_prefix(["awk", program]), timeout=300).stdout == "1799970000\n"
        guest.run(["sh", "-c", "echo 0 > $0", f"{FOLDER}/tracing_on"])
        events = tracing.events()
        guest.run(["sh", "-c", "echo 1 > $0", f"{FOLDER}/tracing_on"])

    held = [URGENT.fullmatch(text)["bio"] for text in named(events, "ioband_hold_urgent_bio")]
    released = [URGENT.fullmatch(text)["bio"] for text in named(events, "ioband_release_urgent_bios")]
    assert len(held) > 10
    assert held == released, "in the order parked"
    replay(events)
    hold = next(text for text in named(events, "ioband_hold_urgent_bio"))
    assert hold.startswith("share1,-1: ")
    seen(f"{len(held)} bios of swap, ioband_hold_urgent_bio: {hold}")
    seen(f"ioband_release_urgent_bios: {next(text for text in named(events, 'ioband_release_urgent_bios'))}")


@pytest.mark.contract("trace-01")
def test_events_are_switched_one_by_one(guest, low, background, seen):
    parked = 2
    found = guest.run(["ls", f"{FOLDER}/events/{SYSTEM}"]).stdout.split()
    assert set(found) - {"enable", "filter"} == EVENTS
    with Ioband(guest, "top").create(TABLE.format(low=low.path)) as top:
        for on in (["ioband_hold_bio", "ioband_make_request"], ["ioband_hold_bio"]):
            with Tracing(guest, SYSTEM, *on) as tracing:
                with standing(low):
                    fio = background(guest.run, reads(top, LIMIT + parked))
                    events = tracing.take("ioband_hold_bio", parked)
                fio.result()
                events += tracing.events()
            assert Counter(event.name for event in events) == dict.fromkeys(on, parked)
            seen(f"on: {', '.join(on)}")
