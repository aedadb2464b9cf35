"""pytest's side of the conformance contract: which test serves which rows, and the rows' results as tests end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from harness import contract, project
from harness.contract import ConformanceRecord, Row, RowOutcome, RowResult
from harness.errors import UserError

DEFAULT_FLAVOUR = "perf"


class _Test(NamedTuple):
    ids: tuple[str, ...]
    flavour: str


def row_ids(item: pytest.Item) -> tuple[str, ...]:
    """The rows that a test serves, each once, in the order of its markers."""
    return tuple(dict.fromkeys(i for marker in item.iter_markers("contract") for i in marker.args))


def whole_suite(config: pytest.Config, items: Sequence[pytest.Item]) -> bool:
    """Whether everything in ``tests/guest`` is selected: then the record has rows that no test serves, too."""
    every = set((project.ROOT / "tests" / "guest").glob("test_*.py"))
    narrowed = config.option.keyword or config.option.markexpr or config.option.deselect
    return not narrowed and not any("::" in a for a in config.args) and every <= {item.path for item in items}


def check(items: Sequence[pytest.Item]) -> None:
    """Raises pytest.UsageError: a test names a row that does not exist, or one that says that it cannot be tested."""
    tested = {row for item in items for row in row_ids(item)}
    if not tested:
        return
    try:
        rows = contract.load_all(project.contract_dir())
    except UserError as e:
        raise pytest.UsageError(str(e)) from e
    for wrong in contract.wrong_ids(rows, tested):
        row = wrong.partition(":")[0]
        who = next(item.nodeid for item in items if row in row_ids(item))
        raise pytest.UsageError(f"{who}: contract row {wrong} (tests/guest/contract/)")


class Conformance:
    """Rows and results of one pytest run; ``rows`` is what goes into the record."""

    def __init__(self, config: pytest.Config, items: Sequence[pytest.Item]) -> None:
        self._tests = {
            item.nodeid: _Test(row_ids(item), flavour_of(item) or DEFAULT_FLAVOUR)
            for item in items
            if row_ids(item)
        }
        tested = {row for test in self._tests.values() for row in test.ids}
        whole = whole_suite(config, items)
        known: dict[str, Row] = contract.load_all(project.contract_dir()) if tested or whole else {}
        wanted = [row for row in known.values() if row.id in tested or whole]
        self.rows = [ConformanceRecord(**row.model_dump()) for row in wanted]
        self._by_id = {row.id: row for row in self.rows}

    def concerns(self, nodeid: str) -> bool:
        """Whether the test serves any row."""
        return nodeid in self._tests

    def ended(self, nodeid: str, outcome: RowOutcome, seen: Sequence[str]) -> None:
        """A test ended, or its clean-up failed after it: that replaces what was said of it."""
        test = self._tests[nodeid]
        result = RowResult(nodeid=nodeid, flavour=test.flavour, outcome=outcome, seen=list(seen))
        for row in test.ids:
            results = self._by_id[row].results
            results[:] = [r for r in results if r.nodeid != nodeid] + [result]


def flavour_of(item: pytest.Item) -> str | None:
    """Of the kernel that a test runs on: the parameter ``flavour`` where it has one."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("flavour") if callspec else None
