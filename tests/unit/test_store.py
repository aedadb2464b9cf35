"""store.py: whole or not at all, by one maker, whatever happens to the maker."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.errors import InfrastructureError
from harness.store import ENTRY_FILE, Pin, Store, digest, file_digest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def put(store: Store, key: str = "k", content: str = "content", kind: str = "thing") -> Path:
    return store.build(kind, key, lambda folder: write(folder, content), what=f"the {kind} {key}")


def write(folder: Path, content: str) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text(content)
    (folder / "link").symlink_to("sub/file")


def in_progress(store: Store) -> list[Path]:
    return list((store.root / "tmp").glob("*"))


def test_built_once_and_found(store: Store) -> None:
    assert store.find("thing", "k") is None
    folder = put(store)
    assert (folder / "sub" / "file").read_text() == "content"
    assert store.find("thing", "k") == folder
    assert put(store, content="other") == folder
    assert (folder / "sub" / "file").read_text() == "content"
    assert in_progress(store) == []


def test_looking_creates_nothing(store: Store) -> None:
    assert store.find("thing", "k") is None
    assert store.entries() == []
    assert store.verify() == []
    assert store.pinned("name") is None
    assert not store.root.exists()


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_failure_leaves_nothing(store: Store, error: BaseException) -> None:
    def make(folder: Path) -> None:
        write(folder, "half")
        raise error

    with pytest.raises(type(error)):
        store.build("thing", "k", make, what="it")
    assert store.find("thing", "k") is None
    assert in_progress(store) == []
    put(store)


def test_killed_maker_leaves_nothing_that_stays(store: Store) -> None:
    """kill -9 in the middle: no entry; the next to build anything cleans up."""
    script = (
        "import sys, pathlib\n"
        "from harness.store import Store\n"
        "def make(folder):\n"
        "    (folder / 'half').write_text('x')\n"
        "    print('made half', flush=True)\n"
        "    sys.stdin.read()\n"
        "Store(pathlib.Path(sys.argv[1])).build('thing', 'k', make, what='it')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"made half\n"
        put(store, "other")
        assert [path.name for path in in_progress(store)] == ["thing.k"], "cleaned up under a living maker"
        maker.send_signal(signal.SIGKILL)
    assert store.find("thing", "k") is None
    put(store, "third")
    assert in_progress(store) == []
    assert put(store) == store.find("thing", "k")


def test_two_makers_of_one_key(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    inside, go_on = threading.Event(), threading.Event()
    made: list[str] = []

    def slow(folder: Path) -> None:
        made.append("first")
        inside.set()
        assert go_on.wait(10)
        write(folder, "first")

    def second(folder: Path) -> None:
        made.append("second")

    first_thread = threading.Thread(target=lambda: store.build("thing", "k", slow, what="the slow one"))
    first_thread.start()
    assert inside.wait(10)
    found: list[Path] = []
    second_thread = threading.Thread(
        target=lambda: found.append(store.build("thing", "k", second, what="the slow one"))
    )
    second_thread.start()
    second_thread.join(0.3)
    assert second_thread.is_alive(), "the second did not wait"
    go_on.set()
    first_thread.join(10)
    second_thread.join(10)
    assert made == ["first"]
    assert (found[0] / "sub" / "file").read_text() == "first"
    assert "waiting for another process: the slow one" in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["truncate", "delete", "no description"])
def test_damage_is_seen_and_repaired(store: Store, damage: str) -> None:
    folder = put(store)
    match damage:
        case "truncate":
            (folder / "sub" / "file").write_text("c")
        case "delete":
            (folder / "sub" / "file").unlink()
        case _:
            (folder / ENTRY_FILE).write_text("{")
    assert store.find("thing", "k") is None
    assert (put(store) / "sub" / "file").read_text() == "content"


def test_verify_sees_what_find_does_not(store: Store) -> None:
    folder = put(store)
    put(store, "good")
    assert store.verify() == []
    (folder / "sub" / "file").write_text("CONTENT")
    (folder / "link").unlink()
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "more").write_text("")
    assert store.find("thing", "k") == folder
    assert store.verify() == [
        f"the thing k: {folder}/link is changed",
        f"the thing k: {folder}/more is not part of it",
        f"the thing k: {folder}/sub/file is changed",
    ]


def test_entries_are_described(store: Store) -> None:
    store.build("thing", "k", lambda folder: write(folder, "12345"), what="words", meta={"a": [1]})
    [entry] = store.entries()
    assert (entry.kind, entry.key, entry.what, entry.size, entry.meta) == (
        "thing",
        "k",
        "words",
        5,
        {"a": [1]},
    )
    assert abs(entry.created - time.time()) < 60
    store.remove(entry)
    assert store.entries() == []
    assert in_progress(store) == []


def test_prune_takes_the_least_recently_used_and_leaves_pins(store: Store) -> None:
    for age, key in enumerate(["newest", "middle", "old", "pinned"]):
        path = put(store, key, "x" * 1000) / ENTRY_FILE
        os.utime(path, (time.time() - age * 1000,) * 2)
    store.pin("a-name", "thing", "pinned", "why")
    assert [entry.key for entry in store.prune(older_than=1500)] == ["old"]
    assert [entry.key for entry in store.prune(keep_bytes=2500)] == ["middle"]
    assert {entry.key for entry in store.entries()} == {"newest", "pinned"}
    assert [entry.key for entry in store.prune(keep_bytes=0)] == ["newest"]
    assert store.pinned("a-name") == (
        store.root / "thing" / "pinned",
        Pin(kind="thing", key="pinned", note="why"),
    )


def test_find_counts_as_use(store: Store) -> None:
    description = put(store) / ENTRY_FILE
    os.utime(description, (1, 1))
    store.find("thing", "k")
    assert description.stat().st_mtime > 1


def test_pin_of_a_removed_entry(store: Store) -> None:
    put(store)
    store.pin("name", "thing", "k")
    store.remove(store.entries()[0])
    assert store.pinned("name") is None
    (store.root / "pins" / "name.json").write_text("nonsense")
    assert store.pinned("name") is None


def test_full_disk(store: Store) -> None:
    def make(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InfrastructureError, match="full") as caught:
        store.build("thing", "k", make, what="it")
    assert "harness cache prune" in str(caught.value.hint)
    assert store.find("thing", "k") is None


def test_root_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InfrastructureError, match="cannot be written") as caught:
        put(Store(tmp_path / "file" / "cache"))
    assert "HARNESS_CACHE" in str(caught.value.hint)


def test_others_errors_are_not_blamed_on_the_cache(store: Store) -> None:
    def make(folder: Path) -> None:
        Path("/does/not/exist").read_text()

    with pytest.raises(FileNotFoundError):
        store.build("thing", "k", make, what="it")


def test_workspace_is_alone_empty_and_temporary(store: Store) -> None:
    with store.workspace("kernel") as one, store.workspace("kernel") as two:
        assert one != two
        assert list(one.iterdir()) == []
        (one / "file").write_text("")
    assert not one.exists()
    assert in_progress(store) == []
    with store.workspace("kernel") as again:
        assert again == one, "debug information and compiler caches want a stable path"


def test_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "there"))
    assert Store.default().root == tmp_path / "there"
    monkeypatch.delenv("HARNESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Store.default().root == tmp_path / "xdg" / "harness"


@pytest.mark.parametrize("key", ["", "../x", "a/b", ".hidden"])
def test_keys_are_names(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        store.find("thing", key)


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("ab")
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("ab") == digest(b"ab") == digest(tmp_path / "file")
    # sha256sum of "ab", so that a person can compare
    assert (
        file_digest(tmp_path / "file") == "fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603"
    )


def test_find_is_fast(store: Store) -> None:
    put(store)
    started = time.perf_counter()
    for _ in range(100):
        store.find("thing", "k")
    assert (time.perf_counter() - started) / 100 < 0.005


def test_description_is_json_for_people(store: Store) -> None:
    assert json.loads((put(store) / ENTRY_FILE).read_text())["what"] == "the thing k"
