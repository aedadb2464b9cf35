"""Figures of a run besides its shares: how soon, how fast, how much. Numbers in, numbers out.

A figure is one number a sample, with the bounds that the scenario gives it; ``shares.judge`` turns the numbers of
all samples into a verdict, as it does with shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["settled", "throughput", "surplus", "unchanged", "rate", "fastest", "slowest", "share"]

UNITS: dict[Kind, str] = {
    "settled": "s",
    "throughput": "of the disk's most",
    "surplus": "I/Os",
    "unchanged": "of before",
    "rate": "KB/s",
    "fastest": "KB/s",
    "slowest": "KB/s",
    "share": "%",
}
SERIES_OWN: tuple[Kind, ...] = ("settled", "surplus")
"""Kinds whose bounds follow from how the series keeps its accounts: tokens, epochs, what is carried over."""

_NEEDS_GROUPS = ("surplus", "unchanged", "rate", "fastest", "slowest", "share")
_SECTORS_PER_KB = 2
_SECOND = 1.0


class Figure(BaseModel):
    """One figure of a scenario.

    phase: the part of the run it is about. groups: of whom; none means of all. at_least, at_most: bounds, in the
    figure's unit; without either it is only reported. why: where the bounds come from. kind:

    settled      seconds after the phase's beginning from which on no group is ever further than ``within`` I/Os from
                 its share of what is done from then on; the whole phase if there is no such time. With ``epoch``, the
                 I/Os of an epoch, it is counted in epochs
    throughput   I/Os per second of the phase over the most that the disk alone gives
    surplus      the most by which the groups were ever ahead of their share of all I/Os since the phase began
    unchanged    I/Os per second of the phase over those of phase ``since``
    rate         KB per second over the whole phase
    fastest, slowest   KB per second over the fastest and the slowest second within it
    share        per cent of what their bandwidth domain did in the phase, less its ``settle``
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    phase: str
    since: str | None = None
    groups: tuple[str, ...] = ()
    within: Annotated[int, Field(ge=1)] | None = None
    epoch: Annotated[int, Field(ge=1)] | None = None
    at_least: float | None = None
    at_most: float | None = None
    why: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.kind == "unchanged") != (self.since is not None):
            raise ValueError('since = "PHASE" goes with kind = "unchanged", and only with it')
        if self.kind in _NEEDS_GROUPS and not self.groups:
            raise ValueError(f'kind = "{self.kind}" needs groups')
        if (self.kind == "settled") != (self.within is not None) or (self.epoch and self.kind != "settled"):
            raise ValueError('within goes with kind = "settled", and epoch with nothing else')
        if (self.at_least is not None or self.at_most is not None) != bool(self.why):
            raise ValueError("bounds and why they are what they are go together")
        return self

    @property
    def unit(self) -> str:
        """What it is counted in."""
        return "epochs" if self.epoch else UNITS[self.kind]

    @property
    def label(self) -> str:
        """Its name in reports: what, of whom, when."""
        what = {
            "settled": "settled after",
            "unchanged": f"throughput against {self.since}",
            "rate": "mean rate",
            "fastest": "fastest second",
            "slowest": "slowest second",
            "share": "part",
        }.get(self.kind, self.kind)
        of = f" of {', '.join(self.groups)}" if self.groups else ""
        return f"{what}{of}, {self.phase}" + (" (epochs)" if self.epoch else "")


@dataclass(frozen=True)
class Course:
    """What was counted over time, cumulative. times: seconds, one a reading. work: by group, what shares are shares
    of. sectors: by group, of 512 bytes. phases: indices of the first and last reading, by name.
    """

    times: tuple[float, ...]
    work: dict[str, tuple[int, ...]]
    sectors: dict[str, tuple[int, ...]]
    phases: dict[str, tuple[int, int]]

    def rate(self, phase: str, groups: tuple[str, ...]) -> float:
        """Work per second of these groups (none: of all) in a phase."""
        first, last = self.phases[phase]
        done = sum(self.work[g][last] - self.work[g][first] for g in groups or self.work)
        return done / (self.times[last] - self.times[first])


def measure(
    figure: Figure,
    course: Course,
    *,
    targets: Mapping[str, float],
    parts: Mapping[str, str],
    most: float,
) -> float:
    """The value of a figure. targets: share by group in the figure's phase, of the part (bandwidth domain) that it
    is in. most: I/Os per second that the disk alone gives at any depth.
    """
    match figure.kind:
        case "settled":
            found = _settled(figure, course, targets, parts)
        case "throughput":
            found = course.rate(figure.phase, figure.groups) / most
        case "surplus":
            found = _surplus(figure, course, targets, parts)
        case "unchanged":
            before = course.rate(figure.since or figure.phase, figure.groups)
            found = course.rate(figure.phase, figure.groups) / before if before else 0.0
        case "rate":
            found = _kb_per_second(figure, course, *course.phases[figure.phase])
        case "fastest":
            found = max(_seconds(figure, course))
        case "slowest":
            found = min(_seconds(figure, course))
        case "share":
            part = tuple(g for g in course.work if parts[g] == parts[figure.groups[0]])
            whole = course.rate(figure.phase, part)
            found = 100 * course.rate(figure.phase, figure.groups) / whole if whole else 0.0
    return found


def _settled(figure: Figure, course: Course, targets: Mapping[str, float], parts: Mapping[str, str]) -> float:
    """Seconds, or epochs, after which every group keeps near its share; all of the phase if there is no such time."""
    first, last = course.phases[figure.phase]
    assert figure.within is not None
    within = figure.within

    def holds_from(start: int) -> bool:
        return all(
            abs(_ahead((group,), course, targets, parts, start, at)) <= within
            for group in figure.groups or targets
            for at in range(start, last + 1)
        )

    # To be near one's share of what little is left of the phase proves nothing: the last quarter is not asked.
    good = next((i for i in range(first, first + 3 * (last - first) // 4) if holds_from(i)), last)
    if figure.epoch is None:
        return course.times[good] - course.times[first]
    return sum(work[good] - work[first] for work in course.work.values()) / figure.epoch


def _ahead(
    groups: tuple[str, ...],
    course: Course,
    targets: Mapping[str, float],
    parts: Mapping[str, str],
    start: int,
    end: int,
) -> float:
    """By how much groups of one part are ahead of their share of what their part did between two readings."""
    part = [g for g in targets if parts[g] == parts[groups[0]]]
    own = sum(course.work[g][end] - course.work[g][start] for g in groups)
    return own - sum(targets[g] for g in groups) * sum(
        course.work[g][end] - course.work[g][start] for g in part
    )


def _surplus(figure: Figure, course: Course, targets: Mapping[str, float], parts: Mapping[str, str]) -> float:
    first, last = course.phases[figure.phase]
    return max(_ahead(figure.groups, course, targets, parts, first, at) for at in range(first, last + 1))


def _kb_per_second(figure: Figure, course: Course, first: int, last: int) -> float:
    done = sum(course.sectors[g][last] - course.sectors[g][first] for g in figure.groups)
    return done / _SECTORS_PER_KB / (course.times[last] - course.times[first])


def _seconds(figure: Figure, course: Course) -> list[float]:
    """KB per second over each stretch of a second within the phase, from every reading on."""
    first, last = course.phases[figure.phase]
    found = []
    for start in range(first, last + 1):
        end = next(
            (i for i in range(start, last + 1) if course.times[i] >= course.times[start] + _SECOND), None
        )
        if end is None:
            break
        found.append(_kb_per_second(figure, course, start, end))
    return found
