"""``harness soak``: the good series passes everything, again and again. It ends with the first round that does not.

A round is long. Those that passed in a row are counted in the cache, for as long as neither the kernels, nor the
guest's programs, nor the tests, nor what judges them in the harness change: the command goes on where it ended before.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness import child, progress, project, suite, testbed
from harness.errors import EXIT_PASSED
from harness.kbuild import BuildSpec
from harness.record import Run
from harness.store import Store, digest
from harness.testbed import Testbed

SUITE = ("tests/guest", "-m", "not exact")
KIND = "soak"


def run(rounds: int, kernel: str, series: Path | None, selection: Sequence[str], *, again: bool) -> int:
    """Run the selection (the guest suite without what is exact, for none) until it has passed so many times in a row;
    the exit code of the last round.

    again: count from the start. The folder of a round that passed is left as well: its report tells how long each
    test took. Raises HarnessError as `testbed.prepare` does.
    """
    store, shown = Store.default(), progress.default()
    words = list(selection or SUITE)
    streak = Streak(store, testbed.prepare(store, kernel, series, shown), words)
    if again:
        streak.broken()
    if streak.length:
        shown.say(f"rounds that passed before, with the same kernels and tests: {streak.length}")
    options = [
        "--kernel",
        kernel,
        "--workers",
        "0",
        *(["--series", str(series.absolute())] if series else []),
    ]
    folder = project.new_run_folder()
    passed: Counter[str] = Counter()
    first = streak.length + 1
    with child.Children() as children, shown.task("soak", max(0, rounds - streak.length)) as task:
        for number in range(first, rounds + 1):
            done = children.harness_test(folder / f"round-{number}", [*options, *words])
            code = done.run.exit_code or EXIT_PASSED
            outcomes = child.outcomes(done.run)
            passed.update(name for name, outcome in outcomes.items() if outcome == "passed")
            good = sum(outcome == "passed" for outcome in outcomes.values())
            shown.say(
                f"round {number} of {rounds}: {good} passed{'' if code == EXIT_PASSED else f', exit code {code}'}"
            )
            task.advance()
            if code == EXIT_PASSED:
                streak.longer()
            else:
                streak.broken()
                _flaky(done.run, outcomes, passed, number - first)
                sys.stderr.write(f"report: {_nearer(done.folder / 'report.html')}\n")
                return code
    return EXIT_PASSED


class Streak:
    """How many rounds have passed in a row: one entry of the cache for each. Whatever the kernels are made of, and
    every file that the tests are made of, is part of the key, and with them the harness (`suite.judges`).
    """

    def __init__(self, store: Store, bed: Testbed, words: Sequence[str]) -> None:
        self._store = store
        specs = [
            BuildSpec(
                kernel=bed.spec, tree=bed.tree, series=bed.series, flavour=flavour, compiler=bed.compiler
            )
            for flavour in bed.spec.flavours
        ]
        folder = project.ROOT / "tests" / "guest"
        tests = sorted(folder.rglob("*.py"))
        data = [*folder.rglob("*.toml"), *project.scenarios_dir().glob("*.toml")]
        self._digest = digest(
            *(spec.key for spec in specs),
            bed.image.key,
            bed.spec.told([path.read_text() for path in tests]),
            suite.judges(),
            *sorted([*tests, *data]),
            *words,
        )
        self.length = 0
        while store.find(KIND, self._key(self.length + 1)) is not None:
            self.length += 1

    def _key(self, number: int) -> str:
        return digest(self._digest, str(number))

    def longer(self) -> None:
        self.length += 1
        when = datetime.now(UTC).isoformat()

        def make(folder: Path) -> None:
            (folder / "passed").write_text(when)

        self._store.build(KIND, self._key(self.length), make, what=f"round {self.length} passed")

    def broken(self) -> None:
        """Back to none."""
        keys = {self._key(number) for number in range(1, self.length + 1)}
        for entry in self._store.entries():
            if entry.kind == KIND and entry.key in keys:
                self._store.remove(entry)
        self.length = 0


def _flaky(run: Run, outcomes: dict[str, str], passed: Counter[str], rounds: int) -> None:
    """What did not pass, and how often it had in the rounds before: a test that had is flaky."""
    from rich.console import Console
    from rich.table import Table

    table = Table("test", "outcome", "passed before", "said", box=None, pad_edge=False)
    for name, outcome in outcomes.items():
        if outcome in ("failed", "error", "inconclusive", "xpassed"):
            said = child.said(run, name).strip().partition("\n")[0]
            table.add_row(name, outcome, f"{passed[name]} of {rounds}", said)
    console = Console(highlight=False, markup=False)
    console.print(table)
    if run.error is not None:
        console.print(run.error.message)


def _nearer(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
