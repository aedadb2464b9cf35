"""Which base kernel is tested where nobody names one, and why: said at once, and in every report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import source, testbed
from harness.progress import Progress
from harness.series import Series
from harness.source import KernelSpec, NoSource
from harness.store import Store


@dataclass(frozen=True)
class Pick:
    """A base kernel by name, and why it is this one: words to go behind its name."""

    kernel: str
    why: str


def pick(
    store: Store, kernel: str | None, series: Path | None, progress: Progress, *, at_hand: bool = False
) -> Pick:
    """The kernel that was asked for or that the series is for; else the preferred one whose source is to be had.

    at_hand: nothing is downloaded; with no source at hand, it is the preferred kernel all the same.

    Raises:
        UserError: there is no such series, or its kernel is not one of ours.
        InfrastructureError: no kernel's source is to be had; tells about each. The disk is full.
    """
    if kernel is not None:
        return Pick(kernel, "it was asked for")
    if series is not None:
        for_it = meant(series)
        if for_it is not None:
            return Pick(for_it, "the series is for it")
    preferred = sorted(map(testbed.kernel_spec, testbed.kernel_names()), key=lambda spec: spec.preference)
    if series is not None:
        return Pick(preferred[0].name, "the series names no other kernel")
    if at_hand:
        return _at_hand(store, preferred)
    return _to_be_had(store, preferred, progress)


def meant(series: Path) -> str | None:
    """The kernel that a series says it is for. Raises UserError: there is no such series, or its kernel is not one of
    ours.
    """
    name = Series.load(testbed.series_folder("", series)).kernel
    return None if name is None else testbed.kernel_spec(name).name


def _at_hand(store: Store, preferred: Sequence[KernelSpec]) -> Pick:
    for spec in preferred:
        if source.at_hand(store, spec) is not None:
            return Pick(spec.name, _reason("its source is at hand", preferred, spec, "is not"))
    return Pick(preferred[0].name, "no kernel's source is at hand")


def _to_be_had(store: Store, preferred: Sequence[KernelSpec], progress: Progress) -> Pick:
    failures: list[NoSource] = []
    for spec in preferred:
        known = source.at_hand(store, spec) is not None
        try:
            source.obtain(store, spec, progress)
        except NoSource as error:
            failures.append(error)
            progress.say(f"kernel {spec.name}: its source is not to be had")
            continue
        had = "its source is at hand" if known else "its source was to be had"
        return Pick(spec.name, _reason(had, preferred, spec, "was not to be had"))
    raise NoSource(
        "\n".join(failure.message for failure in failures),
        hint="\n".join(failure.hint for failure in failures if failure.hint),
        log=next((failure.log for failure in failures if failure.log), None),
    )


def _reason(why: str, preferred: Sequence[KernelSpec], spec: KernelSpec, others: str) -> str:
    """With the kernels that would have gone before."""
    before = ", ".join(earlier.name for earlier in preferred[: preferred.index(spec)])
    return f"{why}, that of {before} {others}" if before else why
