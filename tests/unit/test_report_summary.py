from __future__ import annotations

from pathlib import Path

import pytest
import run_builder

from harness.record import ErrorRecord, Recorder, RunVerdict
from harness.report.summary import (
    duration,
    headline,
    largest_deviation,
    not_executed,
    part,
    ratio,
    shown,
    telling,
)
from harness.shares import Verdict
from harness.throughput import conservation

EN_DASH = "\N{EN DASH}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain \t text\nnext", "plain \t text\nnext"),
        ("serial line\r\n", "serial line\n"),
        ("a\rb", "a␍b"),
        ("\x1b[2J\x07\x00", "␛[2J␇␀"),
        ("\x9b31m\u202e\u2066\ufffe", "<U+009B>31m<U+202E><U+2066><U+FFFE>"),
        ("± ✓ é 日本", "± ✓ é 日本"),
    ],
)
def test_text_of_unknown_origin_is_made_harmless(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_headline_of_a_pass(tmp_path: Path) -> None:
    word, text = headline(run_builder.passing(tmp_path))
    assert word is RunVerdict.PASS
    assert text == "All 3 scenarios are on target, and all 3 negative controls missed it; 2 tests passed."


def test_headline_of_a_fail_has_the_worst_share(tmp_path: Path) -> None:
    word, text = headline(run_builder.failing(tmp_path))
    assert word is RunVerdict.FAIL
    assert "1 of 3 scenarios off target: cgroup-80-20 (a got 50.2 % instead of 80.0 %)" in text
    assert "2 not decided: cgroup-40-20-10, uid-50-50" in text
    assert "1 of 4 tests failed: tests/guest/test_dm.py::test_status" in text


def test_headline_of_a_death_names_scenario_and_panic(tmp_path: Path) -> None:
    word, text = headline(run_builder.dying(tmp_path))
    assert word is RunVerdict.DIED
    assert "in scenario cgroup-40-20-10: Kernel panic - not syncing" in text


def test_headline_of_an_undecided_run_has_its_reason(tmp_path: Path) -> None:
    made = run_builder.recorder(tmp_path)
    with made.change() as run:
        run.scenarios[0].verdict, run.scenarios[0].reasons = (
            Verdict.INCONCLUSIVE,
            ["seed 1: not backlogged: a"],
        )
    word, text = headline(run_builder.finished(made))
    assert word is RunVerdict.INCONCLUSIVE
    assert text == "1 of 3 scenarios not decided: cgroup-80-20. cgroup-80-20: seed 1: not backlogged: a."


def test_headline_of_an_error_is_the_error(tmp_path: Path) -> None:
    made = run_builder.recorder(tmp_path)
    made.update(error=ErrorRecord(kind="UserError", message="no such series", exit_code=2))
    assert headline(run_builder.finished(made)) == (RunVerdict.ERROR, "no such series")


def test_headline_of_nothing(tmp_path: Path) -> None:
    recorder = Recorder.start(tmp_path, [])
    assert headline(recorder.run)[0] is RunVerdict.INTERRUPTED
    recorder.finish()
    assert headline(recorder.run) == (
        RunVerdict.INCONCLUSIVE,
        "Nothing was judged, so there is nothing to conclude.",
    )


def test_the_largest_deviation_is_found_whatever_its_sign(tmp_path: Path) -> None:
    found = largest_deviation(run_builder.failing(tmp_path))
    assert found is not None
    assert found[0].name == "cgroup-80-20"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, EN_DASH), (4.06, "4.1 s"), (59.0, "59.0 s"), (187, "3 min 07 s"), (3720, "1 h 02 min")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_ratios() -> None:
    assert ratio(None) == EN_DASH
    assert ratio(conservation([990.0], [1000.0])) == "99.0 %"
    assert ratio(conservation([990.0, 990.0], [1000.0, 1000.0])) == "99.0 % (99.0 to 99.0)"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("assert 5 == 6\nwhere 5 = len(words)", "assert 5 == 6"),
        ("self = <x>\n\n>       assert a == b\nE       assert 1 == 2\nE        +  where", "assert 1 == 2"),
        ("guest = <x>\nE       AssertionError: kmemleak: 2 objects\nE       more", "kmemleak: 2 objects"),
        (
            "def f():\n>       f()\n\nx.py:1:\n\n>       assert sum(x) == 3\n         ^^^\nE       AssertionError",
            "assert sum(x) == 3",
        ),
        ("EINVAL was expected\nE2BIG came", "EINVAL was expected"),
        ("\n  \n", ""),
        ("x" * 400, "x" * 300),
    ],
)
def test_the_line_that_tells(said: str, line: str) -> None:
    assert telling(said) == line


def test_the_line_that_tells_by_what_is_looked_for() -> None:
    assert telling("E       assert 0\nBUG: sleeping function", r"BUG: \w+") == "BUG: sleeping function"


def test_a_part_that_misses_a_goal_does_not_look_as_if_it_met_it() -> None:
    assert part(0.9499) == "94.9"
    assert (part(0.95), part(1.0), part(1999 / 2000)) == ("95.0", "100.0", "99.9")
    assert part(0.29) == "29.0"
    assert part(None) == EN_DASH


def test_lines_of_several_patches_are_one_range() -> None:
    parts = run_builder.covered(7).by_file["drivers/md/a.c"]
    assert [p.place for part in parts for p in part.passages] == ["8-10", "11-20"]
    assert not_executed(parts) == "8-20"
    assert not_executed(run_builder.covered(19).by_file["drivers/md/a.c"]) == "20"
    assert not_executed(()) == ""
