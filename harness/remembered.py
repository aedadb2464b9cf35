"""Runs of the virtual clock on the kernel without the series, remembered: they are the same every time.

Negative controls and the disk's saturation do not depend on the series. On the virtual clock a run's counters follow
from kernel, image, script, seed and QEMU alone (``tests/guest/test_exact.py`` holds it to that), so that booting it
again tells nothing new; but it is half of the machines of a scenario. What is under test is never remembered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness import host
from harness.kbuild import Build
from harness.qemu import MachineSpec, command_line
from harness.store import Store, digest

KIND = "exact"
# Part of every key: to be raised when runs change by something that is not in the key.
RECIPE = "1"


@dataclass(frozen=True)
class Remembered:
    """results: content by path below the guest's /results. when: it was run."""

    results: dict[str, bytes]
    when: datetime


def key_of(
    build: Build, image: str, spec: MachineSpec, files: Mapping[str, bytes], settings: Mapping[str, str]
) -> str:
    """Of a run: all that its outcome follows from. image: the key of the guest's programs. files, settings: what the
    guest gets besides. Raises ValueError unless the clock is the virtual one.
    """
    if spec.clock != "virtual":
        raise ValueError("only runs of the virtual clock are exact")
    anywhere = spec.model_copy(update={"kernel": Path("kernel"), "initrd": Path("initrd")})
    argv = command_line(anywhere, Path("folder"), Path("console"), 0, [0] * len(spec.disks))
    qemu = host.run([argv[0], "--version"]).stdout
    given = [part for path, data in sorted(files.items()) for part in (path, data)]
    return digest(RECIPE, build.key, image, qemu, json.dumps([argv, sorted(settings.items())]), *given)


def find(store: Store, key: str) -> Remembered | None:
    """What came out the last time."""
    folder = store.find(KIND, key)
    if folder is None:
        return None
    about = json.loads((folder / "about.json").read_bytes())
    results = {name: (folder / f"{number}").read_bytes() for number, name in enumerate(about["names"])}
    return Remembered(results, datetime.fromisoformat(about["when"]))


def keep(store: Store, key: str, results: Mapping[str, bytes], what: str) -> None:
    """Remember it. what: for people."""

    def make(folder: Path) -> None:
        for number, data in enumerate(results.values()):
            (folder / f"{number}").write_bytes(data)
        about = {"names": list(results), "when": datetime.now(UTC).isoformat()}
        (folder / "about.json").write_text(json.dumps(about))

    store.build(KIND, key, make, what=what)
