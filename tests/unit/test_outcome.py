"""What a run left behind, recorded on 2.6.31 with the series (80:20 by cgroup, seed 1) and without; 6.1 under BFQ."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import fio, measurement, outcome, project, scenario, shares, throughput
from harness.controller import Controller
from harness.errors import MeasurementError

DATA = Path(__file__).parent / "data" / "outcome"
SCENARIO = scenario.load(project.scenarios_dir() / "cgroup-80-20.toml")
COMPAT = SCENARIO.control[0]
BFQ = Controller(name="bfq", title="BFQ", promises="weights", documented="d")
FLAT = {SCENARIO.load: throughput.saturation([(1, 125.0), (16, 2000.0), (32, 2000.0)])}


def files(role):
    return {path.name: path.read_bytes() for path in (DATA / role).iterdir()}


@pytest.fixture
def recorded():
    return files("series")


def test_shares_of_the_window(recorded):
    run = outcome.parse(SCENARIO, None, recorded)
    sample = measurement.sample(SCENARIO, run, 1, FLAT)
    first, last = run.window
    assert run.times[first] >= max(run.starts.values()) + SCENARIO.timing.ramp
    assert run.times[last] <= min(run.starts.values()) + SCENARIO.duration
    assert sample.seconds == pytest.approx(run.times[last] - run.times[first])
    assert sample.ios["a"] / sum(sample.ios.values()) == pytest.approx(0.8, abs=0.02)
    assert sample.backlogged == {"a": True, "b": True} and sample.saturated
    assert sample.total_ios_kernel == sample.fio_ios
    assert sample.total_sectors_kernel == sample.fio_sectors


def test_counters_are_those_of_the_status_lines(recorded):
    run = outcome.parse(SCENARIO, None, recorded)
    # the second reading of the recording: group 2 (a) and group 3 (b)
    assert (run.reads["a"][1], run.writes["a"][1]) == (640, 622)
    assert (run.reads["b"][1], run.writes["b"][1]) == (158, 148)


def test_without_the_series_the_linear_devices_count():
    run = outcome.parse(SCENARIO, COMPAT, files("compat"))
    sample = measurement.sample(SCENARIO, run, 1, FLAT)
    assert sample.ios["a"] / sum(sample.ios.values()) == pytest.approx(0.5, abs=0.03)
    assert sample.total_ios_kernel == sample.fio_ios
    assert sample.total_sectors_kernel == sample.fio_sectors


def test_one_io_more_or_less_is_seen(recorded):
    before = outcome.parse(SCENARIO, None, recorded)
    text = recorded["counters"].decode()
    at = text.rindex("S disk")
    line = text[at : text.index("\n", at)]
    words = line.split()
    words[14] = str(int(words[14]) + 1)  # reads of group 2
    recorded["counters"] = (text[:at] + " ".join(words) + text[at + len(line) :]).encode()
    after = outcome.parse(SCENARIO, None, recorded)
    assert after.fingerprint != before.fingerprint
    with pytest.raises(MeasurementError, match="group a: the kernel counted"):
        measurement.sample(SCENARIO, after, 1, FLAT)


def test_rates_add_up_to_the_window(recorded):
    run = outcome.parse(SCENARIO, None, recorded)
    first, last = run.window
    rates = run.rates("a")
    assert len(rates) == last - first and rates[-1][0] == pytest.approx(run.seconds)
    steps = [t - before for (t, _), before in zip(rates, [0.0, *[t for t, _ in rates]], strict=False)]
    done = sum(rate * step for (_, rate), step in zip(rates, steps, strict=True))
    assert done == pytest.approx(run.ios("a")[last] - run.ios("a")[first])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("counters", None),
        ("counters", b"T x\n"),
        ("counters", b"T 1.0\nB sda a\n"),
        ("counters", b"T 1.00\n"),
        ("starts", b"a 1.0\n"),
        ("ids", b"a 2\nb 9\n"),
        ("fio-b.json", b"fio: killed"),
    ],
)
def test_what_is_not_understood_is_an_error(recorded, name, content):
    if content is None:
        del recorded[name]
    else:
        recorded[name] = content
    with pytest.raises(MeasurementError):
        outcome.parse(SCENARIO, None, recorded)


def test_groups_that_hardly_overlap_have_no_window(recorded):
    recorded["starts"] = b"a 1.00\nb 6.50\n"
    with pytest.raises(MeasurementError, match="ran together"):
        outcome.parse(SCENARIO, None, recorded)


def result(total, levels):
    direction = {
        "total_ios": 0,
        "io_bytes": 0,
        "iops": 0,
        "runtime": 1,
        "lat_ns": {"min": 0, "max": 0, "mean": 0, "stddev": 0},
    }
    return fio.JobResult.model_validate(
        {
            "jobname": "a", "groupid": 0, "error": 0, "job_runtime": 1, "iodepth_level": levels,
            "read": {**direction, "total_ios": total}, "write": direction,
        }
    )  # fmt: skip


def test_starved_is_backlogged_and_idle_is_not():
    # 100 I/Os in all, 31 of them while the queue of 32 was filled: a group that gets next to nothing
    assert measurement.backlogged(result(100, {"16": 31.0, "32": 69.0}), depth=32, jobs=1)
    # a queue that is full half the time only: a group that does not ask for more than it gets
    assert not measurement.backlogged(result(2000, {"16": 50.0, "32": 50.0}), depth=32, jobs=1)


def test_a_starved_group_fails():
    samples = [
        shares.Sample(seed=n, ios={"a": 4000 + n, "b": 0}, seconds=4.0, backlogged={"a": True, "b": True})
        for n in (1, 2, 3)
    ]
    assert shares.judge(samples, SCENARIO.targets).verdict is shares.Verdict.FAIL


def test_a_disk_that_was_not_seen_to_saturate(recorded):
    rising = {SCENARIO.load: throughput.saturation([(1, 100.0), (32, 3000.0), (64, 6000.0)])}
    run = outcome.parse(SCENARIO, None, recorded)
    assert not measurement.sample(SCENARIO, run, 1, rising).saturated


def test_under_a_controller_cgroups_count():
    run = outcome.parse(SCENARIO, BFQ, files("bfq"))
    sample = measurement.sample(SCENARIO, run, 1, FLAT)
    assert sample.ios["a"] / sum(sample.ios.values()) == pytest.approx(0.8, abs=0.03)
    assert sample.total_ios_kernel == sample.fio_ios == {"a": 4861 + 4715, "b": 1519 + 1520}
    assert sample.total_sectors_kernel == sample.fio_sectors
    assert sample.backlogged == {"a": True, "b": True}
    # merged into fewer requests, or not
    assert run.reads["a"][0] == 0 and run.reads["a"][-1] == 4861


def test_an_io_that_is_not_on_the_groups_account_is_seen():
    recorded = files("bfq")
    text = recorded["counters"].decode()
    recorded["counters"] = text.replace("rios=1519 ", "rios=1518 ").encode()
    with pytest.raises(MeasurementError, match="group b: the kernel counted 3038, fio 3039"):
        measurement.sample(SCENARIO, outcome.parse(SCENARIO, BFQ, recorded), 1, FLAT)


def test_a_group_that_has_done_nothing_has_no_line():
    recorded = files("bfq")
    lines = recorded["counters"].decode().splitlines(keepends=True)
    recorded["counters"] = "".join(line for line in lines if not line.startswith("C b 8:0")).encode()
    assert outcome.parse(SCENARIO, BFQ, recorded).reads["b"][-1] == 0


@pytest.mark.parametrize("broken", ["C a 8:0 rios", "C a 8:0 rbytes=x rios=1", "I x"])
def test_a_line_of_a_cgroup_that_is_not_understood(broken):
    recorded = files("bfq")
    begin, mark, rest = recorded["counters"].partition(b"T ")
    recorded["counters"] = begin + mark + rest.replace(b"\nS ", f"\n{broken}\nS ".encode(), 1)
    with pytest.raises(MeasurementError, match="not understood"):
        outcome.parse(SCENARIO, BFQ, recorded)


def test_what_was_looked_at_closely():
    run = outcome.parse(SCENARIO, BFQ, files("bfq"))
    assert run.busy is not None and 0 < run.busy < run.seconds
    bins = run.fio["a"].latency.bins
    assert sum(bins.values()) == run.fio["a"].total_ios and list(bins) == sorted(bins)
    assert outcome.parse(SCENARIO, None, files("series")).busy is None
    # the group's own device: I/Os, and the milliseconds that each was on its way
    assert run.done["b"][-1] == 3039
    assert run.ticks["b"][-1] / run.done["b"][-1] == pytest.approx(62.6, abs=0.1)
    assert outcome.parse(SCENARIO, None, files("series")).ticks == {}
