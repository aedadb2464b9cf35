from __future__ import annotations

from pathlib import Path
from typing import Any

import run_builder
from junitparser import Error, Failure, JUnitXml, Skipped

from harness.record import ErrorRecord
from harness.report import junit
from harness.shares import Verdict


def cases(text: str) -> dict[str, Any]:
    """Case by "classname/name"."""
    return {f"{c.classname}/{c.name}": c for suite in JUnitXml.fromstring(text.encode()) for c in suite}


def test_a_passing_run_has_no_failure(tmp_path: Path) -> None:
    text = junit.render(run_builder.passing(tmp_path))
    xml = JUnitXml.fromstring(text.encode())
    assert (xml.failures, xml.errors, xml.skipped, xml.tests) == (0, 0, 1, 9)
    assert not cases(text)["scenarios/cgroup-80-20"].result
    assert not cases(text)["scenarios.cgroup-80-20.controls/compat"].result


def test_a_case_has_its_shares_and_the_time_its_machines_took(tmp_path: Path) -> None:
    run = run_builder.passing(tmp_path)
    text = junit.render(run)
    assert cases(text)["scenarios/cgroup-80-20"].time == 8.6
    assert 'name="target of a, %" value="80.00"' in text
    assert 'name="clock" value="virtual"' in text


def test_fail_inconclusive_and_a_bad_control(tmp_path: Path) -> None:
    found = cases(junit.render(run_builder.failing(tmp_path)))
    (fail,) = found["scenarios/cgroup-80-20"].result
    assert isinstance(fail, Failure)
    assert "outside" in fail.message
    (undecided,) = found["scenarios/cgroup-40-20-10"].result
    assert isinstance(undecided, Error)
    assert undecided.type == "inconclusive"
    (control,) = found["scenarios.uid-50-50.controls/compat"].result
    assert isinstance(control, Failure)


def test_tests_keep_their_outcome_and_message(tmp_path: Path) -> None:
    found = cases(junit.render(run_builder.failing(tmp_path)))
    (failed,) = found["tests.guest.test_dm/test_status"].result
    assert isinstance(failed, Failure)
    assert "where 5 = len(words)" in failed.text
    (skipped,) = found["tests.guest.test_dm/test_61"].result
    assert isinstance(skipped, Skipped)


def test_a_death_is_an_error_with_its_trace(tmp_path: Path) -> None:
    found = cases(junit.render(run_builder.dying(tmp_path)))
    (death,) = found["kernel/guest kernel of m02 lives"].result
    assert isinstance(death, Error)
    assert death.type == "panic"
    assert "dm-ioband-ctl.c:812" in death.text
    (scenario,) = found["scenarios/cgroup-40-20-10"].result
    assert isinstance(scenario, Error)


def test_guest_text_cannot_break_the_file(tmp_path: Path) -> None:
    made = run_builder.recorder(tmp_path)
    made.update(error=ErrorRecord(kind="GuestLost", message="]]>\x00\x1b\uffff <x>", exit_code=5))
    found = cases(junit.render(run_builder.finished(made)))
    (error,) = found["run/run finishes"].result
    assert error.message == "]]>\N{SYMBOL FOR NULL}\N{SYMBOL FOR ESCAPE}<U+FFFF> <x>"


def test_patches_and_configurations_are_cases(tmp_path: Path) -> None:
    found = cases(junit.render(run_builder.validated(tmp_path / "run", good=False)))
    assert not found["patches/0001-a.patch"].result
    (mend,) = found["patches/0002-b.patch"].result
    assert mend.message == "a.c:7: <x> is not used [-Wunused]"
    (mend,) = found["patches/module"].result
    assert mend.message == "it does not compile:"
    assert "a.c: error" in mend.text


def test_of_a_comparison_only_the_series_can_fail(tmp_path: Path) -> None:
    found = cases(junit.render(run_builder.compared(tmp_path / "run", verdict=Verdict.FAIL)))
    assert {name.rpartition("/")[2] for name in found} == {"none", "series", "fair", "unfair"}
    (failure,) = found["comparisons.cgroup-80-20/series"].result
    assert isinstance(failure, Failure)
    assert not found["comparisons.cgroup-80-20/unfair"].result
    text = junit.render(run_builder.compared(tmp_path / "other"))
    assert 'name="verdict" value="FAIL"' in text and JUnitXml.fromstring(text.encode()).failures == 0
