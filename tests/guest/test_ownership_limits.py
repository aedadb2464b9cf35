"""Whose I/O is it, where ownership has its limits: each is stated, and here it is seen."""

from __future__ import annotations

import contextlib

import pytest
from owners import PAGE, SECTORS, Pages, domain
from places import ALL, MKFS, MOUNT, PAGES, held_back, mount, settings, wait_written

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
    raw.domain.hierarchy.settle()
    assert gone not in raw.domain.device.status().groups
    raw.sync()
    groups = raw.domain.device.status().groups
    assert groups[DEFAULT_GROUP].write_sectors == PAGES * SECTORS
    assert all(g.write_sectors == 0 for number, g in groups.items() if number != DEFAULT_GROUP)
    seen(f"written after rmdir: default {PAGES * SECTORS} sectors, the others 0")


@pytest.mark.contract("own-rmdir")
def test_dirty_pages_and_a_group_of_the_same_id(raw, fact, seen):
    raw.write("a")
    number = raw.domain["a"].id
    raw.domain["a"].remove()
    raw.domain.hierarchy.settle()
    heir = raw.domain.hierarchy.create("heir")
    assert heir.id == number
    assert heir.settings == {}, "an id is inherited, a setting is not"
    heir.set("counted", 50)
    raw.sync()
    groups = raw.domain.device.status().groups
    owner = {"default": DEFAULT_GROUP, "heir": number}[fact("pages_of_a_removed_group")]
    assert groups[owner].write_sectors == PAGES * SECTORS
    assert all(g.write_sectors == 0 for other, g in groups.items() if other != owner)
    seen(f"a new group of id {number}, attached; written: {fact('pages_of_a_removed_group')} {PAGES * SECTORS} sectors")


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
def test_loop(ext2, fact, seen):
    """Its thread writes to and reads from the file's pages, which were somebody else's before."""
    guest, owned, device = ext2.domain.guest, ext2.domain, "/dev/loop0"
    owner = fact("loop_works_for")
    owned.used_before_by("c")
    guest.run(["losetup", device, ext2.path])
    try:
        owned.read("a", 0, PAGES, "iflag=direct", device)
        charged = ext2.expect(seen, read={owner: ALL})
        assert charged.read[owner] == ALL
        owned.write("a", 0, 32, "oflag=direct", device)
        ext2.sync()
        charged = ext2.expect(seen, read={owner: ALL}, written={owner: 32 * SECTORS})
        assert charged.written[owner] >= 32 * SECTORS
    finally:
        if guest.machine.console.death is None:
            guest.run(["losetup", "-d", device])


@pytest.mark.contract("own-kernel-thread")
def test_kernel_thread(ext2, seen):
    """The flusher has to find blocks for pages that were written where the file has none, and reads which are free."""
    owned = ext2.domain
    owned.run(None, f"dd if=/dev/zero of={MOUNT}/holes bs={PAGE} seek={PAGES} count=0")
    ext2.remount()
    owned.used_before_by("c")
    with Pages(owned, "a") as process:
        process.tell(f"shared {MOUNT}/holes 64")
        process.tell("read 0 64")
        owned.reset()
        process.tell("write 0 64 1")
        with settings(owned.guest, dirty_expire_centisecs=1, dirty_writeback_centisecs=1):
            wait_written(owned, "a", 64 * SECTORS)
        charged = ext2.expect(seen, written={"a": 64 * SECTORS})
        assert charged.read["default"] >= SECTORS


@pytest.mark.contract("own-empty-bio")
def test_flushes(guest, seen):
    """With barriers, ext3's commit makes dm flush the disk: bios without a page, which come on top of those that write
    the journal, a block each.
    """
    runs = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(held_back(guest))
        owned = stack.enter_context(domain(guest, disk=FLUSHING_DISK))
        for barrier in (0, 1):
            guest.run(f"{MKFS['ext3']} {owned.path}")
            mount(guest, "ext3", owned.path, f",barrier={barrier}")
            try:
                owned.write(None, 0, 16, file=f"{MOUNT}/file")
                guest.run(["sync"])
                owned.reset()
                owned.write("a", 0, 16, file=f"{MOUNT}/file")
                owned.run("a", f"chmod 600 {MOUNT}/file && fsync {MOUNT}/file")
                runs[barrier] = owned.charged()
            finally:
                if guest.machine.console.death is None:
                    guest.run(["umount", MOUNT])
    for charged in runs.values():
        assert charged.written == {"default": charged.written["default"], "a": 16 * SECTORS, "b": 0, "c": 0}
    assert {name: n for name, n in runs[0].writes.items() if name != "default"} == {
        name: n for name, n in runs[1].writes.items() if name != "default"
    }
    without, flushes = (c.writes["default"] - c.written["default"] // SECTORS for c in runs.values())
    assert without == 0
    assert flushes > 0, "dm sent no flush"
    seen(f"{flushes} flushes, all default; a has the {16 * PAGE >> 10} KiB that it wrote, default the rest")


@pytest.mark.contract("own-empty-bio")
def test_a_flush_that_a_group_asks_for(guest, fact, seen):
    """fsync of a disk to which nothing was written."""
    with domain(guest, disk=FLUSHING_DISK) as owned:
        owned.run("a", f"fsync {owned.path}")
        charged = owned.charged()
    assert charged.writes == {"default": fact("flushes_of_an_fsync"), "a": 0, "b": 0, "c": 0}
    assert not any(charged.written.values())
    seen(f"fsync by a: default {charged.writes['default']} flushes, a none")
