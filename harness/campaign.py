"""All runs of all scenarios: which machines to boot, several at a time, until every share is judged.

A run is one machine and one sample. On the virtual clock nothing that happens on the host reaches the guest
before the measurement is over, so there is one machine per core of the host. On the real clock there is one at
a time, after those.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from harness import executed, measurement, outcome, remembered, script, shares, throughput
from harness.errors import GuestError, HarnessError, InfrastructureError, MeasurementError
from harness.guest import Guest
from harness.kbuild import Build
from harness.machine import INIT, READY, Disk, Machine
from harness.record import (
    ControlRecord,
    GroupRecord,
    MachineRecord,
    Recorder,
    RememberedRecord,
    ScenarioRecord,
)
from harness.remembered import Remembered
from harness.scenario import Clock, Control, Load, Scenario
from harness.script import Under
from harness.testbed import Testbed
from harness.throughput import Saturation

BOOT_SECONDS = 60.0
"""Seconds of host time, on the reference host, in which a guest must have booted."""

SLOWEST_CLOCK = 5.0
"""Seconds of host time that a second of guest time may take on the virtual clock of the reference host (usual: 0.4)."""

CONTROL_SAMPLES = shares.MIN_SAMPLES


T = TypeVar("T")


class Stopped(HarnessError):
    """A run that was not made because the campaign ended before: a guest died, or the user interrupted."""


@dataclass(frozen=True)
class RunKey:
    """One machine: what it is for."""

    scenario: str
    role: str
    seed: int

    @property
    def name(self) -> str:
        """Folder below the run's, and the machine's id in the record."""
        return f"{self.scenario}/{self.role}-{self.seed}"


@dataclass(frozen=True)
class Contest:
    """A scenario under something: its samples, what they were judged to be, and the runs that they are from."""

    samples: list[shares.Sample]
    judged: shares.ShareVerdict
    runs: tuple[outcome.Outcome, ...]


class Campaign:
    """Runs scenarios on a testbed and records what came out. A context manager: leaving it ends every machine.

    ``start`` submits the first look's runs of every scenario in order; ``verdict`` waits for one scenario, adds
    samples while they can decide it, judges, and writes the record; ``contest`` judges it under something else than the
    series, and records nothing but the machines. again: boot also what `remembered` knows. closely: look at latencies
    and at the CPU, too.
    """

    def __init__(
        self,
        testbed: Testbed,
        recorder: Recorder,
        repeat: Callable[[Scenario], str],
        workers: int | None = None,
        *,
        again: bool = False,
        closely: bool = False,
    ) -> None:
        self.testbed = testbed
        self.recorder = recorder
        self._repeat = repeat
        self._again = again
        self._closely = closely
        self._pools: dict[Clock, ThreadPoolExecutor] = {
            "virtual": ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="machine"),
            "real": ThreadPoolExecutor(1, thread_name_prefix="machine"),
        }
        self._runs: dict[RunKey, Future[outcome.Outcome]] = {}
        self._clocks: dict[RunKey, Clock] = {}
        self._saturations: dict[tuple[object, ...], Future[Saturation]] = {}
        self._machines: set[Machine] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)

    def stop(self) -> None:
        """No further run is started, and the machines that run are ended."""
        with self._lock:
            self._stopping = True
            machines = list(self._machines)
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        for machine in machines:
            machine.kill()

    # ---- what to run

    def start(self, scenarios: list[Scenario]) -> None:
        """Submit the virtual clock's runs of the first look, scenario by scenario.

        Those of the real clock wait until ``verdict`` asks for them: then nothing else of ours runs.
        """
        for scenario in scenarios:
            if scenario.clock == "real":
                continue
            for control in (None, *scenario.control):
                self.begin(scenario, control)

    def verdict(self, scenario: Scenario) -> ScenarioRecord:
        """Judge a scenario; blocks until its runs are done. Raises GuestError when a guest died, MeasurementError when
        counters disagree, Stopped when the campaign ended before.
        """
        entry = self._new_entry(scenario)
        with self.recorder.change() as run:
            run.scenarios.append(entry)
        saturations = {load: self._wait(future) for load, future in self._saturations_of(scenario).items()}
        samples, judged = self._judge(scenario, None, saturations)
        first = self._wait(self._submit(scenario, None, 1))
        with self.recorder.change():
            entry.saturation = max(saturations.values(), key=lambda s: s.depth)
            entry.samples, entry.judged = samples, judged
            begin = first.times[first.window[0]]
            entry.phases = [(name, first.times[at] - begin) for name, (at, _) in first.phases.items()]
            entry.bandwidth = {g.name: first.rates(g.name, scenario.metric) for g in scenario.group}
        for control in scenario.control:
            samples, judged = self._judge(scenario, control, saturations)
            with self.recorder.change():
                entry.controls.append(
                    ControlRecord(
                        name=control.name,
                        kind=control.kind,
                        description=_describe(control),
                        samples=samples,
                        judged=judged,
                        reaches=control.reaches,
                        verdict=shares.control_verdict(judged, reaches=control.reaches),
                    )
                )
        uncontrolled = next(c for c in entry.controls if c.kind == "compat")
        totals = [s.iops for s in entry.samples], [s.iops for s in uncontrolled.samples]
        controls = {c.name: c.judged for c in entry.controls if c.judged}
        with self.recorder.change():
            if scenario.saturates:
                entry.conservation = throughput.conservation(*totals)
            entry.verdict, entry.reasons = shares.scenario_verdict(
                entry.judged,
                controls,
                reaching=[c.name for c in entry.controls if c.reaches],
            )
        return entry

    def counters(self, scenario: Scenario, under: Under = None, *, seed: int = 1) -> outcome.Outcome:
        """The counters of one run, with the series or what else; made now unless it was made before."""
        return self._wait(self._submit(scenario, under, seed))

    def begin(self, scenario: Scenario, under: Under) -> None:
        """Submit the runs of the first look under this."""
        self._saturations_of(scenario)
        for seed in range(1, CONTROL_SAMPLES + 1):
            self._submit(scenario, under, seed)

    def contest(self, scenario: Scenario, under: Under) -> Contest:
        """Judge a scenario under anything; of what is not the series, no target is expected to be missed. Blocks, and
        raises, as ``verdict`` does.
        """
        saturations = {load: self._wait(future) for load, future in self._saturations_of(scenario).items()}
        samples, judged = self._judge(scenario, under, saturations, plainly=under is not None)
        runs = tuple(self._wait(self._submit(scenario, under, s.seed)) for s in samples)
        return Contest(samples, judged, runs)

    def _judge(
        self,
        scenario: Scenario,
        under: Under,
        saturations: dict[Load, Saturation],
        *,
        plainly: bool = False,
    ) -> tuple[list[shares.Sample], shares.ShareVerdict]:
        wanted = CONTROL_SAMPLES
        rule = measurement.rule(scenario, under, plainly=plainly)
        while True:
            runs = [self._submit(scenario, under, seed) for seed in range(1, wanted + 1)]
            samples = [
                measurement.sample(scenario, self._wait(future), seed, saturations)
                for seed, future in enumerate(runs, 1)
            ]
            judged = rule.judge(samples)
            if not judged.needs_more or judged.next_look is None:
                return samples, judged
            wanted = judged.next_look

    # ---- how

    def _submit(self, scenario: Scenario, under: Under, seed: int) -> Future[outcome.Outcome]:
        key = RunKey(scenario.name, script.role_of(under), seed)
        with self._lock:
            if key not in self._runs:
                if self._stopping:
                    raise Stopped(f"{key.name} was not run: the run ended before")
                self._clocks[key] = scenario.clock
                self._runs[key] = self._pools[scenario.clock].submit(self._run, key, scenario, under)
            return self._runs[key]

    def _saturations_of(self, scenario: Scenario) -> dict[Load, Future[Saturation]]:
        """By load: the disk is measured with every kind of load that a group puts on it."""
        return {load: self._saturation(scenario, load) for load in scenario.loads}

    def _saturation(self, scenario: Scenario, load: Load) -> Future[Saturation]:
        key = (scenario.clock, scenario.disk, scenario.scheduler, load.rw, load.bs)
        with self._lock:
            if key not in self._saturations:
                if self._stopping:
                    raise Stopped("the disk's saturation was not measured: the run ended before")
                self._saturations[key] = self._pools[scenario.clock].submit(
                    self._measure_saturation, scenario, load, len(self._saturations)
                )
            return self._saturations[key]

    def _wait(self, future: Future[T]) -> T:
        try:
            return future.result()
        except CancelledError:
            raise Stopped("this scenario was not run to its end: the run ended before") from None

    def _measure_saturation(self, scenario: Scenario, load: Load, number: int) -> Saturation:
        key = RunKey("saturation", f"{scenario.clock}-{scenario.scheduler}-{load.rw}-{load.bs}", number)
        files = script.compile_saturation(scenario, load, script.guest_disk(scenario, self.testbed.spec))
        results = self._execute(key, scenario, self.testbed.compat, files, "saturation")
        return throughput.saturation(outcome.saturation_points(results))

    def _run(self, key: RunKey, scenario: Scenario, under: Under) -> outcome.Outcome:
        files = script.compile_scenario(
            scenario,
            under,
            key.seed,
            script.guest_disk(scenario, self.testbed.spec),
            closely=self._closely,
        )
        series = script.with_series(under)
        build = self.testbed.with_series(scenario.clock) if series else self.testbed.compat
        role = key.role if under is None else f"{type(under).__name__.lower()} {key.role}"
        results = self._execute(key, scenario, build, files, role)
        return outcome.parse(scenario, under, results)

    def _execute(
        self, key: RunKey, scenario: Scenario, build: Build, files: dict[str, bytes], role: str
    ) -> dict[str, bytes]:
        """Boot, let the script run, fetch /results. What came is kept beside the console log; for a kernel without the
        series it may be known.
        """
        folder = self.recorder.folder / key.name
        folder.mkdir(parents=True, exist_ok=True)
        virtual = scenario.clock == "virtual"
        if not virtual:
            self._wait_for_quiet()
        settings = {"EXACT": "1", "HOLD_CLOCK": "1"} if virtual else {}
        initrd = folder / "initrd"
        (folder / "scenario.sh").write_bytes(files[script.SCRIPT])
        disks = (
            () if virtual else (Disk(name="disk", size_mb=scenario.disk.size_mb, iops=scenario.disk.iops),)
        )
        machine_spec = self.testbed.machine_spec(
            build,
            initrd,
            clock=scenario.clock,
            disks=disks,
            virtual_disk=script.virtual_disk(scenario, self.testbed.spec),
            memory_mb=scenario.memory_mb,
        )
        memory: str | None = None
        if virtual and build.key == self.testbed.compat.key:
            memory = remembered.key_of(build, self.testbed.image.key, machine_spec, files, settings)
            known = None if self._again else remembered.find(self.testbed.store, memory)
            if known is not None:
                self._remembered(key, scenario, role, known, folder)
                return known.results
        self.testbed.image.with_segment(initrd, self.testbed.segment(files, settings))
        try:
            results = self._boot(key, scenario, build, role, Machine(machine_spec, folder))
        finally:
            initrd.unlink(missing_ok=True)
        _write(results, folder)
        self._check_script(key, results, folder, virtual)
        if memory is not None:
            remembered.keep(self.testbed.store, memory, results, f"{key.name}, {self.testbed.spec.name}")
        return results

    def _boot(
        self, key: RunKey, scenario: Scenario, build: Build, role: str, machine: Machine
    ) -> dict[str, bytes]:
        """One machine's life; what it left in /results."""
        virtual = scenario.clock == "virtual"
        patience = SLOWEST_CLOCK * max(scenario.duration, len(script.DEPTHS) * script.SATURATION_SECONDS)
        entry: MachineRecord | None = None
        try:
            with self._machine(machine):
                entry = self._machine_entry(key, machine, scenario, build, role)
                ready = machine.wait_ready(BOOT_SECONDS + (patience if virtual else 0.0))
                with Guest.connect(machine, self.testbed.keys) as guest:
                    ssh = time.monotonic() - machine.started
                    if not virtual:
                        guest.run(["sh", script.SCRIPT], timeout=patience)
                    results = guest.get_tree(script.RESULTS)
                    executed.keep(self.recorder, guest, build, entry, self.recorder.folder / key.name)
        except GuestError as e:
            self.recorder.died(key.name, e)
            self.stop()
            raise
        finally:
            if entry is not None:
                with self.recorder.change():
                    entry.wall_seconds = time.monotonic() - machine.started
                    entry.exit = machine.exit_code
        init = machine.console.seen(INIT)
        with self.recorder.change():
            entry.seconds_to_init = None if init is None else init - machine.started
            entry.seconds_to_ready, entry.seconds_to_ssh = ready, ssh
            entry.guest_seconds = _uptime_when_ready(machine.console.text)
        return results

    def _remembered(
        self, key: RunKey, scenario: Scenario, role: str, known: Remembered, folder: Path
    ) -> None:
        _write(known.results, folder)
        entry = RememberedRecord(
            id=key.name,
            role=role,
            scenario=scenario.name,
            seed=key.seed,
            when=known.when,
            results=folder,
        )
        with self.recorder.change() as run:
            run.remembered.append(entry)

    def _wait_for_quiet(self) -> None:
        """The real clock sees what else the host does: let the machines of the virtual clock end first."""
        with self._lock:
            others: list[Future[Any]] = [f for key, f in self._runs.items() if self._clocks[key] == "virtual"]
            others += [f for key, f in self._saturations.items() if key[0] == "virtual"]
        for other in others:
            # Not futures.wait: it waits for ever for a future that a pool's shutdown has cancelled.
            with contextlib.suppress(CancelledError):
                other.exception()

    @contextlib.contextmanager
    def _machine(self, machine: Machine) -> Iterator[None]:
        """A machine that ``stop`` can end from another thread."""
        with self._lock:
            if self._stopping:
                raise Stopped("not started: the run ended before")
            self._machines.add(machine)
        try:
            with machine:
                yield
        except (GuestError, InfrastructureError) as e:
            if self._stopping:
                raise Stopped("not run to its end: the run ended before") from e
            raise
        finally:
            with self._lock:
                self._machines.discard(machine)

    def _machine_entry(
        self, key: RunKey, machine: Machine, scenario: Scenario, build: Build, role: str
    ) -> MachineRecord:
        entry = MachineRecord(
            id=key.name,
            role=role,
            argv=list(machine.argv),
            accel=machine.accel,
            clock=scenario.clock,
            started=datetime.now(UTC),
            build=build.key,
            scenario=scenario.name,
            seed=key.seed,
            console=machine.console_log,
        )
        with self.recorder.change() as run:
            run.machines.append(entry)
        return entry

    def _check_script(self, key: RunKey, results: dict[str, bytes], folder: Path, virtual: bool) -> None:
        """On the virtual clock nobody saw the script's exit code; /init left it in a file."""
        if virtual and results.get("status", b"").strip() != b"0":
            said = (
                results.get("script.log", b"").decode(errors="replace").strip()[-600:] or "it printed nothing"
            )
            raise MeasurementError(
                f"{key.name}: the scenario's script failed in the guest: {said}",
                log=folder / "script.log",
                hint="a file or a target that the series should bring may be missing; the script is beside the log",
            )

    def _new_entry(self, scenario: Scenario) -> ScenarioRecord:
        return ScenarioRecord(
            name=scenario.name,
            title=scenario.title,
            clock=scenario.clock,
            rw=scenario.load.rw,
            metric=scenario.metric,
            expected_failure=scenario.expected_failure,
            published=scenario.published,
            groups=[
                GroupRecord(
                    name=g.name,
                    part=g.share,
                    weight=float(g.weight),
                    target=scenario.targets.get(g.name),
                    published=g.published,
                )
                for g in scenario.group
            ],
            tolerance=scenario.tolerance,
            command=self._repeat(scenario),
        )


def repeat_command(kernel: str, series: Path | None, nodeid: str) -> str:
    """The one line that repeats a test: a shell command."""
    program = Path(sys.argv[0])
    called = [sys.executable, "-m", "harness"] if program.name == "__main__.py" else [str(program)]
    words = [*called, "test", "--kernel", kernel]
    if series is not None:
        words += ["--series", str(series.absolute())]
    return shlex.join([*words, nodeid])


def _write(results: Mapping[str, bytes], folder: Path) -> None:
    for name, data in results.items():
        (folder / Path(name).name).write_bytes(data)


def _uptime_when_ready(console: str) -> float | None:
    """Guest seconds from boot to ready, as /init prints them."""
    found = re.search(rf"{READY} ([0-9.]+)", console)
    return float(found[1]) if found else None


def _describe(control: Control) -> str:
    match control.kind:
        case "compat":
            return "the kernel without the series"
        case "weights":
            return f"the series with weights {':'.join(map(str, control.weights))}"
        case "ioband":
            return f"the series with {', '.join(f'{key} {value}' for key, value in control.changes.items())}"
        case "one-share":
            return "the series with all groups in one bandwidth domain"
