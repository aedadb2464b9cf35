"""The rounds in a row that a soak has seen pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from harness import soak
from harness.soak import Streak
from harness.store import Store

if TYPE_CHECKING:
    from harness.testbed import Testbed


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def test_file(tmp_path, monkeypatch):
    """The only one of a project."""
    monkeypatch.setattr(soak.project, "ROOT", tmp_path)
    file = tmp_path / "tests" / "guest" / "test_one.py"
    file.parent.mkdir(parents=True)
    file.write_text("good")
    return file


@pytest.fixture
def bed(monkeypatch) -> Testbed:
    """Of a testbed, what the key is made of."""
    monkeypatch.setattr(
        soak, "BuildSpec", lambda **given: SimpleNamespace(key=f"{given['series']} {given['flavour']}")
    )
    made = SimpleNamespace(
        spec=SimpleNamespace(flavours={"perf": (), "debug": ()}, told=lambda texts: "manifest"),
        tree="tree",
        series="good",
        compiler="cc",
        image=SimpleNamespace(key="image"),
    )
    return cast("Testbed", made)


def test_goes_on_where_it_ended(store, bed):
    streak = Streak(store, bed, ["tests"])
    assert streak.length == 0
    streak.longer()
    streak.longer()
    assert Streak(store, bed, ["tests"]).length == 2


def test_a_failure_ends_it(store, bed):
    streak = Streak(store, bed, ["tests"])
    streak.longer()
    streak.longer()
    streak.broken()
    assert streak.length == 0
    assert Streak(store, bed, ["tests"]).length == 0


@pytest.mark.parametrize("what", ["selection", "series", "tests", "manifest", "harness"])
def test_what_changed_begins_anew(store, bed, what, test_file, monkeypatch):
    Streak(store, bed, ["tests"]).longer()
    assert Streak(store, bed, ["tests"]).length == 1
    words = ["tests"]
    match what:
        case "selection":
            words = ["others"]
        case "series":
            bed.series = "another"  # type: ignore[assignment]
        case "tests":
            test_file.write_text("changed")
        case "manifest":
            monkeypatch.setattr(bed.spec, "told", lambda texts: f"another for {list(texts)}")
        case "harness":
            monkeypatch.setattr(soak.suite, "judges", lambda: "another")
    assert Streak(store, bed, words).length == 0
