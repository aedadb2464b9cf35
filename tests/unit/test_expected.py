"""Bounds of figures, domains, and scenarios that are expected to fail: the rule, and what reports say about it."""

from __future__ import annotations

from pathlib import Path

import pytest
import run_builder

from harness import report
from harness.record import GroupRecord, Recorder, load
from harness.report import summary
from harness.shares import Bound, Sample, Verdict, judge, scenario_verdict

WHY = "documented: nothing is in flight"


def figured(*values, **bound):
    samples = [
        Sample(seed=n, ios={"a": 1}, seconds=1.0, backlogged={"a": True}, figures={"x": value})
        for n, value in enumerate(values, 1)
    ]
    return judge(samples, {}, bounds=[Bound(label="x", unit="s", **bound)])


@pytest.mark.parametrize(
    ("values", "bound", "verdict"),
    [
        ((1.0, 1.1, 0.9), {"at_most": 2.0}, Verdict.PASS),
        ((3.0, 3.1, 2.9), {"at_most": 2.0}, Verdict.FAIL),
        ((2.0, 2.1, 1.9), {"at_most": 2.0}, Verdict.INCONCLUSIVE),
        ((3.0, 3.1, 2.9), {"at_least": 2.0}, Verdict.PASS),
        ((3.0, 3.1, 2.9), {"at_least": 2.0, "at_most": 2.5}, Verdict.FAIL),
        ((3.0, 99.0, -5.0), {}, Verdict.PASS),
        ((0.0, 0.0, 0.0), {"at_most": 0.0}, Verdict.PASS),
    ],
)
def test_the_interval_of_a_figure_decides(values, bound, verdict):
    judged = figured(*values, **bound)
    assert judged.verdict is verdict
    assert (judged.next_look is not None) == (verdict is Verdict.INCONCLUSIVE)
    assert not judged.reasons or judged.reasons[0].startswith("x is ")


def test_nothing_to_judge_is_a_mistake():
    with pytest.raises(ValueError, match="nothing to judge"):
        judge([], {})


def test_shares_are_of_the_groups_own_domain():
    samples = [
        Sample(
            seed=n,
            ios={"a": 800 + n, "b": 200, "c": 70, "d": 30},
            seconds=1.0,
            backlogged=dict.fromkeys("abcd", True),
        )
        for n in (1, 2, 3)
    ]
    goal = {"a": 0.8, "b": 0.2, "c": 0.7, "d": 0.3}
    parts = {"a": "x", "b": "x", "c": "y", "d": "y"}
    assert judge(samples, goal, parts=parts).verdict is Verdict.PASS
    with pytest.raises(ValueError, match="sum to 1"):
        judge(samples, goal)
    starved = [s.model_copy(update={"ios": {**s.ios, "c": 0, "d": 0}}) for s in samples]
    assert judge(starved, goal, parts=parts).verdict is Verdict.INCONCLUSIVE


def test_an_expected_failure_passes_by_failing_and_fails_by_passing():
    bad, good = figured(3.0, 3.1, 2.9, at_most=2.0), figured(1.0, 1.1, 0.9, at_most=2.0)
    open_ = figured(2.0, 2.1, 1.9, at_most=2.0)
    assert scenario_verdict(bad, {}, expected_failure=WHY) == (Verdict.PASS, [])
    verdict, reasons = scenario_verdict(good, {}, expected_failure=WHY)
    assert verdict is Verdict.FAIL and WHY in reasons[0]
    assert scenario_verdict(open_, {}, expected_failure=WHY)[0] is Verdict.INCONCLUSIVE


def test_beside_an_expected_failure_stands_a_control_that_must_reach():
    bad, good = figured(3.0, 3.1, 2.9, at_most=2.0), figured(1.0, 1.1, 0.9, at_most=2.0)
    reached = scenario_verdict(bad, {"t": good}, reaching=["t"], expected_failure=WHY)
    assert reached == (Verdict.PASS, [])
    verdict, reasons = scenario_verdict(bad, {"t": bad}, reaching=["t"], expected_failure=WHY)
    assert verdict is Verdict.INCONCLUSIVE and "must reach" in reasons[0]


def made(folder: Path) -> Recorder:
    """A run of one expected failure with a figure, published shares and a control that reaches."""
    recorder = Recorder.start(folder, ["harness", "test"])
    entry = run_builder.scenario("low-depth", {"a": 80, "b": 20}, {"a": 0.5, "b": 0.5})
    entry.expected_failure, entry.published = WHY, "A list, 2008"
    entry.groups = [
        GroupRecord(name=g.name, weight=g.weight, target=g.target, published=49.3) for g in entry.groups
    ]
    entry.samples = [s.model_copy(update={"figures": {"settled": 0.5}}) for s in entry.samples]
    bounds = [Bound(label="settled", unit="s", at_most=0.2, why="one epoch", published=0.1)]
    entry.judged = judge(entry.samples, {"a": 0.8, "b": 0.2}, bounds=bounds)
    entry.controls[0].reaches = True
    entry.verdict, entry.reasons = Verdict.PASS, []
    with recorder.change() as run:
        run.scenarios.append(entry)
    recorder.finish()
    return recorder


def test_reports_say_that_it_is_expected_and_why(tmp_path, capsys):
    recorder = made(tmp_path)
    report.write_all(tmp_path)
    page = (tmp_path / "report.html").read_text()
    for text in (
        "EXPECTED FAILURE",
        WHY,
        "one epoch",
        "at most 0.2",
        "published 49.3",
        "A list, 2008",
        "as it must",
    ):
        assert text in page
    assert "expected failure" in (tmp_path / "junit.xml").read_text()
    assert summary.headline(load(tmp_path))[1].startswith(
        "0 scenarios are on target, 1 is not, as documented"
    )
    from harness.report import terminal

    terminal.summary(recorder.run, tmp_path)
    printed = capsys.readouterr().out
    assert "EXPECTED" in printed and "settled" in printed and "0.5" in printed
