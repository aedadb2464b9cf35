"""From what the guest measured to figures with goals."""

from __future__ import annotations

import pytest

from harness import drivercost
from harness.drivercost import BARE, DEPTHS, GROUP_COUNTS, QUEUED, Case, Cost, figures, parse
from harness.errors import MeasurementError
from harness.figure import Figure


def costs(ioband=1.02, growth=1.0):
    """dm-linear takes 1000 ns, ioband that many times as much, and more with each step in groups."""
    found = {}
    for disk in (QUEUED, BARE):
        for step, groups in enumerate(GROUP_COUNTS):
            for depth in DEPTHS:
                for users in (1, groups):
                    found[Case(disk, "linear", groups, depth, users)] = Cost(1000.0, 1000.0)
                    ns = 1000.0 * ioband * growth**step
                    found[Case(disk, "ioband", groups, depth, users)] = Cost(ns, ns)
    return found


def missed(found):
    return [f.what for f in figures(found) if not f.met]


def test_parse_takes_idle_time_off_the_cpu():
    took = 400_000_000
    (case, cost), *_ = parse(f"sda ioband 16 1 1 {took} 3\n").items()
    assert case == Case("sda", "ioband", 16, 1, 1)
    assert cost.ns == took / drivercost.COUNT
    assert cost.busy == (took - 30_000_000) / drivercost.COUNT
    assert cost.instructions == cost.busy / 8


@pytest.mark.parametrize("line", ["", "sda linear 1 16 1 400", "sda linear 1 16 1 -5 0", "iocost: pread"])
def test_other_lines_are_refused(line):
    with pytest.raises(MeasurementError):
        parse(f"{line}\n")


def test_a_fast_driver_meets_all_goals():
    assert missed(costs(1.01)) == []


def test_a_slow_one_misses_rate_and_latency():
    wrong = missed(costs(1.04))
    assert "latency at depth 1 above dm-linear's" in wrong
    assert "I/Os per second of dm-linear's, 1 group" in wrong
    assert not [what for what in wrong if "time per I/O" in what]


def test_time_must_not_grow_with_groups():
    wrong = missed(costs(0.9, growth=1.015))
    assert wrong == ["time per I/O above that with 1 group, 256 groups"]


def test_a_missing_measurement_is_an_error():
    found = costs()
    del found[Case(QUEUED, "ioband", 256, 16, 1)]
    with pytest.raises(MeasurementError, match="256"):
        figures(found)


def test_goals():
    figure = Figure(about="a", what="w", value=97.0, unit="%", goal=97, how="", least=True)
    assert figure.met
    assert figure.wanted == "at least 97 %"
    assert not figure.model_copy(update={"value": 96.9}).met
    assert not figure.model_copy(update={"least": False, "goal": 2}).met
    assert figure.model_copy(update={"goal": None, "value": -5.0}).met
