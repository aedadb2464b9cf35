"""A series, patch by patch: does every prefix build and boot, and what do compiler and checkpatch say of each patch?

A tree that is bisected stops at any patch, so each must leave a kernel that builds, and boots. The whole must build in
other configurations, too: the compiler sees other code there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from harness import kbuild
from harness.checkpatch import Checkpatch
from harness.diagnostics import Warning
from harness.errors import GuestError, UserError
from harness.kbuild import Build, BuildSpec, Job
from harness.progress import Progress
from harness.store import Store
from harness.validation import ConfigurationResult, PatchResult, Result


class Prefixes:
    """The prefixes of ``spec.series`` and its configurations, to be gone through.

    boot: called with each build; raises GuestError when the kernel dies.
    Raises UserError: there is no series.
    """

    def __init__(
        self,
        store: Store,
        spec: BuildSpec,
        progress: Progress,
        *,
        boot: Callable[[Build], None] | None = None,
    ) -> None:
        if spec.series is None:
            raise UserError("there is no series to validate")
        self._store = store
        self._spec = spec
        self._series = spec.series
        self._progress = progress
        self._boot = boot

    def base(self) -> Build:
        """The kernel without the series' own patches. Raises as `kbuild.build` does."""
        return kbuild.build(self._store, self._prefix(0), self._progress)

    def results(self) -> Iterator[Result]:
        """Every prefix, then every configuration, as they are found. One that fails does not end it: the next patch
        may be the one that mends it, and its author wants to know.

        Raises:
            UserError: the kernel without the series does not build already. InfrastructureError: a tool is missing,
            or checkpatch cannot be run.
        """
        before = self.base()
        patches, configurations = self._series.patches, self._series.configurations
        title = f"validating {self._series.name}"
        with self._progress.task(title, len(patches) + len(configurations)) as task:
            with self._checkpatch() as judge:
                for number in range(1, len(patches) + 1):
                    result, before = self._patch(number, before, judge)
                    yield result
                    task.advance()
            for name, symbols in configurations.items():
                yield self._configuration(name, symbols, before)
                task.advance()

    def _prefix(self, count: int) -> BuildSpec:
        return replace(self._spec, series=self._series.prefix(count))

    @contextmanager
    def _checkpatch(self) -> Iterator[Checkpatch]:
        """The script of the tree as compat leaves it."""
        job = Job(self._store, self._prefix(0), self._progress, None)
        job.begin()
        with self._store.workspace("checkpatch", size=kbuild.WORK_SIZE) as work:
            job.patched_copy(work / "linux")
            options = self._spec.kernel.checkpatch
            yield Checkpatch(work / "linux", options, self._series.checkpatch, job.log)

    def _try(self, spec: BuildSpec) -> tuple[Build | None, str | None]:
        """Build and boot; what was built, and what went wrong."""
        built = None
        try:
            built = kbuild.build(self._store, spec, self._progress)
            if self._boot is not None:
                self._boot(built)
        except (UserError, GuestError) as failure:
            return built, failure.message
        return built, None

    def _patch(self, number: int, before: Build, judge: Checkpatch) -> tuple[PatchResult, Build]:
        """One prefix; its last patch's result, and the build to compare the next one with."""
        patch = self._series.patches[number - 1]
        started = time.monotonic()
        built, error = self._try(self._prefix(number))
        new = new_warnings(before.warnings, built.warnings) if built else ()
        remarks = judge.remarks(patch)
        result = PatchResult(
            number=number,
            name=patch.name,
            subject=patch.subject,
            key=built.key if built else None,
            ok=error is None and not new and all(remark.ok for remark in remarks),
            new_warnings=new,
            remarks=remarks,
            seconds=time.monotonic() - started,
            error=error,
        )
        return result, built or before

    def _configuration(self, name: str, symbols: dict[str, str], usual: Build) -> ConfigurationResult:
        """The whole series in another configuration. The kernel without the series is built in it only where there
        are warnings to explain.
        """
        started = time.monotonic()
        spec = replace(self._spec, config={**self._spec.config, **symbols})
        built, error = self._try(spec)
        new = new_warnings(usual.warnings, built.warnings) if built else ()
        if new:
            bare = kbuild.build(self._store, replace(spec, series=self._series.prefix(0)), self._progress)
            new = new_warnings(bare.warnings, new)
        return ConfigurationResult(
            name=name,
            symbols=symbols,
            key=built.key if built else None,
            ok=error is None and not new,
            new_warnings=new,
            seconds=time.monotonic() - started,
            error=error,
        )


def new_warnings(before: Sequence[Warning], after: Sequence[Warning]) -> tuple[Warning, ...]:
    """What `after` has and `before` has not, by normalised text: line numbers may have changed."""
    known = {warning.normalised for warning in before}
    return tuple(warning for warning in after if warning.normalised not in known)
