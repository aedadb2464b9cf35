"""Several test processes at a time, each with guests of its own: pytest-xdist, and what it must be told.

What takes all cores by itself stays behind, and runs afterwards, in the first process: the scenarios, one of which
wants the host for itself, and guests of several CPUs, where a CPU that waits for a core of the host lets others spin. A
unit of work is what shares a guest: the tests of a file on one kind of machine. Every process keeps a record of its own
machines in a folder below the run's; in the end they are one.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.conformance import Conformance
from harness.progress import LineProgress
from harness.record import RUN_JSON, Recorder, load
from harness.recording import ControllerPlugin, SessionPlugin, WorkerPlugin
from harness.session import Session
from harness.store import Store

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling
    from xdist.workermanage import WorkerController

INPUT = "harness"
"""Key of what a worker is told, in xdist's ``workerinput``."""


class Plan(SessionPlugin):
    """The plugin of a run that only collects: what there is to run, in which units.

    units: unit of every test that others may run beside, by node id, in the order of running. alone: how many others
    there are. code: how pytest ended.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.code: int = pytest.ExitCode.OK
        self.units: dict[str, str] = {}
        self.alone = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        from harness.plugin import alone, kind

        self.conformance = Conformance(session.config, session.items)
        for item in session.items:
            if alone(item):
                self.alone += 1
            else:
                file = item.nodeid.partition("::")[0]
                self.units[item.nodeid] = " ".join((file, *kind(item)))


def plan(session: Session, arguments: Sequence[str]) -> Plan:
    """What these arguments of pytest select. Unless all is well, what pytest says is printed."""
    made = Plan(session)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        made.code = pytest.main(["--collect-only", "-qq", *arguments], plugins=[made])
    if made.code != pytest.ExitCode.OK:
        sys.stdout.write(said.getvalue())
    return made


class Controller:
    """The pytest plugin of the first process."""

    def __init__(self, session: Session, made: Plan) -> None:
        self._session = session
        self._plan = made

    def pytest_configure_node(self, node: WorkerController) -> None:
        """Tell a worker what it belongs to."""
        session = self._session
        node.workerinput[INPUT] = json.dumps(
            {
                "folder": str(session.recorder.folder / node.gateway.id),
                "kernel": session.kernel,
                "series": str(session.series) if session.series else None,
                "flavours": session.flavours,
                "at_hand": session.testbed is None,
                "accel": session.accel,
                "coverage": session.coverage,
            }
        )

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> LoadScopeScheduling:
        from xdist.scheduler import LoadScopeScheduling

        units = self._plan.units

        class ByUnit(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
            def _split_scope(self, nodeid: str) -> str:
                return units[nodeid]

        return ByUnit(config, log)


def begin_worker(config: pytest.Config, given: str) -> None:
    """In a worker: the session that it belongs to, from what the controller said."""
    told = json.loads(given)
    series = Path(told["series"]) if told["series"] else None
    recorder = Recorder.start(Path(told["folder"]), [])
    session = Session(
        recorder, told["kernel"], series, told["flavours"], accel=told["accel"], coverage=told["coverage"]
    )
    session.prepare(Store.default(), LineProgress(), at_hand=told["at_hand"])
    config.pluginmanager.register(WorkerPlugin(session))


def run(
    session: Session, made: Plan, arguments: Sequence[str], workers: int
) -> tuple[SessionPlugin, int | pytest.ExitCode]:
    """Run all but what is `alone`, and put the workers' records into the session's. Returns the plugin that saw it, and
    pytest's exit code.
    """
    plugin = ControllerPlugin(session, made.conformance)
    options = ["-n", str(workers), "--no-loadscope-reorder", "-o", "console_output_style=progress"]
    try:
        code = pytest.main([*arguments, *options], plugins=[plugin, Controller(session, made)])
    finally:
        for file in sorted(session.recorder.folder.glob(f"gw*/{RUN_JSON}")):
            absorb(session.recorder, file.parent)
    return plugin, code


def absorb(recorder: Recorder, folder: Path) -> None:
    """Add what the process with this folder, below the run's, recorded of its machines. Its own record goes."""
    part = load(folder)
    with recorder.change() as run:
        known = {build.key for build in run.builds}
        run.builds += [build for build in part.builds if build.key not in known]
        for machine in part.machines:
            machine.id = f"{folder.name}/{machine.id}"
            machine.console = machine.console and folder / machine.console
            machine.coverage = machine.coverage and folder / machine.coverage
            run.machines.append(machine)
        run.deaths += part.deaths
        if run.error is None and part.error is not None:
            part.error.log = part.error.log and folder / part.error.log
            run.error = part.error
    (folder / RUN_JSON).unlink()
