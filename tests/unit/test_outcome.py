"""What a run left behind, recorded on 2.6.31 with the series (80:20 by cgroup, seed 1) and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import fio, measurement, outcome, project, scenario, shares, throughput
from harness.errors import MeasurementError

DATA = Path(__file__).parent / "data" / "outcome"
SCENARIO = scenario.load(project.scenarios_dir() / "cgroup-80-20.toml")
FLAT = {SCENARIO.load: throughput.saturation([(1, 125.0), (16, 2000.0), (32, 2000.0)])}


def files(role):
    return {path.name: path.read_bytes() for path in (DATA / role).iterdir()}


@pytest.fixture
def recorded():
    return files("series")


def test_shares_of_the_window(recorded):
    run = outcome.parse(SCENARIO, True, recorded)
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
    run = outcome.parse(SCENARIO, True, recorded)
    # the second reading of the recording: group 2 (a) and group 3 (b)
    assert (run.reads["a"][1], run.writes["a"][1]) == (640, 622)
    assert (run.reads["b"][1], run.writes["b"][1]) == (158, 148)


def test_without_the_series_the_linear_devices_count():
    run = outcome.parse(SCENARIO, False, files("compat"))
    sample = measurement.sample(SCENARIO, run, 1, FLAT)
    assert sample.ios["a"] / sum(sample.ios.values()) == pytest.approx(0.5, abs=0.03)
    assert sample.total_ios_kernel == sample.fio_ios
    assert sample.total_sectors_kernel == sample.fio_sectors


def test_one_io_more_or_less_is_seen(recorded):
    before = outcome.parse(SCENARIO, True, recorded)
    text = recorded["counters"].decode()
    at = text.rindex("S disk")
    line = text[at : text.index("\n", at)]
    words = line.split()
    words[14] = str(int(words[14]) + 1)  # reads of group 2
    recorded["counters"] = (text[:at] + " ".join(words) + text[at + len(line) :]).encode()
    after = outcome.parse(SCENARIO, True, recorded)
    assert after.fingerprint != before.fingerprint
    with pytest.raises(MeasurementError, match="group a: the kernel counted"):
        measurement.sample(SCENARIO, after, 1, FLAT)


def test_rates_add_up_to_the_window(recorded):
    run = outcome.parse(SCENARIO, True, recorded)
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
        outcome.parse(SCENARIO, True, recorded)


def test_groups_that_hardly_overlap_have_no_window(recorded):
    recorded["starts"] = b"a 1.00\nb 6.50\n"
    with pytest.raises(MeasurementError, match="ran together"):
        outcome.parse(SCENARIO, True, recorded)


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
    run = outcome.parse(SCENARIO, True, recorded)
    assert not measurement.sample(SCENARIO, run, 1, rising).saturated
