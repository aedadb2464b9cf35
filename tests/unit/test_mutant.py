"""mutant.py: the mutants as data. And those that the project has: each must apply, in one place only."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from unidiff import PatchSet

from harness import mutant, project, source, suite, testbed
from harness.errors import UserError
from harness.mutant import Mutant
from harness.series import Patch, Series
from harness.store import Store
from harness.suite import Test

BASE = Series.load(project.patches_dir() / "ioband-2.6.31")
MUTANTS = mutant.load_all(project.mutants_dir(BASE.name), BASE)
PATCH = "Subject: [PATCH] md: return two\n\n--- a/md.c\n+++ b/md.c\n@@ -1,1 +1,1 @@\n-return 1;\n+return 2;\n"


def write(folder: Path, toml: str, *names: str) -> Path:
    folder.mkdir()
    (folder / mutant.FILE).write_text(toml)
    for name in names:
        (folder / f"{name}.patch").write_text(PATCH)
    return folder


def test_a_mutant_is_a_patch_and_a_table(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "m",
        '[two]\nabout = "what md returns"\nkills = ["tests/guest/test_md.py::test_md"]\n',
        "two",
    )
    (found,) = mutant.load_all(folder, BASE)
    assert (found.name, found.mistake, found.flavour, found.symptom) == (
        "two",
        "md: return two",
        "perf",
        None,
    )
    assert found.kills == ("tests/guest/test_md.py::test_md",)
    assert found.series.all_patches() == (*BASE.patches, found.patch)


def test_written_as_a_series_it_is_the_same(tmp_path: Path) -> None:
    m = MUTANTS[0]
    m.write_series(tmp_path / "series")
    again = Series.load(tmp_path / "series")
    assert (again.name, again.digest) == (m.name, m.series.digest)


@pytest.mark.parametrize(
    ("toml", "names", "said"),
    [
        ("[two\n", (), "mutants.toml"),
        ('[one]\nabout = "x"\nkills = ["tests/guest/test_a.py::t"]\n', (), "there is no one.patch"),
        ("", ("two",), "two.patch has no table"),
        ('[two]\nabout = "x"\nkills = []\n', ("two",), "two: kills"),
        ('[two]\nabout = "x"\nkills = ["tests/guest/test_a.py"]\n', ("two",), "kills.0"),
        ('[two]\nkills = ["tests/guest/test_a.py::t"]\n', ("two",), "about: Field required"),
        ('[two]\nabout = "x"\nkills = ["tests/guest/test_a.py::t"]\nsymptom = "("\n', ("two",), "symptom"),
        ('[two]\nabout = "x"\nkills = ["tests/guest/test_a.py::t"]\nkill = 1\n', ("two",), "kill: Extra"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, toml: str, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        mutant.load_all(write(tmp_path / "m", toml, *names), BASE)


def test_choice() -> None:
    assert mutant.chosen(MUTANTS, []) == MUTANTS
    assert [m.name for m in mutant.chosen(MUTANTS, ["weight-ign*"])] == ["weight-ignored"]
    with pytest.raises(UserError, match="nonsense"):
        mutant.chosen(MUTANTS, ["weight-*", "nonsense"])


# ---- the project's own


def every() -> dict[str, list[Mutant]]:
    """The mutants of each series, by its name."""
    names = sorted(path.name for path in project.mutants_dir("").iterdir() if path.is_dir())
    return {
        name: mutant.load_all(project.mutants_dir(name), Series.load(project.patches_dir() / name))
        for name in names
    }


BY_SERIES = every()
EVERY = [pytest.param(m, id=f"{m.series.kernel}-{m.name}") for mutants in BY_SERIES.values() for m in mutants]


@pytest.fixture(scope="session")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mutant], Path]:
    """Of a mutant's series: the files that it touches, patched; those that it adds only, where there is no source."""

    @functools.cache
    def made(base: str) -> Path:
        return _patched(tmp_path_factory.mktemp("tree") / "linux", Series.load(project.patches_dir() / base))

    return lambda m: made(m.series.on.name if m.series.on else "")


def _patched(folder: Path, base: Series) -> Path:
    folder.mkdir()
    assert base.kernel is not None
    spec = testbed.kernel_spec(base.kernel)
    tree = source.at_hand(Store.default(), spec)
    compat = Series.load(spec.compat, may_be_empty=True)
    patches = [*compat.all_patches(), *base.all_patches()]
    touched = {file for patch in patches for file in patch.files}
    added = {
        file for patch in patches for file in re.findall(r"^--- /dev/null\n\+\+\+ b/(\S+)", patch.text, re.M)
    }
    for file in touched - added if tree else ():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes((tree.path / file).read_bytes())
    include = [] if tree else [f"--include={file}" for file in sorted(added)]
    for patch in patches if tree else (p for p in patches if added & {*p.files}):
        subprocess.run(
            ["git", "apply", "--whitespace=nowarn", *include, "-"],
            cwd=folder,
            input=patch.diff,
            check=True,
            env={"GIT_CEILING_DIRECTORIES": str(folder.parent), "PATH": "/usr/bin:/bin"},
        )
    return folder


@pytest.mark.parametrize("m", EVERY)
def test_it_applies_in_one_place(m: Mutant, patched: Callable[[Mutant], Path]) -> None:
    for file in PatchSet(m.patch.text):
        place = patched(m) / file.path
        if not place.is_file():
            pytest.skip(f"{file.path}: the kernel's source is not at hand")
        text = place.read_text()
        for hunk in file:
            before = "".join(line.value for line in hunk if not line.is_added)
            assert text.count(before) == 1, (
                f"{file.path}: the text of the hunk is there {text.count(before)} times"
            )


@pytest.mark.parametrize("series", BY_SERIES)
def test_it_says_what_the_mistake_is(series: str) -> None:
    mutants = BY_SERIES[series]
    said = [m.mistake for m in mutants]
    assert len(set(said)) == len(said)
    assert not [m.name for m in mutants if m.mistake == f"{m.name}.patch"]
    diffs = [m.patch.diff for m in mutants]
    assert len(set(diffs)) == len(diffs)


@pytest.fixture(scope="session")
def guest_suite() -> list[Test]:
    return suite.collect()


@pytest.mark.parametrize("m", EVERY)
def test_it_names_tests(m: Mutant, guest_suite: list[Test]) -> None:
    assert m.tests(guest_suite)


def test_selection() -> None:
    plain = Test("tests/guest/test_md.py::test_one", None, ())
    both = [Test(f"tests/guest/test_md.py::test_two[{f}-4-x]", f, ("md-01",)) for f in ("perf", "debug")]
    m = replace(MUTANTS[0], flavour="debug", kills=("tests/guest/test_md.py::test_one", "md-01"))
    assert m.tests([plain, *both]) == [plain.nodeid, both[1].nodeid]
    assert replace(m, kills=("tests/guest/test_md.py::test_two",)).tests(both) == [both[1].nodeid]
    assert replace(m, kills=("tests/guest/test_md.py::test_two[4-x]",)).tests(both) == [both[1].nodeid]
    for wrong in ("tests/guest/test_md.py::test_tw", "md-02"):
        with pytest.raises(UserError, match=re.escape(wrong)):
            replace(m, kills=(wrong,)).tests([plain, *both])


def test_a_patch_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.patch").write_text(PATCH)
    assert Patch.load(tmp_path / "a.patch").subject == "md: return two"
    with pytest.raises(UserError, match=re.escape("b.patch")):
        Patch.load(tmp_path / "b.patch")
