"""Table lines and status texts; the recorded ones are from dm-ioband 1.12.3 and dmsetup 2.03.16."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import dm
from harness.dm import GroupCounters, TableLine
from harness.errors import MeasurementError

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (TableLine(length=100, device="/dev/sda", share="s"), "0 100 ioband /dev/sda s 0 0 none weight"),
        (
            TableLine(length=100, device="8:0", share="s", io_throttle=10, io_limit=400, default="40"),
            "0 100 ioband 8:0 s 10 400 none weight 0 :40",
        ),
        # a default group's parameter must stand before the groups
        (
            TableLine(length=9, device="8:0", share="s", type="user", groups={2000: "20", 1000: "80"}),
            "0 9 ioband 8:0 s 0 0 user weight 0 :100 1000:80 2000:20",
        ),
        (
            TableLine(length=9, device="8:0", share="s", type="cgroup", policy="range-bw", groups={2: "1:5"}),
            "0 9 ioband 8:0 s 0 0 cgroup range-bw 0 :0:0 2:1:5",
        ),
        (
            TableLine(length=9, device="8:0", share="s", token_base=2048, start=5),
            "5 9 ioband 8:0 s 0 0 none weight 2048",
        ),
    ],
)
def test_render(line, text):
    assert line.render() == text


RECORDED_TABLES = [
    "0 65536 ioband 253:0 share1 4 128 cgroup weight 512 :100\n",
    "0 65536 ioband 253:1 share1 4 128 user weight 512 :100 1000:80 2000:20\n",
]
# From the contract: dm-ioband's documents.
RANGE_BW = "0 65536 ioband 8:18 1 4 128 cgroup range-bw 16384 :0:0 2:100:500 3:700:1000"


@pytest.mark.parametrize("text", [*RECORDED_TABLES, RANGE_BW])
def test_table_reads_back(text):
    assert dm.parse_table(text).render() == text.strip()
    assert dm.parse_table(f"ioband1: {text}").render() == text.strip()


def test_table_fields():
    line = dm.parse_table(RECORDED_TABLES[1])
    assert (line.device, line.share, line.io_throttle, line.io_limit) == ("253:1", "share1", 4, 128)
    assert (line.type, line.policy, line.token_base, line.default) == ("user", "weight", 512, "100")
    assert line.groups == {1000: "80", 2000: "20"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0 65536 linear 8:0 0",
        "0 65536 ioband 253:0 share1 4 128 cgroup weight 512",
        "0 65536 ioband 253:0 share1 4 128 cgroup weight 512 :100 5:",
        "0 65536 ioband 253:0 share1 4 128 cgroup weight 512 1:100",
        "0 65536 ioband 253:0 share1 4 128 cgroup weight 512 :100 1:1 1:2",
        "0 65536 ioband 253:0 share1 four 128 cgroup weight 512 :100",
        "0 65536 ioband 253:0  share1 4 128 cgroup weight 512 :100",
        RECORDED_TABLES[0] + RECORDED_TABLES[1],
    ],
)
def test_table_that_is_not_understood(text):
    with pytest.raises(MeasurementError) as caught:
        dm.parse_table(text)
    assert repr(text) in caught.value.message


def test_recorded_status():
    status = dm.parse_status((DATA / "dmsetup-status.txt").read_text())
    assert status.share == "share1"
    assert status.groups == {
        -1: GroupCounters(0, 0, 0, 0, 0, 0),
        2: GroupCounters(
            reads=1036,
            reads_deferred=20,
            read_sectors=8288,
            writes=1083,
            writes_deferred=11,
            write_sectors=8664,
        ),
        3: GroupCounters(0, 0, 0, 0, 0, 0),
    }
    assert dm.parse_status("disk: 0 1 ioband s -1 0 0 0 0 0 0").share == "s"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Device does not exist.",
        "0 131072 linear \n",
        "0 1 ioband s",
        "0 1 ioband s -1 0 0 0 0 0",
        "0 1 ioband s -1 0 0 0 0 0 0 0 0 0 0 0",  # 11 columns: version 1.13's
        "0 1 ioband s -1 0 0 x 0 0 0",
        "0 1 ioband s 2 0 0 0 0 0 0",  # no default group
        "0 1 ioband s -1 0 0 0 0 0 0 2 0 0 0 0 0 0 2 0 0 0 0 0 0",
        "0 1 ioband s -1 0 0 -3 0 0 0",
        "0 1 ioband s -1 0 0 0 0 0 0\n1 1 ioband s -1 0 0 0 0 0 0",
    ],
)
def test_status_that_is_not_understood(text):
    with pytest.raises(MeasurementError):
        dm.parse_status(text)


def test_targets():
    text = "ioband           v1.12.3\nlinear           v1.1.0\n"
    assert dm.parse_targets(text) == {"ioband": (1, 12, 3), "linear": (1, 1, 0)}
    with pytest.raises(MeasurementError):
        dm.parse_targets("ioband 1.12.3\n")


class Recorder:
    """Stands for a guest: keeps what is run."""

    def __init__(self, exists=True):
        self.calls: list[tuple[list[str], str | None]] = []
        self.exists = exists
        self.machine = SimpleNamespace(console=SimpleNamespace(death=None))

    def run(self, argv, *, check=True, stdin=None):
        self.calls.append((argv, stdin))
        gone = argv[:2] == ["dmsetup", "info"] and not self.exists
        return SimpleNamespace(stdout=RECORDED_TABLES[0], exit_code=1 if gone else 0)


def test_commands():
    guest = Recorder()
    with dm.Ioband(guest, "b").create(TableLine(length=9, device="8:0", share="s")) as device:
        device.message("weight", "-1:40")
        device.suspend(noflush=True)
        device.reload(device.table())
        device.resume()
    assert guest.calls == [
        (["dmsetup", "create", "b"], "0 9 ioband 8:0 s 0 0 none weight\n"),
        (["dmsetup", "message", "--", "b", "0", "weight", "-1:40"], None),
        (["dmsetup", "suspend", "--noflush", "b"], None),
        (["dmsetup", "table", "b"], None),
        (["dmsetup", "reload", "b"], RECORDED_TABLES[0]),
        (["dmsetup", "resume", "b"], None),
        (["dmsetup", "info", "b"], None),
        (["dmsetup", "remove", "b"], None),
    ]


def test_linear_of_two_segments():
    guest = Recorder()
    dm.Linear(guest, "l").create([("/dev/sda", 0, 10), ("/dev/sdb", 7, 5)])
    assert guest.calls == [(["dmsetup", "create", "l"], "0 10 linear /dev/sda 0\n10 5 linear /dev/sdb 7\n")]


def test_device_of_a_dead_guest_is_not_removed():
    guest = Recorder()
    with dm.Ioband(guest, "b").create("0 9 ioband"):
        guest.machine.console.death = RuntimeError()
    assert [argv[1] for argv, _ in guest.calls] == ["create"]


def test_device_that_is_gone_is_not_removed():
    guest = Recorder(exists=False)
    with dm.Ioband(guest, "b").create("0 9 ioband"):
        pass
    assert [argv[1] for argv, _ in guest.calls] == ["create", "info"]
