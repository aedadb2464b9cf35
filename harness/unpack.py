"""Unpacking kernel trees: tarballs, and the tarball inside a package of the distribution.

What is wrong with a file is returned in words, to go behind its name: who called knows where it came from.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO

from harness import host
from harness.errors import InfrastructureError
from harness.progress import Progress, Task

_CHUNK = 1 << 20
# GNU tar's option for each compression, by the file's first bytes.
_MAGIC = (
    (b"BZh", "--bzip2"),
    (b"\xfd7zXZ\x00", "--xz"),
    (b"\x1f\x8b", "--gzip"),
    (b"\x28\xb5\x2f\xfd", "--zstd"),
)
_NO_TARBALL = "it is no tarball"
# Bytes at the beginning that tell what a file is: tar's own mark lies at 257.
_HEAD = 512


def is_package(path: Path) -> bool:
    """Is it an ar archive, as a .deb is?"""
    with path.open("rb") as file:
        return file.read(8) == b"!<arch>\n"


def tarball(path: Path, linux: Path, progress: Progress) -> str | None:
    """Unpack a tarball into the new folder `linux`. Returns what is wrong with it, None for nothing.

    Raises:
        InfrastructureError: the disk is full, or a tool is missing.
    """
    with (
        path.open("rb") as file,
        progress.task(f"unpacking {path.name}", path.stat().st_size, unit="bytes") as task,
    ):
        return _tree(file, linux, task)


def package(path: Path, member: str, linux: Path, progress: Progress) -> str | None:
    """The same for the tarball `member` (a path without a leading slash) inside a .deb.

    It goes from program to program: only the tree is written to disk.
    """
    with (
        tempfile.TemporaryFile() as errors,
        host.started(
            [host.find_tool("dpkg-deb"), "--fsys-tarfile", path], stdout=subprocess.PIPE, stderr=errors
        ) as unpacker,
        host.started(
            [host.find_tool("tar"), "--extract", "--to-stdout", f"./{member}"],
            stdin=unpacker.stdout,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as picker,
    ):
        assert unpacker.stdout is not None and picker.stdout is not None
        unpacker.stdout.close()  # the picker's alone, so that one ends with the other
        with progress.task(f"unpacking {path.name}", unit="bytes") as task:
            failure = _tree(picker.stdout, linux, task)
        if failure is None and picker.wait() == 0 and unpacker.wait() == 0:
            return None
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().partition("\n")[0]
    return f"does not give {member}: {said or failure}"


def _tree(file: IO[bytes], linux: Path, task: Task) -> str | None:
    head = file.read(_HEAD)
    option = next((option for start, option in _MAGIC if head.startswith(start)), None)
    if option is None and head[257:262] != b"ustar":
        return "is neither a tarball nor a folder"
    chunks = chain((head,), iter(partial(file.read, _CHUNK), b""))
    failure = stream(chunks, (option,) if option else (), linux, task)
    if failure:
        return f"is damaged or incomplete: {failure}"
    inside = list(linux.iterdir())
    if len(inside) == 1 and inside[0].is_dir():
        # Release tarballs hold everything below linux-<version>/.
        top = inside[0].rename(linux.with_name("top"))
        linux.rmdir()
        top.rename(linux)
    return None


def stream(chunks: Iterable[bytes], options: tuple[str, ...], target: Path, task: Task) -> str | None:
    """Unpack a stream into a new folder. Returns what tar complained about, None when it was content."""
    target.mkdir()
    argv = [str(host.find_tool("tar")), "--extract", *options, "--no-same-owner", "--directory", str(target)]
    with (
        tempfile.TemporaryFile() as errors,
        host.started(argv, stdin=subprocess.PIPE, stdout=errors, stderr=errors) as tar,
    ):
        assert tar.stdin is not None
        try:
            for chunk in chunks:
                tar.stdin.write(chunk)
                task.advance(len(chunk))
            tar.stdin.close()
        except BrokenPipeError:  # tar gave up; its exit code and words say why
            with suppress(BrokenPipeError):
                tar.stdin.close()
        if tar.wait() == 0:
            return None
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
    if "No space left on device" in said:
        raise InfrastructureError(
            f"the disk that holds {target} is full", hint="free some space, or `harness cache prune`"
        )
    return said or "tar failed without a word"
