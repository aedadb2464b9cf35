"""Kernels that differ from one kernel by a small patch: made in the object tree of that one, so that only what
changed is compiled.

What comes out is what `kbuild.build` makes from scratch, byte by byte, and stands in the cache under the same key.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from harness import kbuild
from harness.errors import InfrastructureError
from harness.kbuild import Build, BuildSpec, Job
from harness.progress import Progress
from harness.series import Series
from harness.store import Store


class ObjectTree:
    """The tree of a kernel, patched and compiled once something has to be built in it. A context manager.

    base: the kernel; it has a series. Threads may ask for builds at once; they are made one after another.
    """

    def __init__(self, store: Store, base: BuildSpec, progress: Progress, *, jobs: int | None = None) -> None:
        self._store = store
        self._base = base
        self._progress = progress
        self._jobs = jobs
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._work: Path | None = None
        self._made: Job | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def build(self, series: Series) -> Build:
        """The kernel with a series of one patch that lies directly on the base's, and sets no config symbols.

        Raises:
            UserError: a patch does not apply. CompileError: it does not compile.
            InfrastructureError: as `kbuild.build`.
        """
        assert series.on is not None and self._base.series is not None
        assert series.on.digest == self._base.series.digest and len(series.patches) == 1 and not series.config
        spec = replace(self._base, series=series)
        with self._lock:
            found = kbuild.find(self._store, spec)
            if found is not None:
                return found
            self._store.build(kbuild.KIND, spec.key, lambda folder: self._make(spec, folder), what=spec.what)
            made = kbuild.find(self._store, spec)
        if made is None:
            raise InfrastructureError(
                f"the build of {spec.what} vanished from the cache",
                hint="try again; does something prune it?",
            )
        return made.model_copy(update={"cached": False})

    def _make(self, spec: BuildSpec, folder: Path) -> None:
        work = self._tree()
        made = self._made
        assert spec.series is not None and made is not None
        job = Job(self._store, spec, self._progress, self._jobs)
        job.begin()
        own = replace(spec.series, on=None)
        own.apply(work / "linux", job.log)
        try:
            job.compile(work)
            # Of a build from scratch, which this one stands for.
            job.commands[:] = made.commands
            job.steps = made.steps
            job.warnings = list(dict.fromkeys([*made.warnings, *job.warnings]))
            job.keep(work, folder)
        finally:
            own.revert(work / "linux")

    def _tree(self) -> Path:
        if self._work is None:
            work = self._stack.enter_context(self._store.workspace("variant", size=kbuild.WORK_SIZE))
            job = Job(self._store, self._base, self._progress, self._jobs)
            job.begin()
            job.prepare(work)
            job.compile(work)
            self._work, self._made = work, job
        return self._work
