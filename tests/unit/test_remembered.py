"""What is remembered of runs that come out the same every time, and when it is not theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import remembered
from harness.kbuild import Build
from harness.qemu import MachineSpec
from harness.store import Store

BUILD = cast(Build, SimpleNamespace(key="build"))
GIVEN: dict[str, Any] = {
    "build": BUILD,
    "image": "image",
    "spec": MachineSpec(kernel=Path("/a/bzImage"), initrd=Path("/a/initrd"), clock="virtual", append="quiet"),
    "files": {"/scenario.sh": b"echo 1"},
    "settings": {"EXACT": "1"},
}


@pytest.fixture(autouse=True)
def qemu(tmp_path, monkeypatch):
    """A QEMU whose version is the text of a file."""
    version = tmp_path / "version"
    version.write_text("8.0")
    program = tmp_path / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\ncat {version}\n")
    program.chmod(0o755)
    monkeypatch.setattr("harness.host.find_tool", lambda name: program)
    return version


def key(**changes: Any) -> str:
    return remembered.key_of(**{**GIVEN, **changes})


def test_wherever_the_files_lie():
    elsewhere = {"kernel": Path("/b/bzImage"), "initrd": Path("/b/initrd"), "vmlinux": Path("/b/vmlinux")}
    assert key() == key(spec=GIVEN["spec"].model_copy(update=elsewhere))


@pytest.mark.parametrize(
    "changes",
    [
        {"build": SimpleNamespace(key="another")},
        {"image": "another"},
        {"spec": GIVEN["spec"].model_copy(update={"append": "loud"})},
        {"spec": GIVEN["spec"].model_copy(update={"memory_mb": 384})},
        {"spec": GIVEN["spec"].model_copy(update={"shift": 4})},
        {"files": {"/scenario.sh": b"echo 2"}},
        {"files": {"/other.sh": b"echo 1"}},
        {"settings": {"EXACT": "0"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_all_that_matters_is_in_the_key(changes):
    assert key(**changes) != key()


def test_another_qemu(qemu):
    before = key()
    qemu.write_text("8.1")
    assert key() != before


def test_the_real_clock_is_never_exact():
    with pytest.raises(ValueError, match="virtual clock"):
        key(spec=GIVEN["spec"].model_copy(update={"clock": "real"}))


def test_found_as_it_was_kept(tmp_path):
    store = Store(tmp_path / "cache")
    assert remembered.find(store, "key") is None
    results = {"status": b"0\n", "fio/a.json": b"{}", "empty": b""}
    remembered.keep(store, "key", results, "a run")
    known = remembered.find(store, "key")
    assert known is not None and known.results == results
    assert replace(known, results={}).when.tzinfo is not None
