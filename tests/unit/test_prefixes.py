"""validate.py: each prefix of a series, really built."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakekernel import QUIET, build_spec, diff, mail, series_files, write_series

from harness.diagnostics import Warning
from harness.errors import InfrastructureError, KernelPanic, UserError
from harness.kbuild import Build
from harness.store import Store
from harness.validate import new_warnings, validate


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_good_series(store: Store, tmp_path: Path) -> None:
    booted: list[Build] = []
    spec = build_spec(store, tmp_path, write_series(tmp_path / "series"))
    result = validate(store, spec, QUIET, boot=booted.append)
    assert result.ok
    assert result.base_warnings == 1
    assert [(patch.number, patch.name, patch.ok) for patch in result.patches] == [
        (1, "0001-md-return.patch", True),
        (2, "0002-dm-fake.patch", True),
        (3, "0003-dm-fake-more.patch", True),
    ]
    assert result.patches[0].subject == "md: return one more"
    assert [build.key for build in booted] == [patch.key for patch in result.patches]
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
    result = validate(store, spec, QUIET)
    assert not result.ok
    assert [patch.ok for patch in result.patches] == [True, False, False, True]
    assert {warning.flag for warning in result.patches[1].new_warnings} == {
        "-Wint-conversion",
        "-Wunused-variable",
    }
    assert result.patches[1].error is None
    assert "'nothing' undeclared" in str(result.patches[2].error)
    assert result.patches[2].key is None
    assert result.patches[3].new_warnings == (), "the second patch brought them"


def test_prefix_that_does_not_apply(store: Store, tmp_path: Path) -> None:
    files = series_files()
    files["0002-dm-fake.patch"], files["0003-dm-fake-more.patch"] = (
        files["0003-dm-fake-more.patch"],
        files["0002-dm-fake.patch"],
    )
    spec = build_spec(store, tmp_path, write_series(tmp_path / "series", files))
    result = validate(store, spec, QUIET)
    assert [patch.ok for patch in result.patches] == [True, False, False]
    assert "does not apply" in str(result.patches[1].error)


def test_prefix_that_does_not_boot(store: Store, tmp_path: Path) -> None:
    def boot(build: Build) -> None:
        if build.series and len(build.series.patches) == 2:
            raise KernelPanic("the kernel said panic")

    spec = build_spec(store, tmp_path, write_series(tmp_path / "series"))
    result = validate(store, spec, QUIET, boot=boot)
    assert [patch.error for patch in result.patches] == [None, "the kernel said panic", None]


def test_the_hosts_fault_is_nobody_elses(store: Store, tmp_path: Path) -> None:
    def boot(build: Build) -> None:
        raise InfrastructureError("no QEMU")

    spec = build_spec(store, tmp_path, write_series(tmp_path / "series"))
    with pytest.raises(InfrastructureError, match="no QEMU"):
        validate(store, spec, QUIET, boot=boot)


def test_nothing_to_validate(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no series"):
        validate(store, build_spec(store, tmp_path), QUIET)


def test_new_warnings_are_compared_by_normalised_text() -> None:
    def warning(file: str, line: int, text: str) -> Warning:
        return Warning(file=file, line=line, flag="", text=text, normalised=f"{file}: {text}")

    before = [warning("a.c", 1, "old"), warning("b.c", 1, "old")]
    after = [warning("a.c", 9, "old"), warning("a.c", 10, "new"), warning("c.c", 1, "old")]
    assert new_warnings(before, after) == after[1:]
