"""Where the project's data lies: ``kernel/``, ``patches/``, ``images/``, ``tests/`` and the folder of runs."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(os.environ.get("HARNESS_ROOT") or Path(__file__).resolve().parent.parent)


def kernel_dir(name: str) -> Path:
    """The folder that describes base kernel ``name``."""
    return ROOT / "kernel" / name


def patches_dir() -> Path:
    """The folder with one folder per series."""
    return ROOT / "patches"


def images_dir() -> Path:
    """Recipes of the guest's programs, and its /init."""
    return ROOT / "images"


def scenarios_dir() -> Path:
    """Bandwidth scenarios, one TOML file each."""
    return ROOT / "tests" / "scenarios"


def runs_dir() -> Path:
    """Where every run has a folder of its own (``$HARNESS_RUNS`` overrides)."""
    return Path(os.environ.get("HARNESS_RUNS") or ROOT / "runs")
