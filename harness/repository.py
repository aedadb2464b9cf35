"""A git repository of the user's, only ever read."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from harness import host
from harness.errors import UserError

# Variables that point git somewhere else, e.g. when the harness is called from a hook.
NO_OTHER_REPOSITORY: dict[str, str | None] = dict.fromkeys(
    ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE")
)
# The user named the repository, whoever owns its files; line endings stay as they were committed.
_SETTINGS = ("-c", "safe.directory=*", "-c", "core.autocrlf=false", "-c", "core.eol=lf")
_CHUNK = 1 << 20


class Repository:
    """`path` is the top of a work tree, or a bare repository."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def at(cls, path: Path) -> Repository | None:
        """The repository whose top is `path`; None if it is anything else (a folder inside of one, too)."""
        if not path.is_dir() or not ((path / ".git").exists() or (path / "objects").is_dir()):
            return None
        repository = cls(path)
        return repository if repository._git("rev-parse", "--git-dir").returncode == 0 else None

    def commit(self, rev: str) -> str | None:
        """The commit (40 hex digits) that a tag, branch or abbreviation stands for."""
        result = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
        return result.stdout.strip() or None if result.returncode == 0 else None

    def tags(self, pattern: str) -> list[str]:
        """Tags that match a glob pattern, the highest version first."""
        return self._git("tag", "--list", "--sort=-version:refname", pattern).stdout.split()

    def file(self, commit: str, name: str) -> str:
        """A file's text at a commit; empty if it has none."""
        return self._git("show", f"{commit}:{name}").stdout

    @contextmanager
    def archive(self, commit: str) -> Iterator[Iterator[bytes]]:
        """A tar stream, in chunks, of all that is committed.

        Raises:
            UserError: git could not read all of it (damaged, or a partial clone).
        """
        argv = [str(host.find_tool("git")), *self._words("archive", "--format=tar", commit)]
        with (
            tempfile.TemporaryFile() as errors,
            host.started(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=host.environment(NO_OTHER_REPOSITORY),
            ) as git,
        ):
            assert git.stdout is not None
            yield iter(partial(git.stdout.read, _CHUNK), b"")
            if git.wait() != 0:
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip()
                raise UserError(f"git cannot read all of commit {commit[:12]} in {self.path}: {said}")

    def _words(self, *words: str) -> list[str]:
        return [*_SETTINGS, "-C", str(self.path), *words]

    def _git(self, *words: str) -> subprocess.CompletedProcess[str]:
        return host.run(["git", *self._words(*words)], env=NO_OTHER_REPOSITORY, check=False)
