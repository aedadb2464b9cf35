"""How much a disk gives: where queue depth stops to help, and what control costs. Numbers in, numbers out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from harness.errors import MeasurementError
from harness.shares import CONFIDENCE, student


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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
            half = student(df, confidence) * math.sqrt(u + v)
        low, high = math.exp(d - half), math.exp(d + half)
    return Conservation(
        ratio=math.exp(d), low=low, high=high, confidence=confidence, samples=n, samples_uncontrolled=m
    )
