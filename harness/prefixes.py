"""A series, patch by patch: does every prefix build, and which compiler warnings does each patch bring?

A tree that is bisected stops at any patch, so each must leave a kernel that builds, and boots.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from harness import kbuild
from harness.diagnostics import Warning
from harness.errors import GuestError, UserError
from harness.kbuild import Build, BuildSpec
from harness.progress import Progress
from harness.series import Series
from harness.store import Store


class PatchResult(BaseModel):
    """One patch of a series, on top of those before it.

    new_warnings: those of the prefix that ends with this patch and not of the one before it (that builds),
    wherever they are: gcc reports a macro's misuse at its definition, in a file the patch need not touch.
    error: why it does not apply, compile or boot. seconds: what building and booting
    took now; next to nothing for a build that was made before.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    name: str
    subject: str
    key: str | None
    ok: bool
    new_warnings: tuple[Warning, ...]
    seconds: float
    error: str | None


class Validation(BaseModel):
    """All patches of a series, in order. `ok`: every prefix builds (and boots), none with a new warning."""

    model_config = ConfigDict(frozen=True)

    series: str
    base_warnings: int
    patches: tuple[PatchResult, ...]

    @property
    def ok(self) -> bool:
        """Is there nothing to complain about?"""
        return all(patch.ok for patch in self.patches)


def validate(
    store: Store, spec: BuildSpec, progress: Progress, *, boot: Callable[[Build], None] | None = None
) -> Validation:
    """Build every prefix of `spec.series`, from the kernel without its own patches to the whole.

    boot: called with each build; raises GuestError when the kernel dies. A prefix that fails does not end it:
    the next patch may be the one that mends it, and its author wants to know.

    Raises:
        UserError: there is no series, or the kernel without it does not build already.
    """
    series = spec.series
    if series is None:
        raise UserError("there is no series to validate")
    with progress.task(f"validating {series.name}", len(series.patches) + 1) as task:
        base = kbuild.build(store, _prefix(spec, series, 0), progress)
        task.advance()
        before = base
        results = []
        for number in range(1, len(series.patches) + 1):
            result, before = _one(store, _prefix(spec, series, number), before, progress, boot)
            results.append(result)
            task.advance()
    return Validation(series=series.name, base_warnings=len(base.warnings), patches=tuple(results))


def new_warnings(before: Sequence[Warning], after: Sequence[Warning]) -> list[Warning]:
    """What `after` has and `before` has not, by normalised text: line numbers may have changed."""
    known = {warning.normalised for warning in before}
    return [warning for warning in after if warning.normalised not in known]


def _prefix(spec: BuildSpec, series: Series, count: int) -> BuildSpec:
    return replace(spec, series=series.prefix(count))


def _one(
    store: Store,
    spec: BuildSpec,
    before: Build,
    progress: Progress,
    boot: Callable[[Build], None] | None,
) -> tuple[PatchResult, Build]:
    """Build (and boot) one prefix; its last patch's result, and the build to compare the next one with."""
    assert spec.series is not None
    number, patch = len(spec.series.patches), spec.series.patches[-1]
    started = time.monotonic()
    built: Build | None = None
    error = None
    try:
        built = kbuild.build(store, spec, progress)
        if boot is not None:
            boot(built)
    except (UserError, GuestError) as failure:
        error = failure.message
    new = tuple(new_warnings(before.warnings, built.warnings)) if built else ()
    result = PatchResult(
        number=number,
        name=patch.name,
        subject=patch.subject,
        key=built.key if built else None,
        ok=error is None and not new,
        new_warnings=new,
        seconds=time.monotonic() - started,
        error=error,
    )
    return result, built or before
