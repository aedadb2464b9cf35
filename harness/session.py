"""One invocation of ``harness test``: make the testbed ready, let pytest run, write the record and the reports."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import executed, pick, progress, project, record, scenario, source, testbed
from harness.accelerator import Wanted
from harness.errors import HarnessError, InfrastructureError, UserError
from harness.progress import Progress
from harness.record import (
    FactRecord,
    ImageRecord,
    KernelRecord,
    PatchRecord,
    Recorder,
    SeriesRecord,
    SkipRecord,
)
from harness.series import Series
from harness.source import KernelSpec, Tree
from harness.store import Store
from harness.testbed import Testbed

if TYPE_CHECKING:
    from harness.recording import SessionPlugin


class Session:
    """What the pytest plugin needs to know: the testbed (None: there is none, see ``why_not``) and the record."""

    def __init__(
        self,
        recorder: Recorder,
        kernel: str,
        series: Path | None,
        flavours: Sequence[str] = (),
        accel: Wanted = "auto",
        *,
        again: bool = False,
        coverage: bool = False,
        why_kernel: str = "",
    ) -> None:
        self.recorder = recorder
        self.kernel = kernel
        self.why_kernel = why_kernel
        self.series = series
        self.flavours = tuple(flavours)
        self.accel: Wanted = accel
        self.again = again
        self.coverage = coverage
        self.testbed: Testbed | None = None
        self.why_not = ""

    def prepare(self, store: Store, report: Progress, *, at_hand: bool) -> None:
        """Make the testbed and record what it is. at_hand: with no source at hand, leave it out and say so."""
        spec = testbed.kernel_spec(self.kernel)
        scenario.load_all(project.scenarios_dir())  # a mistake in one is told before anything is built
        if at_hand and source.at_hand(store, spec) is None:
            supply = f"harness kernel add {self.kernel} PATH[@REV]"
            self.why_not = f"the source of kernel {self.kernel} is not at hand ({supply})"
            with self.recorder.change() as run:
                run.skipped.append(
                    SkipRecord(what=f"guest suite on kernel {self.kernel}", reason=self.why_not)
                )
            report.say(f"skipped: the guest suite. {self.why_not}")
            return
        made = self.testbed = testbed.prepare(
            store, self.kernel, self.series, report, self.accel, coverage=self.coverage
        )
        describe(self.recorder, made, self.why_kernel)


def describe(recorder: Recorder, made: Testbed, why_kernel: str = "") -> None:
    """Record what is under test. why_kernel: why it is this kernel, in words to go behind its name."""
    because = f" ({why_kernel})" if why_kernel else ""
    describe_sources(recorder, made.spec, made.tree, made.series, why_kernel)
    recorder.update(
        builds=[testbed.build_record(b) for b in (made.build, made.compat, made.counting) if b],
        image=ImageRecord(key=made.image.key, programs=dict(made.image.programs)),
        choice=f"Kernel {made.spec.name}{because} and the series in {made.series.path}. "
        f"Accelerator of the real clock: {made.accel.name} ({made.accel.why}).",
    )


def describe_sources(
    recorder: Recorder, spec: KernelSpec, tree: Tree, series: Series, why_kernel: str = ""
) -> None:
    """Record the kernel and the series. why_kernel: as for `describe`."""
    recorder.update(
        kernel=KernelRecord(
            name=spec.name,
            version=tree.version,
            tree=tree.id,
            origin=tree.origin,
            why=why_kernel,
            lacks=spec.lacks,
            facts={
                name: FactRecord.model_validate(fact.model_dump(mode="json"))
                for name, fact in spec.facts.items()
            },
        ),
        series=_series_record(series),
        choice=f"Kernel {spec.name} and the series in {series.path}.",
    )


def run(
    kernel: str | None,
    series: Path | None,
    selection: Sequence[str],
    *,
    at_hand: bool,
    accel: Wanted,
    flavours: Sequence[str] = (),
    workers: int = 1,
    again: bool = False,
    coverage: bool = False,
) -> int:
    """Run a selection of tests (anything pytest takes) and return the exit code of the run's record.

    kernel: None for the one that `pick` takes. flavours: of tests that there are of several flavours, only these; all
    for none. workers: test processes at a time, for all tests but those that take all cores anyhow; 0 for one per core.
    again: boot also the machines whose outcome is known. coverage: say which lines of the series were executed.
    Raises HarnessError when the testbed cannot be made; the record and its report exist then, too.
    """
    store = Store.default()
    folder = project.new_run_folder()
    recorder = Recorder.start(folder, ["harness", *sys.argv[1:]])
    shown = progress.default()
    try:
        chosen = pick.pick(store, kernel, series, shown, at_hand=at_hand)
        shown.say(f"kernel {chosen.kernel}: {chosen.why}")
        session = Session(
            recorder,
            chosen.kernel,
            series,
            flavours,
            accel,
            again=again,
            coverage=coverage,
            why_kernel=chosen.why,
        )
        session.prepare(store, shown, at_hand=at_hand)
        _pytest(session, selection, workers or os.cpu_count() or 1)
        if coverage and session.testbed is not None:
            recorder.update(coverage=executed.judge(recorder.run, session.testbed, shown))
    except (HarnessError, KeyboardInterrupt) as e:
        recorder.stopped(e)
        _finish(
            recorder, folder, summary=isinstance(e, KeyboardInterrupt)
        )  # an error is printed by who catches it
        raise
    return _finish(recorder, folder)


def _finish(recorder: Recorder, folder: Path, *, summary: bool = True) -> int:
    """Complete the record, make the reports, print the summary; the run's exit code."""
    from harness import host
    from harness import report as reports
    from harness.report import terminal

    recorder.update(host=host.host_facts().model_dump())
    code = recorder.finish()
    reports.write_all(folder)
    if summary:
        terminal.summary(recorder.run, folder)
        sys.stdout.write(f"\n{record.closing_line(recorder.run)}\n")
    else:
        sys.stderr.write(f"report: {folder / 'report.html'}\n")
    return code


def _pytest(session: Session, selection: Sequence[str], workers: int) -> None:
    """Raises KeyboardInterrupt, UserError (nothing selected) and InfrastructureError (pytest itself failed)."""
    import pytest

    from harness import parallel
    from harness.recording import SessionPlugin

    plugin: SessionPlugin
    arguments = [
        f"--rootdir={project.ROOT}",
        "-c",
        str(project.ROOT / "pyproject.toml"),
        "-o",
        "console_output_style=classic",
        "-o",
        f"testpaths={project.ROOT / 'tests/guest/test_scenarios.py'}",
        *selection,
    ]
    if workers > 1:
        plan = parallel.plan(session, arguments)
        _raise_unless_run(plan, plan.code, selection)
        if plan.code != pytest.ExitCode.OK:
            return  # a file that cannot be read; it is in the record
    if workers == 1 or not plan.units:
        plugin = SessionPlugin(session)
        code = pytest.main(arguments, plugins=[plugin])
        _raise_unless_run(plugin, code, selection)
        return
    plugin, code = parallel.run(session, plan, arguments, workers)
    _raise_unless_run(plugin, code, selection)
    if plan.alone and code != pytest.ExitCode.INTERRUPTED:  # by --exitfirst
        plugin = SessionPlugin(session, conformance=plan.conformance, only="alone")
        _raise_unless_run(plugin, pytest.main(arguments, plugins=[plugin]), selection)


def _raise_unless_run(plugin: SessionPlugin, code: int, selection: Sequence[str]) -> None:
    import pytest

    if code == pytest.ExitCode.INTERNAL_ERROR:
        raise InfrastructureError(
            "pytest broke off",
            hint="what it printed above names the cause; a plugin of the environment may be one",
        )
    if plugin.interrupted:
        raise KeyboardInterrupt
    if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise UserError(
            f"no test to run: {' '.join(selection)}",
            hint="name files below tests/, or -k EXPRESSION, as pytest takes them",
        )


def _series_record(series: Series) -> SeriesRecord:
    return SeriesRecord(
        name=series.name,
        title=series.title,
        digest=series.digest,
        patches=[PatchRecord(name=p.name, subject=p.subject, sha256=p.sha256) for p in series.all_patches()],
    )
