"""The kernel's initramfs format, newc cpio, written from memory: no root needed, and always the same bytes.

Format: Documentation/early-userspace/buffer-format.txt (2.6.31),
driver-api/early-userspace/buffer-format.rst (later). Written here because the archive libraries for
Python cannot make symbolic links and device nodes that are not on the disk (libarchive-c 5.3 has no
archive_entry_set_symlink).
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Final

# An archive that follows another one must start at a multiple of this many bytes (init/initramfs.c).
ALIGNMENT: Final = 4
MAGIC: Final = b"070701"
TRAILER: Final = "TRAILER!!!"


@dataclass(frozen=True)
class ImageFile:
    """A regular file, owned by root. ``path`` is absolute."""

    path: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Directory:
    """A directory, owned by root."""

    path: str
    mode: int = 0o755


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    path: str
    target: str


@dataclass(frozen=True)
class Node:
    """A character device."""

    path: str
    mode: int
    major: int
    minor: int


Member = ImageFile | Directory | Link | Node


def archive(members: Iterable[Member]) -> bytes:
    """The members as one cpio archive: sorted by path, all times 0, so equal members give equal bytes.

    Its length is a multiple of ALIGNMENT. Raises ValueError when two members have one path.
    """
    ordered = sorted(members, key=lambda member: member.path)
    for member, following in pairwise(ordered):
        if member.path == following.path:
            raise ValueError(f"two members are called {member.path}")
    records = [_record(number, member) for number, member in enumerate(ordered, start=1)]
    return b"".join([*records, _encoded(TRAILER, b"")])


def segment(files: Sequence[ImageFile], present: Collection[str] = ()) -> bytes:
    """A second archive, to follow a first one: the files, and the directories they need.

    present: directories of the first archive. They are not repeated, since that would change their
    modes; without a directory for it the kernel drops a file and says nothing.
    """
    needed = {parent for file in files for parent in parents(file.path)}
    return archive([*files, *(Directory(path) for path in needed.difference(present))])


def parents(path: str) -> list[str]:
    """The directories above an absolute path, without the root."""
    return [str(parent) for parent in PurePosixPath(path).parents if parent != PurePosixPath("/")]


def _record(number: int, member: Member) -> bytes:
    """One member. ``number``: its inode; with one of its own and one link nothing is taken for a hard
    link.
    """
    name = member.path.lstrip("/")
    match member:
        case ImageFile(_, data, mode):
            return _encoded(name, data, ino=number, mode=stat.S_IFREG | mode)
        case Directory(_, mode):
            return _encoded(name, b"", ino=number, mode=stat.S_IFDIR | mode, nlink=2)
        case Link(_, target):
            return _encoded(name, target.encode(), ino=number, mode=stat.S_IFLNK | 0o777)
        case Node(_, mode, major, minor):
            return _encoded(name, b"", ino=number, mode=stat.S_IFCHR | mode, rdevmajor=major, rdevminor=minor)


def _encoded(
    name: str,
    data: bytes,
    *,
    ino: int = 0,
    mode: int = 0,
    nlink: int = 1,
    rdevmajor: int = 0,
    rdevminor: int = 0,
) -> bytes:
    """Magic number, 13 numbers of 8 hex digits each, the name with a NUL, the content; both padded to
    ALIGNMENT.
    """
    encoded = name.encode() + b"\0"
    uid = gid = mtime = devmajor = devminor = check = 0
    numbers = (
        *(ino, mode, uid, gid, nlink, mtime, len(data)),
        *(devmajor, devminor, rdevmajor, rdevminor, len(encoded), check),
    )
    header = MAGIC + b"".join(b"%08x" % number for number in numbers) + encoded
    return _padded(header) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
