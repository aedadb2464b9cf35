"""Room in memory for work in progress: a kernel tree is copied and deleted there in no time."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SHM = Path("/dev/shm")  # noqa: S108 - the tmpfs that every Linux system has; our folders in it are private
_MEMINFO = Path("/proc/meminfo")


def make(owner: Path, name: str, size: int) -> Path | None:
    """A new private folder in memory for `owner` (a cache's root).

    None unless twice `size` bytes are free, in memory as in the file system; if programs may not be run from
    there (containers often mount it so); and if there is anything of that name.
    """
    folder = SHM / f"{_prefix(owner)}{name}"
    try:
        status = os.statvfs(SHM)
        room = min(status.f_bavail * status.f_frsize, _available())
        if room < 2 * size or status.f_flag & os.ST_NOEXEC:
            return None
        folder.mkdir(mode=0o700)
    except OSError:
        return None
    return folder


def existing(owner: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of every folder that was made for `owner` and is still there."""
    prefix = _prefix(owner)
    for folder in SHM.glob(f"{prefix}*"):
        with suppress(FileNotFoundError):  # its owner deletes it just now
            if folder.lstat().st_uid == os.getuid():
                yield folder.name.removeprefix(prefix), folder


def _prefix(owner: Path) -> str:
    """Different for every user and owner; a hash, so that none is the beginning of another."""
    return f"harness-{os.getuid()}-{hashlib.sha256(os.fsencode(owner)).hexdigest()[:16]}-"


def _available() -> int:
    """MemAvailable in bytes; 0 if the system does not say."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _MEMINFO.read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0
