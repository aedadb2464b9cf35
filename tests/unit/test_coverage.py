"""coverage.py: from counts and the lines that patches added to what was executed."""

from __future__ import annotations

import pytest

from harness.coverage import AddedLine, Coverage, Uncounted, judge, merge

PATCHES = [("0001-a.patch", "add a"), ("0002-b.patch", "add b")]


def added(*patches: int | None, first: int = 1) -> list[AddedLine]:
    """One line after another; of which patch each is, None: of none."""
    return [
        AddedLine(number, patch, f"line {number}")
        for number, patch in enumerate(patches, first)
        if patch is not None
    ]


def judged(lines: list[AddedLine], counts: dict[int, int] | None) -> Coverage:
    found = {"a.c": counts} if counts is not None else {}
    return judge(PATCHES, {"a.c": lines}, found, builds=["k"], machines=1)


def passages(coverage: Coverage, patch: int = 0) -> list[str]:
    return [p.place for f in coverage.patches[patch].files for p in f.passages]


class TestMerge:
    def test_a_line_is_executed_if_any_build_did(self):
        perf = {"a.c": {1: 0, 2: 3}}
        debug = {"a.c": {1: 2, 3: 0}, "b.h": {7: 1}}
        assert merge([perf, debug]) == {"a.c": {1: 2, 2: 3, 3: 0}, "b.h": {7: 1}}
        assert perf == {"a.c": {1: 0, 2: 3}}

    def test_nothing(self):
        assert merge([]) == {}


class TestNumbers:
    def test_lines_count_for_the_patch_that_added_them(self):
        coverage = judged(added(0, 0, 1, 0, None), {1: 1, 2: 0, 3: 1, 5: 0})
        first, second = coverage.patches
        assert (first.number, first.with_code, first.executed) == (1, 2, 1)
        assert (second.number, second.with_code, second.executed) == (2, 1, 1)
        assert first.files[0].added == 3  # line 4 has no code
        assert (coverage.with_code, coverage.executed, coverage.missed) == (3, 2, 1)
        assert coverage.share == pytest.approx(2 / 3)

    @pytest.mark.parametrize(("ran", "met"), [(94, False), (95, True), (100, True)])
    def test_the_goal(self, ran, met):
        counts = {n: int(n <= ran) for n in range(1, 101)}
        assert judged(added(*[0] * 100), counts).met is met

    def test_without_code_there_is_nothing_to_reach(self):
        coverage = judged(added(0, 0), {})
        assert (coverage.share, coverage.met) == (None, None)
        assert coverage.not_compiled == {}

    def test_a_file_that_was_not_compiled_is_told_apart(self):
        coverage = judged(added(0, 1), None)
        assert coverage.not_compiled == {"a.c": 2}
        assert not coverage.patches[0].files[0].compiled

    def test_a_header_without_code_may_have_been_compiled(self):
        coverage = judge(PATCHES, {"a.h": added(0)}, {}, builds=[], machines=0)
        assert coverage.not_compiled == {}

    def test_files_over_all_patches(self):
        lines = {"b.c": added(0), "a.c": added(1, 0)}
        coverage = judge(PATCHES, lines, {"a.c": {1: 0, 2: 1}}, builds=[], machines=0)
        assert {name: [f.with_code for f in parts] for name, parts in coverage.by_file.items()} == {
            "a.c": [1, 1],
            "b.c": [0],
        }

    def test_a_patch_without_c_has_no_files(self):
        assert judged(added(0), {1: 1}).patches[1].files == ()

    def test_it_is_json(self):
        lost = [Uncounted(machine="guest-1", reason="its kernel died")]
        coverage = judge(
            PATCHES, {"a.c": added(0)}, {"a.c": {1: 0}}, builds=["k"], machines=1, uncounted=lost
        )
        assert Coverage.model_validate_json(coverage.model_dump_json()) == coverage


class TestPassages:
    def test_lines_without_code_between_are_shown(self):
        coverage = judged(added(*[0] * 6), {1: 0, 4: 0, 6: 1})
        (passage,) = coverage.patches[0].files[0].passages
        assert (passage.first, passage.last, passage.missed) == (1, 4, 2)
        assert passage.lines == ("line 1", "line 2", "line 3", "line 4")

    def test_a_line_that_was_executed_ends_one(self):
        assert passages(judged(added(*[0] * 5), {1: 0, 2: 0, 3: 1, 4: 0})) == ["1-2", "4"]

    def test_a_line_of_another_patch_ends_one(self):
        coverage = judged(added(0, 1, 0), {1: 0, 2: 0, 3: 0})
        assert passages(coverage) == ["1", "3"]
        assert passages(coverage, 1) == ["2"]

    def test_a_line_of_the_tree_ends_one(self):
        assert passages(judged(added(0, None, 0), {1: 0, 2: 0, 3: 0})) == ["1", "3"]

    def test_many_lines_without_code_end_one(self):
        assert passages(judged(added(*[0] * 9), {1: 0, 5: 0, 10: 0})) == ["1-5"]
        assert passages(judged(added(*[0] * 9), {1: 0, 6: 0})) == ["1", "6"]

    def test_every_missed_line_is_in_one(self):
        counts = {n: int(n % 7 == 0) for n in range(1, 60) if n % 3}
        coverage = judged(added(*[None if n % 11 == 0 else 0 for n in range(1, 60)]), counts)
        assert sum(p.missed for p in coverage.patches[0].files[0].passages) == coverage.missed > 20
