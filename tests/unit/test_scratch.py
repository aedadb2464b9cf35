"""scratch.py: memory is used when there is plenty, and only where nobody else can look."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import scratch
from harness.store import Store


@pytest.fixture(autouse=True)
def shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the tmpfs."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(scratch, "SHM", folder)
    return folder


def test_there_is_room(shm: Path) -> None:
    folder = scratch.make(Path("/home/me/cache"), "work", 1)
    assert folder is not None
    assert folder.parent == shm
    assert folder.stat().st_mode & 0o777 == 0o700
    assert scratch.make(Path("/home/me/cache"), "work", 1) is None, "it is taken"
    assert list(scratch.existing(Path("/home/me/cache"))) == [("work", folder)]


def test_owners_are_kept_apart() -> None:
    for owner in ("/home/me/cache", "/home/me/cache-2"):
        assert scratch.make(Path(owner), "2-work", 1)
        assert len(list(scratch.existing(Path(owner)))) == 1


def test_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(scratch, "_MEMINFO", meminfo)
    for name, available, enough in (("a", 2000, True), ("b", 1999, False)):
        meminfo.write_text(f"MemTotal: 9999999 kB\nMemAvailable:   {available} kB\n")
        assert (scratch.make(tmp_path, name, 1000 << 10) is not None) is enough
    meminfo.write_text("MemTotal: 9999999 kB\n")
    assert scratch.make(tmp_path, "c", 1) is None


def test_no_such_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "SHM", tmp_path / "none")
    assert scratch.make(tmp_path, "work", 1) is None
    assert list(scratch.existing(tmp_path)) == []


def test_workspace_in_memory(tmp_path: Path, shm: Path) -> None:
    store = Store(tmp_path / "cache")
    with store.workspace("kernel", size=1) as one, store.workspace("kernel", size=1 << 60) as two:
        assert one.is_relative_to(shm)
        assert two.is_relative_to(store.root)
        (one / "file").write_text("")
    assert not one.exists()
    assert not two.exists()


def test_leftovers_in_memory_are_removed(tmp_path: Path, shm: Path) -> None:
    store = Store(tmp_path / "cache")
    left = scratch.make(store.root, "kernel-7", 1)
    assert left is not None
    with store.workspace("kernel", size=1) as one:
        assert not left.exists()
        store.build("thing", "k", lambda folder: None, what="it")
        assert one.exists(), "deleted although its owner lives"
    assert list(shm.iterdir()) == []
