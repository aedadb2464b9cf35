"""How contenders are judged, and what is made of latencies and of the CPU's time. No guest: made-up runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import run_builder

from harness import compare, comparison, measurement, project, scenario, script
from harness.campaign import Campaign, Contest
from harness.comparison import NONE, SERIES, Latency
from harness.controller import Controller
from harness.errors import MeasurementError, UserError
from harness.progress import SilentProgress
from harness.record import Recorder
from harness.shares import Verdict

SCENARIO = scenario.load(project.scenarios_dir() / "cgroup-80-20.toml")
TIME = "time of an I/O of a in the kernel"
FAIR, HALF = {"a": 0.8, "b": 0.2}, {"a": 0.5, "b": 0.5}


def controller(name, promises="weights", **more):
    given = {"name": name, "title": name, "promises": promises, "documented": "d", **more}
    return Controller.model_validate(given)


def fake(came_out: dict[str, Any]) -> Campaign:
    """A campaign whose contests come out so: shares, or an error, by role."""

    def contest(chosen, under):
        found = came_out[script.role_of(under)]
        if isinstance(found, Exception):
            raise found
        samples = [
            s.model_copy(update={"figures": {TIME: 9.0 if found == FAIR else 12.0}})
            for s in run_builder.samples(found)
        ]
        rule = measurement.rule(chosen, under, plainly=under is not None)
        return Contest(samples, rule.judge(samples), ())

    return cast(Campaign, SimpleNamespace(begin=lambda *_: None, contest=contest))


def compared(tmp_path, came_out, *controllers, chosen=SCENARIO, lacks=None):
    recorder = Recorder.start(tmp_path / "run", [])
    compare.compare(fake(came_out), recorder, [chosen], controllers, lacks or {}, SilentProgress())
    (made,) = recorder.run.comparisons
    return {c.name: c for c in made.contenders}


def test_each_is_judged_by_the_same_rule(tmp_path):
    came_out = {"compat": HALF, "series": FAIR, "fair": FAIR, "unfair": HALF}
    found = compared(tmp_path, came_out, controller("fair"), controller("unfair"))
    assert list(found) == [NONE, SERIES, "fair", "unfair"]
    assert {name: c.verdict for name, c in found.items()} == {
        NONE: Verdict.FAIL,
        SERIES: Verdict.PASS,
        "fair": Verdict.PASS,
        "unfair": Verdict.FAIL,
    }


def test_what_comes_out_without_any_controller_proves_nothing(tmp_path):
    found = compared(tmp_path, {"compat": FAIR, "series": FAIR, "fair": FAIR}, controller("fair"))
    for name in (SERIES, "fair"):
        assert found[name].verdict is Verdict.INCONCLUSIVE
        assert "negative control none reaches the target too" in found[name].reasons[0]


def test_a_latency_is_judged_by_itself(tmp_path):
    """Its shares are no matter."""
    crowd = SCENARIO.model_copy(
        update={"group": tuple(g.model_copy(update={"jobs": 4}) for g in SCENARIO.group)}
    )
    guard = controller("guard", "latency", protected={"io.latency": "{target_us}"})
    came_out = {"compat": HALF, "series": FAIR, "guard": FAIR}
    found = compared(tmp_path, came_out, guard, chosen=crowd)["guard"]
    assert found.judged is not None and not found.judged.shares
    (figure,) = found.judged.figures
    assert (figure.label, figure.at_most, figure.mean) == (TIME, pytest.approx(9.775), 9.0)
    assert found.verdict is Verdict.PASS
    missed = compared(tmp_path / "other", {**came_out, "guard": HALF}, guard, chosen=crowd)["guard"]
    assert missed.verdict is Verdict.FAIL
    kept = compared(tmp_path / "third", {**came_out, "compat": FAIR}, guard, chosen=crowd)["guard"]
    assert kept.verdict is Verdict.INCONCLUSIVE


def test_counters_that_disagree_are_that_contenders_error_alone(tmp_path):
    came_out = {"compat": HALF, "series": FAIR, "odd": MeasurementError("counted 1, fio 2"), "fair": FAIR}
    found = compared(tmp_path, came_out, controller("odd"), controller("fair"))
    assert "counted 1, fio 2" in (found["odd"].error or "") and found["odd"].verdict is None
    assert found["fair"].verdict is Verdict.PASS


def test_what_does_not_suit_is_not_run(tmp_path):
    found = compared(tmp_path, {"compat": HALF, "series": FAIR}, controller("caps", "maxima"))["caps"]
    assert found.unsuited == "it has maxima, and the scenario weights" and found.verdict is None


def test_what_a_scenario_needs_it_needs_for_the_series(tmp_path):
    needy = SCENARIO.model_copy(update={"needs": ("thing",)})
    came_out = {"compat": HALF, "fair": FAIR}
    found = compared(tmp_path, came_out, controller("fair"), chosen=needy, lacks={"thing": "it came later"})
    assert found[SERIES].unsuited == "it came later" and found[SERIES].verdict is None
    assert found["fair"].verdict is Verdict.PASS


def test_figures_of_the_series_own_accounts_bind_no_one_else():
    chosen = scenario.load(project.scenarios_dir() / "idle-and-back.toml")
    bound = {b.label: b.why for b in measurement.bounds(chosen, plainly=True)}
    own = {b.label: b.why for b in measurement.bounds(chosen)}
    assert bound.keys() == own.keys()
    assert own["surplus of b, both again"] and not bound["surplus of b, both again"]
    assert bound["throughput, a alone"] and bound["share of a, both again"]


def test_others_are_not_expected_to_fail():
    chosen = scenario.load(project.scenarios_dir() / "low-depth-against-deep.toml")
    figures = {b.label: 80.0 if " a" in b.label else 20.0 for b in measurement.bounds(chosen)}
    samples = [s.model_copy(update={"figures": figures}) for s in run_builder.samples(FAIR)]
    assert measurement.rule(chosen, controller("fair")).judge(samples).verdict is Verdict.PASS
    assert measurement.rule(chosen, None).judge(samples).verdict is Verdict.FAIL


def test_percentiles_over_all_runs():
    found = comparison.latency([{1_000_000: 50, 9_000_000: 1}, {2_000_000: 48, 3_000_000: 1}])
    assert found == Latency(mean=1.58, p50=1.0, p99=3.0)
    assert comparison.latency([{}, {}]) is None


def test_instructions_per_io():
    def run(busy, ios):
        return SimpleNamespace(
            window=(0, 1), fio={"a": None}, busy=busy, ios=lambda name: (100, 100 + ios)
        )

    # 8 ns each
    assert compare.instructions([run(0.8, 1000), run(0.4, 1000)]) == pytest.approx(75_000)
    assert compare.instructions([run(None, 1000)]) is None


def test_a_group_that_rests_has_no_latency_of_its_own():
    chosen = scenario.load(project.scenarios_dir() / "idle-and-back.toml")
    assert compare.latencies(chosen, []) == {}


def test_scenarios_by_name():
    assert [s.name for s in compare.choose(["uid-80-20", "cgroup-80-20"])] == ["uid-80-20", "cgroup-80-20"]
    assert all(s.compared for s in compare.choose([])) and len(compare.choose([])) >= 5
    with pytest.raises(UserError, match="no scenario odd"):
        compare.choose(["cgroup-80-20", "odd"])


def test_a_kernel_that_brings_none_is_told():
    with pytest.raises(UserError, match="nothing to compare with") as caught:
        compare.run("2.6.31", None, [])
    assert "6.1" in (caught.value.hint or "")
