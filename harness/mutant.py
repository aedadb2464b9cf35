"""A mutant: one plausible mistake as a small patch on top of the good series, and the tests that must notice it.

``tests/mutants/<series>/mutants.toml`` has a table for each, ``<name>.patch`` beside it is the mistake, whose
subject says what it is.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.errors import UserError
from harness.series import Patch, Series

if TYPE_CHECKING:
    from harness.suite import Test

FILE = "mutants.toml"

Selection = Annotated[str, Field(pattern=r"^(tests/guest/\w+\.py::\S.*|[a-z][a-z0-9]*(-[a-z0-9]+)+)$")]
Text = Annotated[str, Field(pattern=r"\S")]

MutantOutcome = Literal["killed", "survived", "accident", "unproven", "broken"]
"""killed: by one of its tests. survived: they all passed. accident: the kernel died or the guest was left unclean, and
its entry does not expect that. unproven: the good series does not pass its tests. broken: it cannot be built or run.
"""


class _Entry(BaseModel):
    """A table of mutants.toml.

    about: what the mistake breaks. kills: the tests that could see it, cheapest first, by node id (of a function, or
    of a test without its flavour), or by the id of the contract's row that they serve. flavour: of the kernel that
    they run on. symptom: a regular expression; the mistake also counts as found when the kernel dies with, or the
    check after a test finds, what this matches.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: Text
    kills: Annotated[tuple[Selection, ...], Field(min_length=1)]
    flavour: str = "perf"
    symptom: str | None = None

    @field_validator("symptom")
    @classmethod
    def _is_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as e:
            raise ValueError(f"not a regular expression: {e}") from e
        return value


@dataclass(frozen=True)
class Mutant:
    """One mutant. series: the patch, on top of the good series. Other fields as in `_Entry`."""

    name: str
    series: Series
    about: str
    kills: tuple[str, ...]
    flavour: str
    symptom: str | None

    @property
    def patch(self) -> Patch:
        """The mistake."""
        return self.series.patches[0]

    def tests(self, suite: Sequence[Test]) -> list[str]:
        """Node ids of its tests, in their order. Raises UserError: one of its selections selects none."""
        found: dict[str, None] = {}
        for selection in self.kills:
            more = [t for t in suite if t.selected(selection) and t.flavour in (self.flavour, None)]
            if not more:
                raise UserError(
                    f"mutant {self.name}: no test is {selection!r}, on flavour {self.flavour}",
                    hint=f"correct its table in {FILE}",
                )
            found |= dict.fromkeys(t.nodeid for t in more)
        return list(found)

    @property
    def mistake(self) -> str:
        """The mistake in words."""
        return self.patch.subject

    def write_series(self, folder: Path) -> None:
        """Write it as a series that `harness test --series` takes."""
        assert self.series.on is not None
        folder.mkdir(parents=True)
        (folder / self.patch.name).write_bytes((self.series.path / self.patch.name).read_bytes())
        on = str(self.series.on.path.absolute()).replace("\\", "\\\\").replace('"', '\\"')
        (folder / "series.toml").write_text(f'name = "{self.name}"\non = "{on}"\n')


class MutantRecord(BaseModel):
    """What became of a mutant, in run.json.

    killed_by: node id of the test, None where none failed. how: the first line of what it said. seconds: from the
    start of the tests to their end. build_seconds: None when it was not built now. cached: found out in an earlier
    run. run: the folder of the tests' own run, below this one's.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    name: str
    mistake: str
    about: str
    flavour: str
    tests: list[str]
    outcome: MutantOutcome
    killed_by: str | None = None
    how: str = ""
    seconds: float = 0.0
    build_seconds: float | None = None
    cached: bool = False
    run: str | None = None

    @property
    def killed(self) -> bool:
        """Whether the suite is sharp enough for it."""
        return self.outcome == "killed"


def load_all(folder: Path, base: Series) -> list[Mutant]:
    """The mutants of a folder, in the order of its mutants.toml.

    Raises:
        UserError: names the file, the mutant and the key; also for a patch without a table and the reverse.
    """
    file = folder / FILE
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UserError(f"{file}: {e}", hint="mutants are described there") from e
    patches = {path.stem for path in folder.glob("*.patch")}
    for name in sorted(patches ^ tables.keys()):
        what = f"there is no {name}.patch" if name in tables else f"{name}.patch has no table there"
        raise UserError(f"{file}: {what}", hint="a mutant is a patch and a table of the same name")
    return [_mutant(folder, name, table, base) for name, table in tables.items()]


def _mutant(folder: Path, name: str, table: object, base: Series) -> Mutant:
    try:
        entry = _Entry.model_validate(table)
    except ValidationError as e:
        wrong = "; ".join(f"{'.'.join(map(str, x['loc']))}: {x['msg']}" for x in e.errors())
        raise UserError(
            f"{folder / FILE}: {name}: {wrong}", hint="a mutant has about, kills, maybe flavour and symptom"
        ) from e
    patch = Patch.load(folder / f"{name}.patch")
    series = Series(
        name=name,
        kernel=base.kernel,
        title=patch.subject,
        path=folder,
        patches=(patch,),
        config={},
        on=base,
    )
    return Mutant(name=name, series=series, **entry.model_dump())


def chosen(mutants: Sequence[Mutant], patterns: Sequence[str]) -> list[Mutant]:
    """Those whose name matches one of the shell patterns; all for no pattern. Raises UserError: one matches none."""
    for pattern in patterns:
        if not any(fnmatchcase(m.name, pattern) for m in mutants):
            raise UserError(f"no mutant is called {pattern!r}", hint="`harness mutants --list` names them")
    return [m for m in mutants if not patterns or any(fnmatchcase(m.name, p) for p in patterns)]
