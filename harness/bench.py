"""``harness bench``: what the driver under test costs, how fast the harness is, and how steady what it measures.

Hosts are shared and noisy: every figure of the harness is a median or a ratio of one run, and says how often it was
taken. The driver's are exact.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from harness import drivercost, host, progress, project, session, testbed
from harness import report as reports
from harness import scenario as scenarios
from harness.campaign import Campaign
from harness.errors import HarnessError, MeasurementError
from harness.figure import Figure
from harness.machine import INIT
from harness.record import MachineRecord, Recorder
from harness.report import terminal
from harness.scenario import Scenario
from harness.store import Store
from harness.testbed import Testbed

BOOTS = 7
ROUND_TRIPS = 200
REPETITIONS = 10
VIRTUAL, REAL = "cgroup-80-20", "cgroup-80-20-real"


def run(kernel: str, series: Path | None, *, driver_only: bool = False) -> int:
    """Measure and print; 0 when every goal is met, else 1. The record of all machines is in the run's folder."""
    shown = progress.default()
    bed = testbed.prepare(Store.default(), kernel, series, shown)
    recorder = Recorder.start(project.new_run_folder(), ["harness", *sys.argv[1:]])
    session.describe(recorder, bed)
    parts = (
        (drivercost.measure,)
        if driver_only
        else (drivercost.measure, _boots, _suite, _virtual_spread, _real_spread)
    )
    try:
        for measure in parts:
            with shown.task(measure.__doc__ or measure.__name__):
                figures = measure(bed, recorder)
            with recorder.change() as record:
                record.figures += figures
    except HarnessError as e:
        recorder.stopped(e)
        raise
    finally:
        code = recorder.finish()
        written = reports.write_all(recorder.folder)
    terminal.figures(recorder.run.figures)
    print(f"report: {written.html}")
    return code


def _boots(bed: Testbed, recorder: Recorder) -> list[Figure]:
    """boots and SSH"""
    init, ssh, trips = [], [], []
    for number in range(BOOTS):
        with bed.boot(recorder.folder / f"boot-{number}") as guest:
            guest.run(["true"])
            ssh.append(time.monotonic() - guest.machine.started)
            seen = guest.machine.console.seen(INIT)
            assert seen is not None, "a guest that answers has printed its first line"
            init.append(seen - guest.machine.started)
            if number == BOOTS - 1:
                trips = [guest.run(["true"]).seconds for _ in range(ROUND_TRIPS)]
    gap = statistics.median(s - i for s, i in zip(ssh, init, strict=True))
    how = f"median of {BOOTS} boots"
    return [
        _figure("QEMU start to /init", statistics.median(init), "s", None, how),
        _figure("QEMU start to first SSH answer", statistics.median(ssh), "s", None, how),
        _figure("first SSH answer after /init", gap, "s", 0.6, how),
        _figure(
            "SSH command round trip", 1000 * statistics.median(trips), "ms", 20, f"median of {ROUND_TRIPS}"
        ),
    ]


def _suite(bed: Testbed, recorder: Recorder) -> list[Figure]:
    """the scenarios, one machine at a time"""
    wanted = [s for s in scenarios.load_all(project.scenarios_dir()) if s.clock == "virtual" and s.core]
    began = time.monotonic()
    first = len(recorder.run.machines)
    with Campaign(bed, recorder, lambda s: s.name, workers=1, again=True) as campaign:
        campaign.start(wanted)
        for scenario in wanted:
            campaign.verdict(scenario)
    wall = time.monotonic() - began
    machines = recorder.run.machines[first:]
    useful = sum(m.seconds_to_ready or 0.0 for m in machines)
    ratios = [
        m.seconds_to_ready / m.guest_seconds for m in machines if m.seconds_to_ready and m.guest_seconds
    ]
    how = f"{len(wanted)} scenarios, {len(machines)} machines"
    return [
        _figure("harness time over boot and fio time", 100 * (wall - useful) / useful, "%", 10, how),
        _figure("wall over guest time, virtual clock", statistics.median(ratios), "", 0.5, f"median, {how}"),
    ]


def _virtual_spread(bed: Testbed, recorder: Recorder) -> list[Figure]:
    """one seed again and again on the virtual clock, half of it on a loaded host"""
    scenario = _named(VIRTUAL)
    prints = []
    for number in range(REPETITIONS):
        with (
            busy_host() if number % 2 else nullcontext(),
            _campaign(bed, recorder, f"virtual-{number}") as campaign,
        ):
            prints.append(campaign.counters(scenario).fingerprint)
    return [
        _figure(
            "different outcomes of one seed",
            len(set(prints)) - 1,
            "",
            0,
            f"every counter and time stamp of {REPETITIONS} runs, {REPETITIONS // 2} with every core busy",
        )
    ]


def _real_spread(bed: Testbed, recorder: Recorder) -> list[Figure]:
    """repetitions on the real clock"""
    scenario = _named(REAL)
    group = scenario.group[0].name
    values = []
    with _campaign(bed, recorder, "real") as campaign:
        for seed in range(1, REPETITIONS + 1):
            outcome = campaign.counters(scenario, seed=seed)
            first, last = outcome.window
            done = {g.name: outcome.ios(g.name)[last] - outcome.ios(g.name)[first] for g in scenario.group}
            values.append(100 * done[group] / sum(done.values()))
    how = f"range of the share of {group} in {scenario.name}, {REPETITIONS} seeds, sd {statistics.stdev(values):.2f}"
    return [_figure("spread of shares, real clock", max(values) - min(values), "points", 1.0, how)]


def _figure(what: str, value: float, unit: str, goal: float | None, how: str) -> Figure:
    return Figure(
        about="Speed and steadiness of the harness", what=what, value=value, unit=unit, goal=goal, how=how
    )


def _named(name: str) -> Scenario:
    return scenarios.load(project.scenarios_dir() / f"{name}.toml")


@contextmanager
def _campaign(bed: Testbed, recorder: Recorder, name: str) -> Iterator[Campaign]:
    """A campaign of its own, so that a seed is run again, in a folder of its own."""
    inner = Recorder.start(recorder.folder / name, recorder.run.argv)
    with Campaign(bed, inner, lambda s: s.name, workers=1, again=True) as campaign:
        yield campaign
    machines: list[MachineRecord] = inner.run.machines
    if any(m.exit not in (0, None) for m in machines):
        raise MeasurementError("a machine of the bench ended badly", log=inner.folder / "run.json")
    inner.finish()


@contextmanager
def busy_host() -> Iterator[None]:
    """Every core of the host is busy."""
    command: list[str | Path] = [
        host.find_tool("setpriv"),
        "--pdeathsig",
        "KILL",
        sys.executable,
        "-c",
        "while True: pass",
    ]
    burners = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
