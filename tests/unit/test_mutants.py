"""mutants.py and child.py: what counts as a kill, on runs made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fakekernel
import pytest
import run_builder

from harness import child, mutant, mutants, project, suite
from harness.mutant import Mutant, MutantRecord
from harness.record import ErrorRecord, Recorder, Run, TestRecord, exit_code, load
from harness.report import html, junit, summary
from harness.series import Series

FILE = "tests/guest/test_md.py"
ONE, TWO = f"{FILE}::test_one", f"{FILE}::test_two"


@pytest.fixture
def m() -> Mutant:
    base = Series.load(project.patches_dir() / "ioband-2.6.31")
    first = mutant.load_all(project.mutants_dir(base.name), base)[0]
    return replace(first, kills=(ONE, TWO), symptom=None)


def record(m: Mutant) -> MutantRecord:
    return MutantRecord(
        name=m.name, mistake=m.mistake, about=m.about, flavour="perf", tests=list(m.kills), outcome="survived"
    )


def ran(folder: Path, *tests: tuple[str, str, str]) -> Run:
    """A finished run of tests: node id, outcome, message."""
    made = Recorder.start(folder, ["harness", "mutants"]).run
    made.tests = [TestRecord(nodeid=n, outcome=o, seconds=1.0, message=t) for n, o, t in tests]  # type: ignore[arg-type]
    return made


def judged(m: Mutant, run: Run) -> MutantRecord:
    entry = record(m)
    mutants.judge(m, run, entry)
    return entry


def test_a_failed_test_kills(m: Mutant, tmp_path: Path) -> None:
    message = "def test_two():\n>   assert 1 == 2\nE   assert 1 == 2\nE    and more"
    entry = judged(m, ran(tmp_path, (ONE, "passed", ""), (TWO, "failed", message)))
    assert (entry.outcome, entry.killed_by, entry.how) == ("killed", TWO, "assert 1 == 2")


def test_all_passed_is_survival(m: Mutant, tmp_path: Path) -> None:
    entry = judged(m, ran(tmp_path, (ONE, "passed", ""), (TWO, "passed", "")))
    assert (entry.outcome, entry.killed_by, entry.how) == ("survived", None, "")
    entry = judged(m, ran(tmp_path, (ONE, "passed", ""), (TWO, "skipped", "no disk")))
    assert (entry.outcome, entry.how) == ("survived", f"not decided: {TWO}")


@pytest.mark.parametrize("outcome", ["error", "xpassed"])
def test_what_is_no_failure_is_an_accident(m: Mutant, tmp_path: Path, outcome: str) -> None:
    run = ran(
        tmp_path, (ONE, "passed", ""), (ONE, outcome, "the guest was left unclean:\n  a splat: BUG: sleeping")
    )
    assert judged(m, run).outcome == "accident"
    expected = judged(replace(m, symptom="BUG: sleep"), run)
    assert (expected.outcome, expected.killed_by, expected.how) == ("killed", ONE, "a splat: BUG: sleeping")
    assert judged(replace(m, symptom="lockdep"), run).outcome == "accident"


def test_a_dead_kernel_is_an_accident_unless_expected(m: Mutant, tmp_path: Path) -> None:
    run = ran(tmp_path, (ONE, "failed", "KernelPanic: no more epochs"))
    run.deaths = run_builder.dying(tmp_path / "dead").deaths
    assert run.deaths
    entry = judged(m, run)
    assert (entry.outcome, entry.killed_by) == ("accident", ONE)
    word = run.deaths[0].message.split()[-1]
    assert judged(replace(m, symptom=word), run).outcome == "killed"


def test_a_run_that_could_not_be_made(m: Mutant, tmp_path: Path) -> None:
    run = ran(tmp_path)
    run.error = ErrorRecord(kind="UserError", message="no test to run", exit_code=2)
    entry = judged(m, run)
    assert (entry.outcome, entry.how) == ("broken", "no test to run")


def test_scenarios_are_tests(tmp_path: Path) -> None:
    run = run_builder.failing(tmp_path)
    for entry in run.scenarios:
        entry.command = f"harness test 'tests/guest/test_scenarios.py::test_shares[{entry.name}]'"
    found = child.outcomes(run)
    for entry in run.scenarios:
        nodeid = f"tests/guest/test_scenarios.py::test_shares[{entry.name}]"
        assert found[nodeid] == {"pass": "passed", "fail": "failed"}.get(entry.verdict, entry.verdict)
        if entry.verdict == "fail":
            assert child.said(run, nodeid).splitlines()[0] == entry.reasons[0]


def test_changed_tests_are_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "ROOT", tmp_path)
    folder = tmp_path / "tests" / "guest"
    folder.mkdir(parents=True)
    (tmp_path / "tests" / "scenarios").mkdir()
    for name in ("test_a.py", "test_b.py", "other.py", "deep.py", "conftest.py"):
        (folder / name).write_text("pass\n")
    (folder / "test_a.py").write_text("import common\n")
    (folder / "common.py").write_text("from deep import x\n")
    spec = fakekernel.kernel(tmp_path / "kernel")

    def tests_digest() -> str:
        return mutants.tests_digest(["tests/guest/test_a.py"], spec)

    seen = {tests_digest()}
    for name in ("test_b.py", "other.py"):
        (folder / name).write_text("x = 1\n")
        assert tests_digest() in seen, "it does not import that"
    changes = {
        "deep.py": "x = 1",
        "common.py": "import deep as d",
        "conftest.py": "x = 2",
        "test_a.py": "from common import a_scenario",
    }
    for name, text in changes.items():
        (folder / name).write_text(text)
        seen.add(tests_digest())
    (tmp_path / "tests" / "scenarios" / "s.toml").write_text("z")
    seen.add(tests_digest())
    monkeypatch.setattr(suite, "judges", lambda: "another harness")
    seen.add(tests_digest())
    spec = spec.model_copy(update={"append": "another command line"})
    seen.add(tests_digest())
    assert len(seen) == 8


def test_reports(m: Mutant, tmp_path: Path) -> None:
    run = ran(tmp_path)
    run.finished = run.started
    run.mutants = [record(m)]
    assert exit_code(run) == 1
    assert "1 of 1 mutant not killed" in summary.headline(run)[1]
    killed = record(m).model_copy(
        update={"outcome": "killed", "killed_by": ONE, "how": "assert <1>", "seconds": 2.0}
    )
    run.mutants.append(killed)
    page = html.render(run, tmp_path)
    assert m.mistake in page and ONE.removeprefix("tests/guest/") in page and "assert &lt;1&gt;" in page
    assert "2 mutants: 1 killed, 1 survived." in page
    assert page.index("survived</span>") < page.index("killed</span>"), "survivors come first"
    assert 'type="survived"' in junit.render(run)
    run.mutants = [killed]
    assert exit_code(run) == 0
    assert summary.headline(run)[1] == "All 1 mutant were killed."
    (tmp_path / "run.json").write_text(run.model_dump_json())
    assert load(tmp_path).mutants == [killed]
