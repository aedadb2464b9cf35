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
from harness.report import conformance
from harness.report.summary import (
    SYMBOLS,
    WORDS,
    bounds,
    controls,
    count,
    duration,
    headline,
    label,
    percent,
    points,
    rate,
    shown,
)
from harness.shares import Verdict, number

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from harness.host import Check
    from harness.store import Entry
    from harness.validate import Validation

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
    out.print(verdict.append("  ", "default").append(_text(sentence, "not reverse default")))
    if run.scenarios:
        out.print()
        out.print(_shares(run.scenarios))
        _print_controls(out, run)
    _print_conformance(out, run)
    _print_reasons(out, run)
    for death in run.deaths:
        out.print()
        out.print(_text(f"{death.machine}: {death.message}", "bold red"))
        for line in (death.trace or death.raw).splitlines()[:_TRACE_LINES]:
            out.print(_text(f"    {line}"))
    out.print()
    for what, where in _places(run, folder):
        out.print(_text(f"{what:8} {where}"), soft_wrap=True)  # not broken: these are there to be copied


def checks(found: Sequence[Check], console: Console | None = None) -> None:
    """What this machine has and lacks, a line each, with what to do about it."""
    out = console or _console()
    table = _table()
    for check in found:
        state = {True: "pass", False: "fail", None: "inconclusive"}[check.ok]
        sign = {True: "ok", False: "MISSING", None: "-"}[check.ok]
        detail = _text(check.detail)
        if check.hint and not check.ok:
            detail.append("\n").append(_text(check.hint, "dim"))
        table.add_row(_text(sign, _STYLES[state]), _text(check.name), detail)
    out.print(table)


def cache(root: Path, entries: Sequence[Entry], console: Console | None = None) -> None:
    """The cache's entries, the last used first, and what they take in all."""
    out = console or _console()
    table = _table("kind", "what", "key", "MB", "used")
    table.columns[3].justify = "right"
    for entry in sorted(entries, key=lambda e: -e.used):
        age = duration(max(0.0, time.time() - entry.used))
        table.add_row(
            *(_text(t) for t in (entry.kind, entry.what, entry.key[:12])),
            f"{entry.size / 1e6:.1f}",
            f"{age} ago",
        )
    if entries:
        out.print(table)
    number = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    out.print(_text(f"{number}, {sum(e.size for e in entries) / 1e6:.0f} MB in {root}"))


def validation(result: Validation, console: Console | None = None) -> None:
    """Each patch of a series: whether its prefix builds and boots, and the warnings that it brought."""
    out = console or _console()
    table = _table("", "patch", "new warnings", "seconds")
    for patch in result.patches:
        style = _STYLES["pass" if patch.ok else "fail"]
        table.add_row(
            _text("ok" if patch.ok else "FAIL", style),
            _text(patch.name),
            str(len(patch.new_warnings)),
            f"{patch.seconds:.1f}",
        )
    out.print(table)
    for patch in result.patches:
        if patch.error:
            out.print(_text(f"{patch.name}: {patch.error}"))
        for warning in patch.new_warnings:
            out.print(_text(f"{patch.name}: {warning.file}:{warning.line}: {warning.text} [{warning.flag}]"))
    good = sum(patch.ok for patch in result.patches)
    out.print(_text(f"{good} of {len(result.patches)} prefixes build and boot without a new warning"))


def _console() -> Console:
    from rich.console import Console  # 0.1 s that a start-up does not have

    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower() not in ("utf-8", "utf8"):
        sys.stdout.reconfigure(errors="replace")  # a question mark for a check mark, not a UnicodeEncodeError
    return Console(highlight=False)


def _text(text: str, style: str = "") -> Text:
    """Text without markup, and without what a terminal would obey."""
    from rich.text import Text

    return Text(shown(text), style=style)


def _table(*headings: str) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=bool(headings), pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, header_style="dim")
    for _ in range(0 if headings else 3):
        table.add_column()
    return table


def _shares(scenarios: Sequence[ScenarioRecord]) -> Table:
    """A line per scenario with its verdict, and one per group with its share, in per cent."""
    table = _table("scenario", "target", "measured", "interval", "off by", "")
    for column in table.columns[1:5]:
        column.justify = "right"
        column.no_wrap = True
    for scenario in scenarios:
        word = scenario.verdict.value if scenario.verdict else "interrupted"
        samples = _text(f"n={len(scenario.samples)}", "dim")
        total = _text("" if scenario.total_rate is None else rate(scenario), "dim")
        table.add_row(
            _text(scenario.name, "bold"), "", samples, total, "", _text(label(scenario), _STYLES[word])
        )
        for share in scenario.judged.shares if scenario.judged else ():
            table.add_row(
                _text(f"  {share.group}"),
                percent(share.target),
                _text(percent(share.mean), "bold"),
                f"{percent(share.low)}..{percent(share.high)}",
                points(share),
                _text(_INSIDE[share.verdict], _STYLES[share.verdict.value].removeprefix("bold ")),
            )
        for figure in scenario.judged.figures if scenario.judged else ():
            if figure.at_least is not None or figure.at_most is not None:
                table.add_row(
                    _text(f"  {figure.label}"),
                    _text(bounds(figure)),
                    _text(number(figure.mean), "bold"),
                    _text(f"{number(figure.low)}..{number(figure.high)}"),
                    _text(figure.unit),
                    _text(_INSIDE[figure.verdict], _STYLES[figure.verdict.value].removeprefix("bold ")),
                )
    return table


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
        out.print(_text(text, style))


def _print_conformance(out: Console, run: Run) -> None:
    made = conformance.table(run)
    if made.lines:
        out.print()
        style = _STYLES["fail"] if made.failed else ""
        out.print(_text(f"conformance: {conformance.sentence(made)}", style))


def _print_reasons(out: Console, run: Run) -> None:
    """Why scenarios did not pass, tests that failed, and what was left out."""
    lines = [(f"{s.name}: {r}", "") for s in run.scenarios for r in s.reasons]
    for test in run.tests:
        if test.outcome in ("failed", "error"):
            lines.append((f"{test.nodeid}: {test.message.strip().partition(chr(10))[0] or test.outcome}", ""))
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
        out.print(_text(line, style))


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
