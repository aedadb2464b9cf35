"""What a build log says: its warnings as data, and the first error with what belongs to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pydantic import BaseModel, ConfigDict

# gcc and the assembler: file:line[:column]: warning: text [-Wflag]; Kconfig has no blank before "warning".
_WARNING = re.compile(
    r"^(?P<file>[^\s:]+):(?P<line>\d+):(?:\d+:)? ?[Ww]arning: (?P<text>.*?)(?: \[(?P<flag>-W[^]]+)\])?$"
)
# modpost, the linker, and Kconfig's warnings about `select` name no source line.
_UNPLACED = re.compile(r"^(?:WARNING: |(?:\S*/)?ld: warning: (?:(?P<file>\S+\.o): )?|warning: )(?P<text>.*)$")
_ERROR = re.compile(
    r"(?P<file>[^\s:]+):(?P<line>\d+):(?:\d+:)? (?:fatal error|error|Error): "  # gcc, the assembler
    r"|: undefined reference to |: multiple definition of |^(?:\S*/)?ld: .*(?:cannot find|error:|relocation)"
    r"|^ERROR: "  # modpost
    r"|^(?P<kconfig>[^\s:]*Kconfig[^\s:]*):\d+: (?!warning)"
    r"|^/bin/sh: .*: not found|^make(?:\[\d+\])?: \*\*\* "
)
# Lines before an error that belong to it, and those after it: gcc's source lines and notes.
_BEFORE = re.compile(
    r"^(?:In file included from|\s+from |.*: [Ii]n function |.*: At top level:|.* Assembler messages:$)"
)
_AFTER = re.compile(r"^(?:\s+\d* \||.*: note: |\s{6,}\S)")
# A line of the build's progress: "  CC      mm/memory.o", "  LD [M]  drivers/md/dm-mod.ko".
STEP = re.compile(r"^  (?:[A-Z][A-Z0-9_+-]*)(?: \[M\])?\s+(?P<target>\S+)")
_SHOWN = 12
_SAME_KIND = 10


class Warning(BaseModel):
    """One compiler, linker or Kconfig warning. `normalised` is what two builds are compared by.

    file: below the tree's root, or empty. flag: e.g. ``-Wunused-variable``, or empty.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    line: int
    flag: str
    text: str
    normalised: str


def warnings(lines: Iterable[str]) -> list[Warning]:
    """All different warnings of a log, in order; one that repeats (a header's) is there once."""
    return list(dict.fromkeys(_warnings(lines)))


def _warnings(lines: Iterable[str]) -> Iterator[Warning]:
    for line in lines:
        if found := _WARNING.match(line):
            file, flag = _path(found["file"]), found["flag"] or ""
            number = int(found["line"])
        elif found := _UNPLACED.match(line):
            file, flag, number = _path(found["file"] or ""), "", 0
        else:
            continue
        text = found["text"].strip()
        normalised = f"{file}: {_normalised(text)}{f' [{flag}]' if flag else ''}"
        yield Warning(file=file, line=number, flag=flag, text=text, normalised=normalised)


def _path(path: str) -> str:
    """``./arch/x86/include/asm/x.h`` and ``arch/x86/include/asm/../../y.h`` in one form."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _normalised(text: str) -> str:
    """Without what changes although the warning is the same: addresses, line numbers, the style of quotes."""
    text = re.sub(r"[\u2018\u2019`]", "'", text)
    text = re.sub(r"\b0x[0-9a-f]+\b", "0x..", text)
    return re.sub(r"(\bline |\.[chS]:)\d+\b", r"\1..", text)


def first_error(lines: Sequence[str]) -> tuple[str, list[str]]:
    """The first error of a log: the file that it is about ("" if it names none) and the lines that show it.

    ``make``'s own complaints count only when nothing else is found; undefined references are shown together.
    """
    hits = [(number, found) for number, line in enumerate(lines) if (found := _ERROR.search(line))]
    told = [hit for hit in hits if not hit[1][0].startswith("make")] or hits
    if not told:
        return "", list(lines[-_SHOWN:])
    number, found = told[0]
    shown = list(_lines_before(lines, number))
    if (
        "reference to" in lines[number]
        or "definition of" in lines[number]
        or lines[number].startswith("ERROR")
    ):
        shown += [lines[other] for other, _ in told[:_SAME_KIND]]
    else:
        shown.append(lines[number])
        for line in lines[number + 1 : number + _SHOWN]:
            if not _AFTER.match(line):
                break
            shown.append(line)
    return _path(found["file"] or found["kconfig"] or _link_file(lines[number])), shown


def _lines_before(lines: Sequence[str], number: int) -> Iterator[str]:
    first = number
    while first > 0 and number - first < _SHOWN and _BEFORE.match(lines[first - 1]):
        first -= 1
    yield from lines[first:number]


def _link_file(line: str) -> str:
    """The source of an undefined reference: ``mm/a.c:(.text+0x12): undefined ...`` or ``mm/a.c:12: ...``."""
    found = re.search(r"([^\s:]+\.[chS]):(?:\d+|\([^)]*\)):", line)
    return found[1] if found else ""
