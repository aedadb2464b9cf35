"""Bounds of figures, domains, and scenarios that are expected to fail: the rule, and what reports say about it."""

from __future__ import annotations

from pathlib import Path

import pytest
import run_builder

from harness import measurement, project, report, scenario
from harness.record import GroupRecord, Recorder, load
from harness.report import summary
from harness.shares import Bound, Sample, Verdict, judge, scenario_verdict

WHY = "documented: nothing is in flight"
SCENARIOS = scenario.load_all(project.scenarios_dir())


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


def phased(first, second, *figures, **bound):
    """An expected failure: shares of group a in two phases, of which the second misses as well, and a figure."""
    samples = [
        Sample(
            seed=n,
            ios={"a": round(1000 * one), "b": round(1000 * (1 - one))},
            seconds=1.0,
            backlogged={"a": True, "b": True},
            figures={"share of a, two": 100 * two, "x": x},
        )
        for n, (one, two, x) in enumerate(zip(first, second, figures, strict=True), 1)
    ]
    two = Bound(label="share of a, two", unit="%", at_least=77, at_most=83, missed="two")
    return judge(
        samples,
        {"a": 0.8, "b": 0.2},
        bounds=[two, Bound(label="x", unit="%", **bound)],
        missed="one",
        expected_failure=WHY,
    )


ON, OFF, BETWEEN = (0.8, 0.801, 0.799), (0.5, 0.501, 0.499), (0.77, 0.771, 0.769)
LOW, HIGH = (1.0, 1.1, 0.9), (3.0, 3.1, 2.9)


@pytest.mark.parametrize(
    ("first", "second", "figure", "verdict", "said"),
    [
        (OFF, OFF, HIGH, Verdict.PASS, None),
        (ON, ON, HIGH, Verdict.FAIL, "one: it is on target"),
        (ON, OFF, HIGH, Verdict.FAIL, "one: it is on target"),
        (OFF, ON, HIGH, Verdict.FAIL, "two: it is on target"),
        (OFF, BETWEEN, HIGH, Verdict.INCONCLUSIVE, "two: it may be"),
        (OFF, OFF, LOW, Verdict.FAIL, "x is 1"),
        (OFF, BETWEEN, LOW, Verdict.FAIL, "x is 1"),
    ],
)
def test_an_expected_failure_misses_in_each_phase_and_keeps_its_figures(first, second, figure, verdict, said):
    judged = phased(first, second, *figure, at_least=2.0)
    assert judged.verdict is verdict
    assert bool(judged.reasons) == (said is not None)
    assert said is None or judged.reasons[0].startswith(said)
    assert said is None or "x is" in said or WHY in judged.reasons[0]
    assert (judged.next_look is not None) == (verdict is Verdict.INCONCLUSIVE)


def test_a_driver_that_does_nothing_fails_an_expected_failure():
    """The control comes out otherwise than documented, or the scenario proves nothing."""
    good, idle = phased(OFF, OFF, *HIGH, at_least=2.0), phased(OFF, OFF, *LOW, at_least=2.0)
    assert scenario_verdict(good, {"compat": idle}) == (Verdict.PASS, [])
    assert scenario_verdict(good, {"compat": good})[0] is Verdict.INCONCLUSIVE
    assert scenario_verdict(idle, {"compat": idle})[0] is Verdict.FAIL


def test_beside_an_expected_failure_stands_a_control_that_must_reach():
    good = phased(OFF, OFF, *HIGH, at_least=2.0)
    there, missing = figured(1.0, 1.1, 0.9, at_most=2.0), figured(3.0, 3.1, 2.9, at_most=2.0)
    assert scenario_verdict(good, {"t": there}, reaching=["t"]) == (Verdict.PASS, [])
    verdict, reasons = scenario_verdict(good, {"t": missing}, reaching=["t"])
    assert verdict is Verdict.FAIL and "must reach" in reasons[0]


@pytest.mark.parametrize("name", [s.name for s in SCENARIOS if s.expected_failure])
def test_each_expected_failure_says_what_misses_and_what_holds(name):
    chosen = next(s for s in SCENARIOS if s.name == name)
    bounds, main = measurement.bounds(chosen), measurement.missed(chosen)
    assert main is not None or any(b.missed for b in bounds)
    held = [b for b in bounds if b.missed is None and (b.at_least is not None or b.at_most is not None)]
    assert held or chosen.beside
    assert not any(b.missed for b in measurement.bounds(chosen, reaching=True))


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
    entry.judged = judge(
        entry.samples, {"a": 0.8, "b": 0.2}, bounds=bounds, missed="all the run", expected_failure=WHY
    )
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
