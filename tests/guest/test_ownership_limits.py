"""Whose I/O is it, where ownership has its limits: each is stated, and here it is seen."""

from __future__ import annotations

import contextlib

import pytest
from owners import PAGE, SECTORS, Pages, domain
from places import MOUNT, PAGES, held_back, place_of

from harness.dm import DEFAULT_GROUP

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

FLUSHING_DISK = "/dev/sda"
"""scsi_debug: it has a write cache, so barriers become flushes."""


@pytest.mark.contract("own-move-task")
def test_a_task_that_moves(place, seen):
    with Pages(place.domain, "a") as process:
        process.tell("anon 128")
        process.tell(f"store {place.path} 0 32")
        process.move("b")
        process.tell(f"store {place.path} 0 32")
        process.tell(f"store {place.path} 64 48")
        place.sync()
        place.expect(seen, written={"a": 32 * SECTORS, "b": 48 * SECTORS})


@pytest.mark.contract("own-mixed")
@pytest.mark.parametrize(("first", "rest"), [("a", "b"), ("b", "a")])
def test_one_bio_of_two_owners(ext2, seen, first, rest):
    """Eight pages in a row on the disk are one bio."""
    ext2.write(first, 0, 1)
    ext2.write(rest, 1, 7)
    ext2.domain.run("c", f"fsync -d {ext2.path}")
    charged = ext2.expect(seen, written={first: 8 * SECTORS})
    assert (charged.writes[first], charged.writes[rest]) == (1, 0)


@pytest.mark.contract("own-mixed")
def test_bios_of_one_owner_each(ext2, seen):
    ext2.write("a", 0, 8)
    ext2.write("b", 16, 8)
    ext2.domain.run("c", f"fsync -d {ext2.path}")
    charged = ext2.expect(seen, written={"a": 8 * SECTORS, "b": 8 * SECTORS})
    assert (charged.writes["a"], charged.writes["b"]) == (1, 1)


@pytest.mark.contract("own-rmdir", "chk-19")
def test_dirty_pages_of_a_group_that_is_gone(raw, seen):
    raw.write("a")
    gone = raw.domain["a"].id
    raw.domain["a"].remove()
    assert gone not in raw.domain.device.status().groups
    raw.sync()
    groups = raw.domain.device.status().groups
    assert groups[DEFAULT_GROUP].write_sectors == PAGES * SECTORS
    assert all(g.write_sectors == 0 for number, g in groups.items() if number != DEFAULT_GROUP)
    seen(f"written after rmdir: default {PAGES * SECTORS} sectors, the others 0")


@pytest.mark.contract("own-rmdir")
def test_dirty_pages_and_a_group_of_the_same_id(raw, seen):
    raw.write("a")
    number = raw.domain["a"].id
    raw.domain["a"].remove()
    heir = raw.domain.hierarchy.create("heir")
    assert heir.id == number
    assert heir.settings == {}, "an id is inherited, a setting is not"
    heir.set("counted", 50)
    raw.sync()
    groups = raw.domain.device.status().groups
    assert groups[number].write_sectors == PAGES * SECTORS
    assert all(g.write_sectors == 0 for other, g in groups.items() if other != number)
    seen(f"a new group of id {number}, attached: it has all {PAGES * SECTORS} sectors")


@pytest.mark.contract("own-rmdir")
def test_dirty_pages_of_a_group_that_is_detached(raw, seen):
    raw.write("a")
    raw.domain["a"].detach("counted")
    raw.sync()
    groups = raw.domain.device.status().groups
    assert groups[DEFAULT_GROUP].write_sectors == PAGES * SECTORS
    seen(f"detached before it is written: default {PAGES * SECTORS} sectors")


@pytest.mark.contract("own-mm-owner")
def test_threads(place, seen):
    with Pages(place.domain, "a") as process:
        process.tell("anon 128")
        thread = process.thread("b")
        process.tell(f"store {place.path} 0 32", thread)
        place.sync()
        assert place.domain.charged().written["a"] == 32 * SECTORS
        place.expect(seen, written={"a": 32 * SECTORS})
        place.domain.reset()
        process.leave_to(thread)
        process.tell(f"store {place.path} 64 48", thread)
        place.sync()
        place.expect(seen, written={"b": 48 * SECTORS})


@pytest.mark.contract("own-stacked")
def test_loop(guest, seen):
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(place_of("ext2", guest))
        guest.run(["losetup", "/dev/loop0", place.path])
        stack.callback(guest.run, ["losetup", "-d", "/dev/loop0"])
        place.domain.write("a", 0, 32, "oflag=direct", "/dev/loop0")
        place.sync()
        charged = place.expect(seen)
        assert charged.written["default"] >= 32 * SECTORS


@pytest.mark.contract("own-kernel-thread")
def test_kernel_thread(guest, seen):
    """The thread of loop reads the file: the pages are of no group, and nobody else pays for them."""
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(place_of("ext2", guest))
        place.domain.used_before_by("c")
        guest.run(["losetup", "/dev/loop0", place.path])
        stack.callback(guest.run, ["losetup", "-d", "/dev/loop0"])
        place.domain.read("a", 0, PAGES, "iflag=direct", "/dev/loop0")
        charged = place.expect(seen)
        assert charged.read["default"] == PAGES * SECTORS


@pytest.mark.contract("own-empty-bio")
def test_flushes(guest, seen):
    """With barriers, ext3's commit makes dm flush the disk: bios without a page, before and behind the record."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(held_back(guest))
        owned = stack.enter_context(domain(guest, disk=FLUSHING_DISK))
        guest.run(f"mke2fs -q -t ext3 -O ^metadata_csum,^64bit -b 4096 {owned.path} && mkdir -p {MOUNT}")
        guest.run(f"mount -t ext3 -o noatime,commit=3600,barrier=1 {owned.path} {MOUNT}")
        stack.callback(guest.run, ["umount", MOUNT])
        owned.write(None, 0, 16, file=f"{MOUNT}/file")
        guest.run(["sync"])
        owned.reset()
        owned.write("a", 0, 16, file=f"{MOUNT}/file")
        owned.run("a", f"chmod 600 {MOUNT}/file && fsync {MOUNT}/file")
        charged = owned.charged()
        flushes = sum(charged.writes.values()) - charged.bios
        assert flushes > 0, "dm sent no flush"
        assert charged.written["a"] == 16 * SECTORS
        assert charged.writes["a"] == 16
        assert (charged.writes["b"], charged.writes["c"]) == (0, 0)
    seen(f"{charged.bios} bios and {flushes} flushes; a has the 16 bios of its {16 * PAGE >> 10} KiB, default the rest")
