"""What a guest left behind, from what it printed; and whose each leak is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from harness import checkup, kmemleak
from harness.checkup import Checkup
from harness.console import Event
from harness.errors import DirtyGuest, MeasurementError
from harness.oops import Sign

DATA = Path(__file__).parent / "data" / "checkup"
CLEAN = (DATA / "state.txt").read_text()
LEAK = (DATA / "kmemleak.txt").read_text()
BOOT = 4294673794


class FakeGuest:
    """Answers with what is in ``state`` and ``leaks``, and keeps what was run."""

    def __init__(self) -> None:
        self.state = CLEAN
        self.leaks = ""
        self.ran: list[str] = []
        console = Mock(events=[])
        console.decoded.side_effect = lambda raw: raw
        self.machine = SimpleNamespace(console=console, console_log=Path("console.log"), slowdown=1.0)

    def at(self, jiffies: int) -> None:
        self.state = CLEAN.replace(str(BOOT), str(jiffies))

    def run(self, command: str | list[str], **_: object) -> SimpleNamespace:
        text = command if isinstance(command, str) else " ".join(command)
        self.ran.append(text)
        out = (
            self.leaks if kmemleak.FILE in text and "scan" in text else self.state if "/proc" in text else ""
        )
        return SimpleNamespace(stdout=out, exit_code=0)


@pytest.fixture
def guest() -> FakeGuest:
    return FakeGuest()


@pytest.fixture
def looked(guest: FakeGuest) -> Checkup:
    return Checkup(guest)  # type: ignore[arg-type]


def test_a_recorded_state() -> None:
    state = checkup.parse_state(CLEAN)
    assert state.things["mount"] >= {"/sys/kernel/debug (debugfs)", "/ (rootfs)"}
    assert state.things["block device"] == {"vda", "sda"}
    assert not any(
        state.things[k] for k in ("dm device", "swap area", "module", "subsystem in a cgroup hierarchy")
    )
    assert (state.taint, state.jiffies) == (0, BOOT)
    for missing in ("sys/kernel/tainted", "mounts", "timer_list"):
        with pytest.raises(MeasurementError):
            checkup.parse_state("".join(f"{line}\n" for line in CLEAN.splitlines() if missing not in line))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda s: s + "dm:/sys/block/dm-3\n", "dm device left behind: dm-3"),
        (lambda s: s + "mounts:cgroup /cg cgroup rw,blkio 0 0\n", "mount left behind: /cg (cgroup)"),
        (lambda s: s.replace("blkio\t0", "blkio\t1"), "subsystem in a cgroup hierarchy left behind: blkio"),
        (
            lambda s: s + "mounts:none /t tracefs rw 0 0\nmounts:none /t tmpfs rw 0 0\n",
            "mount left behind: /t (tmpfs)",
        ),
        (lambda s: s + "swaps:/dev/vda partition 65528 0 -1\n", "swap area left behind: /dev/vda"),
        (lambda s: s + "modules:dm_ioband 1 0 - Live 0x0\n", "module left behind: dm_ioband"),
        (lambda s: s + "partitions: 7 0 1024 loop0\n", "block device left behind: loop0"),
        (lambda s: s.replace("partitions:   8        0       8192 sda\n", ""), "block device gone: sda"),
        (lambda s: s.replace("tainted:0", "tainted:512"), "the kernel is tainted: 0x200, at boot 0x0"),
    ],
)  # fmt: skip
def test_what_is_left_behind(guest, looked, change, found) -> None:
    looked.after("first")
    guest.state = change(CLEAN)
    with pytest.raises(DirtyGuest) as caught:
        looked.after("second")
    assert caught.value.message == found
    guest.state = CLEAN
    looked.after("third")


def test_a_complaint_is_that_test_s_alone(guest, looked) -> None:
    console = guest.machine.console
    console.events = [Event(Sign.ALLOCATION, "dd: page allocation failure. order:0", 1.0)]
    looked.after("an allocation fails, which is no mistake")
    console.events = [
        *console.events,
        Event(Sign.SPLAT, "[ INFO: possible recursive locking detected ]", 2.0),
    ]
    with pytest.raises(DirtyGuest, match="possible recursive locking"):
        looked.after("the one")
    console.events = [*console.events, Event(Sign.OOM, "Out of memory: kill process 7", 3.0)]
    with pytest.raises(DirtyGuest, match="kill process 7"):
        looked.after("which process is killed is not up to the test")
    console.events = [*console.events, Event(Sign.OOM, "dd invoked oom-killer", 4.0)]
    looked.after("memory is short on purpose", {Sign.OOM})
    looked.after("it's the next[é]")
    assert console.wait.call_args.args[0] == "harness: end 5 of it_s_the_next[_]"


def test_leaks_belong_to_the_test_in_whose_time_they_were_allocated(guest, looked) -> None:
    for test, end in (("first", BOOT + 100), ("second", BOOT + 200), ("third", BOOT + 300)):
        guest.at(end)
        looked.after(test)

    def at(address: str, jiffies: int) -> str:
        return LEAK.replace("0xffff88000d068000", f"0xffff88000d06{address}").replace(
            "4294682219", str(jiffies)
        )

    guest.leaks = (
        at("1000", BOOT - 5) + at("2000", BOOT + 100) + at("3000", BOOT + 101) + at("4000", BOOT + 999)
    )
    found = looked.leaks()
    assert {test: [leak.address & 0xFFFF for leak in leaks] for test, leaks in found.items()} == {
        "": [0x1000],
        "first": [0x2000],
        "second": [0x3000],
        "third": [0x4000],
    }
    assert looked.leaks() == {}, "a leak is told once"
    assert "ioband_attach" in checkup.describe(found["third"])


def test_the_look_waits_until_objects_are_old_enough(guest, looked) -> None:
    looked.after("only")
    looked.leaks()
    (sleep,) = [command for command in guest.ran if command.startswith("sleep")]
    assert 4.0 < float(sleep.split()[1]) <= kmemleak.MIN_AGE
