"""What was executed of a series: the counters of every guest, kept while it can be asked, and what they come to."""

from __future__ import annotations

from pathlib import Path

from harness import blame, coverage, gcov, kbuild
from harness.coverage import Coverage, Uncounted
from harness.errors import CommandError, GuestError, InfrastructureError
from harness.guest import Guest
from harness.kbuild import Build, BuildSpec
from harness.progress import Progress
from harness.record import MachineRecord, Recorder, Run
from harness.testbed import FLAVOUR, Testbed


def keep(recorder: Recorder, guest: Guest, build: Build, entry: MachineRecord, folder: Path) -> None:
    """Put what the guest's kernel counted into ``<folder>/gcda``, or say in the machine's record why there is none;
    before the guest ends. Nothing is done where the build does not count. Raises nothing that is the guest's fault.
    """
    if not build.coverage:
        return
    data, why = folder / "gcda", ""
    if guest.machine.console.death is not None:
        why = "its kernel died"
    else:
        try:
            gcov.keep(gcov.fetch(guest), build.notes, data)
        except (GuestError, CommandError) as e:
            why = f"its counters could not be fetched: {e.message}"
    with recorder.change():
        entry.coverage, entry.uncounted = None if why else data, why


def judge(run: Run, testbed: Testbed, progress: Progress) -> Coverage:
    """The patch coverage of all machines of a run.

    Raises InfrastructureError: gcov or git failed, or a build was removed from the cache meanwhile.
    """
    tool = gcov.tool(testbed.compiler)
    keys = [build.key for build in run.builds if build.coverage]
    machines = [machine for machine in run.machines if machine.build in keys]
    notes = {key: _notes(testbed, key) for key in keys}
    spec = BuildSpec(
        kernel=testbed.spec,
        tree=testbed.tree,
        series=testbed.series,
        flavour=FLAVOUR,
        compiler=testbed.compiler,
    )
    added = blame.added_lines(testbed.store, spec)
    # Also without any counters: what a build could run, and no machine ran.
    sources: list[tuple[Path, Path | None]] = [(notes[key], None) for key in keys]
    sources += [(notes[m.build], m.coverage) for m in machines if m.build and m.coverage]
    found = []
    with progress.task("reading what was executed", len(sources)) as task:
        for place, data in sources:
            with testbed.store.workspace("gcov") as work:
                counted = gcov.counts(tool, place, data, work)
            found.append({file: lines for file, lines in counted.items() if file in added})
            task.advance()
    return coverage.judge(
        [(patch.name, patch.subject) for patch in testbed.series.all_patches()],
        added,
        coverage.merge(found),
        builds=keys,
        machines=sum(m.coverage is not None for m in machines),
        uncounted=[
            Uncounted(machine=m.id, reason=m.uncounted or "it ended before it could be asked")
            for m in machines
            if m.coverage is None
        ],
    )


def _notes(testbed: Testbed, key: str) -> Path:
    build = kbuild.kept(testbed.store, key)
    if build is None:
        raise InfrastructureError(
            f"build {key[:12]} vanished from the cache while its kernel ran",
            hint="run it again; does something prune the cache?",
        )
    return build.notes
