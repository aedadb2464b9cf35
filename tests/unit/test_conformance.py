from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import run_builder

from harness import project
from harness.conformance import Conformance
from harness.record import load
from harness.report import conformance, junit, terminal


def item(name: str, *ids: str, flavour: str | None = None, file: str = "test_a.py") -> Any:
    params = {} if flavour is None else {"flavour": flavour}
    return SimpleNamespace(
        nodeid=f"tests/guest/{file}::{name}",
        path=project.ROOT / "tests" / "guest" / file,
        callspec=SimpleNamespace(params=params),
        iter_markers=lambda kind: [SimpleNamespace(args=ids)] if kind == "contract" else [],
    )


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a project with three rows, the last of them not testable, and the files test_a.py and test_b.py."""
    folder = tmp_path / "tests" / "guest" / "contract"
    folder.mkdir(parents=True)
    text = "".join(f'[[row]]\nid = "ctr-0{i}"\nsection = "S"\nsays = "{i}."\n' for i in (1, 2, 3))
    (folder / "ctr.toml").write_text(f'{text}untested = "it is not to be seen"\n')
    for name in ("test_a.py", "test_b.py"):
        (folder.parent / name).touch()
    monkeypatch.setattr(project, "ROOT", tmp_path)
    option = SimpleNamespace(keyword="", markexpr="", deselect=None)
    return SimpleNamespace(option=option, args=[str(folder.parent)])


def test_of_some_tests_only_their_rows_are_recorded(config: Any) -> None:
    made = Conformance(config, [item("test_x", "ctr-02"), item("test_y")])
    assert [row.id for row in made.rows] == ["ctr-02"]
    assert made.concerns("tests/guest/test_a.py::test_x")
    assert not made.concerns("tests/guest/test_a.py::test_y")


def test_of_the_whole_suite_every_row_is_recorded(config: Any) -> None:
    items = [item("test_x", "ctr-02"), item("test_y", file="test_b.py")]
    assert [row.id for row in Conformance(config, items).rows] == ["ctr-01", "ctr-02", "ctr-03"]
    config.option.keyword = "x"
    assert [row.id for row in Conformance(config, items).rows] == ["ctr-02"]


def test_a_result_goes_to_each_row_of_its_test_with_its_flavour(config: Any) -> None:
    items = [item("test_x[perf]", "ctr-01", "ctr-02"), item("test_x[debug]", "ctr-02", flavour="debug")]
    made = Conformance(config, items)
    made.ended(items[0].nodeid, "passed", ["EINVAL"])
    made.ended(items[1].nodeid, "failed", [])
    told = {row.id: [(r.flavour, r.outcome, r.seen) for r in row.results] for row in made.rows}
    assert told == {
        "ctr-01": [("perf", "passed", ["EINVAL"])],
        "ctr-02": [("perf", "passed", ["EINVAL"]), ("debug", "failed", [])],
    }


def test_a_clean_up_that_fails_replaces_the_pass(config: Any) -> None:
    test = item("test_x", "ctr-01")
    made = Conformance(config, [test])
    made.ended(test.nodeid, "passed", ["EINVAL"])
    made.ended(test.nodeid, "error", ["EINVAL", "a device was left"])
    assert [(r.outcome, len(r.seen)) for r in made.rows[0].results] == [("error", 2)]


def test_one_line_sums_up(tmp_path: Path) -> None:
    run = run_builder.passing(tmp_path)
    assert (
        conformance.sentence(conformance.table(run)) == "3 rows: 2 passed on perf, 1 on debug; 1 not testable"
    )


def test_the_worst_test_of_a_row_decides(tmp_path: Path) -> None:
    made = conformance.table(run_builder.failing(tmp_path))
    words = {line.row.id: [cell.word for cell in line.cells.values()] for line in made.lines}
    assert made.flavours == ["perf", "debug"]
    assert words == {
        "ctr-01": ["passed", "passed"],
        "ctr-02": ["passed (2)", "skipped"],
        "msg-reset-01": ["not testable", "not testable"],
        "msg-weight-01": ["1 of 2 failed", "failed"],
        "msg-weight-02": ["undecided", "not run"],
        "msg-weight-03": ["not run", "not run"],
    }
    assert conformance.sentence(made) == (
        "6 rows: 2 passed on perf, 1 on debug; 1 failed: msg-weight-01; 1 not testable; 1 without a result"
    )


def test_an_expected_failure_is_no_pass_and_an_unexpected_pass_fails(tmp_path: Path) -> None:
    made = run_builder.recorder(tmp_path)
    with made.change() as run:
        run.conformance = [
            run_builder.row("ctr-01", ("perf", "xfailed")),
            run_builder.row("ctr-02", ("perf", "xpassed")),
        ]
    lines = conformance.table(run_builder.finished(made)).lines
    assert [line.cells["perf"].state for line in lines] == ["inconclusive", "fail"]


def test_rows_survive_the_record(tmp_path: Path) -> None:
    run = run_builder.failing(tmp_path)
    assert load(tmp_path).conformance == run.conformance


def test_the_terminal_has_one_line_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.summary(run_builder.passing(tmp_path), tmp_path)
    assert "conformance: 3 rows: 2 passed on perf" in capsys.readouterr().out


def test_junit_names_the_rows_of_a_test_and_what_it_saw(tmp_path: Path) -> None:
    made = run_builder.recorder(tmp_path)
    with made.change() as run:
        run.conformance = [run_builder.row("ctr-01", ("perf", "passed"), seen=("EINVAL", "\x1b[2J"))]
        run.tests[0].nodeid = run.conformance[0].results[0].nodeid
    text = junit.render(run_builder.finished(made))
    assert '<property name="contract" value="ctr-01"' in text
    assert '<property name="seen" value="EINVAL; \N{SYMBOL FOR ESCAPE}[2J"' in text
