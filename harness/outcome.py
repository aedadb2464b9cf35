"""What one run of a scenario left in the guest's /results, read into counters by group, and from there a sample."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness import dm, fio
from harness.errors import MeasurementError
from harness.scenario import Scenario
from harness.script import DEPTHS, Role, device_of
from harness.shares import Sample, Saturation

# /proc/uptime counts in hundredths of a second; fio needs a moment between exec and its first I/O. fio itself
# waits in steps of 10 ms and starts its jobs within 0.3 s of guest time under TCG.
FIO_START = 0.5
# Part of the submissions that may find the queue less than full although the group asks for all it can get:
# completions come in bunches.
NOT_FULL = 0.05


@dataclass(frozen=True)
class Outcome:
    """Counters over time, cumulative from the first reading, which was made before any I/O.

    times: seconds of guest uptime, one per reading. reads, writes: I/Os by group, one per reading.
    window: indices of the first and last reading of the common window. starts: uptime at which each group's fio
    was started. fio: fio's own result by group. fingerprint: SHA-256 over every counter, time stamp and fio count:
    equal for equal runs.
    """

    times: tuple[float, ...]
    reads: dict[str, tuple[int, ...]]
    writes: dict[str, tuple[int, ...]]
    window: tuple[int, int]
    starts: dict[str, float]
    fio: dict[str, fio.JobResult]
    fingerprint: str

    def ios(self, group: str) -> tuple[int, ...]:
        """Reads and writes of a group, cumulative, one per reading."""
        return tuple(r + w for r, w in zip(self.reads[group], self.writes[group], strict=True))

    @property
    def seconds(self) -> float:
        """Length of the common window, guest time."""
        first, last = self.window
        return self.times[last] - self.times[first]

    def rates(self, group: str) -> list[tuple[float, float]]:
        """(seconds since the common window began, I/Os per second since the reading before), one per reading in it."""
        ios = self.ios(group)
        first, last = self.window
        return [
            (self.times[i] - self.times[first], (ios[i] - ios[i - 1]) / (self.times[i] - self.times[i - 1]))
            for i in range(first + 1, last + 1)
            if self.times[i] > self.times[i - 1]
        ]


def parse(scenario: Scenario, role: Role, files: Mapping[str, bytes]) -> Outcome:
    """Read the files of /results (name -> content).

    Raises MeasurementError when one is missing or says something unexpected.
    """
    text = {name: data.decode(errors="replace") for name, data in files.items()}
    names = [g.name for g in scenario.group]
    times, readings = _readings(_file(text, "counters"))
    reads: dict[str, list[int]] = {name: [] for name in names}
    writes: dict[str, list[int]] = {name: [] for name in names}
    for reading in readings:
        for name in names:
            done = _count(scenario, role, name, reading, text)
            reads[name].append(done[0])
            writes[name].append(done[1])
    starts = {name: float(at) for name, at in _pairs(_file(text, "starts"))}
    if starts.keys() != set(names):
        raise MeasurementError(f"fio was started for {sorted(starts)}, not for all of {sorted(names)}")
    results = {name: fio.Result.parse(_file(text, f"fio-{name}.json")).total(name) for name in names}
    return Outcome(
        times=tuple(times),
        reads={name: tuple(v - values[0] for v in values) for name, values in reads.items()},
        writes={name: tuple(v - values[0] for v in values) for name, values in writes.items()},
        window=_window(scenario, times, starts),
        starts=starts,
        fio=results,
        fingerprint=_fingerprint(text, results),
    )


def sample(scenario: Scenario, outcome: Outcome, seed: int, saturation: Saturation) -> Sample:
    """The sample for ``shares.judge``. saturation: how many I/Os in flight fill this disk."""
    first, last = outcome.window
    names = [g.name for g in scenario.group]
    ios = {name: outcome.ios(name)[last] - outcome.ios(name)[first] for name in names}
    totals = {name: outcome.ios(name)[-1] for name in names}
    depth = scenario.load.depth
    return Sample(
        seed=seed,
        ios=ios,
        seconds=outcome.seconds,
        backlogged={g.name: backlogged(outcome.fio[g.name], depth, g.jobs) for g in scenario.group},
        saturated=saturation.reached and depth >= saturation.depth,
        fio_ios={name: outcome.fio[name].total_ios for name in names},
        total_ios_kernel=totals,
    )


def saturation_points(files: Mapping[str, bytes]) -> list[tuple[int, float]]:
    """(I/Os in flight, I/Os per second) of the run made by ``script.compile_saturation``."""
    text = {name: data.decode(errors="replace") for name, data in files.items()}
    return [
        (depth, fio.Result.parse(_file(text, f"depth-{depth}.json")).total(f"depth-{depth}").iops)
        for depth in DEPTHS
    ]


def backlogged(result: fio.JobResult, depth: int, jobs: int) -> bool:
    """Whether a group always asked for more than it got: its queues were full, but for filling them at the start.

    A group that gets nothing is backlogged all the same: to starve it is a failure, not a missing precondition.
    """
    partly = (100.0 - result.percent_at_depth(depth)) / 100.0 * result.total_ios
    return partly <= NOT_FULL * result.total_ios + jobs * depth


def _file(text: Mapping[str, str], name: str) -> str:
    if name not in text:
        said = text.get("script.log", "").strip()[-400:] or "nothing"
        raise MeasurementError(f"the scenario's script left no {name} in /results; it printed: {said}")
    return text[name]


def _pairs(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


# T seconds; S name: status; B device and the eleven counters of its stat file (Documentation/iostats.txt).
_LINE = re.compile(r"T \d+\.\d+|S [^ ]+: .*|B [^ ]+( +\d+){11}")


@dataclass
class _Reading:
    status: dict[str, str]
    stat: dict[str, list[int]]


def _readings(text: str) -> tuple[list[float], list[_Reading]]:
    times: list[float] = []
    readings: list[_Reading] = []
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if not _LINE.fullmatch(line):
            raise MeasurementError(f"a line of the counters is not understood: {line!r}")
        if kind == "T":
            times.append(float(rest))
            readings.append(_Reading({}, {}))
        elif kind == "S" and readings:
            name, _, params = rest.partition(": ")
            readings[-1].status[name] = params
        elif readings:
            device, *counts = rest.split()
            readings[-1].stat[device] = [int(c) for c in counts]
    if len(readings) < 3:
        raise MeasurementError(f"only {len(readings)} readings of the counters")
    return times, readings


def _count(
    scenario: Scenario, role: Role, group: str, reading: _Reading, text: Mapping[str, str]
) -> tuple[int, int]:
    """Reads and writes of a group, by the target's status; without the series by its dm-linear device's counters."""
    device = device_of(scenario, group, role != "compat")
    if role == "compat":
        minors = {name: minor for minor, name in _pairs(_file(text, "devices"))}
        stat = reading.stat.get(f"dm-{minors.get(device, '?')}")
        if stat is None:
            raise MeasurementError(f"no counters of {device}; devices: {minors}")
        return stat[0], stat[
            4
        ]  # Documentation/iostats.txt: field 1 reads completed, field 5 writes completed
    ids = {name: int(i) for name, i in _pairs(_file(text, "ids"))}
    status = reading.status.get(device)
    if status is None:
        raise MeasurementError(f"`dmsetup status` did not list {device}")
    groups = dm.parse_status(status).groups
    if ids.get(group) not in groups:
        raise MeasurementError(f"`dmsetup status` has no group {ids.get(group)} for {group}: {status}")
    counters = groups[ids[group]]
    return counters.reads, counters.writes


def _window(scenario: Scenario, times: list[float], starts: dict[str, float]) -> tuple[int, int]:
    """First and last reading for which every group was running: ramp after the last start, until the first end."""
    begin = max(starts.values()) + FIO_START + scenario.timing.ramp
    end = min(starts.values()) + scenario.duration
    inside = [i for i, t in enumerate(times) if begin <= t <= end]
    if len(inside) < 2 or times[inside[-1]] - times[inside[0]] < scenario.timing.window / 2:
        raise MeasurementError(
            f"the groups ran together from {begin:.1f} to {end:.1f} s, "
            f"too short for a window of {scenario.timing.window} s",
            hint="fio took long to start, or the groups start far apart: raise the scenario's timing.window",
        )
    return inside[0], inside[-1]


def _fingerprint(text: Mapping[str, str], results: Mapping[str, fio.JobResult]) -> str:
    whole = hashlib.sha256()
    for name in ("table", "devices", "starts", "counters"):
        whole.update(text.get(name, "").encode())
    for name in sorted(results):
        whole.update(f"{name} {results[name].total_ios} {results[name].io_bytes}".encode())
    return whole.hexdigest()
