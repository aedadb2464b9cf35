"""gcov.py: counters of a program that really ran, through the compiler's own gcov."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness import gcov
from harness.errors import InfrastructureError
from harness.host import Compiler, compiler

ADD = """\
#include "inline.h"

int add(int a, int b)
{
	if (a > 100)
		return limit(a);
	return twice(a) + b;
}
"""
INLINE = """\
static inline int twice(int a)
{
	return 2 * a;
}

static inline int limit(int a)
{
	return a > 200 ? 200 : a;
}
"""
MAIN = """\
int add(int a, int b);

int main(int argc, char **argv)
{
	return add(argc, 2) == 4 ? 0 : 1;
}
"""
IDLE = "int idle(int a)\n{\n\treturn a + 1;\n}\n"


@pytest.fixture
def cc() -> Compiler:
    return compiler(None, ["gcc-12", "gcc-13", "gcc-14", "gcc-11", "gcc"])


@pytest.fixture
def ran(tmp_path: Path, cc: Compiler) -> tuple[Path, dict[str, bytes]]:
    """The notes of a build, and what a run of it counted, named as the kernel does: by the place of the build."""
    tree = tmp_path / "linux"
    (tree / "lib").mkdir(parents=True)
    for name, text in {"add.c": ADD, "inline.h": INLINE, "main.c": MAIN, "idle.c": IDLE}.items():
        (tree / "lib" / name).write_text(text)
    for name in ("add", "main", "idle"):
        words = ["-O2", "-fprofile-arcs", "-ftest-coverage", "-c", f"lib/{name}.c", "-o", f"lib/{name}.o"]
        subprocess.run([cc.path, *words], cwd=tree, check=True)
    subprocess.run([cc.path, "--coverage", "-o", "prog", "lib/add.o", "lib/main.o"], cwd=tree, check=True)
    subprocess.run([tree / "prog"], check=True)
    notes = tmp_path / "notes"
    (notes / "lib").mkdir(parents=True)
    for name in ("add", "idle"):
        (tree / "lib" / f"{name}.gcno").rename(notes / "lib" / f"{name}.gcno")
    data = {str(path.relative_to("/")): path.read_bytes() for path in tree.rglob("*.gcda")}
    assert len(data) == 2
    return notes, data


def counts(cc: Compiler, notes: Path, data: Path | None, tmp_path: Path) -> gcov.Counts:
    work = tmp_path / f"work-{data is None}"
    work.mkdir()
    return gcov.counts(gcov.tool(cc), notes, data, work)


def test_lines_that_ran_and_lines_that_did_not(ran, cc, tmp_path):
    notes, data = ran
    gcov.keep(data, notes, tmp_path / "gcda")
    # main.c did not count, as far as the notes know.
    assert [str(p.relative_to(tmp_path)) for p in (tmp_path / "gcda").rglob("*.gcda")] == [
        "gcda/lib/add.gcda"
    ]
    found = counts(cc, notes, tmp_path / "gcda", tmp_path)
    assert {n: count > 0 for n, count in found["lib/add.c"].items()} == {3: True, 5: True, 6: False, 7: True}
    # An inline function of a header, in the folder of who includes it.
    assert found["lib/inline.h"][3] == 1 and found["lib/inline.h"][8] == 0
    assert set(found["lib/idle.c"].values()) == {0}


def test_without_counters_nothing_ran(ran, cc, tmp_path):
    notes, _ = ran
    found = counts(cc, notes, None, tmp_path)
    assert set(found["lib/add.c"]) == {3, 5, 6, 7}
    assert not any(count for lines in found.values() for count in lines.values())


def test_a_build_without_notes(cc, tmp_path):
    assert counts(cc, tmp_path / "none", None, tmp_path) == {}


def test_counters_of_another_build(ran, cc, tmp_path):
    notes, data = ran
    other = {name: content[:8] + b"\1\2\3\4" + content[12:] for name, content in data.items()}
    gcov.keep(other, notes, tmp_path / "gcda")
    with pytest.raises(InfrastructureError, match=r"gcda.*add\.gcda:stamp mismatch"):
        counts(cc, notes, tmp_path / "gcda", tmp_path)


def test_what_is_no_report(tmp_path, cc):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.gcno").write_bytes(b"")
    (tmp_path / "work").mkdir()
    with pytest.raises(InfrastructureError, match="no report"):
        gcov.counts(Path("/bin/echo"), notes, None, tmp_path / "work")


def test_the_tool_is_the_compilers(cc):
    assert gcov.tool(cc).name == cc.name.replace("gcc", "gcov")
    other = cc.model_copy(update={"name": "gcc-99", "path": Path("/nowhere/gcc-99")})
    with pytest.raises(InfrastructureError, match="gcov-99"):
        gcov.tool(other)
