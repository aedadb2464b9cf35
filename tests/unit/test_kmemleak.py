"""Reading kmemleak's report, as guests printed it."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from harness import kmemleak
from harness.errors import MeasurementError

DATA = Path(__file__).parent / "data" / "checkup"
RECORDED = (DATA / "kmemleak.txt").read_text()
WITH_BYTES = (DATA / "kmemleak-6.1.txt").read_text()


def test_a_recorded_object() -> None:
    (leak,) = kmemleak.parse(RECORDED)
    assert (leak.address, leak.size, leak.comm, leak.pid) == (0xFFFF88000D068000, 512, "cat", 84)
    assert leak.jiffies == 4294682219
    assert leak.trace[3:5] == ("ioband_alloc_group", "ioband_attach")
    assert leak.text == RECORDED


def test_a_recorded_object_with_its_first_bytes() -> None:
    (leak,) = kmemleak.parse(WITH_BYTES)
    assert (leak.address, leak.pid, leak.trace[-1]) == (0xFFFF888005524E00, 60, "ioband_attach")
    assert leak.text == WITH_BYTES
    assert [x.size for x in kmemleak.parse(WITH_BYTES + RECORDED)] == [512, 512]


def test_several_objects_and_none() -> None:
    other = RECORDED.replace("0xffff88000d068000", "0xffff88000d068200").replace('"cat"', '"a "b" c"')
    assert [leak.address & 0xFFF for leak in kmemleak.parse(RECORDED + other)] == [0, 0x200]
    assert kmemleak.parse(other)[0].comm == 'a "b" c'
    assert kmemleak.parse("") == []


def test_a_frame_in_a_module() -> None:
    text = RECORDED + "    [<ffffffffa0001234>] ioband_ctr+0x12/0x300 [dm_ioband]\n"
    assert kmemleak.parse(text)[0].trace[-1] == "ioband_ctr"


@pytest.mark.parametrize(
    "text",
    [
        "cat: no\n",
        RECORDED.replace("jiffies", "ticks"),
        RECORDED.replace("backtrace", "from"),
        RECORDED + "?\n",
        WITH_BYTES.replace("hex dump", "dump"),
        WITH_BYTES.partition("  backtrace")[0],
    ],
)
def test_what_is_not_understood(text: str) -> None:
    with pytest.raises(MeasurementError):
        kmemleak.parse(text)


def guest_of(release: str, *reports: str) -> Mock:
    """A guest whose scans find these."""
    guest = Mock()
    guest.run.side_effect = [Mock(stdout=f"{release}\n"), *(Mock(stdout=text) for text in reports)]
    return guest


@pytest.mark.parametrize(
    ("release", "before"), [("2.6.31.3", []), ("2.6.32", []), ("2.6.33-rc1", [""]), ("6.1.0", [""])]
)
def test_only_what_both_scans_find_is_a_leak(release: str, before: list[str]) -> None:
    moving = RECORDED.replace("0xffff88000d068000", "0xffff88000d069000")
    guest = guest_of(release, *before, RECORDED + moving, RECORDED)
    assert [leak.address for leak in kmemleak.scan(guest)] == [0xFFFF88000D068000]
    guest = guest_of(release, *before, "")
    assert kmemleak.scan(guest) == []
    assert guest.run.call_count == 2 + len(before)
