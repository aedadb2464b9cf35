"""Comparisons as every report shows them: one line per contender, the same words everywhere."""

from __future__ import annotations

from dataclasses import dataclass

from harness.comparison import SERIES, Comparison, Contender, Latency
from harness.report.summary import WORDS, bounds, percent, points
from harness.shares import Verdict, number


@dataclass(frozen=True)
class Result:
    """A share or a figure of a contender. text: what came out. wanted: likewise with its unit. off: from the target,
    in points; empty for a figure.
    """

    what: str
    text: str
    interval: str
    wanted: str
    off: str
    verdict: Verdict


def results(contender: Contender) -> list[Result]:
    """What its verdict is of: shares, and figures that have bounds."""
    judged = contender.judged
    if judged is None:
        return []
    found = [
        Result(
            what=s.group,
            text=f"{percent(s.mean)} %",
            interval=f"{percent(s.low)} to {percent(s.high)}",
            wanted=f"{percent(s.target)} %",
            off=points(s),
            verdict=s.verdict,
        )
        for s in judged.shares
    ]
    for f in judged.figures:
        if f.at_least is not None or f.at_most is not None:
            found.append(
                Result(
                    what=f.label,
                    text=f"{number(f.mean)} {f.unit}",
                    interval=f"{number(f.low)} to {number(f.high)}",
                    wanted=f"{bounds(f)} {f.unit}",
                    off="",
                    verdict=f.verdict,
                )
            )
    return found


def label(contender: Contender, comparison: Comparison) -> str:
    """Its verdict in a word or two."""
    if contender.error is not None:
        return WORDS["error"]
    if contender.verdict is None:
        return "not judged"
    if contender.name == SERIES and comparison.expected_failure and contender.verdict is Verdict.PASS:
        return "EXPECTED FAILURE"
    return WORDS[contender.verdict.value]


def why(contender: Contender) -> list[str]:
    """Why it is not decided, where its results do not show it."""
    told = any(r.verdict is not Verdict.PASS for r in results(contender))
    return contender.reasons if contender.verdict is Verdict.INCONCLUSIVE and not told else []


def brief(contender: Contender) -> str:
    """What came out, on one line: shares with what they are off by; figures that are out of bounds."""
    shown = [r for r in results(contender) if r.off or r.verdict is not Verdict.PASS]
    texts = [
        f"{r.what} {r.text} ({r.off})" if r.off else f"{r.what} {r.text}" for r in shown or results(contender)
    ]
    return ", ".join(texts)


def times(latency: Latency | None) -> str:
    """Mean, median and 99th percentile, in milliseconds."""
    if latency is None:
        return "\N{EN DASH}"
    return " / ".join(number(value) for value in (latency.mean, latency.p50, latency.p99))


def left_out(comparison: Comparison) -> list[str]:
    """Contenders that were not run, and why."""
    return [f"{c.title}: {c.unsuited}" for c in comparison.contenders if c.unsuited is not None]
