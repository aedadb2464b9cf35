"""variant.py: kernels that differ by a patch, made in one object tree of a small kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakekernel import DM_FAKE, QUIET, build_spec, diff, mail, write_series

from harness import kbuild
from harness.errors import CompileError, UserError
from harness.kbuild import Build, BuildSpec
from harness.series import Series
from harness.store import Store
from harness.variant import ObjectTree

MORE = DM_FAKE.replace("VERSION", "VERSION * 2")


def on_top(folder: Path, base: Path, old: str, new: str) -> Series:
    write_series(
        folder,
        {
            "0001-change.patch": mail(1, "change", diff("drivers/md/dm-fake.c", new, old)),
            "series.toml": f'on = "{base}"\n',
        },
    )
    return Series.load(folder)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_series(tmp_path / "base")


def bytes_of(build: Build) -> list[bytes]:
    return [path.read_bytes() for path in (build.bzimage, build.vmlinux, build.system_map, build.config_path)]


def from_scratch(tmp_path: Path, spec: BuildSpec, series: Series) -> Build:
    return kbuild.build(Store(tmp_path / "other"), replace(spec, series=series), QUIET)


def test_only_what_changed_is_compiled_and_the_kernel_is_the_same(tmp_path: Path, base: Path) -> None:
    store = Store(tmp_path / "cache")
    spec = build_spec(store, tmp_path, base)
    first = on_top(tmp_path / "first", base, MORE, MORE.replace("* 2", "* 3"))
    second = on_top(tmp_path / "second", base, MORE, MORE.replace("* 2", "* 4"))
    with ObjectTree(store, spec, QUIET) as tree:
        built = [tree.build(series) for series in (first, second, first)]
    scratch = [from_scratch(tmp_path, spec, series) for series in (first, second)]
    assert bytes_of(built[0]) == bytes_of(scratch[0]) == bytes_of(built[2])
    assert bytes_of(built[1]) == bytes_of(scratch[1]) != bytes_of(built[0])
    assert (built[0].key, built[0].steps) == (scratch[0].key, scratch[0].steps)
    log = built[1].log.read_text()
    assert "drivers/md/dm-fake.o" in log and "drivers/md/md.o" not in log
    assert [b.cached for b in built] == [False, False, True]
    assert kbuild.find(store, replace(spec, series=first)) == built[2]
    assert not list((store.root / "tmp").glob("*"))


def test_a_tree_survives_a_patch_that_is_wrong(tmp_path: Path, base: Path) -> None:
    store = Store(tmp_path / "cache")
    spec = build_spec(store, tmp_path, base)
    wrong = on_top(tmp_path / "wrong", base, MORE, MORE.replace("return", "retrun"))
    stale = on_top(tmp_path / "stale", base, DM_FAKE, DM_FAKE.replace("VERSION", "NUMBER"))
    good = on_top(tmp_path / "good", base, MORE, MORE.replace("* 2", "* 5"))
    with ObjectTree(store, spec, QUIET) as tree:
        with pytest.raises(CompileError, match="retrun"):
            tree.build(wrong)
        with pytest.raises(UserError, match="does not apply"):
            tree.build(stale)
        assert bytes_of(tree.build(good)) == bytes_of(from_scratch(tmp_path, spec, good))
    assert kbuild.find(store, replace(spec, series=wrong)) is None
