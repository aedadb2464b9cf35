"""What one run of a scenario left in the guest's /results, read into counters by group."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness import dm, fio
from harness.controller import Controller
from harness.errors import MeasurementError
from harness.figures import Course
from harness.scenario import Scenario
from harness.script import DEPTHS, FIO_START, Under, device_of, fio_outputs, with_series

SECTOR = 512


@dataclass(frozen=True)
class Outcome:
    """Counters over time, cumulative from the first reading, which was made before any I/O.

    times: seconds of guest uptime, one per reading. reads, writes, sectors: by group, one per reading. in_flight:
    the same for the disk, in I/O-seconds: its mean over a stretch of time is the difference over that time.
    window: indices of the first and last reading of the common window. phases: likewise, by name. starts: uptime at
    which each group's fio was started. fio: fio's own result by group. fingerprint: SHA-256 over every counter, time
    stamp and fio count: equal for equal runs. idle: seconds that the CPU idled since boot, one per reading, where the
    run was looked at closely. done, ticks: I/Os that a group's dm-linear device completed, and milliseconds that these
    took in all, one per reading; empty with the series, where groups have no devices of their own.
    """

    times: tuple[float, ...]
    reads: dict[str, tuple[int, ...]]
    writes: dict[str, tuple[int, ...]]
    sectors: dict[str, tuple[int, ...]]
    in_flight: tuple[float, ...]
    window: tuple[int, int]
    phases: dict[str, tuple[int, int]]
    starts: dict[str, float]
    fio: dict[str, fio.JobResult]
    fingerprint: str
    idle: tuple[float, ...] = ()
    done: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ticks: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def ios(self, group: str) -> tuple[int, ...]:
        """Reads and writes of a group, cumulative, one per reading."""
        return tuple(r + w for r, w in zip(self.reads[group], self.writes[group], strict=True))

    def course(self, metric: str) -> Course:
        """What was counted over time, with I/Os or sectors (``metric``) as what shares are shares of."""
        work = self.sectors if metric == "sectors" else {g: self.ios(g) for g in self.reads}
        return Course(times=self.times, work=work, sectors=self.sectors, phases=self.phases)

    @property
    def seconds(self) -> float:
        """Length of the common window, guest time."""
        first, last = self.window
        return self.times[last] - self.times[first]

    @property
    def busy(self) -> float | None:
        """Seconds of the common window in which the CPU was not idle; None where that was not counted."""
        first, last = self.window
        return self.seconds - (self.idle[last] - self.idle[first]) if self.idle else None

    @property
    def mean_in_flight(self) -> float:
        """I/Os in flight at the disk, its queue included: the mean over the common window."""
        first, last = self.window
        return (self.in_flight[last] - self.in_flight[first]) / self.seconds

    def rates(self, group: str, metric: str = "ios") -> list[tuple[float, float]]:
        """(seconds since the common window began, I/Os or sectors per second since the reading before), one per
        reading in it.
        """
        done = self.course(metric).work[group]
        first, last = self.window
        return [
            (self.times[i] - self.times[first], (done[i] - done[i - 1]) / (self.times[i] - self.times[i - 1]))
            for i in range(first + 1, last + 1)
            if self.times[i] > self.times[i - 1]
        ]


def parse(scenario: Scenario, under: Under, files: Mapping[str, bytes]) -> Outcome:
    """Read the files of /results (name -> content).

    Raises MeasurementError when one is missing or says something unexpected.
    """
    text = {name: data.decode(errors="replace") for name, data in files.items()}
    names = [g.name for g in scenario.group]
    times, readings = _readings(_file(text, "counters"))
    counted = {name: [_count(scenario, under, name, r, text) for r in readings] for name in names}
    starts = {name: float(at) for name, at in _pairs(_file(text, "starts"))}
    if starts.keys() != set(names):
        raise MeasurementError(f"fio was started for {sorted(starts)}, not for all of {sorted(names)}")
    results = {
        name: fio.Result.merge([fio.Result.parse(_file(text, f)) for f in fio_outputs(scenario, name)]).total(
            name
        )
        for name in names
    }
    phases = _phases(scenario, times, text)
    own = (
        {}
        if with_series(under)
        else {name: [_linear(scenario, name, r, text) for r in readings] for name in names}
    )
    return Outcome(
        times=tuple(times),
        reads={name: _since_first(values, 0) for name, values in counted.items()},
        writes={name: _since_first(values, 1) for name, values in counted.items()},
        sectors={name: _since_first(values, 2) for name, values in counted.items()},
        in_flight=tuple(next(iter(r.stat.values()))[10] / 1000 for r in readings),
        window=_common(scenario, times, starts, phases),
        phases=phases,
        starts=starts,
        fio=results,
        fingerprint=_fingerprint(text, results),
        idle=tuple(r.idle for r in readings if r.idle is not None),
        # Documentation/iostats.txt: fields 4 and 8 are the milliseconds of all reads and of all writes
        done={name: tuple(s[0] + s[4] for s in stats) for name, stats in own.items()},
        ticks={name: tuple(s[3] + s[7] for s in stats) for name, stats in own.items()},
    )


def saturation_points(files: Mapping[str, bytes]) -> list[tuple[int, float]]:
    """(I/Os in flight, I/Os per second) of the run made by ``script.compile_saturation``."""
    text = {name: data.decode(errors="replace") for name, data in files.items()}
    return [
        (depth, fio.Result.parse(_file(text, f"depth-{depth}.json")).total(f"depth-{depth}").iops)
        for depth in DEPTHS
    ]


def _since_first(values: list[tuple[int, int, int]], which: int) -> tuple[int, ...]:
    return tuple(v[which] - values[0][which] for v in values)


def _file(text: Mapping[str, str], name: str) -> str:
    if name not in text:
        said = text.get("script.log", "").strip()[-400:] or "nothing"
        raise MeasurementError(f"the scenario's script left no {name} in /results; it printed: {said}")
    return text[name]


def _pairs(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


# T seconds; S name: status; B device and the counters of its stat file (Documentation/iostats.txt): eleven, and since
# 4.18 those of discards and flushes behind them. Where they are counted: I seconds idle; C group and a line of io.stat.
_LINE = re.compile(
    r"T \d+\.\d+|I \d+\.\d+|C [^ ]+ \d+:\d+( [a-z_.]+=[^ ]+)* ?|S [^ ]+: .*|B [^ ]+( +\d+){11,}"
)


@dataclass
class _Reading:
    """The first device of ``stat`` is the disk, the others are dm devices. cgroups: by group and MAJOR:MINOR."""

    status: dict[str, str]
    stat: dict[str, list[int]]
    cgroups: dict[tuple[str, str], dict[str, str]]
    idle: float | None = None


def _readings(text: str) -> tuple[list[float], list[_Reading]]:
    times: list[float] = []
    readings: list[_Reading] = []
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if not _LINE.fullmatch(line):
            raise MeasurementError(f"a line of the counters is not understood: {line!r}")
        if kind == "T":
            times.append(float(rest))
            readings.append(_Reading({}, {}, {}))
        elif kind == "I" and readings:
            readings[-1].idle = float(rest)
        elif kind == "C" and readings:
            group, device, *counted = rest.split()
            readings[-1].cgroups[group, device] = dict(pair.split("=", 1) for pair in counted)
        elif kind == "S" and readings:
            name, _, params = rest.partition(": ")
            readings[-1].status[name] = params
        elif readings:
            device, *numbers = rest.split()
            readings[-1].stat[device] = [int(n) for n in numbers]
    if len(readings) < 3 or not all(r.stat for r in readings):
        raise MeasurementError(f"only {len(readings)} readings of the counters, or one without the disk's")
    return times, readings


def _count(
    scenario: Scenario, under: Under, group: str, reading: _Reading, text: Mapping[str, str]
) -> tuple[int, int, int]:
    """Reads, writes and sectors of a group: by the target's status; without the series by its dm-linear device's
    counters; under a controller of the kernel's own by its cgroup's for the disk.
    """
    if isinstance(under, Controller):
        return _count_of_cgroup(reading, group, _file(text, "disk").strip())
    if not with_series(under):
        # Documentation/iostats.txt: fields 1 and 5 are reads and writes completed, 3 and 7 their sectors
        stat = _linear(scenario, group, reading, text)
        return stat[0], stat[4], stat[2] + stat[6]
    return _count_of_ioband(reading, group, device_of(scenario, group, controlled=True), text)


def _count_of_cgroup(reading: _Reading, group: str, disk: str) -> tuple[int, int, int]:
    """io.stat counts an I/O when it is passed on to the disk's queue, and not when it completes: in a window it tells
    those apart that were under way at its edges, and at the end there are none. A group that has done nothing on the
    disk has no line, or one without counts.
    """
    counted = reading.cgroups.get((group, disk), {})
    try:
        reads, writes, read_bytes, written = (
            int(counted.get(key, 0)) for key in ("rios", "wios", "rbytes", "wbytes")
        )
    except ValueError as e:
        raise MeasurementError(f"io.stat of group {group} is not understood: {counted}") from e
    return reads, writes, (read_bytes + written) // SECTOR


def _linear(scenario: Scenario, group: str, reading: _Reading, text: Mapping[str, str]) -> list[int]:
    """The counters of the dm-linear device that a group has where the series is not."""
    device = device_of(scenario, group, controlled=False)
    minors = {name: minor for minor, name in _pairs(_file(text, "devices"))}
    stat = reading.stat.get(f"dm-{minors.get(device, '?')}")
    if stat is None:
        raise MeasurementError(f"no counters of {device}; devices: {minors}")
    return stat


def _count_of_ioband(
    reading: _Reading, group: str, device: str, text: Mapping[str, str]
) -> tuple[int, int, int]:
    ids = {name: int(i) for name, i in _pairs(_file(text, "ids"))}
    status = reading.status.get(device)
    if status is None:
        raise MeasurementError(f"`dmsetup status` did not list {device}")
    groups = dm.parse_status(status).groups
    if ids.get(group) not in groups:
        raise MeasurementError(f"`dmsetup status` has no group {ids.get(group)} for {group}: {status}")
    counters = groups[ids[group]]
    return counters.reads, counters.writes, counters.read_sectors + counters.write_sectors


def _phases(scenario: Scenario, times: list[float], text: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """First and last reading of each phase: the script says at which reading each began, and when the last ended."""
    if not scenario.phase:
        return {}
    lines = [line.partition(" ") for line in _file(text, "phases").splitlines()]
    begun = [name for _, _, name in lines[:-1]]
    if begun != [p.name for p in scenario.phase] or not {float(at) for at, _, _ in lines} <= set(times):
        raise MeasurementError(f"the phases that ran are {begun}, or their times are no readings' times")
    # A reading may have the time of the one before: of two, the later is the one that the phase begins with.
    at = [len(times) - 1 - times[::-1].index(float(time)) for time, _, _ in lines]
    return {name: (at[i], at[i + 1]) for i, name in enumerate(begun)}


def _common(
    scenario: Scenario, times: list[float], starts: dict[str, float], phases: dict[str, tuple[int, int]]
) -> tuple[int, int]:
    """First and last reading for which every group was running; of several phases, from the first to the last."""
    if phases:
        return phases[scenario.phase[0].name][0], phases[scenario.phase[-1].name][1]
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
