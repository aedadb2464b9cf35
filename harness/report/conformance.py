"""The conformance table as every report shows it: rows by section, one verdict per row and flavour, what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.contract import ConformanceRecord, RowResult
from harness.record import Run
from harness.report.beside import OtherKernel
from harness.report.summary import count

State = Literal["pass", "fail", "inconclusive", "none"]

_FAILED = ("failed", "error", "xpassed")


@dataclass(frozen=True)
class Cell:
    """A row on one flavour. state: its colour; word: what to call it."""

    state: State
    word: str


@dataclass(frozen=True)
class Line:
    """A row. cells: by flavour, for every flavour of the table. others: on other kernels, by column. seen: each fact
    once. tests: their node ids.
    """

    row: ConformanceRecord
    cells: dict[str, Cell]
    others: dict[str, Cell]
    seen: list[str]
    tests: list[str]

    @property
    def failed(self) -> bool:
        """On any flavour."""
        return any(cell.state == "fail" for cell in self.cells.values())


@dataclass(frozen=True)
class Table:
    """All rows. others: further columns, ``KERNEL FLAVOUR``. sections: in the order of their first row, with their
    lines in the contract's order.
    """

    flavours: list[str]
    others: list[str]
    sections: dict[str, list[Line]]

    @property
    def lines(self) -> list[Line]:
        return [line for lines in self.sections.values() for line in lines]

    @property
    def failed(self) -> list[Line]:
        return [line for line in self.lines if line.failed]


def table(run: Run, beside: Sequence[OtherKernel] = ()) -> Table:
    """The run's rows; a table without sections if it has none. beside: other kernels, whose verdicts stand beside."""
    flavours = _flavours(run.conformance)
    others = {
        f"{other.kernel.name} {flavour}": (other.rows, flavour)
        for other in beside
        for flavour in _flavours(other.rows.values())
    }
    sections: dict[str, list[Line]] = {}
    for row in run.conformance:
        there = {
            column: _cell([r for r in rows[row.id].results if r.flavour == flavour], row.untested)
            if row.id in rows
            else _cell([], row.untested)
            for column, (rows, flavour) in others.items()
        }
        sections.setdefault(row.section, []).append(_line(row, flavours, there))
    return Table(flavours, list(others), sections)


def _flavours(rows: Iterable[ConformanceRecord]) -> list[str]:
    return sorted({r.flavour for row in rows for r in row.results}, key=_perf_first)


def sentence(made: Table) -> str:
    """``N rows: 40 passed on perf, 38 on debug; 2 failed: ...; 1 not testable``."""
    total = count(len(made.lines), "row")
    passed = [
        f"{sum(line.cells[f].state == 'pass' for line in made.lines)} {'passed ' * (i == 0)}on {f}"
        for i, f in enumerate(made.flavours)
    ]
    parts = [", ".join(passed)] if passed else []
    if made.failed:
        parts.append(f"{len(made.failed)} failed: {', '.join(line.row.id for line in made.failed)}")
    untested = sum(line.row.untested is not None for line in made.lines)
    without = sum(not line.row.results and line.row.untested is None for line in made.lines)
    parts += [f"{untested} not testable"] if untested else []
    parts += [f"{without} without a result"] if without else []
    return f"{total}: {'; '.join(parts)}"


def by_test(run: Run) -> dict[str, tuple[list[str], list[str]]]:
    """By node id: the rows that the test served, and what it saw."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for row in run.conformance:
        for result in row.results:
            found.setdefault(result.nodeid, ([], result.seen))[0].append(row.id)
    return found


def _line(row: ConformanceRecord, flavours: Sequence[str], others: dict[str, Cell]) -> Line:
    by_flavour = {f: [r for r in row.results if r.flavour == f] for f in flavours}
    return Line(
        row=row,
        cells={f: _cell(results, row.untested) for f, results in by_flavour.items()},
        others=others,
        seen=list(dict.fromkeys(text for r in row.results for text in r.seen)),
        tests=[r.nodeid for r in row.results],
    )


def _cell(results: Sequence[RowResult], untested: str | None) -> Cell:
    """The worst of a row's tests decides; a skipped test says nothing as long as another one ran."""
    outcomes = [r.outcome for r in results]
    bad = sum(o in _FAILED for o in outcomes)
    if bad:
        return Cell("fail", "failed" if len(outcomes) == 1 else f"{bad} of {len(outcomes)} failed")
    for outcome, word in (("inconclusive", "undecided"), ("xfailed", "fails, as is known")):
        if outcome in outcomes:
            return Cell("inconclusive", word)
    passed = outcomes.count("passed")
    if passed:
        return Cell("pass", "passed" if passed == 1 else f"passed ({passed})")
    if outcomes:
        return Cell("none", "skipped")
    return Cell("none", "not testable" if untested else "not run")


def _perf_first(flavour: str) -> tuple[bool, str]:
    return flavour != "perf", flavour
