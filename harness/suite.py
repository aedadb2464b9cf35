"""The guest suite as pytest collects it: tests by node id, the flavours they run on and the rows they serve."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import conformance, project
from harness.errors import UserError
from harness.store import digest

# Modules of the harness that decide nothing about a test: what shows and what starts, what measures speed, what
# judges patches, what says which of their lines ran, and the two commands that ask for the digest (of `mutants`,
# RECIPE is part of its keys).
NOT_JUDGING = frozenset(
    (
        *("__main__", "cli", "interactive", "progress", "fetch"),
        *("bench", "drivercost", "checkpatch", "validate", "validation"),
        *("blame", "coverage", "executed", "gcov"),
        *("mutant", "mutants", "soak"),
    )
)


@dataclass(frozen=True)
class Test:
    """A test. flavour: None where it has no parameter of that name. rows: of the contract."""

    __test__ = False  # no pytest class

    nodeid: str
    flavour: str | None
    rows: tuple[str, ...]

    @property
    def file(self) -> str:
        """Below the project's root."""
        return self.nodeid.partition("::")[0]

    @property
    def plain(self) -> str:
        """The node id without the flavour."""
        name, _, values = self.nodeid.partition("[")
        if self.flavour is None:
            return self.nodeid
        left = "-".join(part for part in values.removesuffix("]").split("-") if part != self.flavour)
        return f"{name}[{left}]" if left else name

    def selected(self, selection: str) -> bool:
        """By a row's id, or by a node id: a test's, or a function's for all its parameters."""
        return selection in self.rows or self.plain == selection or self.plain.startswith(f"{selection}[")


def collect() -> list[Test]:
    """All tests below ``tests/guest``. Raises UserError: pytest cannot collect them."""
    collector = _Collector()
    arguments = [f"--rootdir={project.ROOT}", "-c", str(project.ROOT / "pyproject.toml"), "--collect-only"]
    arguments += ["-p", "no:cacheprovider", str(project.ROOT / "tests" / "guest")]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = pytest.main(arguments, plugins=[collector])
    if code != pytest.ExitCode.OK:
        raise UserError(
            f"the guest suite cannot be collected: {collector.said or said.getvalue().strip()}",
            hint="pytest --collect-only tests/guest says more",
        )
    return collector.tests


def judges(folder: Path = Path(__file__).parent) -> str:
    """sha256 over the harness's own part in whether a test passes: all modules and templates of the package but the
    folder ``report`` and those of ``NOT_JUDGING``. To err on the side of too many is cheap; a change that is not seen
    would keep verdicts that nobody found.
    """
    parts = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in (*folder.rglob("*.py"), *folder.rglob("*.j2"))
        if path.name.partition(".")[0] not in NOT_JUDGING and path.relative_to(folder).parts[0] != "report"
    }
    return digest(*(part for name in sorted(parts) for part in (name, parts[name])))


class _Collector:
    """A pytest plugin."""

    def __init__(self) -> None:
        self.tests: list[Test] = []
        self.said = ""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.tests = [
            Test(item.nodeid, conformance.flavour_of(item), conformance.row_ids(item))
            for item in session.items
        ]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.said:
            self.said = str(report.longrepr).strip()
