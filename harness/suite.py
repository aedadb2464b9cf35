"""The guest suite as pytest collects it: tests by node id, the flavours they run on and the rows they serve."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import pytest

from harness import conformance, project
from harness.errors import UserError


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
