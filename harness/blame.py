"""Which patch of a series added which line of the tree that comes out: the patches as commits, and ``git blame``."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harness import host
from harness.coverage import AddedLine
from harness.kbuild import BuildSpec
from harness.repository import NO_OTHER_REPOSITORY
from harness.series import Patch, Series
from harness.store import Store

# Nothing of the user's own settings: no hooks, no signatures, no line ends that change.
_ENVIRONMENT: dict[str, str | None] = {
    **NO_OTHER_REPOSITORY,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    **{f"GIT_{who}_NAME": "harness" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "harness@localhost" for who in ("AUTHOR", "COMMITTER")},
}


def added_lines(store: Store, spec: BuildSpec) -> dict[str, list[AddedLine]]:
    """By C file (header or not): the lines of the final tree that the patches of ``spec.series`` added, in order.

    Patches count through those of the series underneath, as `Series.all_patches` has them.
    Raises UserError: a patch does not apply. InfrastructureError: git is missing, or the disk is full.
    """
    assert spec.series is not None
    patches = spec.series.all_patches()
    with store.workspace("blame", size=1 << 26) as work:
        tree = work / "linux"
        repository = _Repository(tree)
        repository.init()
        for name in _touched((*spec.compat.all_patches(), *patches)):
            if (spec.tree.path / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                (tree / name).write_bytes((spec.tree.path / name).read_bytes())
        spec.compat.apply(tree, work / "log")
        commits = [repository.commit("the tree")]
        for patch in patches:
            _alone(spec.series, patch).apply(tree, work / "log")
            commits.append(repository.commit(patch.name))
        places = {commit: number for number, commit in enumerate(commits)}
        files = sorted(name for name in _touched(patches) if name.endswith((".c", ".h")))
        return {
            name: [
                AddedLine(number, places[commit] - 1, text)
                for number, commit, text in repository.blame(name)
                if places[commit] > 0
            ]
            for name in files
            if (tree / name).is_file()
        }


def _alone(series: Series, patch: Patch) -> Series:
    return replace(series, on=None, patches=(patch,))


def _touched(patches: tuple[Patch, ...]) -> set[str]:
    return {name for patch in patches for name in patch.both_names}


class _Repository:
    """A scratch repository at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def init(self) -> None:
        self._path.mkdir()
        self._git("init", "--quiet")

    def commit(self, message: str) -> str:
        """Commit all that lies there; the commit (40 hex digits)."""
        self._git("add", "--all", "--force")
        self._git("commit", "--quiet", "--allow-empty", "--message", message)
        return self._git("rev-parse", "HEAD").stdout.strip()

    def blame(self, name: str) -> Iterator[tuple[int, str, str]]:
        """Number, commit and text of each line."""
        commit, number = "", 0
        for line in self._git("blame", "--porcelain", "HEAD", "--", name).stdout.split("\n"):
            if line.startswith("\t"):
                yield number, commit, line[1:]
            elif len(words := line.split(" ")) >= 3 and len(words[0]) == 40 and words[2].isdigit():
                commit, number = words[0], int(words[2])

    def _git(self, *words: str) -> subprocess.CompletedProcess[str]:
        return host.run(["git", *words], cwd=self._path, env=_ENVIRONMENT)
