"""Reading ftrace's output, as a 2.6.31 guest printed it."""

from __future__ import annotations

import pytest

from harness.errors import MeasurementError
from harness.tracing import Event, parse

PRINTED = """\
# tracer: nop
#
#           TASK-PID    CPU#    TIMESTAMP  FUNCTION
#              | |       |          |         |
             fio-58    [000]     1.071000: ioband_hold_bio: share1,-1: 254,0 W 4696 + 8 0/0 1/1
      kioband/0-52    [001]    12.078250: ioband_make_request: share1: 254,0 W 4696 + 8
"""


def test_parse():
    assert parse(PRINTED) == [
        Event("fio", 58, 0, 1.071, "ioband_hold_bio", "share1,-1: 254,0 W 4696 + 8 0/0 1/1"),
        Event("kioband/0", 52, 1, 12.07825, "ioband_make_request", "share1: 254,0 W 4696 + 8"),
    ]


def test_parse_what_a_later_kernel_printed():
    """6.1: with what was disabled at the time."""
    printed = "   kworker/u8:0-8       [001] d..2.    12.078250: ioband_make_request: share1: 252,0 W 4696 + 8\n"
    text = "share1: 252,0 W 4696 + 8"
    assert parse(printed) == [Event("kworker/u8:0", 8, 1, 12.07825, "ioband_make_request", text)]


def test_nothing_happened():
    assert parse("# tracer: nop\n#\n") == []


@pytest.mark.parametrize("line", ["CPU:0 [LOST 12 EVENTS]", "fio-58 [000] 1.071000 ioband_hold_bio", "x"])
def test_other_lines_are_refused(line):
    with pytest.raises(MeasurementError, match="not a line of a trace"):
        parse(line)
