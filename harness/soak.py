"""``harness soak``: the good series passes everything, again and again. It ends with the first round that does not."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness import child, progress, project
from harness.errors import EXIT_PASSED
from harness.record import Run

SUITE = ("tests/guest",)


def run(rounds: int, selection: Sequence[str], options: Sequence[str]) -> int:
    """Run the selection (the guest suite for none) so many times; the exit code of the last round.

    options: of `harness test`, for every round. The folder of a round that passed is left as well: its report
    tells how long each test took.
    """
    folder = project.new_run_folder()
    shown = progress.default()
    passed: Counter[str] = Counter()
    with child.Children() as children, shown.task("soak", rounds) as task:
        for number in range(1, rounds + 1):
            done = children.harness_test(folder / f"round-{number}", [*options, *(selection or SUITE)])
            code = done.run.exit_code or EXIT_PASSED
            outcomes = child.outcomes(done.run)
            passed.update(name for name, outcome in outcomes.items() if outcome == "passed")
            good = sum(outcome == "passed" for outcome in outcomes.values())
            shown.say(
                f"round {number} of {rounds}: {good} passed{'' if code == EXIT_PASSED else f', exit code {code}'}"
            )
            task.advance()
            if code != EXIT_PASSED:
                _flaky(done.run, outcomes, passed, number)
                sys.stderr.write(f"report: {_nearer(done.folder / 'report.html')}\n")
                return code
    return EXIT_PASSED


def _flaky(run: Run, outcomes: dict[str, str], passed: Counter[str], number: int) -> None:
    """What did not pass, and how often it had before: a test that had is flaky."""
    from rich.console import Console
    from rich.table import Table

    table = Table("test", "outcome", "passed before", "said", box=None, pad_edge=False)
    for name, outcome in outcomes.items():
        if outcome in ("failed", "error", "inconclusive", "xpassed"):
            said = child.said(run, name).strip().partition("\n")[0]
            table.add_row(name, outcome, f"{passed[name]} of {number - 1}", said)
    console = Console(highlight=False, markup=False)
    console.print(table)
    if run.error is not None:
        console.print(run.error.message)


def _nearer(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
