"""What other runs found, for a report to show beside its own. They decide nothing.

Of the same kernel and series: verdicts on mutants, figures, what validating found, patch coverage, comparisons with
other controllers. Of the project's series on its other kernels: the contract's rows, and the scenarios.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness import project, record
from harness.comparison import Comparison
from harness.contract import ConformanceRecord
from harness.coverage import Coverage
from harness.errors import UserError
from harness.figure import Figure
from harness.mutant import MutantRecord
from harness.record import RUN_JSON, KernelRecord, Run, ScenarioRecord
from harness.validation import Validation


@dataclass(frozen=True)
class OtherKernel:
    """The project's series on another base kernel. rows, scenarios: by id and name, the newest of each, all of one tree
    and one series. runs: as in `Beside`.
    """

    kernel: KernelRecord
    rows: dict[str, ConformanceRecord]
    scenarios: dict[str, ScenarioRecord]
    runs: dict[str, datetime]


@dataclass(frozen=True)
class Beside:
    """mutants, figures, validation, comparisons: of each the newest; not those of the run itself. coverage: the one
    with the most lines executed, as a run may be of few tests. mutant_runs, figure_runs, validation_runs,
    coverage_runs, comparison_runs: id and beginning of the runs that they are from, the newest first. unknown: how many
    mutants of the project none of these runs, nor the run itself, has a verdict on; None where the series is none of
    the project's. kernels: the other ones, where the run itself has rows or scenarios.
    """

    mutants: list[MutantRecord] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    mutant_runs: dict[str, datetime] = field(default_factory=dict)
    figure_runs: dict[str, datetime] = field(default_factory=dict)
    validation: Validation | None = None
    validation_runs: dict[str, datetime] = field(default_factory=dict)
    coverage: Coverage | None = None
    coverage_runs: dict[str, datetime] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    comparison_runs: dict[str, datetime] = field(default_factory=dict)
    unknown: int | None = None
    kernels: list[OtherKernel] = field(default_factory=list)


def find(run: Run, folder: Path) -> Beside:
    """Look through the runs in the folders beside this one's."""
    mutants: dict[str, MutantRecord] = {}
    figures: dict[tuple[str, str, str], Figure] = {}
    mutant_runs: dict[str, datetime] = {}
    figure_runs: dict[str, datetime] = {}
    comparisons: dict[str, Comparison] = {}
    comparison_runs: dict[str, datetime] = {}
    validated: Run | None = None
    covered: tuple[Run, Coverage] | None = None
    others = _others(run, folder)
    for other in (r for r in others if _subject(r) == _subject(run)):
        for mutant in other.mutants if not run.mutants else ():
            if mutants.setdefault(mutant.name, mutant) is mutant:
                mutant_runs[other.id] = other.started
        for figure in other.figures if not run.figures else ():
            if figures.setdefault((figure.about, figure.what, figure.how), figure) is figure:
                figure_runs[other.id] = other.started
        for made in other.comparisons if not run.comparisons else ():
            if comparisons.setdefault(made.scenario, made) is made:
                comparison_runs[other.id] = other.started
        if other.validation and not run.validation and not validated:
            validated = other
        if other.coverage and not run.coverage:
            covered = max(covered or (other, other.coverage), (other, other.coverage), key=_executed)
    return Beside(
        mutants=list(mutants.values()),
        figures=list(figures.values()),
        mutant_runs=mutant_runs,
        figure_runs=figure_runs,
        validation=validated.validation if validated else None,
        validation_runs={validated.id: validated.started} if validated else {},
        coverage=covered[1] if covered else None,
        coverage_runs={covered[0].id: covered[0].started} if covered else {},
        comparisons=list(comparisons.values()),
        comparison_runs=comparison_runs,
        unknown=_unknown(run, mutants),
        kernels=_kernels(run, others),
    )


def _others(run: Run, folder: Path) -> list[Run]:
    """Of the same subject, or of the project's series on another kernel; the newest first."""
    found = []
    for file in folder.absolute().parent.glob(f"*/{RUN_JSON}"):
        if file.parent.is_symlink() or file.parent.name == folder.absolute().name:
            continue
        try:
            # A whole record takes a while to check, and most have nothing that is asked for.
            if not _Outline.model_validate_json(file.read_bytes()).tells(run):
                continue
            found.append(record.load(file))
        except (
            OSError,
            ValueError,
            UserError,
        ):  # being removed, or of another version: it has nothing to tell
            continue
    return sorted(found, key=lambda r: r.started, reverse=True)


class _Kernel(BaseModel):
    name: str
    tree: str


class _Series(BaseModel):
    name: str
    digest: str


class _Outline(BaseModel):
    """Of a record, what it is about, and what is in it."""

    kernel: _Kernel | None = None
    series: _Series | None = None
    mutants: list[Any] = []
    figures: list[Any] = []
    validation: Any = None
    coverage: Any = None
    conformance: list[Any] = []
    scenarios: list[Any] = []
    comparisons: list[Any] = []

    def tells(self, run: Run) -> bool:
        """Whether it has anything for this run's report."""
        if not self.kernel or not self.series or run.kernel is None or run.series is None:
            return False
        if (self.kernel.tree, self.series.digest) == _subject(run):
            return bool(self.mutants or self.figures or self.validation or self.coverage or self.comparisons)
        apart = self.kernel.name != run.kernel.name and _own(self.series.name) and _own(run.series.name)
        return apart and bool((self.conformance and run.conformance) or (self.scenarios and run.scenarios))


def _own(series: str) -> bool:
    """Whether it is one of the project's."""
    return (project.patches_dir() / series).is_dir()


def _kernels(run: Run, others: list[Run]) -> list[OtherKernel]:
    found: dict[str, OtherKernel] = {}
    subjects: dict[str, tuple[str, str] | None] = {}
    for other in others:
        if other.kernel is None or run.kernel is None or other.kernel.name == run.kernel.name:
            continue
        name = other.kernel.name
        if subjects.setdefault(name, _subject(other)) != _subject(other):
            continue  # what the tree or the series was before
        made = found.setdefault(name, OtherKernel(other.kernel, {}, {}, {}))
        rows = {row.id: row for row in other.conformance if row.results and row.id not in made.rows}
        scenarios = {s.name: s for s in other.scenarios if s.verdict and s.name not in made.scenarios}
        if rows or scenarios:
            made.rows.update(rows)
            made.scenarios.update(scenarios)
            made.runs[other.id] = other.started
    return [found[name] for name in sorted(found) if found[name].runs]


def _executed(pair: tuple[Run, Coverage]) -> int:
    return pair[1].executed


def _subject(run: Run) -> tuple[str, str] | None:
    return (run.kernel.tree, run.series.digest) if run.kernel and run.series else None


def _unknown(run: Run, found: dict[str, MutantRecord]) -> int | None:
    if run.series is None or not _own(run.series.name):
        return None
    every = {path.stem for path in project.mutants_dir(run.series.name).glob("*.patch")}
    return len(every - found.keys() - {m.name for m in run.mutants})
