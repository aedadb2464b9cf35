"""pick.py: which kernel is tested where nobody names one, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import pick, source, testbed
from harness.errors import InfrastructureError, UserError
from harness.pick import Pick
from harness.progress import SilentProgress
from harness.source import KernelSpec, NoSource, Tree
from harness.store import Store

QUIET = SilentProgress()


class World:
    """Of which kernels a source is at hand, of which it could be had, and which were asked for."""

    def __init__(self) -> None:
        self.at_hand: set[str] = set()
        self.to_be_had: set[str] = set()
        self.asked: list[str] = []

    def look(self, store: Store, spec: KernelSpec) -> Tree | None:
        del store
        return self._tree(spec) if spec.name in self.at_hand else None

    def obtain(self, store: Store, spec: KernelSpec, progress: object) -> Tree:
        del store, progress
        self.asked.append(spec.name)
        if spec.name not in self.at_hand | self.to_be_had:
            raise NoSource(f"no source of kernel {spec.name}", hint=f"harness kernel add {spec.name} PATH")
        return self._tree(spec)

    def _tree(self, spec: KernelSpec) -> Tree:
        return Tree(kernel=spec.name, version=spec.version, id="0", path=Path(), origin="")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(source, "at_hand", made.look)
    monkeypatch.setattr(source, "obtain", made.obtain)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def series(folder: Path, toml: str = "") -> Path:
    folder.mkdir()
    (folder / "series").write_text("0001-a.patch\n")
    (folder / "series.toml").write_text(toml)
    diff = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"
    (folder / "0001-a.patch").write_text(f"From: A <a@example.org>\nSubject: [PATCH] x\n\nWhy.\n---\n{diff}")
    return folder


def test_our_kernels_have_an_order() -> None:
    """Two of the same preference would be taken by their names."""
    numbers = [testbed.kernel_spec(name).preference for name in testbed.kernel_names()]
    assert len(set(numbers)) == len(numbers)


def test_our_kernels_tell_the_tests_the_same_facts() -> None:
    known = {name: set(testbed.kernel_spec(name).facts) for name in testbed.kernel_names()}
    assert all(names == known["2.6.31"] for names in known.values()), known


def test_the_preferred_one_is_at_hand(store: Store, world: World) -> None:
    world.at_hand = {"2.6.31", "6.1"}
    assert pick.pick(store, None, None, QUIET) == Pick("2.6.31", "its source is at hand")


def test_the_preferred_one_is_downloaded_before_another_is_taken(store: Store, world: World) -> None:
    world.at_hand, world.to_be_had = {"6.1"}, {"2.6.31"}
    assert pick.pick(store, None, None, QUIET) == Pick("2.6.31", "its source was to be had")


def test_the_next_one_and_why(store: Store, world: World) -> None:
    world.to_be_had = {"6.1"}
    chosen = pick.pick(store, None, None, QUIET)
    assert chosen == Pick("6.1", "its source was to be had, that of 2.6.31 was not to be had")
    world.at_hand = {"6.1"}
    assert "its source is at hand" in pick.pick(store, None, None, QUIET).why


def test_no_kernel_at_all_tells_about_each(store: Store, world: World) -> None:
    with pytest.raises(NoSource) as caught:
        pick.pick(store, None, None, QUIET)
    for name in testbed.kernel_names():
        assert f"no source of kernel {name}" in caught.value.message
        assert f"harness kernel add {name} PATH" in str(caught.value.hint)


def test_one_that_was_asked_for_is_never_another(store: Store, world: World) -> None:
    world.at_hand = {"6.1"}
    assert pick.pick(store, "2.6.31", None, QUIET).kernel == "2.6.31"
    assert world.asked == [], "whether it is to be had shows when it is needed"


def test_a_full_disk_is_no_reason_for_another_kernel(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Tree:
        raise InfrastructureError("the disk is full")

    monkeypatch.setattr(source, "obtain", full)
    with pytest.raises(InfrastructureError, match="disk is full"):
        pick.pick(store, None, None, QUIET)


def test_with_what_is_at_hand_nothing_is_downloaded(store: Store, world: World) -> None:
    world.to_be_had = {"2.6.31"}
    assert pick.pick(store, None, None, QUIET, at_hand=True).kernel == "2.6.31"
    world.at_hand = {"6.1"}
    chosen = pick.pick(store, None, None, QUIET, at_hand=True)
    assert chosen == Pick("6.1", "its source is at hand, that of 2.6.31 is not")
    assert world.asked == []


def test_a_series_is_tested_on_its_kernel(store: Store, world: World, tmp_path: Path) -> None:
    world.at_hand = {"2.6.31"}
    meant = series(tmp_path / "new", 'kernel = "6.1"\n')
    assert pick.pick(store, None, meant, QUIET) == Pick("6.1", "the series is for it")
    silent = series(tmp_path / "old")
    world.at_hand = {"6.1"}
    assert pick.pick(store, None, silent, QUIET).kernel == "2.6.31", "it would not apply to another"
    with pytest.raises(UserError, match="no kernel named"):
        pick.pick(store, None, series(tmp_path / "odd", 'kernel = "3.99"\n'), QUIET)
