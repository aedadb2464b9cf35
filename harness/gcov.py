"""gcov: the counters that a guest's kernel keeps, and what the compiler's tool of that name makes of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ValidationError

from harness import host
from harness.coverage import Counts
from harness.errors import InfrastructureError
from harness.guest import Guest
from harness.host import Compiler

DEBUGFS = "/sys/kernel/debug/gcov"

_NEVER_RAN = "cannot open data file, assuming not executed"

# The files of debugfs say that they are empty, and tar would believe it. Their folders are those of the build.
_COPY = f"""
to=$(mktemp -d) && cd {DEBUGFS} && find . -name '*.gcda' | while read -r file; do
	mkdir -p "$to/${{file%/*}}" && cat "$file" >"$to/$file" || exit 1
done && echo "$to"
"""


class _Line(BaseModel):
    line_number: int
    count: int


class _File(BaseModel):
    file: str
    lines: list[_Line]


class _Report(BaseModel):
    """What gcov says of one object (``--json-format``, version 1)."""

    current_working_directory: str
    files: list[_File]


def tool(compiler: Compiler) -> Path:
    """The gcov that belongs to a gcc. Raises InfrastructureError: it is not installed."""
    name = compiler.name.replace("gcc", "gcov")
    beside = compiler.path.with_name(name)
    return beside if beside.exists() else host.find_tool(name)


def fetch(guest: Guest) -> dict[str, bytes]:
    """The counters of the guest's kernel, those of modules that were unloaded as well: a .gcda file for each object, by
    the path that it has in the tree of the build. A copy stays in the guest's /tmp. Raises CommandError, GuestError.
    """
    return guest.get_tree(guest.run(_COPY).stdout.strip())


def keep(data: Mapping[str, bytes], notes: Path, folder: Path) -> None:
    """Write what was fetched below `folder`, by its place in the tree, as the notes of the build are: wherever that
    tree was. Data without notes is of another build: left out.
    """
    known = {note.relative_to(notes).with_suffix(".gcda") for note in notes.rglob("*.gcno")}
    for name, content in data.items():
        path = PurePosixPath(name)
        places = (PurePosixPath(*path.parts[start:]) for start in range(len(path.parts)))
        place = next((folder / place for place in places if Path(place) in known), None)
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)


def counts(gcov: Path, notes: Path, data: Path | None, work: Path) -> Counts:
    """How often each line was executed. notes: a build's. data: a machine's, as `keep` wrote it; an object of which
    there is none never ran (a module that was not loaded), and with None all are such. work: an empty folder.

    Raises InfrastructureError: gcov failed, or has become something else.
    """
    names = [note.relative_to(notes) for note in sorted(notes.rglob("*.gcno"))]
    for name in names:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).symlink_to(notes / name)
        counters = name.with_suffix(".gcda")
        if data is not None and (data / counters).is_file():
            (work / counters).symlink_to((data / counters).absolute())
    if not names:
        return {}
    done = host.run([gcov, "--json-format", "--stdout", *names], cwd=work, check=False)
    # Some versions only say that counters are not of these notes, and count on.
    wrong = [line for line in done.stderr.splitlines() if not line.endswith(_NEVER_RAN)]
    if wrong or done.returncode != 0:
        raise InfrastructureError(
            f"{gcov.name} cannot read the counters in {data}: {'; '.join(wrong[:3]) or 'it does not say why'}",
            hint="are they of another build? run the tests again",
        )
    return _sums(done.stdout)


def _sums(said: str) -> Counts:
    """One report a line. A line of source may be told of several times: by each object, and for each function, that it
    is compiled into.
    """
    total: dict[str, dict[int, int]] = {}
    for text in said.splitlines():
        try:
            report = _Report.model_validate_json(text)
        except ValidationError as error:
            raise InfrastructureError(f"gcov printed something that is no report: {text[:200]}") from error
        for file in report.files:
            lines = total.setdefault(_below(file.file, report.current_working_directory), {})
            for line in file.lines:
                lines[line.line_number] = lines.get(line.line_number, 0) + line.count
    return total


def _below(file: str, folder: str) -> str:
    """A file's path below the folder that the compiler ran in; its own where it lies elsewhere."""
    path = Path(os.path.normpath(Path(folder) / file))
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
