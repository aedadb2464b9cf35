from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import run_builder

from harness import project, record, report
from harness.figure import Figure
from harness.mutant import MutantOutcome, MutantRecord
from harness.record import Run
from harness.report import beside

FIGURE = Figure(about="The driver", what="latency", value=1.5, unit="%", goal=2, how="reads")


def mutant(name: str, outcome: MutantOutcome = "killed") -> MutantRecord:
    return MutantRecord(
        name=name, mistake=f"{name} is forgotten", about="x", flavour="perf", tests=["t"], outcome=outcome
    )


def other(folder: Path, hours: int, *mutants: MutantRecord, figures: list[Figure] | None = None) -> Run:
    """A run of the same series, begun so much later."""
    made = run_builder.recorder(folder)
    with made.change() as run:
        run.started += timedelta(hours=hours)
        run.scenarios, run.tests, run.conformance, run.machines = [], [], [], []
        run.mutants, run.figures = list(mutants), figures or []
    return run_builder.finished(made)


def test_the_newest_of_each_is_found(tmp_path: Path) -> None:
    run = run_builder.passing(tmp_path / "mine")
    other(tmp_path / "new", 2, mutant("a", "survived"))
    other(tmp_path / "old", 1, mutant("a"), mutant("b"), figures=[FIGURE])
    (tmp_path / "latest").symlink_to("new")
    found = beside.find(run, tmp_path / "mine")
    assert {m.name: m.outcome for m in found.mutants} == {"a": "survived", "b": "killed"}
    assert list(found.mutant_runs) == ["new", "old"]
    assert (found.figures, list(found.figure_runs)) == ([FIGURE], ["old"])


def test_another_series_and_what_cannot_be_read_have_nothing_to_tell(tmp_path: Path) -> None:
    run = run_builder.passing(tmp_path / "mine")
    other(tmp_path / "theirs", 1, mutant("a"))
    theirs = record.load(tmp_path / "theirs")
    assert theirs.series is not None
    theirs.series.digest = "00" * 32
    (tmp_path / "theirs" / "run.json").write_text(theirs.model_dump_json())
    for number, text in enumerate(("{", "[]", '{"kernel": 1}')):
        (tmp_path / f"broken{number}").mkdir()
        (tmp_path / f"broken{number}" / "run.json").write_text(text)
    found = beside.find(run, tmp_path / "mine")
    assert found.mutants == [] and found.figures == []


def test_mutants_without_a_verdict_are_counted_for_the_projects_own_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_builder.passing(tmp_path / "runs" / "mine")
    other(tmp_path / "runs" / "other", 1, mutant("a"))
    (tmp_path / "mutants" / "ioband-2.6.31").mkdir(parents=True)
    for name in "abc":
        (tmp_path / "mutants" / "ioband-2.6.31" / f"{name}.patch").touch()
    monkeypatch.setattr(project, "mutants_dir", lambda series: tmp_path / "mutants" / series)
    monkeypatch.setattr(project, "patches_dir", lambda: tmp_path / "patches")
    assert beside.find(run, tmp_path / "runs" / "mine").unknown is None
    (tmp_path / "patches" / "ioband-2.6.31").mkdir(parents=True)
    assert beside.find(run, tmp_path / "runs" / "mine").unknown == 2


def test_the_report_shows_them_as_not_its_own_and_keeps_its_verdict(tmp_path: Path) -> None:
    run_builder.passing(tmp_path / "mine")
    other(tmp_path / "other", 1, mutant("a", "survived"), figures=[FIGURE])
    page = report.write_all(tmp_path / "mine").html.read_text()
    assert page.count("Not of this run: of run <code>other</code>") == 2
    assert "a is forgotten" in page and "survived</span>" in page and "latency" in page
    assert "<title>PASS" in page
    own = report.write_all(tmp_path / "other").html.read_text()
    assert "Not of this run" not in own and "a is forgotten" in own and "<title>FAIL" in own


def test_what_validating_found_is_found_too(tmp_path: Path) -> None:
    run = run_builder.passing(tmp_path / "mine")
    validated = run_builder.validated(tmp_path / "validated")
    found = beside.find(run, tmp_path / "mine")
    assert found.validation == validated.validation
    assert list(found.validation_runs) == ["validated"]
    assert "Patches" in report.write_all(tmp_path / "mine").html.read_text()


def elsewhere(folder: Path, hours: int, version: str = "6.1.1") -> Run:
    """A run of the project's series for another kernel, begun so much later."""
    made = run_builder.recorder(folder)
    with made.change() as run:
        run.started += timedelta(hours=hours)
        assert run.kernel and run.series
        run.kernel = run.kernel.model_copy(update={"name": "6.1", "version": version, "tree": version})
        run.series = run.series.model_copy(update={"name": "ioband-6.1", "digest": "61" * 32})
    return run_builder.finished(made)


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs; the project has a series for each of two kernels."""
    for name in ("ioband-2.6.31", "ioband-6.1"):
        (tmp_path / "patches" / name).mkdir(parents=True)
    monkeypatch.setattr(project, "patches_dir", lambda: tmp_path / "patches")
    return tmp_path / "runs"


def test_another_kernel_stands_beside(both: Path) -> None:
    run = run_builder.passing(both / "mine")
    elsewhere(both / "older", 1, "6.1.1")
    there = elsewhere(both / "newer", 2, "6.1.2")
    (other,) = beside.find(run, both / "mine").kernels
    assert other.kernel.version == "6.1.2"
    assert list(other.runs) == ["newer"], "of the older one neither tree nor series is the same"
    assert set(other.rows) == {row.id for row in there.conformance if row.results}
    assert set(other.scenarios) == {s.name for s in there.scenarios}
    page = report.write_all(both / "mine").html.read_text()
    assert "On other kernels" in page and "Linux 6.1.2" in page and "<th>6.1 perf</th>" in page
    assert "<title>PASS" in page


def test_a_series_of_ones_own_is_not_compared_with_the_projects(both: Path) -> None:
    run = run_builder.passing(both / "mine")
    elsewhere(both / "other", 1)
    assert run.series is not None
    run.series = run.series.model_copy(update={"name": "mine"})
    assert beside.find(run, both / "mine").kernels == []


def test_a_run_without_tests_has_no_other_kernel(both: Path) -> None:
    other(both / "mine", 1, mutant("a"))
    elsewhere(both / "other", 2)
    assert beside.find(record.load(both / "mine"), both / "mine").kernels == []


def test_of_several_coverages_the_one_of_most_tests(tmp_path: Path) -> None:
    run = run_builder.passing(tmp_path / "mine")
    for hours, (name, ran) in enumerate({"all": 19, "one-test": 3, "few": 7}.items()):
        other(tmp_path / name, hours)
        theirs = record.load(tmp_path / name)
        theirs.coverage = run_builder.covered(ran)
        (tmp_path / name / "run.json").write_text(theirs.model_dump_json(indent=1))
    found = beside.find(run, tmp_path / "mine")
    assert (found.coverage, list(found.coverage_runs)) == (run_builder.covered(19), ["all"])
    page = report.write_all(tmp_path / "mine").html.read_text()
    assert "Not of this run: of run <code>all</code>" in page and "95.0 % of 20 added lines" in page
    own = beside.find(record.load(tmp_path / "few"), tmp_path / "few")
    assert own.coverage is None
