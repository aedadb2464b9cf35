"""From counted I/Os to a verdict. Numbers in, numbers out: nothing here knows of a guest, a file or a clock.

The share of a group is its part of all I/Os (or sectors) completed in the window in which every group ran, 0..1;
where groups belong to bandwidth domains that do not touch each other, its part of its domain's. One sample is
one repetition of a scenario, and samples differ by seed only. The verdict comes from the confidence interval
of each group's mean share over the samples:

    PASS          the interval of every group lies inside target +- tolerance
    FAIL          the interval of some group lies wholly outside target +- tolerance
    INCONCLUSIVE  neither, or fewer than three samples, or a precondition that was not met

What the verdict's confidence means. Samples are added until the verdict is decided, so the data are looked
at more than once, and an interval that covers with 95 % at one look would cover less often at the first of
several. The looks are therefore few and fixed in advance (``LOOKS``), and each interval is made at
confidence 1 - 0.05/len(LOOKS): by Bonferroni's inequality a group's share then lies in its interval at
*all* looks together with at least 95 % (repeated confidence intervals: Jennison and Turnbull, J. R.
Statist. Soc. B 51 (1989) 305-361). The interval that is printed is the one that was judged.

Groups. Each interval is one group's own; there is no further correction over the groups. PASS needs every
group inside, and such an intersection of tests keeps the level of a single one (Berger, Technometrics 24
(1982) 295-300; the two one-sided tests of Schuirmann, J. Pharmacokin. Biopharm. 15 (1987) 657-680): a group
whose true share is outside passes with at most 2.5 %. FAIL needs one group outside, so with k groups whose
true shares all lie exactly on the edge it is false with at most 2.5 % times k, and far less for true shares
away from the edge. (Two groups are one test: their shares mirror each other.)

Expected failures. Where a target is documented to be out of reach, the rule is turned round, part by part of the
run: each part of which that is said must miss its target by the rule above (some group wholly outside), and one that
reaches it fails the scenario. Everything else, the figures and the targets of the other parts, keeps its own rule.
A PASS needs every part, so the level is that of a single one again.

Figures (``figures.py``: seconds, ratios, KB per second) are judged in the same way: the interval of each figure's
mean against its bounds, of which one may be open. They count as further groups in what is said above.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import MeasurementError

TOLERANCE = 0.03
CONFIDENCE = 0.95
MIN_SAMPLES = 3
LOOKS = (3, 5, 9)
"""Numbers of samples at which a verdict may be asked for; the last is the budget."""

_EDGE = 1e-9  # a share that lies on the edge in decimals must be inside for both of two mirror groups
_SEARCH_LIMIT = 1000

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Sample(_Strict):
    """One repetition of a scenario; each mapping is by group.

    ios: completed in the common window (of several phases, in the first that is judged), by the kernel's counters;
    sectors, where shares are shares of sectors. seconds: length of that window on the scenario's clock. backlogged:
    whether the group had I/O waiting during the whole window. saturated: whether the disk was, i.e. whether each
    group kept at least the saturation depth in flight. drifted: preconditions that changed while measuring, one
    sentence each. fio_ios, total_ios_kernel: fio's count and the kernel's, both over the whole life of the jobs;
    fio_sectors, total_sectors_kernel: likewise. figures: by label, each in its own unit.
    all_ios: the I/Os of all groups in the window, where ``ios`` has sectors.
    """

    seed: int
    ios: dict[str, Count]
    seconds: Annotated[float, Field(gt=0)]
    backlogged: dict[str, bool]
    saturated: bool = True
    drifted: tuple[str, ...] = ()
    fio_ios: dict[str, Count] = {}
    total_ios_kernel: dict[str, Count] = {}
    fio_sectors: dict[str, Count] = {}
    total_sectors_kernel: dict[str, Count] = {}
    figures: dict[str, float] = {}
    all_ios: Count | None = None

    @property
    def iops(self) -> float:
        """I/Os per second of all groups together."""
        return (sum(self.ios.values()) if self.all_ios is None else self.all_ios) / self.seconds


class GroupShare(_Strict):
    """One group's share: target, mean over the samples, and its confidence interval; all 0..1."""

    group: str
    target: Share
    mean: Share
    low: Share
    high: Share
    verdict: Verdict


class Bound(_Strict):
    """What a figure must keep to; without bounds it is only reported.

    label: the figure's name. at_least, at_most: in unit. why: where they come from. published: what was published.
    missed: of the share of a group in a phase whose target is documented to be out of reach: the phase.
    """

    label: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    why: str = ""
    published: float | None = None
    missed: str | None = None


class FigureVerdict(Bound):
    """One figure: mean over the samples and its confidence interval, in its unit."""

    mean: float
    low: float
    high: float
    verdict: Verdict


class ShareVerdict(_Strict):
    """What ``judge`` found, for shares and for figures.

    confidence: of the whole procedure. interval_confidence: of each interval, so that the procedure has its
    own. reasons: why it is not PASS, one sentence each. notes: what a reader should know besides.
    needs_more: more samples could decide it, and the budget has them; then next_look is how many there
    should be in all. samples_needed: how many would decide it if the spread stayed as it is; None where no
    number would, or none is needed. jain: Jain's fairness index of share over target. A summary, never a
    verdict: it is 0.90 for 2:1 weights with no control at all.
    """

    verdict: Verdict
    shares: tuple[GroupShare, ...]
    figures: tuple[FigureVerdict, ...] = ()
    tolerance: float
    confidence: float
    interval_confidence: float
    samples: int
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    needs_more: bool = False
    next_look: int | None = None
    samples_needed: int | None = None
    jain: float | None = None


def targets(weights: Mapping[str, float]) -> dict[str, float]:
    """The share of each group in proportion to its weight; the shares sum to 1. Raises ValueError unless
    all weights are positive.
    """
    if not weights or min(weights.values()) <= 0:
        raise ValueError(f"weights must be positive: {dict(weights)}")
    total = math.fsum(weights.values())
    return {group: weight / total for group, weight in weights.items()}


def judge(
    samples: Sequence[Sample],
    targets: Mapping[str, float],
    tolerance: float = TOLERANCE,
    confidence: float = CONFIDENCE,
    looks: Sequence[int] = LOOKS,
    parts: Mapping[str, str] | None = None,
    bounds: Sequence[Bound] = (),
    missed: str | None = None,
    expected_failure: str = "",
) -> ShareVerdict:
    """The three-way verdict on the samples so far; see the module's docstring for the rule and for what its
    confidence means.

    targets: share per group, summing to 1 in each part; empty where no share is judged. parts: bandwidth domain
    by group, one for all if not given. bounds: of the figures that are judged or reported. missed: of what phase the
    targets are, if they must *not* be reached; expected_failure: why not. looks: the numbers of
    samples at which this is called, in rising order. A call at another number (a budget cut short) takes the
    place of the next look. Raises
    MeasurementError if a sample lacks a group of the targets or has one more; ValueError for targets or
    looks that make no sense.
    """
    members = _members(targets, parts or {})
    if not all(math.isclose(math.fsum(targets[g] for g in m), 1.0, abs_tol=1e-6) for m in members.values()):
        raise ValueError(f"targets must sum to 1: {dict(targets)}")
    if not targets and not bounds:
        raise ValueError("neither a target nor a bound: there is nothing to judge")
    if list(looks) != sorted(set(looks)) or not looks or looks[0] < MIN_SAMPLES:
        raise ValueError(f"looks must rise from at least {MIN_SAMPLES}: {list(looks)}")
    level = 1 - (1 - confidence) / len(looks)
    n = len(samples)
    refusals = _refusals(samples, targets, members)
    shares: tuple[GroupShare, ...] = ()
    if samples and all(sum(s.ios[g] for g in m) for s in samples for m in members.values()):
        shares = tuple(
            _group_share(_values(samples, g, members[g]), g, target, tolerance, level)
            for g, target in targets.items()
        )
    found = tuple(_figure([s.figures[b.label] for s in samples], b, level) for b in bounds if samples)
    verdict, reasons = _verdict(shares, found, tolerance, missed, expected_failure)
    if n < MIN_SAMPLES:
        verdict = Verdict.INCONCLUSIVE
        reasons = [f"{n} sample{'s' * (n != 1)}, and at least {MIN_SAMPLES} are needed"]
    if refusals:
        verdict, reasons = Verdict.INCONCLUSIVE, refusals
    undecided = verdict is Verdict.INCONCLUSIVE and not refusals
    next_look = next((look for look in looks if look > n), None) if undecided else None
    needed = (
        _samples_needed(samples, shares, found, members, tolerance, level)
        if undecided and n >= MIN_SAMPLES
        else None
    )
    return ShareVerdict(
        verdict=verdict,
        shares=shares,
        figures=found,
        tolerance=tolerance,
        confidence=confidence,
        interval_confidence=level,
        samples=n,
        reasons=tuple(reasons),
        notes=_notes(samples),
        needs_more=next_look is not None,
        next_look=next_look,
        samples_needed=needed,
        jain=jain([s.mean / s.target for s in shares]) if shares else None,
    )


def control_verdict(control: ShareVerdict, *, reaches: bool = False) -> Verdict:
    """Whether a negative control did its duty, which is to miss the target; with ``reaches``, to reach it.

    PASS: it FAILs the scenario's target, so the measurement can tell control from no control. FAIL: it
    reaches the target without what is tested, so a PASS of the series would prove nothing. INCONCLUSIVE:
    the control was.
    """
    if reaches:
        return control.verdict
    return {
        Verdict.FAIL: Verdict.PASS,
        Verdict.PASS: Verdict.FAIL,
        Verdict.INCONCLUSIVE: Verdict.INCONCLUSIVE,
    }[control.verdict]


def scenario_verdict(
    judged: ShareVerdict,
    controls: Mapping[str, ShareVerdict],
    *,
    reaching: Sequence[str] = (),
) -> tuple[Verdict, list[str]]:
    """The verdict of a scenario from its own and its controls' (by name), and the reasons why it is not PASS.

    A FAIL stands by itself. A PASS counts only if every control did its duty, which is to miss the target (of an
    expected failure: not to come out as documented), or to reach it for those named in ``reaching``: otherwise the
    shares say nothing about the series, and the scenario is INCONCLUSIVE. One of ``reaching`` that misses is a FAIL:
    it is the series itself, with other parameters.
    """
    reasons = list(judged.reasons)
    verdict = judged.verdict
    for name, control in controls.items():
        duty = control_verdict(control, reaches=name in reaching)
        if duty is Verdict.PASS:
            continue
        if duty is Verdict.INCONCLUSIVE:
            reasons.append(f"control {name} is inconclusive: {'; '.join(control.reasons)}")
        elif name in reaching:
            reasons.append(
                f"control {name} misses the target, which it must reach: {'; '.join(control.reasons)}"
            )
            verdict = Verdict.FAIL
        else:
            reasons.append(
                f"negative control {name} reaches the target too: the shares do not come from what is tested"
            )
        if verdict is Verdict.PASS:
            verdict = Verdict.INCONCLUSIVE
    return verdict, reasons


def crosscheck(kernel: Mapping[str, int], fio: Mapping[str, int], what: str = "I/Os") -> None:
    """Raise MeasurementError unless kernel and fio counted the same number of I/Os (or of what else) for each group.
    Both over the whole life of the jobs.
    """
    wrong = [
        f"group {group}: the kernel counted {_count(kernel, group)}, fio {_count(fio, group)}"
        for group in sorted(kernel.keys() | fio.keys())
        if kernel.get(group) != fio.get(group)
    ]
    if wrong:
        raise MeasurementError(
            f"kernel and fio disagree about the {what} done: {'; '.join(wrong)}",
            hint="bios that are split, lost, counted twice or put on another group's account do this; "
            "look at `dmsetup status` in the console log",
        )


def jain(rates: Sequence[float]) -> float:
    """Jain's fairness index (sum x)^2 / (n sum x^2), 1/n..1 (Jain, Chiu, Hawe, DEC-TR-301, 1984); 1 for
    rates that are all 0.
    """
    squares = math.fsum(x * x for x in rates)
    return math.fsum(rates) ** 2 / (len(rates) * squares) if squares else 1.0


def percent(share: float) -> str:
    """A share for people: ``80.1 %``."""
    return f"{100 * share:.1f} %"


def _members(targets: Mapping[str, float], parts: Mapping[str, str]) -> dict[str, list[str]]:
    """The groups of the part that each group is in, itself included."""
    return {g: [h for h in targets if parts.get(h) == parts.get(g)] for g in targets}


def _refusals(
    samples: Sequence[Sample], targets: Mapping[str, float], members: Mapping[str, list[str]]
) -> list[str]:
    """Why no verdict may rest on these samples, one sentence each; empty if one may."""
    reasons = []
    seeds = [s.seed for s in samples]
    for seed in sorted({s for s in seeds if seeds.count(s) > 1}):
        reasons.append(f"seed {seed} occurs {seeds.count(seed)} times: a repeated seed is not another sample")
    for s in samples:
        if targets and (s.ios.keys() != targets.keys() or not targets.keys() <= s.backlogged.keys()):
            raise MeasurementError(
                f"sample of seed {s.seed}: counts of {sorted(s.ios)}, backlog of {sorted(s.backlogged)}, "
                f"but targets for {sorted(targets)}"
            )
        if not all(sum(s.ios[h] for h in members.get(g, s.ios)) for g in s.ios):
            reasons.append(f"seed {s.seed}: no I/O was completed in the common window")
        idle = [g for g, busy in s.backlogged.items() if not busy]
        if idle:
            reasons.append(f"seed {s.seed}: not backlogged all the time: {', '.join(idle)}")
        if not s.saturated:
            reasons.append(f"seed {s.seed}: the disk was not saturated, so the groups did not compete for it")
        reasons.extend(f"seed {s.seed}: {text}" for text in s.drifted)
    return reasons


def _verdict(
    shares: Sequence[GroupShare],
    found: Sequence[FigureVerdict],
    tolerance: float,
    missed: str | None,
    expected_failure: str,
) -> tuple[Verdict, list[str]]:
    """The rule of the module's docstring over the groups' and figures' own verdicts, and why it is not PASS."""
    missing: dict[str, list[Verdict]] = {}
    if missed is not None and shares:
        missing[missed], shares = [s.verdict for s in shares], ()
    for figure in found:
        if figure.missed is not None:
            missing.setdefault(figure.missed, []).append(figure.verdict)
    verdict, reasons = _held(shares, [f for f in found if f.missed is None], tolerance)
    for phase, verdicts in missing.items():
        if Verdict.FAIL in verdicts:
            continue
        if Verdict.INCONCLUSIVE in verdicts:
            reasons.append(f"{phase}: it may be on target, and should not be: {expected_failure}")
            verdict = Verdict.FAIL if verdict is Verdict.FAIL else Verdict.INCONCLUSIVE
        else:
            reasons.append(f"{phase}: it is on target, and should not be: {expected_failure}")
            verdict = Verdict.FAIL
    return verdict, reasons


def _held(
    shares: Sequence[GroupShare], found: Sequence[FigureVerdict], tolerance: float
) -> tuple[Verdict, list[str]]:
    """Whether all of them are inside, and which are not."""
    outside = [_outside_text(s, tolerance) for s in shares if s.verdict is Verdict.FAIL]
    outside += [f"{_figure_text(f)}, outside {bounds_text(f)}" for f in found if f.verdict is Verdict.FAIL]
    if outside:
        return Verdict.FAIL, outside
    crossing = [_crossing_text(s, tolerance) for s in shares if s.verdict is Verdict.INCONCLUSIVE]
    crossing += [
        f"{_figure_text(f)}, partly inside and partly outside {bounds_text(f)}"
        for f in found
        if f.verdict is Verdict.INCONCLUSIVE
    ]
    return (Verdict.INCONCLUSIVE, crossing) if crossing else (Verdict.PASS, [])


def _notes(samples: Sequence[Sample]) -> tuple[str, ...]:
    if len(samples) >= MIN_SAMPLES and all(s.ios == samples[0].ios for s in samples):
        return ("every sample has the same counts: the seed changes nothing, the intervals have no width",)
    return ()


def _values(samples: Sequence[Sample], group: str, members: Sequence[str]) -> list[float]:
    return [s.ios[group] / sum(s.ios[g] for g in members) for s in samples]


def _interval(values: Sequence[float], level: float) -> tuple[float, float] | None:
    """Student's t interval of the mean; None with one value, which has none."""
    if len(values) < 2:
        return None
    mean = statistics.mean(values)
    half = student(len(values) - 1, level) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def _place(low: float, high: float, least: float, most: float) -> Verdict:
    """Where an interval lies: inside the bounds, wholly outside, or across an edge."""
    edge = _EDGE * max(
        1.0, abs(least) if math.isfinite(least) else 0.0, abs(most) if math.isfinite(most) else 0.0
    )
    if low > most + edge or high < least - edge:
        return Verdict.FAIL
    if low >= least - edge and high <= most + edge:
        return Verdict.PASS
    return Verdict.INCONCLUSIVE


def _group_share(
    values: Sequence[float], group: str, target: float, tolerance: float, level: float
) -> GroupShare:
    """Mean and interval of one group, cut to 0..1, and where it lies. With one sample the interval is 0..1."""
    low, high = _interval(values, level) or (0.0, 1.0)
    low, high = max(0.0, low), min(1.0, high)
    verdict = _place(low, high, target - tolerance, target + tolerance)
    return GroupShare(
        group=group, target=target, mean=statistics.mean(values), low=low, high=high, verdict=verdict
    )


def _figure(values: Sequence[float], bound: Bound, level: float) -> FigureVerdict:
    """Mean and interval of a figure, and where it lies."""
    mean = statistics.mean(values)
    low, high = _interval(values, level) or (mean, mean)
    least = -math.inf if bound.at_least is None else bound.at_least
    most = math.inf if bound.at_most is None else bound.at_most
    return FigureVerdict(
        **bound.model_dump(), mean=mean, low=low, high=high, verdict=_place(low, high, least, most)
    )


def student(df: float, confidence: float) -> float:
    """Two-sided quantile of Student's t."""
    from scipy.special import stdtrit  # 0.3 s that a cached boot does not have

    return float(stdtrit(df, 0.5 + confidence / 2))


def _samples_needed(
    samples: Sequence[Sample],
    shares: Sequence[GroupShare],
    found: Sequence[FigureVerdict],
    members: Mapping[str, Sequence[str]],
    tolerance: float,
    level: float,
) -> int | None:
    import numpy as np
    from scipy.special import stdtrit

    open_: list[tuple[list[float], float, tuple[float, ...]]] = [
        (_values(samples, s.group, members[s.group]), s.mean, (s.target - tolerance, s.target + tolerance))
        for s in shares
        if s.verdict is Verdict.INCONCLUSIVE
    ]
    open_ += [
        (
            [s.figures[f.label] for s in samples],
            f.mean,
            tuple(e for e in (f.at_least, f.at_most) if e is not None),
        )
        for f in found
        if f.verdict is Verdict.INCONCLUSIVE
    ]
    sizes = np.arange(len(samples) + 1, _SEARCH_LIMIT)
    half_per_spread = stdtrit(sizes - 1, 0.5 + level / 2) / np.sqrt(sizes)
    enough = np.ones(sizes.shape, dtype=bool)
    for values, mean, edges in open_:
        enough &= half_per_spread * statistics.stdev(values) <= min(abs(mean - edge) for edge in edges)
    return int(sizes[enough.argmax()]) if enough.any() else None


def _interval_text(share: GroupShare) -> str:
    return f"{percent(share.mean)} (interval {100 * share.low:.1f} to {percent(share.high)})"


def _outside_text(share: GroupShare, tolerance: float) -> str:
    edges = f"{percent(share.target)} \N{PLUS-MINUS SIGN} {100 * tolerance:g} points"
    return f"{share.group} got {_interval_text(share)}, outside {edges}"


def _crossing_text(share: GroupShare, tolerance: float) -> str:
    return (
        f"{share.group} got {_interval_text(share)}, partly inside and partly outside "
        f"{percent(share.target)} \N{PLUS-MINUS SIGN} {100 * tolerance:g} points"
    )


def number(value: float) -> str:
    """A figure for people: at most four digits that matter."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def bounds_text(bound: Bound) -> str:
    """``at most 0.5 s``."""
    words = []
    if bound.at_least is not None:
        words.append(f"at least {number(bound.at_least)}")
    if bound.at_most is not None:
        words.append(f"at most {number(bound.at_most)}")
    return f"{' and '.join(words)} {bound.unit}" if words else "no bound"


def _figure_text(found: FigureVerdict) -> str:
    return f"{found.label} is {number(found.mean)} (interval {number(found.low)} to {number(found.high)} {found.unit})"


def _count(counts: Mapping[str, int], group: str) -> str:
    return str(counts[group]) if group in counts else "nothing"
