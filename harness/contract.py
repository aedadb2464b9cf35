"""The conformance contract: what the series promises, row by row (``tests/guest/contract/*.toml``), and what was seen.

A row has a stable id, the section of the report that it stands in, and one sentence. Tests name the rows that they
test (``@pytest.mark.contract("ctr-07")``); a row that no test can serve says why in ``untested``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import UserError

RowId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)+$")]
Text = Annotated[str, Field(pattern=r"\S")]

RowOutcome = Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed", "inconclusive"]
"""As of a test; ``inconclusive`` is a scenario that could not be decided."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Row(_Strict):
    """One promise. says: the promise, a sentence. untested: why no test can serve it; None: tests do."""

    id: RowId
    section: Text
    says: Text
    untested: Text | None = None


class RowResult(_Strict):
    """How one test of a row ended. flavour: of the kernel that it ran on. seen: what it observed."""

    nodeid: str
    flavour: str
    outcome: RowOutcome
    seen: list[str] = []


class ConformanceRecord(Row):
    """A row in run.json, with the results of its tests so far."""

    results: list[RowResult] = []


class _File(_Strict):
    row: Annotated[list[Row], Field(min_length=1)]


def load(path: Path) -> list[Row]:
    """The rows of one file. Raises UserError that names the file and each wrong key."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return _File.model_validate(content).row
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not valid TOML: {e}", hint="correct the file") from e
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror}", hint="name a file that exists") from e
    except ValidationError as e:
        wrong = "; ".join(f"{_place(content, x['loc'])}: {x['msg']}" for x in e.errors())
        raise UserError(f"{path}: {wrong}", hint="a [[row]] has id, section, says, and maybe untested") from e


def _place(content: object, place: tuple[int | str, ...]) -> str:
    """Where a mistake is: a row goes by its id where it has one."""
    if isinstance(content, dict) and len(place) > 1 and isinstance(place[1], int):
        row = content["row"][place[1]]
        name = row.get("id") if isinstance(row, dict) else None
        return ".".join(map(str, (name or f"row {place[1] + 1}", *place[2:])))
    return ".".join(map(str, place)) or "file"


def load_all(folder: Path) -> dict[str, Row]:
    """Every row of a folder's ``*.toml``, by id, in the order of files and rows. Raises UserError, also when an
    id is used twice.
    """
    rows: dict[str, Row] = {}
    origin: dict[str, Path] = {}
    for path in sorted(folder.glob("*.toml")):
        for row in load(path):
            if row.id in rows:
                raise UserError(
                    f"{path}: {row.id}: this id is also in {origin[row.id]}", hint="give one of them another"
                )
            rows[row.id], origin[row.id] = row, path
    if not rows:
        raise UserError(f"no contract in {folder}", hint="add a file of rows (*.toml)")
    return rows


def wrong_ids(rows: dict[str, Row], tested: Iterable[str]) -> list[str]:
    """What is wrong with the ids that tests name: unknown ones, and rows that say they cannot be tested."""
    ids = sorted(set(tested))
    wrong = [f"{i}: no such row" for i in ids if i not in rows]
    return wrong + [f"{i}: says that it cannot be tested" for i in ids if i in rows and rows[i].untested]


def missing_tests(rows: dict[str, Row], tested: Iterable[str]) -> list[str]:
    """Ids of rows with neither a test nor a reason why there is none."""
    have = set(tested)
    return [row.id for row in rows.values() if row.id not in have and row.untested is None]
