"""What the terminal shows: the summary of a run, this machine's checks, the cache.

Without colour (``NO_COLOR``, a dumb terminal, a log file) nothing is lost: a verdict always has its word.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.record import RUN_JSON, Run, ScenarioRecord
from harness.report import columns, comparison, conformance
from harness.report.summary import (
    SYMBOLS,
    WORDS,
    complaints,
    controls,
    count,
    covered,
    duration,
    headline,
    label,
    percent,
    points,
    rate,
    shown,
    telling,
)
from harness.shares import FigureVerdict, Verdict, number

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from harness.figure import Figure
    from harness.host import Check
    from harness.store import Entry
    from harness.validation import Validation

_STYLES = {
    "pass": "bold green",
    "fail": "bold red",
    "inconclusive": "bold yellow",
    "died": "bold red",
    "error": "bold red",
    "interrupted": "bold yellow",
}
_TRACE_LINES = 20
_INSIDE = {Verdict.PASS: "inside", Verdict.FAIL: "OUTSIDE", Verdict.INCONCLUSIVE: "undecided"}


def summary(run: Run, folder: Path, console: Console | None = None) -> None:
    """Verdict, shares, reasons, deaths, and where to go from here. folder: the run's."""
    out = console or _console()
    word, sentence = headline(run)
    out.print()
    verdict = _text(f" {SYMBOLS[word.value]} {WORDS[word.value]} ", f"{_STYLES[word.value]} reverse")
    _say(out, verdict.append("  ", "default").append(_text(sentence, "not reverse default")))
    if run.kernel and run.kernel.why:
        _say(out, _text(f" Linux {run.kernel.version}: {run.kernel.why}", "dim"))
    if run.scenarios:
        out.print()
        _print_shares(out, run.scenarios)
        _print_controls(out, run)
    _print_comparisons(out, run)
    _print_conformance(out, run)
    _print_coverage(out, run)
    _print_reasons(out, run)
    for death in run.deaths:
        out.print()
        _say(out, _text(f"{death.machine}: {death.message}", "bold red"))
        for line in (death.trace or death.raw).splitlines()[:_TRACE_LINES]:
            _say(out, _text(f"    {line}"))
    out.print()
    for what, where in _places(run, folder):
        out.print(_text(f"{what:8} {where}"), soft_wrap=True)  # not broken: these are there to be copied


def figures(measured: Sequence[Figure], console: Console | None = None) -> None:
    """Measured figures under their headings, with their goals and how they were taken."""
    out = console or _console()
    for about in dict.fromkeys(f.about for f in measured):
        rows = [[_text(t, "dim") for t in (about, "measured", "goal", "", "how")]]
        for f in measured:
            if f.about == about:
                mark = "" if f.goal is None else "ok" if f.met else "MISSED"
                style = _STYLES["pass" if f.met else "fail"]
                rows.append([*map(_text, (f.what, f.measured, f.wanted)), _text(mark, style), _text(f.how)])
        if out.is_terminal:  # how it was taken, below: there is no room for it
            flat: list[Sequence[Text] | Text] = [rows[0][:-1]]
            for *cells, how in rows[1:]:
                flat += [cells, _text("  ").append_text(how)]
            columns.show(out, flat)
        else:
            columns.show(out, rows)
        out.print()


def checks(found: Sequence[Check], console: Console | None = None) -> None:
    """What this machine has and lacks, a line each, with what to do about it."""
    rows = []
    for check in found:
        state = {True: "pass", False: "fail", None: "inconclusive"}[check.ok]
        sign = {True: "ok", False: "MISSING", None: "-"}[check.ok]
        detail = _text(check.detail)
        if check.hint and not check.ok:
            detail.append("\n").append(_text(check.hint, "dim"))
        rows.append([_text(sign, _STYLES[state]), _text(check.name), detail])
    columns.show(console or _console(), rows, fold=2)


def cache(root: Path, entries: Sequence[Entry], console: Console | None = None) -> None:
    """The cache's entries, the last used first, and what they take in all."""
    out = console or _console()
    rows = [[_text(heading, "dim") for heading in ("kind", "what", "key", "MB", "used")]]
    for entry in sorted(entries, key=lambda e: -e.used):
        size, age = f"{entry.size / 1e6:.1f}", duration(max(0.0, time.time() - entry.used))
        rows.append([_text(t) for t in (entry.kind, entry.what, entry.key[:12], size, f"{age} ago")])
    if entries:
        columns.show(out, rows, fold=1, right=(3,))
    number = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    _say(out, _text(f"{number}, {sum(e.size for e in entries) / 1e6:.0f} MB in {root}"))


def validation(result: Validation, console: Console | None = None) -> None:
    """Each patch of a series: whether its prefix builds and boots, the warnings that it brought, and what checkpatch
    remarks on it; each configuration of the whole.
    """
    out = console or _console()
    rows = [[_text(heading, "dim") for heading in ("", "patch", "warnings", "remarks", "seconds")]]
    for patch in result.patches:
        counts = (str(len(patch.new_warnings)), str(len(patch.remarks)), f"{patch.seconds:.1f}")
        rows.append([_ok(patch.ok), *map(_text, (patch.name, *counts))])
    for other in result.configurations:
        counts = (str(len(other.new_warnings)), "", f"{other.seconds:.1f}")
        rows.append([_ok(other.ok), *map(_text, (f"configuration {other.name}", *counts))])
    columns.show(out, rows, fold=1, right=(2, 3, 4))
    for found in result.results:
        for line in complaints(found):
            _say(out, _text(f"{found.name}: {line}"))


def _ok(good: bool) -> Text:
    return _text("ok" if good else "FAIL", _STYLES["pass" if good else "fail"])


def _console() -> Console:
    from rich.console import Console  # 0.1 s that a start-up does not have

    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower() not in ("utf-8", "utf8"):
        sys.stdout.reconfigure(errors="replace")  # a question mark for a check mark, not a UnicodeEncodeError
    return Console(highlight=False)


def _text(text: str, style: str = "") -> Text:
    """Text without markup, and without what a terminal would obey."""
    from rich.text import Text

    return Text(shown(text), style=style)


def _say(out: Console, text: Text) -> None:
    """A line, broken between words where a terminal is too narrow; a log has no width."""
    out.print(text, soft_wrap=not out.is_terminal)


def _print_shares(out: Console, scenarios: Sequence[ScenarioRecord]) -> None:
    """A line per scenario with its verdict, and one per group with its share, in per cent, and per figure."""
    headings = ("scenario", "target", "measured", "interval", "off by", "")
    rows: list[Sequence[Text] | Text] = [[_text(heading, "dim") for heading in headings]]
    longest = max(len(s.name) for s in scenarios)
    for scenario in scenarios:
        word = scenario.verdict.value if scenario.verdict else "interrupted"
        total = "" if scenario.total_rate is None else f", {rate(scenario)}"
        title = _text(f"{scenario.name:{longest}}  ", "bold")
        title.append_text(_text(label(scenario), f"not bold {_STYLES[word]}"))
        rows.append(title.append_text(_text(f"  n={len(scenario.samples)}{total}", "not bold dim")))
        for share in scenario.judged.shares if scenario.judged else ():
            mean, low, high = map(percent, (share.mean, share.low, share.high))
            cells = (f"  {share.group}", percent(share.target), mean, f"{low}..{high}", points(share))
            rows.append(_judged(cells, share.verdict))
        for f in scenario.judged.figures if scenario.judged else ():
            if f.at_least is not None or f.at_most is not None:
                unit = "" if f"({f.unit})" in f.label else f" ({f.unit})"
                interval = f"{number(f.low)}..{number(f.high)}"
                cells = (f"  {f.label}{unit}", _range(f), number(f.mean), interval, "")
                rows.append(_judged(cells, f.verdict))
    columns.show(out, rows, right=(1, 2, 3, 4))


def _judged(cells: Sequence[str], verdict: Verdict) -> list[Text]:
    """Target, mean and so on as a row, with where the interval lies."""
    first, target, mean, *rest = cells
    word = _text(_INSIDE[verdict], _STYLES[verdict.value].removeprefix("bold "))
    return [_text(first), _text(target), _text(mean, "bold"), *map(_text, rest), word]


def _range(figure: FigureVerdict) -> str:
    """The bounds of a figure, short: ``450..550``, ``>= 5700``."""
    if figure.at_least is not None and figure.at_most is not None:
        return f"{number(figure.at_least)}..{number(figure.at_most)}"
    if figure.at_least is not None:
        return f">= {number(figure.at_least)}"
    return f"<= {number(figure.at_most)}" if figure.at_most is not None else ""


def _print_controls(out: Console, run: Run) -> None:
    every = controls(run)
    missed = sum(c.verdict is Verdict.PASS for _, c in every)
    if every:
        style = "" if missed == len(every) else _STYLES["inconclusive"]
        what = (
            "controls that came out"
            if any(c.reaches for _, c in every)
            else "negative controls that missed the target,"
        )
        text = f"{what} as they must: {missed} of {len(every)}"
        out.print()
        _say(out, _text(text, style))
    if run.remembered:
        known = count(len(run.remembered), "machine")
        _say(out, _text(f"{known} without the series not booted again: the virtual clock is exact", "dim"))


def _print_comparisons(out: Console, run: Run) -> None:
    """A line per scenario, and one per contender: its verdict, what came out, and at what price."""
    if not run.comparisons:
        return
    headings = ("controller", "", "work, %", "latency, ms", "instr/IO", "shares (off by), figures")
    rows: list[Sequence[Text] | Text] = [[_text(heading, "dim") for heading in headings]]
    for made in run.comparisons:
        told = ", ".join(f"{group}: {what}" for group, what in made.groups.items())
        title = _text(f"{made.scenario}  ", "bold").append_text(
            _text(f"{made.title}; {told}", "not bold dim")
        )
        rows.append(title)
        for c in made.ran:
            style = _STYLES["error" if c.error else c.verdict.value if c.verdict else "inconclusive"]
            work = percent(c.conservation.ratio) if c.conservation else "\N{EN DASH}"
            cost = "\N{EN DASH}" if c.instructions is None else f"{c.instructions:.0f}"
            cells = (
                work,
                comparison.times(c.latencies.get(made.lightest)),
                cost,
                c.error or comparison.brief(c),
            )
            rows.append([_text(f"  {c.title}"), _text(comparison.label(c, made), style), *map(_text, cells)])
    out.print()
    columns.show(out, rows, fold=5, right=(2, 3, 4))
    about = (
        "work: of the total without a controller; latency: mean / p50 / p99 of the group that is told least"
    )
    _say(out, _text(about, "dim"))


def _print_conformance(out: Console, run: Run) -> None:
    made = conformance.table(run)
    if made.lines:
        out.print()
        style = _STYLES["fail"] if made.failed else ""
        _say(out, _text(f"conformance: {conformance.sentence(made)}", style))


def _print_coverage(out: Console, run: Run) -> None:
    """How much of the series was executed."""
    coverage = run.coverage
    if coverage is None:
        return
    out.print()
    _say(out, _text(f"patch coverage: {covered(coverage)}", "" if coverage.met else _STYLES["inconclusive"]))
    if coverage.missed:
        files = sum(any(part.passages for part in parts) for parts in coverage.by_file.values())
        rest = f"{count(coverage.missed, 'line')} in {count(files, 'file')}"
        _say(out, _text(f"  not executed: {rest}; the report shows them"))
    if coverage.not_compiled:
        _say(out, _text(f"  not compiled: {', '.join(coverage.not_compiled)}"))
    if coverage.uncounted:
        machines = count(coverage.machines + len(coverage.uncounted), "machine")
        _say(out, _text(f"  of {machines}, {len(coverage.uncounted)} left no counters", "dim"))


def _print_reasons(out: Console, run: Run) -> None:
    """Why scenarios did not pass, tests that failed, and what was left out."""
    lines = [(f"{s.name}: {r}", "") for s in run.scenarios for r in s.reasons]
    for test in run.tests:
        if test.outcome in ("failed", "error"):
            lines.append((f"{test.nodeid}: {telling(test.message) or test.outcome}", ""))
    for m in run.mutants:
        if not m.killed:
            lines.append(
                (f"{m.outcome}: {m.name}: {m.mistake}{f' ({m.how})' if m.how else ''}", _STYLES["fail"])
            )
    lines += [(f"skipped: {s.what}: {s.reason}", "dim") for s in run.skipped]
    skipped = sum(t.outcome == "skipped" for t in run.tests)
    if skipped:
        lines.append((f"skipped: {count(skipped, 'test')}; the report says why", "dim"))
    if lines:
        out.print()
    for line, style in lines:
        _say(out, _text(line, style))


def _places(run: Run, folder: Path) -> list[tuple[str, str]]:
    """Where the report and the logs are, and the next step."""
    here = _nearer(folder)
    places = [("report", str(here / "report.html")), ("record", str(here / RUN_JSON))]
    if run.deaths:
        machine = next((m for m in run.machines if m.id == run.deaths[0].machine), None)
        if machine and machine.console:
            places.append(("console", str(_nearer(folder / machine.console))))
    if run.error and run.error.log:
        places.append(("log", str(_nearer(folder / run.error.log))))
    step = _next_step(run)
    return [*places, ("next", step)] if step else places


def _nearer(path: Path) -> Path:
    """Relative to where the user is, if it lies below."""
    path = path.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _next_step(run: Run) -> str | None:
    if run.error and run.error.hint:
        return run.error.hint
    for wanted in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        for scenario in run.scenarios:
            if scenario.verdict is wanted:
                return f"repeat it alone: {scenario.command}"
    return None
