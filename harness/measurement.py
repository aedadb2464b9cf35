"""From the counters of a run to a sample for ``shares.judge``, and what that sample must keep to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness import fio, rival, shares
from harness.controller import Controller
from harness.errors import MeasurementError
from harness.figures import SERIES_OWN, measure
from harness.outcome import SECTOR, Outcome
from harness.scenario import Control, Load, Phase, Scenario
from harness.script import Under
from harness.shares import Bound, Sample, ShareVerdict
from harness.throughput import Saturation

# Part of the submissions that may find the queue less than full although the group asks for all it can get:
# completions come in bunches.
NOT_FULL = 0.05


def sample(scenario: Scenario, outcome: Outcome, seed: int, saturations: dict[Load, Saturation]) -> Sample:
    """The sample of one run. saturations: how many I/Os in flight fill this disk, by load.

    Raises MeasurementError when fio and the kernel disagree about what was done.
    """
    first, last, targets = _judged_window(scenario, outcome)
    work = outcome.course(scenario.metric).work
    names = list(targets) or [g.name for g in scenario.group]
    found = Sample(
        seed=seed,
        ios={name: work[name][last] - work[name][first] for name in names},
        seconds=outcome.times[last] - outcome.times[first],
        backlogged=_backlogged(scenario, outcome),
        saturated=not scenario.saturates or _saturated(scenario, outcome, saturations),
        fio_ios={} if scenario.load.buffered else {n: r.total_ios for n, r in outcome.fio.items()},
        total_ios_kernel={} if scenario.load.buffered else {n: outcome.ios(n)[-1] for n in outcome.fio},
        fio_sectors={n: r.io_bytes // SECTOR for n, r in outcome.fio.items()},
        total_sectors_kernel={n: sectors[-1] for n, sectors in outcome.sectors.items()},
        drifted=_restless(scenario, outcome),
        figures=_figures(scenario, outcome, saturations) | _latencies(outcome),
        all_ios=sum(outcome.ios(name)[last] - outcome.ios(name)[first] for name in names),
    )
    shares.crosscheck(found.total_ios_kernel, found.fio_ios)
    shares.crosscheck(found.total_sectors_kernel, found.fio_sectors, "sectors")
    return found


def bounds(scenario: Scenario, *, reaching: bool = False, plainly: bool = False) -> list[Bound]:
    """Of the figures: those that the scenario names, and the shares in all its phases but the first judged one.

    reaching: of a control that must reach the targets, wherever the scenario itself may miss them. What the scenario's
    own figures are is then no matter. plainly: of what is not the series: no target is expected to be missed, and
    figures of the series' own accounts are only reported.
    """
    found = []
    for phase, group, target in _further_shares(scenario):
        found.append(
            Bound(
                label=_share_label(group, phase),
                unit="%",
                at_least=100 * (target - scenario.tolerance) if phase.judged else None,
                at_most=100 * (target + scenario.tolerance) if phase.judged else None,
                why=f"{shares.percent(target)} by weight" if phase.judged else "",
                published=phase.published.get(group),
                missed=phase.name if phase in scenario.missed and not (reaching or plainly) else None,
            )
        )
    if reaching:
        return found
    for f in scenario.figure:
        bound = Bound(label=f.label, unit=f.unit)
        if not (plainly and f.kind in SERIES_OWN):
            bound = Bound(label=f.label, unit=f.unit, at_least=f.at_least, at_most=f.at_most, why=f.why)
        found.append(bound)
    return found


@dataclass(frozen=True)
class Rule:
    """What samples of a scenario are judged by; targets, bounds and missed as ``shares.judge`` has them."""

    scenario: Scenario
    targets: dict[str, float]
    bounds: list[Bound]
    missed: str | None

    def judge(self, samples: Sequence[Sample]) -> ShareVerdict:
        """The verdict on the samples so far."""
        return shares.judge(
            samples,
            self.targets,
            self.scenario.tolerance,
            parts=self.scenario.parts,
            bounds=self.bounds,
            missed=self.missed,
            expected_failure=self.scenario.expected_failure or "",
        )


def rule(scenario: Scenario, under: Under, *, plainly: bool = False) -> Rule:
    """What the scenario is judged by under this. plainly: as ``bounds`` has it; a controller of the kernel's own always
    is, by what it promises.
    """
    if isinstance(under, Controller) and under.promises == "latency":
        return Rule(scenario, {}, [_promised_latency(scenario)], None)
    plainly = plainly or isinstance(under, Controller)
    reaching = isinstance(under, Control) and under.reaches
    # Where nothing in the set-up tells the series from none, its control can only show that it misses the target.
    plain = plainly or reaching or (isinstance(under, Control) and scenario.beside is not None)
    return Rule(
        scenario,
        scenario.targets,
        bounds(scenario, reaching=reaching, plainly=plainly),
        None if plain else missed(scenario),
    )


def missed(scenario: Scenario) -> str | None:
    """The name of the part of the run whose shares are a sample's, if they are expected to miss their targets."""
    main = next((p for p in scenario.phase if p.judged), None)
    if scenario.expected_failure is None or main not in (None, *scenario.missed):
        return None
    return main.name if main else "all the run"


def backlogged(result: fio.JobResult, depth: int, jobs: int) -> bool:
    """Whether a group always asked for more than it got: its queues were full, but for filling them at the start.

    A group that gets nothing is backlogged all the same: to starve it is a failure, not a missing precondition.
    """
    partly = (100.0 - result.percent_at_depth(depth)) / 100.0 * result.total_ios
    return partly <= NOT_FULL * result.total_ios + jobs * depth


def _backlogged(scenario: Scenario, outcome: Outcome) -> dict[str, bool]:
    """A buffered writer never pauses of itself: it is the page cache that lets it wait, or not."""
    found = {}
    for group in scenario.group:
        load = group.load(scenario.load)
        jobs = group.jobs + sum(phase.more.get(group.name, 0) for phase in scenario.phase)
        found[group.name] = load.buffered or backlogged(outcome.fio[group.name], load.depth, jobs)
    return found


def _saturated(scenario: Scenario, outcome: Outcome, saturations: dict[Load, Saturation]) -> bool:
    """Whether each group by itself kept the disk full, so that they competed for it; for buffered writers, whether
    the disk's queue was as long.
    """
    loads = {g.name: g.load(scenario.load) for g in scenario.group}
    if not all(saturations[load].reached for load in loads.values()):
        return False
    if scenario.load.buffered:
        return all(outcome.mean_in_flight >= saturations[load].depth for load in loads.values())
    return all(g.jobs * loads[g.name].depth >= saturations[loads[g.name]].depth for g in scenario.group)


def _restless(scenario: Scenario, outcome: Outcome) -> tuple[str, ...]:
    """Groups that did more in a phase in which they should rest than end what they had begun."""
    found = []
    for phase in scenario.phase:
        first, last = outcome.phases[phase.name]
        for group in scenario.group:
            # what is in flight, and what the call that submits just now brings in spite of the signal
            begun = 2 * group.jobs * group.load(scenario.load).depth
            # io.stat counts what is begun as well, and a group begins anew just before the phase's last reading
            counted = outcome.done.get(group.name) or outcome.ios(group.name)
            done = counted[last] - counted[first]
            if group.name in phase.idle and done > begun:
                found.append(f"{group.name} did {done} I/Os in phase {phase.name}, in which it should rest")
    return tuple(found)


def _judged_window(scenario: Scenario, outcome: Outcome) -> tuple[int, int, dict[str, float]]:
    """First and last reading of what the shares are taken from, and their targets."""
    phase = next((p for p in scenario.phase if p.judged), None)
    if phase is None:
        return *outcome.window, scenario.targets
    return *_settled_window(phase, outcome), scenario.targets


def _settled_window(phase: Phase, outcome: Outcome) -> tuple[int, int]:
    """The phase without its first ``settle`` seconds."""
    first, last = outcome.phases[phase.name]
    begin = outcome.times[first] + phase.settle
    first = next((i for i in range(first, last) if outcome.times[i] >= begin), last)
    if first == last:
        raise MeasurementError(f"phase {phase.name} has no two readings after {phase.settle} s")
    return first, last


def _further_shares(scenario: Scenario) -> list[tuple[Phase, str, float]]:
    main = next((p for p in scenario.phase if p.judged), None)
    return [
        (phase, group, target)
        for phase in scenario.phase
        if phase is not main
        for group, target in scenario.targets_in(phase).items()
    ]


def _promised_latency(scenario: Scenario) -> Bound:
    return Bound(
        label=_latency_label(rival.protected(scenario).name),
        unit="ms",
        at_most=1000 * rival.target_seconds(scenario),
        why="what it is told to keep to: 15 % above what a group has by itself",
    )


def _latencies(outcome: Outcome) -> dict[str, float]:
    """What an I/O of a group took in the kernel, in the common window, by the count of the group's own device."""
    first, last = outcome.window
    found = {}
    for name, ticks in outcome.ticks.items():
        done = outcome.done[name][last] - outcome.done[name][first]
        found[_latency_label(name)] = (ticks[last] - ticks[first]) / done if done else 0.0
    return found


def _latency_label(group: str) -> str:
    return f"time of an I/O of {group} in the kernel"


def _share_label(group: str, phase: Phase) -> str:
    return f"share of {group}, {phase.name}"


def _figures(scenario: Scenario, outcome: Outcome, saturations: dict[Load, Saturation]) -> dict[str, float]:
    course = outcome.course(scenario.metric)
    found = {}
    for phase, group, _ in _further_shares(scenario):
        first, last = _settled_window(phase, outcome)
        part = [g for g in scenario.targets_in(phase) if scenario.parts[g] == scenario.parts[group]]
        total = sum(course.work[g][last] - course.work[g][first] for g in part)
        done = course.work[group][last] - course.work[group][first]
        found[_share_label(group, phase)] = 100 * done / total if total else 0.0
    phases = {phase.name: phase for phase in scenario.phase}
    for figure in scenario.figure:
        seen = course
        if figure.kind == "share":
            settled = {figure.phase: _settled_window(phases[figure.phase], outcome)}
            seen = replace(course, phases=course.phases | settled)
        found[figure.label] = measure(
            figure,
            seen,
            targets=scenario.targets_in(phases[figure.phase]),
            parts=scenario.parts,
            most=max(s.max_iops for s in saturations.values()),
        )
    return found
