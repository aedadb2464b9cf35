"""prefixes.py: each prefix of a series, really built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakekernel import LINUX, QUIET, build_spec, diff, mail, series_files, write_series

from harness.diagnostics import Warning
from harness.errors import InfrastructureError, KernelPanic, UserError
from harness.kbuild import Build
from harness.prefixes import Prefixes, new_warnings
from harness.store import Store
from harness.validation import ConfigurationResult, PatchResult, RemarkKind


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def patches(*arguments: Any, **options: Any) -> list[PatchResult]:
    """What `Prefixes` finds of patches."""
    found = Prefixes(*arguments, **options).results()
    return [result for result in found if isinstance(result, PatchResult)]


def test_good_series(store: Store, tmp_path: Path) -> None:
    booted: list[Build] = []
    spec = build_spec(store, tmp_path, write_series(tmp_path / "series"))
    prefixes = Prefixes(store, spec, QUIET, boot=booted.append)
    assert len(prefixes.base().warnings) == 1
    result = patches(store, spec, QUIET, boot=booted.append)
    assert [(patch.number, patch.name, patch.ok) for patch in result] == [
        (1, "0001-md-return.patch", True),
        (2, "0002-dm-fake.patch", True),
        (3, "0003-dm-fake-more.patch", True),
    ]
    assert result[0].subject == "md: return one more"
    assert [build.key for build in booted] == [patch.key for patch in result]
    assert booted[-1].key == spec.key


def test_patch_with_a_warning_and_one_that_breaks_the_build(store: Store, tmp_path: Path) -> None:
    files = series_files()
    files["0002-dm-fake.patch"] = (
        files["0002-dm-fake.patch"]
        .replace("+\treturn MD_VERSION;", "+\tchar *text = MD_VERSION;\n+\n+\treturn 0;")
        .replace("+1,6 @@", "+1,8 @@")
    )
    dm_fake = files["0002-dm-fake.patch"]
    text = "".join(line[1:] + "\n" for line in dm_fake.rpartition("@@\n")[2].splitlines() if line[:1] == "+")
    broken = text.replace("return 0", "return nothing")
    files["0003-dm-fake-more.patch"] = mail(3, "break it", diff("drivers/md/dm-fake.c", broken, text))
    files["0004-mend.patch"] = mail(4, "mend it", diff("drivers/md/dm-fake.c", text, broken))
    spec = build_spec(store, tmp_path, write_series(tmp_path / "series", files))
    result = patches(store, spec, QUIET)
    assert [patch.ok for patch in result] == [True, False, False, True]
    assert {warning.flag for warning in result[1].new_warnings} == {
        "-Wint-conversion",
        "-Wunused-variable",
    }
    assert result[1].error is None
    assert "'nothing' undeclared" in str(result[2].error)
    assert result[2].key is None
    assert result[3].new_warnings == (), "the second patch brought them"


def test_prefix_that_does_not_apply(store: Store, tmp_path: Path) -> None:
    files = series_files()
    files["0002-dm-fake.patch"], files["0003-dm-fake-more.patch"] = (
        files["0003-dm-fake-more.patch"],
        files["0002-dm-fake.patch"],
    )
    spec = build_spec(store, tmp_path, write_series(tmp_path / "series", files))
    result = patches(store, spec, QUIET)
    assert [patch.ok for patch in result] == [True, False, False]
    assert "does not apply" in str(result[1].error)


def test_prefix_that_does_not_boot(store: Store, tmp_path: Path) -> None:
    def boot(build: Build) -> None:
        if build.series and len(build.series.patches) == 2:
            raise KernelPanic("the kernel said panic")

    spec = build_spec(store, tmp_path, write_series(tmp_path / "series"))
    result = patches(store, spec, QUIET, boot=boot)
    assert [patch.error for patch in result] == [None, "the kernel said panic", None]


def test_the_hosts_fault_is_nobody_elses(store: Store, tmp_path: Path) -> None:
    def boot(build: Build) -> None:
        raise InfrastructureError("no QEMU")

    spec = build_spec(store, tmp_path, write_series(tmp_path / "series"))
    with pytest.raises(InfrastructureError, match="no QEMU"):
        patches(store, spec, QUIET, boot=boot)


def test_nothing_to_patches(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no series"):
        Prefixes(store, build_spec(store, tmp_path), QUIET)


def test_new_warnings_are_compared_by_normalised_text() -> None:
    def warning(file: str, line: int, text: str) -> Warning:
        return Warning(file=file, line=line, flag="", text=text, normalised=f"{file}: {text}")

    before = [warning("a.c", 1, "old"), warning("b.c", 1, "old")]
    after = [warning("a.c", 9, "old"), warning("a.c", 10, "new"), warning("c.c", 1, "old")]
    assert new_warnings(before, after) == tuple(after[1:])


def test_what_checkpatch_remarks_counts_unless_it_is_accepted(store: Store, tmp_path: Path) -> None:
    files = series_files()
    long = "this comment is longer than the eighty columns that a line of the kernel has"
    first = files["0001-md-return.patch"]
    line = next(line for line in first.splitlines() if line.startswith("+\t"))
    files["0001-md-return.patch"] = first.replace(line, f"{line} /* {long} */")
    files["0003-dm-fake-more.patch"] = files["0003-dm-fake-more.patch"].replace("Signed-off-by", "Seen-by")
    files["series.toml"] = '[checkpatch]\n"over 80" = "it is a comment"\n'
    spec = build_spec(store, tmp_path, write_series(tmp_path / "series", files))
    found = patches(store, spec, QUIET)
    assert [patch.ok for patch in found] == [True, True, False]
    (remark,) = found[0].remarks
    assert (remark.kind, remark.accepted) == (RemarkKind.WARNING, "it is a comment")
    assert files["0001-md-return.patch"].splitlines()[remark.line - 1] == f"{line} /* {long} */"
    (remark,) = found[2].remarks
    assert (remark.kind, remark.line, remark.accepted) == (RemarkKind.ERROR, 0, None)
    assert remark.text == "Missing Signed-off-by: line(s)"


def test_a_script_that_breaks_off_judges_nothing(store: Store, tmp_path: Path) -> None:
    files = series_files()
    files["0001-md-return.patch"] = files["0001-md-return.patch"].replace("Why", "BREAK THE SCRIPT. Why")
    spec = build_spec(store, tmp_path, write_series(tmp_path / "series", files))
    with pytest.raises(InfrastructureError, match=r"checkpatch.pl of this kernel does not judge 0001"):
        patches(store, spec, QUIET)


def test_configurations_of_the_whole(store: Store, tmp_path: Path) -> None:
    files = series_files()
    md = (LINUX / "drivers/md/md.c").read_text()
    mistake = "#ifndef CONFIG_DM_FAKE\nchar *text = 1;\n#endif\n"
    files["0001-md-return.patch"] = mail(1, "a mistake", diff("drivers/md/md.c", md + mistake))
    files["series.toml"] = (
        '[config]\nCONFIG_DM_FAKE = "y"\n[configurations.without]\nCONFIG_DM_FAKE = "n"\n'
        '[configurations.typo]\nCONFIG_DM_FAK = "n"\n[configurations.usual]\nCONFIG_DM_FAKE = "y"\n'
    )
    spec = build_spec(store, tmp_path, write_series(tmp_path / "series", files))
    found = [r for r in Prefixes(store, spec, QUIET).results() if isinstance(r, ConfigurationResult)]
    assert [(c.name, c.ok, len(c.new_warnings)) for c in found] == [
        ("without", False, 1),
        ("typo", False, 0),
        ("usual", True, 0),
    ]
    assert "CONFIG_DM_FAK" in str(found[1].error)
