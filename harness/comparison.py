"""A scenario under the series and under what the kernel itself brings: what came out of each, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from harness.shares import Sample, ShareVerdict, Verdict
from harness.throughput import Conservation

NONE, SERIES = "none", "series"
"""Names of the contenders that are no controller of the kernel's own: the kernel without any, and the series."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Latency(_Strict):
    """Of a group's I/Os, over the whole life of its jobs in all samples, from before each was submitted until it was
    complete. Milliseconds; a percentile is exact to 1.6 %.
    """

    mean: float
    p50: float
    p99: float


class Contender(_Strict):
    """One that a scenario was run under. promises: what it is judged by, see ``controller``. documented: what its
    documentation says of that.

    unsuited: why it was not run. error: why its runs gave no verdict. judged: by the rule of all scenarios; verdict:
    that and its negative control, the same load without any controller, together; reasons: why it is not PASS.
    latencies: by group; empty where a group rests, whose latencies would be the rest's. instructions: per I/O, all that
    the CPU did in the common window: the kernel, fio, and the script that reads the counters.
    """

    name: str
    title: str
    promises: Literal["weights", "maxima", "latency", "nothing"]
    documented: str = ""
    unsuited: str | None = None
    error: str | None = None
    samples: list[Sample] = []
    judged: ShareVerdict | None = None
    verdict: Verdict | None = None
    reasons: list[str] = []
    conservation: Conservation | None = None
    latencies: dict[str, Latency] = {}
    instructions: float | None = None


class Comparison(_Strict):
    """A scenario and its contenders. groups: by name, what each is told. lightest: the group that is told least.
    expected_failure: why the series does not reach the targets, as documented; others are judged without it.
    """

    scenario: str
    title: str
    groups: dict[str, str]
    lightest: str
    tolerance: float
    expected_failure: str | None = None
    contenders: list[Contender] = []

    @property
    def ran(self) -> list[Contender]:
        """Those that suit."""
        return [c for c in self.contenders if c.unsuited is None]


def latency(bins: Sequence[Mapping[int, int]]) -> Latency | None:
    """Of all I/Os of several runs. bins: nanoseconds -> I/Os; None: there are none."""
    whole: dict[int, int] = {}
    for some in bins:
        for ns, count in some.items():
            whole[ns] = whole.get(ns, 0) + count
    total = sum(whole.values())
    if not total:
        return None
    mean = sum(ns * count for ns, count in whole.items()) / total
    return Latency(mean=mean / 1e6, p50=_quantile(whole, 0.5) / 1e6, p99=_quantile(whole, 0.99) / 1e6)


def _quantile(bins: Mapping[int, int], part: float) -> float:
    """The least that so large a part of them do not exceed."""
    below, total = 0, sum(bins.values())
    for value, count in sorted(bins.items()):
        below += count
        if below >= part * total:
            return float(value)
    raise ValueError("no I/O at all")
