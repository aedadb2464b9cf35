"""The archives, read back by another implementation (libarchive)."""

import stat

import libarchive
import pytest

from harness.cpio import ALIGNMENT, Directory, ImageFile, Link, Node, archive, segment

MEMBERS = [
    ImageFile("/bin/tool", b"#!/bin/sh\n", 0o755),
    Directory("/bin"),
    Directory("/root", 0o700),
    Link("/bin/sh", "/bin/busybox"),
    Node("/dev/console", 0o600, 5, 1),
    ImageFile("/odd", b"12345"),
]


def listed(data: bytes) -> dict[str, tuple[int, bytes, str]]:
    """Mode, content and link target of every member by its name."""
    found = {}
    with libarchive.memory_reader(data) as reader:
        for entry in reader:
            assert (entry.uid, entry.gid, entry.mtime) == (0, 0, 0)
            content = b"".join(entry.get_blocks()) if entry.isreg else b""
            found[entry.pathname] = (entry.mode, content, entry.linkpath or "")
    return found


def test_members_read_back() -> None:
    assert listed(archive(MEMBERS)) == {
        "bin": (stat.S_IFDIR | 0o755, b"", ""),
        "bin/sh": (stat.S_IFLNK | 0o777, b"", "/bin/busybox"),
        "bin/tool": (stat.S_IFREG | 0o755, b"#!/bin/sh\n", ""),
        "dev/console": (stat.S_IFCHR | 0o600, b"", ""),
        "odd": (stat.S_IFREG | 0o644, b"12345", ""),
        "root": (stat.S_IFDIR | 0o700, b"", ""),
    }


def test_device_numbers() -> None:
    with libarchive.memory_reader(archive([Node("/dev/console", 0o600, 5, 1)])) as reader:
        assert [(entry.rdevmajor, entry.rdevminor) for entry in reader] == [(5, 1)]


def test_order_of_members_does_not_matter_and_parents_come_first() -> None:
    assert archive(MEMBERS) == archive(MEMBERS[::-1])
    names = list(listed(archive(MEMBERS)))
    assert names.index("bin") < names.index("bin/tool")


def test_no_two_members_of_one_name() -> None:
    with pytest.raises(ValueError, match="/bin/sh"):
        archive([*MEMBERS, ImageFile("/bin/sh", b"")])


@pytest.mark.parametrize("size", range(5))
def test_another_archive_can_follow(size: int) -> None:
    assert len(archive([ImageFile("/file", b"x" * size)])) % ALIGNMENT == 0


def test_segment_brings_the_directories_that_are_missing() -> None:
    found = listed(segment([ImageFile("/etc/harness/settings", b"A=1\n")], present={"/etc"}))
    assert list(found) == ["etc/harness", "etc/harness/settings"]
    assert stat.S_ISDIR(found["etc/harness"][0])
