"""Reading kmemleak's report, as a 2.6.31 guest printed it."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from harness import kmemleak
from harness.errors import MeasurementError

RECORDED = (Path(__file__).parent / "data" / "checkup" / "kmemleak.txt").read_text()


def test_a_recorded_object() -> None:
    (leak,) = kmemleak.parse(RECORDED)
    assert (leak.address, leak.size, leak.comm, leak.pid) == (0xFFFF88000D068000, 512, "cat", 84)
    assert leak.jiffies == 4294682219
    assert leak.trace[3:5] == ("ioband_alloc_group", "ioband_attach")
    assert leak.text == RECORDED


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
    ],
)
def test_what_is_not_understood(text: str) -> None:
    with pytest.raises(MeasurementError):
        kmemleak.parse(text)


def test_only_what_both_scans_find_is_a_leak() -> None:
    moving = RECORDED.replace("0xffff88000d068000", "0xffff88000d069000")
    guest = Mock()
    guest.run.side_effect = [Mock(stdout=RECORDED + moving), Mock(stdout=RECORDED)]
    assert [leak.address for leak in kmemleak.scan(guest)] == [0xFFFF88000D068000]
    guest.run.side_effect = [Mock(stdout="")]
    assert kmemleak.scan(guest) == []
