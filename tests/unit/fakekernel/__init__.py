"""A kernel tree in miniature, its manifest, and patches for it: for tests of source, series and kbuild."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from harness.host import compiler
from harness.kbuild import BuildSpec
from harness.progress import SilentProgress
from harness.series import Series
from harness.source import KernelSpec, Tree, add
from harness.store import Store

HERE = Path(__file__).parent
LINUX = HERE / "linux"
QUIET = SilentProgress()

HEADER = """\
From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001
From: A. U. Thor <author@example.org>
Date: Wed, 9 Sep 2009 15:13:59 -0700
Subject: [PATCH {number}/3] {subject}

Why this is done.

Signed-off-by: A. U. Thor <author@example.org>
---
"""


def linux(target: Path) -> Path:
    """A copy of the tree that may be changed."""
    shutil.copytree(LINUX, target)
    return target


def git(folder: Path, *words: str) -> str:
    """Run git in `folder`, as somebody."""
    identity = {
        f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **identity, "GIT_CONFIG_GLOBAL": "/dev/null"},
    )
    return done.stdout.strip()


def repository(target: Path) -> Path:
    """A git repository with the tree, tagged v2.6.31.3."""
    linux(target)
    git(target, "init", "--quiet")
    git(target, "add", "--all", "--force")
    git(target, "commit", "--quiet", "--message", "Linux 2.6.31.3")
    git(target, "tag", "v2.6.31.3")
    return target


def diff(path: str, new: str, old: str | None = None) -> str:
    """A patch, as git writes it, that gives a file new content (old None: what it replaces is the tree's)."""
    import difflib

    file = LINUX / path
    before = old if old is not None else file.read_text() if file.exists() else ""
    head = f"diff --git a/{path} b/{path}\n" + ("" if before else "new file mode 100644\n")
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        new.splitlines(keepends=True),
        f"a/{path}" if before else "/dev/null",
        f"b/{path}",
    )
    return head + "".join(lines)


def mail(number: int, subject: str, *diffs: str) -> str:
    """A patch as git format-patch writes it."""
    return HEADER.format(number=number, subject=subject) + "\n" + "".join(diffs) + "-- \n2.39.5\n\n"


DM_FAKE = """\
#include <linux/md.h>

int dm_fake_ctr(void)
{
	return MD_VERSION;
}
"""


def series_files() -> dict[str, str]:
    """A good series: 1 changes a file, 2 adds one with its symbol, 3 changes that."""
    kconfig = (LINUX / "drivers/md/Kconfig").read_text()
    md = (LINUX / "drivers/md/md.c").read_text()
    return {
        "0001-md-return.patch": mail(
            1, "md: return one more", diff("drivers/md/md.c", md.replace("_VERSION;", "_VERSION + 1;"))
        ),
        "0002-dm-fake.patch": mail(
            2,
            "dm-fake: a target that does nothing",
            diff("drivers/md/Kconfig", kconfig + '\nconfig DM_FAKE\n\tbool "Fake target"\n\tdepends on MD\n'),
            diff("drivers/md/dm-fake.c", DM_FAKE),
        ),
        "0003-dm-fake-more.patch": mail(
            3,
            "dm-fake: do more",
            diff("drivers/md/dm-fake.c", DM_FAKE.replace("VERSION", "VERSION * 2"), DM_FAKE),
        ),
    }


def write_series(folder: Path, files: dict[str, str] | None = None) -> Path:
    """A folder with a series; the good one unless other files are given."""
    folder.mkdir(parents=True)
    for name, text in (series_files() if files is None else files).items():
        (folder / name).write_text(text)
    return folder


def kernel(target: Path) -> KernelSpec:
    """The manifest of this kernel, in a folder that may be changed."""
    folder = target / "2.6.31"
    if not folder.exists():
        shutil.copytree(HERE / "kernel", folder)
    return KernelSpec.load(folder)


def build_spec(
    store: Store, work: Path, series: Path | Series | None = None, tree: Tree | None = None
) -> BuildSpec:
    """What a build of this kernel is specified by."""
    spec = kernel(work / "kernel")
    tree = tree or add(store, spec, str(LINUX), QUIET)
    if isinstance(series, Path):
        series = Series.load(series)
    chosen = compiler(None, spec.compilers)
    return BuildSpec(kernel=spec, tree=tree, series=series, flavour="perf", compiler=chosen)
