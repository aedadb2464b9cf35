"""What other runs of the same kernel and series found, for a report to show beside its own: verdicts on mutants,
figures, what validating found. They decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from harness import project, record
from harness.errors import UserError
from harness.figure import Figure
from harness.mutant import MutantRecord
from harness.record import RUN_JSON, Run
from harness.validation import Validation


@dataclass(frozen=True)
class Beside:
    """mutants, figures, validation: of each the newest; not those of the run itself. mutant_runs, figure_runs,
    validation_runs: id and beginning of the runs that they are from, the newest first. unknown: how many mutants of
    the project none of these runs, nor the run itself, has a verdict on; None where the series is none of the
    project's.
    """

    mutants: list[MutantRecord] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    mutant_runs: dict[str, datetime] = field(default_factory=dict)
    figure_runs: dict[str, datetime] = field(default_factory=dict)
    validation: Validation | None = None
    validation_runs: dict[str, datetime] = field(default_factory=dict)
    unknown: int | None = None


def find(run: Run, folder: Path) -> Beside:
    """Look through the runs in the folders beside this one's."""
    mutants: dict[str, MutantRecord] = {}
    figures: dict[tuple[str, str, str], Figure] = {}
    mutant_runs: dict[str, datetime] = {}
    figure_runs: dict[str, datetime] = {}
    validated: Run | None = None
    for other in sorted(_others(run, folder), key=lambda r: r.started, reverse=True):
        for mutant in other.mutants if not run.mutants else ():
            if mutants.setdefault(mutant.name, mutant) is mutant:
                mutant_runs[other.id] = other.started
        for figure in other.figures if not run.figures else ():
            if figures.setdefault((figure.about, figure.what, figure.how), figure) is figure:
                figure_runs[other.id] = other.started
        if other.validation and not run.validation and not validated:
            validated = other
    return Beside(
        mutants=list(mutants.values()),
        figures=list(figures.values()),
        mutant_runs=mutant_runs,
        figure_runs=figure_runs,
        validation=validated.validation if validated else None,
        validation_runs={validated.id: validated.started} if validated else {},
        unknown=_unknown(run, mutants),
    )


def _others(run: Run, folder: Path) -> list[Run]:
    found = []
    for file in folder.absolute().parent.glob(f"*/{RUN_JSON}"):
        if file.parent.is_symlink() or file.parent.name == folder.absolute().name:
            continue
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
            # Most runs have nothing of it, and a whole record takes a while to check.
            if all(none in text for none in ('"mutants": []', '"figures": []', '"validation": null')):
                continue
            other = record.load(file)
        except (OSError, UserError):  # being removed, or of another version: it has nothing to tell
            continue
        if _subject(other) == _subject(run) is not None:
            found.append(other)
    return found


def _subject(run: Run) -> tuple[str, str] | None:
    return (run.kernel.tree, run.series.digest) if run.kernel and run.series else None


def _unknown(run: Run, found: dict[str, MutantRecord]) -> int | None:
    if run.series is None or not (project.patches_dir() / run.series.name).is_dir():
        return None
    every = {path.stem for path in project.mutants_dir().glob("*.patch")}
    return len(every - found.keys() - {m.name for m in run.mutants})
