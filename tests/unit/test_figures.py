"""Figures on made-up courses, and on a recorded run in which a group rested and came back."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import measurement, outcome, project, scenario, shares, throughput
from harness.errors import MeasurementError
from harness.figures import Course, Figure, measure

DATA = Path(__file__).parent / "data" / "outcome"
HALVES = {"a": 0.5, "b": 0.5}
ONE = {"a": "share1", "b": "share1"}


def course(a, b, step=0.1, **phases):
    """Cumulative I/Os of two groups; a sector an I/O."""
    times = tuple(round(i * step, 3) for i in range(len(a)))
    work = {"a": tuple(a), "b": tuple(b)}
    return Course(times=times, work=work, sectors=work, phases=phases or {"all": (0, len(a) - 1)})


def value(figure, counted, targets=HALVES, most=2000.0):
    return measure(figure, counted, targets=targets, parts=ONE, most=most)


def test_settled_is_when_the_new_share_begins_to_hold():
    # all to a for 0.5 s, and then half and half: 10 I/Os each a step of 0.1 s
    a = [20 * min(i, 5) + 10 * max(i - 5, 0) for i in range(41)]
    b = [10 * max(i - 5, 0) for i in range(41)]
    figure = Figure(kind="settled", phase="all", within=5)
    assert value(figure, course(a, b)) == pytest.approx(0.5)
    assert value(figure.model_copy(update={"epoch": 50}), course(a, b)) == pytest.approx(2.0)
    assert value(figure.model_copy(update={"within": 60}), course(a, b)) == 0.0


def test_what_never_settles_takes_the_whole_phase():
    counted = course([15 * i for i in range(41)], [5 * i for i in range(41)])
    assert value(Figure(kind="settled", phase="all", within=20), counted) == pytest.approx(4.0)


def test_surplus_is_the_most_that_a_group_was_ahead():
    a = [0, 10, 20, 40, 60]
    b = [0, 50, 60, 60, 60]
    assert value(Figure(kind="surplus", phase="all", groups=("b",)), course(a, b)) == pytest.approx(20.0)


def test_rates():
    a = [100 * i for i in range(31)]
    a[15:] = [value + 300 for value in a[15:]]
    counted = course(a, [0] * 31, one=(0, 10), two=(10, 30))
    assert value(Figure(kind="rate", phase="one", groups=("a",)), counted) == pytest.approx(500.0)
    assert value(Figure(kind="fastest", phase="two", groups=("a",)), counted) == pytest.approx(650.0)
    assert value(Figure(kind="slowest", phase="two", groups=("a",)), counted) == pytest.approx(500.0)
    assert value(Figure(kind="throughput", phase="one"), counted) == pytest.approx(0.5)
    counted = course([300 * i for i in range(31)], [100 * i for i in range(31)])
    assert value(Figure(kind="share", phase="all", groups=("a",)), counted) == pytest.approx(75.0)
    counted = course(a, [0] * 31, one=(0, 10), two=(10, 30))
    unchanged = Figure(kind="unchanged", phase="two", since="one", groups=("a",))
    assert value(unchanged, counted) == pytest.approx(1.15)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "unchanged", "phase": "p", "groups": ["a"]},
        {"kind": "settled", "phase": "p"},
        {"kind": "rate", "phase": "p"},
        {"kind": "throughput", "phase": "p", "at_least": 0.9},
        {"kind": "throughput", "phase": "p", "why": "because"},
        {"kind": "throughput", "phase": "p", "epoch": 512},
    ],
)
def test_half_a_figure_is_refused(wrong):
    with pytest.raises(ValueError):
        Figure.model_validate(wrong)


# --- recorded on 2.6.31 with the series


def recorded(name):
    return {path.name: path.read_bytes() for path in (DATA / name).iterdir()}


def sample(chosen, files, depth=16):
    curve = throughput.saturation([(depth // 2, 900.0), (depth, 1993.0), (2 * depth, 1993.0)])
    run = outcome.parse(chosen, None, files)
    return run, measurement.sample(chosen, run, 1, dict.fromkeys(chosen.loads, curve))


def test_a_group_that_rested_and_came_back():
    chosen = scenario.load(project.scenarios_dir() / "idle-and-back.toml")
    run, found = sample(chosen, recorded("idle"))
    assert list(run.phases) == ["both", "a alone", "both again"]
    assert found.ios["a"] / sum(found.ios.values()) == pytest.approx(0.8, abs=0.02)
    assert found.figures["share of a, a alone"] == 100.0
    assert found.figures["throughput, a alone"] > 0.95
    assert 200 < found.figures["surplus of b, both again"] < 330
    assert found.drifted == ()
    judged = shares.judge(
        [found.model_copy(update={"seed": n}) for n in (1, 2, 3)],
        chosen.targets,
        bounds=measurement.bounds(chosen),
        parts=chosen.parts,
    )
    assert judged.verdict is shares.Verdict.PASS
    assert {f.label for f in judged.figures} == found.figures.keys()


def test_a_group_that_does_not_rest_is_seen():
    chosen = scenario.load(project.scenarios_dir() / "idle-and-back.toml")
    other = chosen.model_copy(
        update={"phase": tuple(p.model_copy(update={"idle": ("a",)}) if p.idle else p for p in chosen.phase)}
    )
    _, found = sample(other, recorded("idle"))
    assert any("a did" in text and "should rest" in text for text in found.drifted)


def test_phases_that_did_not_run_are_an_error():
    files = recorded("idle")
    files["phases"] = b"\n".join(files["phases"].splitlines()[1:]) + b"\n"
    with pytest.raises(MeasurementError, match="phases"):
        outcome.parse(scenario.load(project.scenarios_dir() / "idle-and-back.toml"), None, files)


def test_buffered_writers_are_counted_in_sectors_to_the_page():
    chosen = scenario.load(project.scenarios_dir() / "buffered-80-20.toml")
    _, found = sample(chosen, recorded("buffered"))
    assert found.total_sectors_kernel == found.fio_sectors
    assert all(sectors % 8 == 0 for sectors in found.fio_sectors.values())
    assert found.saturated and found.ios["a"] / sum(found.ios.values()) == pytest.approx(0.8, abs=0.03)


def test_a_page_that_the_kernel_lost_is_seen():
    files = recorded("buffered")
    text = files["counters"].decode()
    at = text.rindex("S disk-a")
    line = text[at : text.index("\n", at)]
    less = line.rsplit(" ", 1)
    changed = f"{less[0]} {int(less[1]) - 8}"
    files["counters"] = (text[:at] + changed + text[at + len(line) :]).encode()
    with pytest.raises(MeasurementError, match="sectors done: group a"):
        sample(scenario.load(project.scenarios_dir() / "buffered-80-20.toml"), files)
