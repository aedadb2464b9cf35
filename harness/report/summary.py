"""What every report says in the same words: the headline, verdict words, numbers, and text that came from
the guest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from harness.comparison import NONE, SERIES
from harness.coverage import Coverage, FileCoverage
from harness.record import ControlRecord, GroupRecord, Run, RunVerdict, ScenarioRecord, verdict
from harness.shares import FigureVerdict, GroupShare, Sample, Verdict, bounds_text, number
from harness.throughput import Conservation
from harness.validation import PatchResult, Result

SYMBOLS = {
    "pass": "\N{CHECK MARK}",
    "fail": "\N{BALLOT X}",
    "inconclusive": "?",
    "died": "\N{BALLOT X}",
    "error": "!",
    "interrupted": "\N{BLACK SQUARE}",
}
WORDS = {
    "pass": "PASS",
    "fail": "FAIL",
    "inconclusive": "INCONCLUSIVE",
    "died": "KERNEL DIED",
    "error": "ERROR",
    "interrupted": "INTERRUPTED",
}


def shown(text: str) -> str:
    """Text of unknown origin, harmless: what is not printable is written out.

    The guest writes its console as it likes. An escape sequence must not reach a terminal, a control
    character not an XML file, and a bidirectional override (Boucher and Anderson, "Trojan Source", 2021)
    not a reader.
    """
    text = text.replace("\r\n", "\n")
    return "".join(c if c.isprintable() or c in "\n\t" else _written_out(c) for c in text)


def _written_out(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # U+2400..: control pictures
    return f"<U+{code:04X}>"


def telling(said: str, wanted: str = r"^E\s") -> str:
    """The line that tells most of what a failed test said, at most 300 characters: the first that matches, which is
    by default what pytest marks as the error; else the first of all.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    place = next((i for i, line in enumerate(lines) if re.search(wanted, line)), 0)
    text = re.sub(r"^E\s+", "", lines[place]) if lines else ""
    if text == "AssertionError":  # of a file whose assertions pytest does not explain: then what was asserted
        text = next((line[1:].strip() for line in reversed(lines[:place]) if line.startswith(">")), text)
    return text.removeprefix("AssertionError: ")[:300]


def headline(run: Run) -> tuple[RunVerdict, str]:
    """The run's verdict, and one sentence that says why."""
    word = verdict(run)
    match word:
        case RunVerdict.PASS:
            text = _pass_text(run)
        case RunVerdict.FAIL:
            text = _fail_text(run)
        case RunVerdict.INCONCLUSIVE:
            text = _inconclusive_text(run)
        case RunVerdict.DIED:
            text = _died_text(run)
        case RunVerdict.ERROR:
            text = run.error.message if run.error else "The run ended early."
        case RunVerdict.INTERRUPTED:
            decided = sum(s.verdict is not None for s in run.scenarios)
            how = "was interrupted" if run.error else "never finished: it is still going on, or was killed"
            if run.validation:
                what = f"{len(run.validation.results)} of the patches and configurations"
            else:
                what = count(len(run.mutants), "mutant") if run.mutants else count(decided, "scenario")
            text = f"The run {how}; {what} had been decided."
    return word, text


def label(scenario: ScenarioRecord) -> str:
    """A scenario's verdict in a word or two."""
    if scenario.verdict is None:
        return "not judged"
    if scenario.expected_failure and scenario.verdict is Verdict.PASS:
        return "EXPECTED FAILURE"
    return WORDS[scenario.verdict.value]


def sample_share(sample: Sample, group: GroupRecord, groups: Sequence[GroupRecord]) -> str:
    """The share of a group in a sample, in per cent; a dash where there is none."""
    all_ = sum(sample.ios.get(g.name, 0) for g in groups if g.part == group.part)
    return percent(sample.ios[group.name] / all_, 2) if all_ and group.name in sample.ios else "\N{EN DASH}"


def rate(scenario: ScenarioRecord) -> str:
    """What all groups together did, with its unit."""
    if scenario.total_rate is None:
        return "\N{EN DASH}"
    if scenario.metric == "sectors":
        return f"{scenario.total_rate / 2:.0f} KB/s"
    return f"{scenario.total_rate:.0f} IOPS"


def bounds(figure: FigureVerdict) -> str:
    """``at most 330``, ``17 to 23``."""
    if figure.at_least is None and figure.at_most is None:
        return "\N{EN DASH}"
    if figure.at_least is not None and figure.at_most is not None:
        return f"{number(figure.at_least)} to {number(figure.at_most)}"
    return bounds_text(figure).removesuffix(f" {figure.unit}")


def count(many: int, noun: str) -> str:
    """``1 scenario``, ``2 scenarios``."""
    return f"{many} {noun}{'s' * (many != 1)}"


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def points(share: GroupShare) -> str:
    """Deviation from the target in percentage points, signed."""
    off = round(100 * (share.mean - share.target), 1) + 0.0  # no negative nought
    return f"{off:+.1f}".replace("-", "\N{MINUS SIGN}")


def ratio(conservation: Conservation | None) -> str:
    """Total over uncontrolled total in per cent, with its interval where there is one."""
    if conservation is None:
        return "\N{EN DASH}"
    text = f"{percent(conservation.ratio)} %"
    if conservation.low is None or conservation.high is None:
        return text
    return f"{text} ({percent(conservation.low)} to {percent(conservation.high)})"


def duration(seconds: float | None) -> str:
    """``4.1 s``, ``3 min 07 s``, ``1 h 02 min``."""
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def controls(run: Run) -> list[tuple[ScenarioRecord, ControlRecord]]:
    return [(s, c) for s in run.scenarios for c in s.controls]


def largest_deviation(run: Run) -> tuple[ScenarioRecord, GroupShare] | None:
    """The judged share that is farthest from its target, and its scenario."""
    judged = [(s, g) for s in run.scenarios if s.judged and not s.expected_failure for g in s.judged.shares]
    return max(judged, key=lambda pair: abs(pair[1].mean - pair[1].target), default=None)


def complaints(result: Result) -> list[str]:
    """What is to be mended about a patch or a configuration, and what is accepted with its reason; a line each, but for
    what a compiler said when it failed.
    """
    lines = [result.error] if result.error else []
    for w in result.new_warnings:
        lines.append(f"{w.file}:{w.line}: {w.text}{f' [{w.flag}]' if w.flag else ''}")
    for r in result.remarks if isinstance(result, PatchResult) else ():
        why = f" (accepted: {r.accepted})" if r.accepted else ""
        lines.append(f"checkpatch: line {r.line}: {r.kind}: {r.text}{why}")
    return lines


def covered(coverage: Coverage) -> str:
    """``95.3 % of 812 added lines with code were executed (goal 95 %: met)``."""
    if coverage.share is None:
        return "no added line has code"
    goal = f"goal {100 * coverage.goal:.0f} %: {'met' if coverage.met else 'missed'}"
    lines = count(coverage.with_code, "added line")
    return f"{part(coverage.share)} % of {lines} with code were executed ({goal})"


def not_executed(parts: Sequence[FileCoverage]) -> str:
    """``12-15, 20``: the lines of a file, of whichever patches, that were not executed."""
    ranges: list[tuple[int, int]] = []
    for first, last in sorted((p.first, p.last) for part in parts for p in part.passages):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], last)
        else:
            ranges.append((first, last))
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in ranges)


def part(share: float | None) -> str:
    """In per cent, rounded down: what is not all, or misses a goal, does not look as if it were."""
    return "\N{EN DASH}" if share is None else f"{math.floor(1000 * share + 1e-9) / 10:.1f}"


def failed_tests(run: Run) -> list[str]:
    return [t.nodeid for t in run.tests if t.outcome in ("failed", "error")]


def _with_verdict(run: Run, wanted: Iterable[Verdict | None]) -> list[ScenarioRecord]:
    return [s for s in run.scenarios if s.verdict in wanted]


def _names(names: Sequence[str]) -> str:
    """At most three names; how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _pass_text(run: Run) -> str:
    parts = []
    n, m = len(run.scenarios), len(controls(run))
    if n:
        documented = sum(s.expected_failure is not None for s in run.scenarios)
        text = "The scenario is on target" if n == 1 else f"All {n} scenarios are on target"
        if documented:
            on = "1 scenario is" if n - documented == 1 else f"{n - documented} scenarios are"
            text = f"{on} on target, {documented} {'is' if documented == 1 else 'are'} not, as documented"
        reaching = sum(c.reaches for _, c in controls(run))
        if reaching:
            text += f", and all {m} controls came out as they must"
        elif m:
            text += ", and its negative control" if m == 1 else f", and all {m} negative controls"
            text += " missed it"
        parts.append(text)
    if run.mutants:
        parts.append(f"All {count(len(run.mutants), 'mutant')} were killed")
    goals = [f for f in run.figures if f.goal is not None]
    if goals:
        parts.append(f"All {count(len(goals), 'goal')} are met")
    if run.validation:
        patches, others = len(run.validation.patches), len(run.validation.configurations)
        parts.append(
            f"All {patches} prefixes build and boot, with nothing to mend"
            if patches > 1
            else "The patch builds and boots, with nothing to mend"
        )
        if others:
            parts[-1] += f"; so does the whole in {count(others, 'other configuration')}"
    if run.comparisons:
        parts.append(_comparisons_text(run))
    passed = sum(t.outcome == "passed" for t in run.tests)
    if passed:
        parts.append(f"{count(passed, 'test')} passed")
    return "; ".join(parts) + "."


def _comparisons_text(run: Run) -> str:
    """What was compared with what; and the contenders that there is no verdict on, as counters disagreed."""
    ran = [(made, c) for made in run.comparisons for c in made.ran]
    names = {c.name for _, c in ran} - {NONE, SERIES}
    text = f"{count(len(run.comparisons), 'scenario')} compared under the series and {count(len(names), 'controller')}"
    wrong = [f"{c.name} in {made.scenario}" for made, c in ran if c.error is not None]
    return text + (f", without a verdict on {_names(wrong)}" if wrong else "")


def _of_series(run: Run, wanted: Iterable[Verdict | None]) -> list[str]:
    """Scenarios of a comparison that the series came out of like this."""
    return [
        made.scenario
        for made in run.comparisons
        for c in made.ran
        if c.name == SERIES and c.error is None and c.verdict in wanted
    ]


def _fail_text(run: Run) -> str:
    parts = []
    failed = _with_verdict(run, [Verdict.FAIL])
    if failed:
        scenarios = count(len(run.scenarios), "scenario")
        parts.append(f"{len(failed)} of {scenarios} off target: {_names([_worst(s) for s in failed])}")
    undecided = _with_verdict(run, [Verdict.INCONCLUSIVE, None])
    if undecided:
        parts.append(f"{len(undecided)} not decided: {_names([s.name for s in undecided])}")
    tests = failed_tests(run)
    if tests:
        parts.append(f"{len(tests)} of {count(len(run.tests), 'test')} failed: {_names(tests)}")
    alive = [f"{m.name} ({m.outcome})" for m in run.mutants if not m.killed]
    if alive:
        parts.append(f"{len(alive)} of {count(len(run.mutants), 'mutant')} not killed: {_names(alive)}")
    missed = [f"{f.what} ({f.measured}, {f.wanted})" for f in run.figures if not f.met]
    if missed:
        goals = sum(f.goal is not None for f in run.figures)
        parts.append(f"{len(missed)} of {count(goals, 'goal')} missed: {_names(missed)}")
    if run.validation:
        wrong = [r.name for r in run.validation.results if not r.ok]
        if wrong:
            what = f"{len(wrong)} of {len(run.validation.results)} patches and configurations"
            parts.append(f"{what} are not as they should be: {_names(wrong)}")
    if run.comparisons:
        compared = _of_series(run, [Verdict.FAIL])
        parts += [f"the series off target in {_names(compared)}"] if compared else []
        parts.append(_comparisons_text(run))
    if run.error:
        parts.append(run.error.message)
    return "; ".join(parts) + "."


def _worst(scenario: ScenarioRecord) -> str:
    """The scenario's name, and the share that is farthest off."""
    if not scenario.judged or not scenario.judged.shares:
        return scenario.name
    share = max(scenario.judged.shares, key=lambda g: abs(g.mean - g.target))
    return f"{scenario.name} ({share.group} got {percent(share.mean)} % instead of {percent(share.target)} %)"


def _inconclusive_text(run: Run) -> str:
    undecided = _with_verdict(run, [Verdict.INCONCLUSIVE, None])
    compared = _of_series(run, [Verdict.INCONCLUSIVE, None])
    if compared and not undecided:
        return f"The series not decided in {_names(compared)}; {_comparisons_text(run)}."
    if not undecided:
        return "Nothing was judged, so there is nothing to conclude."
    first = next((r for s in undecided for r in s.reasons), "it was not judged")
    which = f"{len(undecided)} of {count(len(run.scenarios), 'scenario')} not decided"
    return f"{which}: {_names([s.name for s in undecided])}. {undecided[0].name}: {first}."


def _died_text(run: Run) -> str:
    if not run.deaths:
        return run.error.message if run.error else "A guest kernel died."
    death = run.deaths[0]
    machine = next((m for m in run.machines if m.id == death.machine), None)
    where = f" in scenario {machine.scenario}" if machine and machine.scenario else ""
    more = f" ({len(run.deaths) - 1} more below)" if len(run.deaths) > 1 else ""
    return f"The guest kernel died{where}: {death.message}{more}"
