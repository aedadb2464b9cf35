"""Patch coverage: of the lines that each patch of a series added, which were executed? Counts in, result out.

A line has code if the compiler made some for it in any of the builds, and was executed if any build counted it: what
only a debugging configuration or a module runs counts like the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

GOAL = 0.95
"""Of the added lines with code, this part is to be executed."""

# Lines without code (a comment, a brace, an argument's second line) that an unexecuted passage may go across.
_GAP = 3

Counts = Mapping[str, Mapping[int, int]]
"""How often a line was executed, by file (below the tree's root) and line number; only lines that have code."""


@dataclass(frozen=True)
class AddedLine:
    """A line of the final tree that a patch of the series added. number: from 1 on. patch: index into the series."""

    number: int
    patch: int
    text: str


class Passage(BaseModel):
    """Lines of a file, one after another, none of which was executed; between them there may be lines without code.

    first: number of the first line. missed: how many of them have code.
    """

    model_config = ConfigDict(frozen=True)

    first: int
    missed: int
    lines: tuple[str, ...]

    @property
    def last(self) -> int:
        """Number of the last line."""
        return self.first + len(self.lines) - 1

    @property
    def place(self) -> str:
        """``12`` or ``12-15``."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class _Counted(BaseModel):
    """Lines with code, and how many of these were executed."""

    model_config = ConfigDict(frozen=True)

    with_code: int
    executed: int

    @property
    def share(self) -> float | None:
        """0..1; None where no line has code."""
        return self.executed / self.with_code if self.with_code else None


class FileCoverage(_Counted):
    """What one patch added to a file and is there in the end. added: lines. compiled: it was, with counters, in some
    build; of a header, whose code is in the objects that use it, no one can say that it was not.
    """

    file: str
    added: int
    compiled: bool
    passages: tuple[Passage, ...] = ()


class PatchCoverage(_Counted):
    """One patch. number: from 1 on. files: those with C in them."""

    number: int
    name: str
    subject: str
    files: tuple[FileCoverage, ...]


class Uncounted(BaseModel):
    """A machine whose counters are not known."""

    model_config = ConfigDict(frozen=True)

    machine: str
    reason: str


class Coverage(_Counted):
    """The whole series. goal: 0..1. machines: how many the counters are from. uncounted: those that had counters, too.
    builds: keys of the kernels that count.
    """

    goal: float = GOAL
    patches: tuple[PatchCoverage, ...]
    builds: tuple[str, ...]
    machines: int
    uncounted: tuple[Uncounted, ...] = ()

    @property
    def met(self) -> bool | None:
        """Is the goal reached? None where no line has code."""
        return None if self.share is None else self.share >= self.goal

    @property
    def missed(self) -> int:
        """Lines with code that were not executed."""
        return self.with_code - self.executed

    @property
    def by_file(self) -> dict[str, tuple[FileCoverage, ...]]:
        """What the patches added to each file, in the order of the names."""
        every = sorted({file.file for patch in self.patches for file in patch.files})
        return {
            name: tuple(file for patch in self.patches for file in patch.files if file.file == name)
            for name in every
        }

    @property
    def not_compiled(self) -> dict[str, int]:
        """Added lines in files that no build with counters compiled: of them nothing is known."""
        return {
            name: sum(part.added for part in parts)
            for name, parts in self.by_file.items()
            if not any(part.compiled for part in parts)
        }


def merge(counts: Sequence[Counts]) -> dict[str, dict[int, int]]:
    """The sum, of several machines, builds or objects."""
    total: dict[str, dict[int, int]] = {}
    for one in counts:
        for file, lines in one.items():
            sums = total.setdefault(file, {})
            for number, count in lines.items():
                sums[number] = sums.get(number, 0) + count
    return total


def judge(
    patches: Sequence[tuple[str, str]],
    added: Mapping[str, Sequence[AddedLine]],
    counts: Counts,
    *,
    builds: Collection[str],
    machines: int,
    uncounted: Sequence[Uncounted] = (),
) -> Coverage:
    """patches: name and subject of each. added: by file, in the order of the lines; only files of C."""
    results = []
    for index, (name, subject) in enumerate(patches):
        files = []
        for file, lines in sorted(added.items()):
            mine = [line for line in lines if line.patch == index]
            if mine:
                files.append(_file(file, mine, counts.get(file)))
        results.append(
            PatchCoverage(number=index + 1, name=name, subject=subject, files=tuple(files), **_sums(files))
        )
    return Coverage(
        patches=tuple(results),
        builds=tuple(builds),
        machines=machines,
        uncounted=tuple(uncounted),
        **_sums(results),
    )


def _sums(parts: Sequence[_Counted]) -> dict[str, int]:
    return {
        "with_code": sum(part.with_code for part in parts),
        "executed": sum(part.executed for part in parts),
    }


def _file(name: str, mine: Sequence[AddedLine], counts: Mapping[int, int] | None) -> FileCoverage:
    known = [line for line in mine if line.number in (counts or {})]
    executed = {line.number for line in known if counts and counts[line.number] > 0}
    missed = {line.number for line in known} - executed
    return FileCoverage(
        file=name,
        added=len(mine),
        compiled=counts is not None or not name.endswith(".c"),
        with_code=len(known),
        executed=len(executed),
        passages=tuple(_passages(mine, executed, missed)),
    )


def _passages(mine: Sequence[AddedLine], executed: set[int], missed: set[int]) -> Iterator[Passage]:
    """Each from its first to its last line that was missed. It ends at a line that was executed, at one that is not the
    patch's, and where too many lines have no code.
    """
    passage: list[AddedLine] = []
    gap: list[AddedLine] = []

    def done() -> Passage:
        return Passage(
            first=passage[0].number,
            missed=sum(line.number in missed for line in passage),
            lines=tuple(line.text for line in passage),
        )

    for line in mine:
        before = gap[-1] if gap else passage[-1] if passage else None
        if (
            passage
            and before
            and (line.number in executed or line.number != before.number + 1 or len(gap) > _GAP)
        ):
            yield done()
            passage, gap = [], []
        if line.number in missed:
            passage += [*gap, line]
            gap = []
        elif passage:
            gap.append(line)
    if passage:
        yield done()
