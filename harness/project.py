"""Where the project's data lies: ``kernel/``, ``patches/``, ``images/``, ``tests/`` and the folder of runs."""

from __future__ import annotations

import os
import secrets
from datetime import datetime
from pathlib import Path

from harness.errors import InfrastructureError

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


def mutants_dir(series: str) -> Path:
    """Mistakes in a series that the guest suite must notice: patches, and a file that says by which tests."""
    return ROOT / "tests" / "mutants" / series


def scenarios_dir() -> Path:
    """Bandwidth scenarios, one TOML file each."""
    return ROOT / "tests" / "scenarios"


def contract_dir() -> Path:
    """What the series promises, one TOML file of rows per area."""
    return ROOT / "tests" / "guest" / "contract"


def runs_dir() -> Path:
    """Where every run has a folder of its own (``$HARNESS_RUNS`` overrides)."""
    return Path(os.environ.get("HARNESS_RUNS") or ROOT / "runs")


def new_run_folder() -> Path:
    """A folder for a new run, named by local time and a few random letters, and the link ``latest`` to it.

    Raises InfrastructureError when it cannot be made.
    """
    runs = runs_dir()
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder = runs / name
    try:
        folder.mkdir(parents=True)
        link = runs / f".latest-{name}"
        link.symlink_to(name)
        link.replace(runs / "latest")
    except OSError as e:
        raise InfrastructureError(
            f"no folder for this run can be made in {runs}: {e.strerror}",
            hint="set HARNESS_RUNS to a folder that you may write to",
        ) from e
    return folder
