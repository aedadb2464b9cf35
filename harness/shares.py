"""From counted I/Os to a verdict. Numbers in, numbers out: nothing here knows of a guest, a file or a clock.

The share of a group is its part of all I/Os completed in the window in which every group ran, 0..1. One
sample is one repetition of a scenario, and samples differ by seed only. The verdict comes from the
confidence interval of each group's mean share over the samples:

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

    ios: completed in the common window, by the kernel's counters. seconds: length of that window on the
    scenario's clock. backlogged: whether the group had I/O waiting during the whole window. saturated:
    whether the disk was, i.e. whether each group kept at least the saturation depth in flight.
    drifted: preconditions that changed while measuring, one sentence each. fio_ios, total_ios_kernel: fio's
    count and the kernel's, both over the whole life of the jobs.
    """

    seed: int
    ios: dict[str, Count]
    seconds: Annotated[float, Field(gt=0)]
    backlogged: dict[str, bool]
    saturated: bool = True
    drifted: tuple[str, ...] = ()
    fio_ios: dict[str, Count] = {}
    total_ios_kernel: dict[str, Count] = {}

    @property
    def iops(self) -> float:
        """I/Os per second of all groups together."""
        return sum(self.ios.values()) / self.seconds


class GroupShare(_Strict):
    """One group's share: target, mean over the samples, and its confidence interval; all 0..1."""

    group: str
    target: Share
    mean: Share
    low: Share
    high: Share
    verdict: Verdict


class ShareVerdict(_Strict):
    """What ``judge`` found.

    confidence: of the whole procedure. interval_confidence: of each interval, so that the procedure has its
    own. reasons: why it is not PASS, one sentence each. notes: what a reader should know besides.
    needs_more: more samples could decide it, and the budget has them; then next_look is how many there
    should be in all. samples_needed: how many would decide it if the spread stayed as it is; None where no
    number would, or none is needed. jain: Jain's fairness index of share over target. A summary, never a
    verdict: it is 0.90 for 2:1 weights with no control at all.
    """

    verdict: Verdict
    shares: tuple[GroupShare, ...]
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


class Saturation(_Strict):
    """How many I/Os in flight fill the disk. points: (depth, I/Os per second), by depth.

    depth: the least that gave 95 % of the most. reached: a greater depth was tried too and brought no more
    than that, so the curve was seen to flatten.
    """

    points: tuple[tuple[int, float], ...]
    depth: int
    max_iops: float
    reached: bool


class Conservation(_Strict):
    """Controlled total over uncontrolled total: 1 is full work conservation. low, high: None with fewer
    than two samples of either.
    """

    ratio: float
    low: float | None
    high: float | None
    confidence: float
    samples: int
    samples_uncontrolled: int


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
) -> ShareVerdict:
    """The three-way verdict on the samples so far; see the module's docstring for the rule and for what its
    confidence means.

    targets: share per group, summing to 1. looks: the numbers of samples at which this is called, in rising
    order. A call at another number (a budget cut short) takes the place of the next look. Raises
    MeasurementError if a sample lacks a group of the targets or has one more; ValueError for targets or
    looks that make no sense.
    """
    if not math.isclose(math.fsum(targets.values()), 1.0, abs_tol=1e-6):
        raise ValueError(f"targets must sum to 1: {dict(targets)}")
    if list(looks) != sorted(set(looks)) or not looks or looks[0] < MIN_SAMPLES:
        raise ValueError(f"looks must rise from at least {MIN_SAMPLES}: {list(looks)}")
    level = 1 - (1 - confidence) / len(looks)
    n = len(samples)
    refusals = _refusals(samples, targets)
    shares: tuple[GroupShare, ...] = ()
    if samples and all(sum(s.ios.values()) for s in samples):
        shares = tuple(_group_share(samples, g, target, tolerance, level) for g, target in targets.items())
    verdict, reasons = _verdict(shares, tolerance)
    if n < MIN_SAMPLES:
        verdict = Verdict.INCONCLUSIVE
        reasons = [f"{n} sample{'s' * (n != 1)}, and at least {MIN_SAMPLES} are needed"]
    if refusals:
        verdict, reasons = Verdict.INCONCLUSIVE, refusals
    undecided = verdict is Verdict.INCONCLUSIVE and not refusals
    next_look = next((look for look in looks if look > n), None) if undecided else None
    needed = _samples_needed(samples, shares, tolerance, level) if undecided and n >= MIN_SAMPLES else None
    return ShareVerdict(
        verdict=verdict,
        shares=shares,
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


def control_verdict(control: ShareVerdict) -> Verdict:
    """Whether a negative control did its duty, which is to miss the target.

    PASS: it FAILs the scenario's target, so the measurement can tell control from no control. FAIL: it
    reaches the target without what is tested, so a PASS of the series would prove nothing. INCONCLUSIVE:
    the control was.
    """
    return {
        Verdict.FAIL: Verdict.PASS,
        Verdict.PASS: Verdict.FAIL,
        Verdict.INCONCLUSIVE: Verdict.INCONCLUSIVE,
    }[control.verdict]


def scenario_verdict(judged: ShareVerdict, controls: Mapping[str, ShareVerdict]) -> tuple[Verdict, list[str]]:
    """The verdict of a scenario from its own and its controls' (by name), and the reasons why it is not PASS.

    A FAIL stands by itself. A PASS counts only if every control missed the target: where one reached it, or
    is undecided, the shares say nothing about the series, and the scenario is INCONCLUSIVE.
    """
    reasons = list(judged.reasons)
    verdict = judged.verdict
    for name, control in controls.items():
        duty = control_verdict(control)
        if duty is Verdict.PASS:
            continue
        if duty is Verdict.FAIL:
            reasons.append(
                f"negative control {name} reaches the target too: the shares do not come from what is tested"
            )
        else:
            reasons.append(f"negative control {name} is inconclusive: {'; '.join(control.reasons)}")
        if verdict is Verdict.PASS:
            verdict = Verdict.INCONCLUSIVE
    return verdict, reasons


def saturation(points: Sequence[tuple[int, float]]) -> Saturation:
    """Where the curve of (depth, I/Os per second) flattens. Raises MeasurementError if there are no points
    or no I/O was done.
    """
    ordered = tuple(sorted(points))
    most = max((iops for _, iops in ordered), default=0.0)
    if most <= 0:
        raise MeasurementError("no saturation point: the disk completed no I/O at any queue depth")
    depth = next(depth for depth, iops in ordered if iops >= 0.95 * most)
    return Saturation(points=ordered, depth=depth, max_iops=most, reached=depth < ordered[-1][0])


def conservation(
    total: Sequence[float], uncontrolled: Sequence[float], confidence: float = CONFIDENCE
) -> Conservation:
    """Ratio of the total rate under control to the total rate without, each in I/Os per second, one value a
    sample.

    The ratio is that of the geometric means, exp(d) with d = mean(ln x) - mean(ln y). Its interval is exp(d
    +- t se) with se^2 = u + v, u = var(ln x)/n, v = var(ln y)/m, and t from Student's distribution with
    Welch and Satterthwaite's degrees of freedom (u + v)^2 / (u^2/(n-1) + v^2/(m-1)) (Welch, Biometrika 34
    (1947) 28-35). Raises MeasurementError on no values, or a rate of 0.
    """
    if not total or not uncontrolled or min(*total, *uncontrolled) <= 0:
        raise MeasurementError("work conservation cannot be computed: a total is missing or 0")
    x, y = [math.log(v) for v in total], [math.log(v) for v in uncontrolled]
    n, m = len(x), len(y)
    d = statistics.mean(x) - statistics.mean(y)
    low = high = None
    if n > 1 and m > 1:
        u, v = statistics.variance(x) / n, statistics.variance(y) / m
        half = 0.0
        if u + v > 0:
            df = (u + v) ** 2 / (u**2 / (n - 1) + v**2 / (m - 1))
            half = _student(df, confidence) * math.sqrt(u + v)
        low, high = math.exp(d - half), math.exp(d + half)
    return Conservation(
        ratio=math.exp(d), low=low, high=high, confidence=confidence, samples=n, samples_uncontrolled=m
    )


def crosscheck(kernel: Mapping[str, int], fio: Mapping[str, int]) -> None:
    """Raise MeasurementError unless kernel and fio counted the same number of I/Os for each group. Both
    over the whole life of the jobs.
    """
    wrong = [
        f"group {group}: the kernel counted {_count(kernel, group)}, fio {_count(fio, group)}"
        for group in sorted(kernel.keys() | fio.keys())
        if kernel.get(group) != fio.get(group)
    ]
    if wrong:
        raise MeasurementError(
            f"kernel and fio disagree about the I/Os done: {'; '.join(wrong)}",
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


def _refusals(samples: Sequence[Sample], targets: Mapping[str, float]) -> list[str]:
    """Why no verdict may rest on these samples, one sentence each; empty if one may."""
    reasons = []
    seeds = [s.seed for s in samples]
    for seed in sorted({s for s in seeds if seeds.count(s) > 1}):
        reasons.append(f"seed {seed} occurs {seeds.count(seed)} times: a repeated seed is not another sample")
    for s in samples:
        if s.ios.keys() != targets.keys() or s.backlogged.keys() != targets.keys():
            raise MeasurementError(
                f"sample of seed {s.seed}: counts of {sorted(s.ios)}, backlog of {sorted(s.backlogged)}, "
                f"but targets for {sorted(targets)}"
            )
        if not sum(s.ios.values()):
            reasons.append(f"seed {s.seed}: no I/O was completed in the common window")
        idle = [g for g, busy in s.backlogged.items() if not busy]
        if idle:
            reasons.append(f"seed {s.seed}: not backlogged all the time: {', '.join(idle)}")
        if not s.saturated:
            reasons.append(f"seed {s.seed}: the disk was not saturated, so the groups did not compete for it")
        reasons.extend(f"seed {s.seed}: {text}" for text in s.drifted)
    return reasons


def _verdict(shares: Sequence[GroupShare], tolerance: float) -> tuple[Verdict, list[str]]:
    """The rule of the module's docstring over the groups' own verdicts, and why it is not PASS."""
    outside = [_outside_text(s, tolerance) for s in shares if s.verdict is Verdict.FAIL]
    if outside:
        return Verdict.FAIL, outside
    crossing = [_crossing_text(s, tolerance) for s in shares if s.verdict is Verdict.INCONCLUSIVE]
    return (Verdict.INCONCLUSIVE, crossing) if crossing else (Verdict.PASS, [])


def _notes(samples: Sequence[Sample]) -> tuple[str, ...]:
    if len(samples) >= MIN_SAMPLES and all(s.ios == samples[0].ios for s in samples):
        return ("every sample has the same counts: the seed changes nothing, the intervals have no width",)
    return ()


def _values(samples: Sequence[Sample], group: str) -> list[float]:
    return [s.ios[group] / sum(s.ios.values()) for s in samples]


def _group_share(
    samples: Sequence[Sample], group: str, target: float, tolerance: float, level: float
) -> GroupShare:
    """Mean and Student-t interval of one group, cut to 0..1, and where it lies. With one sample the
    interval is 0..1.
    """
    values = _values(samples, group)
    mean = statistics.mean(values)
    low, high = 0.0, 1.0
    if len(values) > 1:
        half = _student(len(values) - 1, level) * statistics.stdev(values) / math.sqrt(len(values))
        low, high = max(0.0, mean - half), min(1.0, mean + half)
    if low > target + tolerance + _EDGE or high < target - tolerance - _EDGE:
        verdict = Verdict.FAIL
    elif low >= target - tolerance - _EDGE and high <= target + tolerance + _EDGE:
        verdict = Verdict.PASS
    else:
        verdict = Verdict.INCONCLUSIVE
    return GroupShare(group=group, target=target, mean=mean, low=low, high=high, verdict=verdict)


def _student(df: float, confidence: float) -> float:
    """Two-sided quantile of Student's t."""
    from scipy.special import stdtrit  # 0.3 s that a cached boot does not have

    return float(stdtrit(df, 0.5 + confidence / 2))


def _samples_needed(
    samples: Sequence[Sample], shares: Sequence[GroupShare], tolerance: float, level: float
) -> int | None:
    import numpy as np
    from scipy.special import stdtrit

    sizes = np.arange(len(samples) + 1, _SEARCH_LIMIT)
    half_per_spread = stdtrit(sizes - 1, 0.5 + level / 2) / np.sqrt(sizes)
    enough = np.ones(sizes.shape, dtype=bool)
    for share in shares:
        if share.verdict is Verdict.INCONCLUSIVE:
            off = share.mean - share.target
            room = min(abs(off - tolerance), abs(off + tolerance))
            enough &= half_per_spread * statistics.stdev(_values(samples, share.group)) <= room
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


def _count(counts: Mapping[str, int], group: str) -> str:
    return str(counts[group]) if group in counts else "nothing"
