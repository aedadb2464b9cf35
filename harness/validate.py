"""``harness validate``: a series patch by patch and in all its configurations, as a run with a record and a report."""

from __future__ import annotations

import sys
from pathlib import Path

from harness import accelerator, progress, project, session, testbed, userland
from harness import report as reports
from harness.errors import HarnessError
from harness.kbuild import Build
from harness.machine import BOOT_SECONDS, INIT, Machine, MachineSpec
from harness.prefixes import Prefixes
from harness.record import Recorder
from harness.report import terminal
from harness.store import Store
from harness.validation import PatchResult, Validation


def run(kernel: str, series: Path | None) -> int:
    """Validate and print; the exit code of the run's record. Raises HarnessError as `testbed.whole` does, with the
    record and its report written as far as it came.
    """
    store, shown = Store.default(), progress.default()
    recorder = Recorder.start(project.new_run_folder(), ["harness", *sys.argv[1:]])
    try:
        spec = testbed.whole(store, kernel, series, shown)
        assert spec.series is not None, "a series is what `whole` is about"
        session.describe_sources(recorder, spec.kernel, spec.tree, spec.series)
        image = userland.image(store, shown)

        def boot(build: Build) -> None:
            tcg = accelerator.choose(store, "tcg", build.bzimage, image.path)
            machine_spec = MachineSpec(
                kernel=build.bzimage,
                vmlinux=build.vmlinux,
                initrd=image.path,
                append=spec.kernel.append,
                memory_mb=testbed.MEMORY_MB,
                slowdown=tcg.slowdown,
            )
            with Machine(machine_spec, recorder.folder / build.key[:12]) as machine:
                machine.console.wait(INIT, BOOT_SECONDS * machine.slowdown)

        prefixes = Prefixes(store, spec, shown, boot=boot)
        found = Validation(base_warnings=len(prefixes.base().warnings))
        for result in prefixes.results():
            kind = "patches" if isinstance(result, PatchResult) else "configurations"
            found = found.model_copy(update={kind: (*getattr(found, kind), result)})
            recorder.update(validation=found)
    except (HarnessError, KeyboardInterrupt) as e:
        recorder.stopped(e)
        _finish(recorder)
        raise
    code = _finish(recorder)
    terminal.validation(found)
    terminal.summary(recorder.run, recorder.folder)
    return code


def _finish(recorder: Recorder) -> int:
    code = recorder.finish()
    reports.write_all(recorder.folder)
    return code
