"""``harness compare``: scenarios under the series, and under each controller that the kernel itself brings.

The same file, disk, load and seeds, judged by the same rules, all in one run. What others' controllers come to decides
nothing about the run; the series must pass as in ``harness test``.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import (
    comparison,
    measurement,
    pick,
    progress,
    project,
    rival,
    session,
    shares,
    testbed,
    throughput,
)
from harness import report as reports
from harness import scenario as scenarios
from harness.campaign import Campaign, Contest
from harness.comparison import NONE, SERIES, Comparison, Contender, Latency
from harness.controller import Controller
from harness.errors import HarnessError, MeasurementError, UserError
from harness.outcome import Outcome
from harness.progress import Progress
from harness.qemu import NS_PER_INSTRUCTION
from harness.record import Recorder
from harness.report import terminal
from harness.scenario import Control, Scenario
from harness.script import Under
from harness.source import KernelSpec
from harness.store import Store


def run(
    kernel: str | None,
    series: Path | None,
    names: Sequence[str],
    *,
    workers: int = 0,
    again: bool = False,
) -> int:
    """Run, record, report; the exit code of the run's record.

    names: of scenarios; none: those that are marked ``compared``. workers: machines at a time, 0 for one per core.
    again: boot also those whose outcome is known. Raises UserError: no such scenario, or the kernel brings no
    controller. Otherwise as ``testbed.prepare``.
    """
    store, shown = Store.default(), progress.default()
    chosen = choose(names)
    spec = _kernel(kernel, series)
    recorder = Recorder.start(project.new_run_folder(), ["harness", *sys.argv[1:]])
    try:
        bed = testbed.prepare(store, spec.name, series, shown)
        session.describe(recorder, bed)
        with Campaign(
            bed, recorder, lambda s: s.name, workers or None, again=again, closely=True
        ) as campaign:
            compare(campaign, recorder, chosen, list(spec.controllers.values()), spec.lacks, shown)
    except (HarnessError, KeyboardInterrupt) as e:
        recorder.stopped(e)
        _finish(recorder)
        raise
    code = _finish(recorder)
    terminal.summary(recorder.run, recorder.folder)
    return code


def choose(names: Sequence[str]) -> list[Scenario]:
    """The scenarios of these names, else those that are marked ``compared``. Raises UserError for an unknown name."""
    every = {s.name: s for s in scenarios.load_all(project.scenarios_dir())}
    unknown = [name for name in names if name not in every]
    if unknown:
        raise UserError(f"no scenario {', '.join(unknown)}", hint=f"there are {', '.join(every)}")
    chosen = [every[name] for name in names] or [s for s in every.values() if s.compared]
    if not chosen:
        raise UserError("no scenario is marked: compared = true", hint="name some, or mark some")
    return chosen


def compare(
    campaign: Campaign,
    recorder: Recorder,
    chosen: Sequence[Scenario],
    controllers: Sequence[Controller],
    lacks: Mapping[str, str],
    shown: Progress,
) -> None:
    """Run every scenario under everything that suits it, and record what came out of it, one after another.

    lacks: as the kernel's manifest has it. What a scenario needs it needs for the series; of others it is seen.
    """
    _begin(campaign, chosen[0], controllers, lacks)
    for number, scenario in enumerate(chosen):
        for following in chosen[number + 1 : number + 2]:  # so that no core waits for this one's last samples
            _begin(campaign, following, controllers, lacks)
        entry = Comparison(
            scenario=scenario.name,
            title=scenario.title,
            groups={g.name: _told(scenario, g) for g in scenario.group},
            lightest=min(scenario.group, key=lambda g: g.weight).name,
            tolerance=scenario.tolerance,
            expected_failure=scenario.expected_failure,
        )
        with recorder.change() as record:
            record.comparisons.append(entry)
        free: Contest | None = None
        for under in (_uncontrolled(scenario), None, *controllers):
            found = _contender(under)
            found.unsuited = _unsuited(scenario, under, lacks)
            if found.unsuited is None:
                with shown.task(f"{scenario.name}: {found.title}"):
                    free = _contest(campaign, scenario, under, found, free)
            with recorder.change():
                entry.contenders.append(found)


def _unsuited(scenario: Scenario, under: Under, lacks: Mapping[str, str]) -> str | None:
    if isinstance(under, Controller):
        return rival.unsuited(scenario, under)
    if under is None:
        return next((lacks[need] for need in scenario.needs if need in lacks), None)
    return None


def _begin(
    campaign: Campaign, scenario: Scenario, controllers: Sequence[Controller], lacks: Mapping[str, str]
) -> None:
    for under in (_uncontrolled(scenario), None, *controllers):
        if _unsuited(scenario, under, lacks) is None:
            campaign.begin(scenario, under)


def _contest(
    campaign: Campaign, scenario: Scenario, under: Under, found: Contender, free: Contest | None
) -> Contest | None:
    """Let one contend, and put into ``found`` what came out. free: what came out without any controller, once it is
    known. Counters that disagree, or a script that failed, are this contender's error and no other's.
    """
    try:
        contest = campaign.contest(scenario, under)
    except MeasurementError as e:
        found.error = str(e)
        return free
    free = contest if isinstance(under, Control) else free
    found.samples, found.judged = contest.samples, contest.judged
    found.verdict, found.reasons = contest.judged.verdict, list(contest.judged.reasons)
    if free is not None and free is not contest:
        # How the same load comes out without any controller, by the rule that this one is judged by.
        without = measurement.rule(
            scenario, under if isinstance(under, Controller) else _uncontrolled(scenario)
        )
        found.verdict, found.reasons = shares.scenario_verdict(
            contest.judged, {NONE: without.judge(free.samples)}
        )
    if free is not None and scenario.saturates:
        found.conservation = throughput.conservation(
            [s.iops for s in contest.samples], [s.iops for s in free.samples]
        )
    found.latencies = latencies(scenario, contest.runs)
    found.instructions = instructions(contest.runs)
    return free


def latencies(scenario: Scenario, runs: Sequence[Outcome]) -> dict[str, Latency]:
    """By group; none where a group rests, as what was under way then takes as long as the rest."""
    if any(phase.idle for phase in scenario.phase):
        return {}
    found = {g.name: comparison.latency([r.fio[g.name].latency.bins for r in runs]) for g in scenario.group}
    return {name: value for name, value in found.items() if value is not None}


def instructions(runs: Sequence[Outcome]) -> float | None:
    """Per I/O in the common window: the mean over the runs; None where the CPU was not looked at."""
    each = []
    for outcome in runs:
        first, last = outcome.window
        done = sum(outcome.ios(name)[last] - outcome.ios(name)[first] for name in outcome.fio)
        if outcome.busy is not None and done:
            each.append(1e9 * outcome.busy / NS_PER_INSTRUCTION / done)
    return statistics.mean(each) if each else None


def _uncontrolled(scenario: Scenario) -> Control:
    return next(c for c in scenario.control if c.kind == "compat")


def _contender(under: Under) -> Contender:
    if isinstance(under, Controller):
        return Contender(
            name=under.name, title=under.title, promises=under.promises, documented=under.documented
        )
    if under is None:
        return Contender(name=SERIES, title="the series", promises="weights")
    return Contender(name=NONE, title="no controller", promises="nothing")


def _told(scenario: Scenario, group: scenarios.Group) -> str:
    """What the group is told, in a word or two."""
    if scenario.ioband.policy == "range-bw":
        return f"{group.bandwidth} KB/s"
    return f"weight {group.weight}"


def _kernel(kernel: str | None, series: Path | None) -> KernelSpec:
    """The kernel that was asked for or that the series is for; else the preferred one that brings controllers."""
    name = kernel or (pick.meant(series) if series is not None else None)
    if name is None:
        specs = sorted(map(testbed.kernel_spec, testbed.kernel_names()), key=lambda spec: spec.preference)
        return next(spec for spec in specs if spec.controllers)
    spec = testbed.kernel_spec(name)
    if not spec.controllers:
        others = [n for n in testbed.kernel_names() if testbed.kernel_spec(n).controllers]
        raise UserError(
            f"kernel {name} brings no controller of its own that is described: there is nothing to compare with",
            hint=f"kernels that do: {', '.join(others) or 'none'}",
        )
    return spec


def _finish(recorder: Recorder) -> int:
    code = recorder.finish()
    reports.write_all(recorder.folder)
    return code
