"""Whose I/O is it? For each kind of I/O to files and disks: the group that is charged, and that no other is.

Sectors are the kernel's own counts (`dmsetup status`), exact; `Domain.charged` sees to it that they add up to what
came to the device.
"""

from __future__ import annotations

import pytest
from owners import PAGE, SECTORS, Pages
from places import ALL, MOUNT, PAGES, settings, wait_written

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

# Of so many pages made dirty the kernel takes notice (ratelimit_pages is at most 4 MiB).
MANY = 2048


# ---- reads


@pytest.mark.contract("own-read", "chk-19")
def test_buffered_read(place, seen):
    place.domain.used_before_by("c")
    if place.kind == "raw":  # or it would read on behind what it is asked for
        place.domain.run(None, f"blockdev --setra 0 {place.path}")
    place.read("a")
    place.expect(seen, read={"a": ALL})
    place.read("b")
    place.expect(seen, read={"a": ALL})


@pytest.mark.contract("own-readahead")
def test_read_ahead(place, seen):
    place.read("a", 0, 1)
    first = place.domain.charged().read["a"]
    assert first > SECTORS, "nothing was read ahead"
    place.expect(seen, read={"a": first})
    place.read("b")
    if place.kind == "raw":  # which goes on behind what was asked for
        charged = place.domain.charged()
        assert charged.read["a"] == first
        assert charged.read["b"] >= ALL - first
    else:
        place.expect(seen, read={"a": first, "b": ALL - first})


# ---- delayed writes


@pytest.mark.contract("own-write", "chk-19")
def test_buffered_write(place, seen):
    place.domain.used_before_by("c")
    place.write("a")
    place.expect(seen)
    place.sync()
    place.expect(seen, written={"a": ALL})


@pytest.mark.contract("own-write", "chk-19")
def test_sync_by_another_group(place, seen):
    place.write("a")
    # ext2 writes the inode in sync(): into a page that is then the caller's. It is not to be written here.
    place.domain.run("b", f"fsync -d {place.path}" if place.kind == "ext2" else "sync")
    place.expect(seen, written={"a": ALL})


@pytest.mark.contract("own-write")
def test_several_groups_and_one_sync(place, seen):
    for number, (group, count) in enumerate((("b", 48), (None, 40), ("a", 32), ("c", 24))):
        place.write(group, 64 * number, count)  # with gaps, or pages of two groups might get into one bio
    place.sync()
    wanted = {"b": 48 * SECTORS, "default": 40 * SECTORS, "a": 32 * SECTORS, "c": 24 * SECTORS}
    assert place.expect(seen, written=wanted).written["default"] >= 40 * SECTORS


@pytest.mark.contract("own-flusher")
def test_the_flusher_by_age(place, seen):
    place.write("a")
    place.expect(seen)
    with settings(place.domain.guest, dirty_expire_centisecs=1, dirty_writeback_centisecs=1):
        wait_written(place.domain, "a", ALL)
    place.expect(seen, written={"a": ALL})


@pytest.mark.contract("own-flusher")
def test_the_flusher_by_amount(raw, seen):
    with settings(raw.domain.guest, dirty_background_bytes=8 * PAGE):
        raw.write("a", 0, MANY)
        wait_written(raw.domain, "a", 1)
        raw.write("b", MANY, MANY)
        wait_written(raw.domain, "b", 1)
    raw.sync()
    raw.expect(seen, written={"a": MANY * SECTORS, "b": MANY * SECTORS})


@pytest.mark.contract("own-flusher")
def test_a_writer_that_has_to_wait(raw, seen):
    """Over the limit, whoever dirties a page writes what is dirty, also what others wrote."""
    with settings(raw.domain.guest, dirty_background_bytes=4 * PAGE, dirty_bytes=8 * PAGE):
        raw.write("a")
        raw.write("b", PAGES, MANY)
        wait_written(raw.domain, "a", 1)
    raw.sync()
    raw.expect(seen, written={"a": ALL, "b": MANY * SECTORS})


@pytest.mark.contract("own-sync")
def test_o_sync(place, seen):
    # On ext2 O_SYNC may write the inode as well, if it has a new time stamp.
    sync = "dsync" if place.kind == "ext2" else "sync"
    job = f"fio --name=j --filename={place.path} --rw=write --bs=4k --size={PAGES * PAGE} --sync={sync}"
    place.domain.run("a", f"{job} --allow_file_create=0 --invalidate=0 --thread")
    place.expect(seen, written={"a": ALL})


@pytest.mark.contract("own-sync")
def test_fsync_by_another_group(place, seen):
    place.write("a")
    place.domain.run("b", f"fsync {'-d' if place.kind == 'ext2' else ''} {place.path}")
    place.expect(seen, written={"a": ALL})


@pytest.mark.contract("own-rewrite-dirty", "chk-19")
def test_a_dirty_page_written_again(place, seen):
    place.write("a")
    place.write("b")
    place.sync()
    place.expect(seen, written={"a": ALL})


@pytest.mark.contract("own-rewrite-dirty")
def test_the_first_to_dirty_a_page(place, seen):
    place.write("b", 0, 64)
    place.write("a", 0, 64)
    place.write("a", 128, 32)
    place.sync()
    place.expect(seen, written={"b": 64 * SECTORS, "a": 32 * SECTORS})


@pytest.mark.contract("own-rewrite-clean", "chk-19")
def test_a_clean_page_written_again(place, seen):
    place.write("a")
    place.sync()
    place.expect(seen, written={"a": ALL})
    place.domain.reset()
    place.write("b")
    place.sync()
    place.expect(seen, written={"b": ALL})


@pytest.mark.contract("own-rewrite-clean")
def test_a_page_that_another_group_read(place, seen):
    place.read("a")
    place.domain.reset()
    place.write("b")
    place.sync()
    place.expect(seen, written={"b": ALL})


@pytest.mark.contract("own-part")
def test_a_part_of_a_page(place, seen):
    """The rest of the page is read first, by who writes."""
    place.domain.run("b", f"dd if=/dev/zero of={place.path} bs=512 count=1 seek=16 conv=notrunc")
    assert place.domain.charged().read["b"] == SECTORS
    place.sync()
    place.expect(seen, read={"b": SECTORS}, written={"b": SECTORS})


@pytest.mark.contract("own-truncate")
def test_truncate(ext3, seen):
    ext3.write("a")
    ext3.domain.run("b", f": > {ext3.path}")
    ext3.sync()
    ext3.expect(seen)
    ext3.write("b", 0, 12)
    ext3.sync()
    ext3.expect(seen, written={"b": 12 * SECTORS})


# ---- mappings


@pytest.mark.contract("own-mmap-shared", "chk-19")
def test_shared_mapping(place, seen):
    owned = place.domain
    with Pages(owned, "a") as first, Pages(owned, "b") as second:
        for process in (first, second):
            process.tell(f"shared {place.path} 64")
        first.tell("write 0 64 1")
        second.tell("write 0 64 2")
        place.sync()
        written = place.domain.charged().written
        assert (written["a"], written["b"]) == (64 * SECTORS, 0)
        owned.reset()
        second.tell("write 0 32 3")
        first.tell("write 0 32 4")
        first.tell("write 48 16 4")
        place.sync()
        place.expect(seen, written={"b": 32 * SECTORS, "a": 16 * SECTORS})


@pytest.mark.contract("own-mmap-shared", "own-rewrite-clean")
def test_a_mapping_of_data_in_the_journal(ext3, seen):
    """Where ext3 writes data to its journal first, a mapped page is made dirty without its buffers.

    It is written twice: to the journal, and once that is through, in its place.
    """
    ext3.domain.run(None, f"chattr +j {ext3.path}")
    ext3.read("b", 0, 64)
    ext3.domain.reset()
    with Pages(ext3.domain, "a") as process:
        process.tell(f"shared {ext3.path} 64")
        process.tell("write 0 64 1")
        ext3.sync()
        ext3.sync()
        ext3.expect(seen, written={"a": 2 * 64 * SECTORS})


@pytest.mark.contract("own-mmap-shared")
def test_a_mapping_that_is_given_back(place, seen):
    with Pages(place.domain, "a") as process:
        process.tell(f"shared {place.path} 64")
        process.tell("write 0 64 1")
        process.tell("unmap")
        assert place.domain.charged().written["a"] == 0
    place.sync()
    assert place.domain.charged().written["a"] == 64 * SECTORS
    seen(f"{place.kind}: munmap, then sync by the top group: {place.domain.charged()}")


@pytest.mark.contract("own-mmap-shared")
@pytest.mark.parametrize("place", ["raw", "ext3"], indirect=True)
def test_msync(place, seen):
    """Not on ext2, where the inode, if it has a new time stamp, is in a page that is then b's."""
    with Pages(place.domain, "a") as first, Pages(place.domain, "b") as second:
        for process in (first, second):
            process.tell(f"shared {place.path} 64")
        first.tell("write 0 64 1")
        second.tell("sync 0 64")
        charged = place.domain.charged()
        assert (charged.written["a"], charged.written["b"]) == (64 * SECTORS, 0)
        seen(f"{place.kind}: msync by b of what a wrote: {charged}")


@pytest.mark.contract("own-mmap-private")
def test_private_mapping_writes_no_file(place, seen):
    with Pages(place.domain, "a") as process:
        process.tell(f"private {place.path} 64")
        process.tell("write 0 64 1")
        place.sync()
    written = place.domain.charged().written
    assert (written["a"], written["b"], written["c"]) == (0, 0, 0)
    seen(f"{place.kind}: nothing is written to the file")


# ---- direct I/O


@pytest.mark.contract("own-direct", "chk-19")
def test_direct(place, seen):
    place.write("a", flags="oflag=direct")
    place.expect(seen, written={"a": ALL})
    place.read("b", flags="iflag=direct")
    place.expect(seen, read={"b": ALL}, written={"a": ALL})


@pytest.mark.contract("own-direct")
def test_direct_from_memory_of_another_group(place, seen):
    """Whose memory it is does not matter, but who submits."""
    owned = place.domain
    owned.run(None, f"dd if=/dev/zero of=/tmp/buffer bs={PAGE} count=64")
    with Pages(owned, "a") as process:
        process.tell("shared /tmp/buffer 64")
        process.tell("write 0 64 7")
        child = process.fork("b")
        process.tell(f"direct {place.path} 0 64", child)
        place.expect(seen, written={"b": 64 * SECTORS})
        process.tell(f"fetch {place.path} 0 64", child)
        place.expect(seen, written={"b": 64 * SECTORS}, read={"b": 64 * SECTORS})
        process.tell(f"direct {place.path} 0 64")
        place.expect(seen, written={"a": 64 * SECTORS, "b": 64 * SECTORS}, read={"b": 64 * SECTORS})
    owned.run(None, "rm /tmp/buffer")


@pytest.mark.contract("own-direct")
def test_direct_io_of_a_suspended_device(raw, submitters, seen):
    """What comes meanwhile is kept, and submitted by a thread of device-mapper's when the device is resumed."""
    owned = raw.domain
    jobs = [
        f"sh -c 'echo 0 > {owned[group].path}/tasks; exec dd {files} bs=64k count=1 conv=notrunc'"
        for group, files in (
            ("a", f"if=/dev/zero of={raw.path} oflag=direct"),
            ("b", f"if={raw.path} of=/dev/null iflag=direct skip=4"),
        )
    ]
    with submitters(owned.guest) as processes:
        owned.device.suspend()
        try:
            processes.run(jobs)
            groups = owned.device.status().groups.values()
            assert not any(g.read_sectors or g.write_sectors for g in groups), "it was not suspended"
        finally:
            owned.device.resume()
        processes.wait()
    raw.expect(seen, written={"a": 16 * SECTORS}, read={"b": 16 * SECTORS})


@pytest.mark.contract("own-aio", "chk-19")
def test_aio(place, seen):
    job = f"fio --name=j --filename={place.path} --ioengine=libaio --direct=1 --iodepth=16 --bs=4k --thread"
    size = f"--size={PAGES * PAGE} --allow_file_create=0"
    place.domain.run("a", f"{job} --rw=randwrite {size}")
    charged = place.expect(seen, written={"a": ALL})
    assert charged.writes["a"] == PAGES
    place.domain.run("b", f"{job} --rw=randread {size}")
    place.expect(seen, read={"b": ALL}, written={"a": ALL})


@pytest.mark.needs("io_uring")
@pytest.mark.contract("own-aio")
@pytest.mark.parametrize("issue", ["at once", "by a thread"])
def test_io_uring(place, seen, issue):
    """By a thread of the kernel's, which belongs to the process, if the process wants it so."""
    job = f"fio --name=j --filename={place.path} --ioengine=io_uring --direct=1 --iodepth=16 --bs=4k --thread"
    options = f"--size={PAGES * PAGE} --allow_file_create=0 --force_async={int(issue == 'by a thread')}"
    place.domain.run("a", f"{job} --rw=randwrite {options}")
    place.expect(seen, written={"a": ALL})
    place.domain.run("b", f"{job} --rw=randread {options}")
    place.expect(seen, read={"b": ALL}, written={"a": ALL})


@pytest.mark.contract("own-aio")
def test_aio_of_two_groups_at_once(raw, seen):
    jobs = "; ".join(
        f"( echo 0 > {raw.domain[group].path}/tasks; exec fio --name=j --filename={raw.path} --ioengine=libaio"
        f" --direct=1 --iodepth=16 --rw=randwrite --bs=4k --offset={offset} --size={PAGES * PAGE} --thread ) &"
        for group, offset in (("a", 0), ("b", PAGES * PAGE))
    )
    raw.domain.run(None, f"{jobs.replace('&;', '&')} wait")
    raw.expect(seen, written={"a": ALL, "b": ALL})


# ---- what file systems write besides


@pytest.mark.contract("own-journal")
def test_the_journal(ext3, seen):
    """Changes of inodes that are cached: there is nothing but the journal and, later, the inodes in their place."""
    owned = ext3.domain
    owned.run(None, f"cd {MOUNT} && mkdir d && for i in $(seq 200); do : > d/$i; done")
    ext3.sync()
    owned.reset()
    owned.run("a", f"cd {MOUNT} && chmod 600 d/*")
    assert not any(owned.charged().written.values())
    ext3.sync()
    charged = ext3.expect(seen)
    assert charged.written["default"] > 10 * SECTORS


@pytest.mark.contract("own-metadata")
def test_metadata_without_a_journal(ext2, seen):
    """A block of metadata is in a page like any other: the one who dirties it has it."""
    owned = ext2.domain
    owned.run(None, f"cd {MOUNT} && mkdir d && for i in $(seq 200); do : > d/$i; done")
    ext2.sync()
    owned.reset()
    owned.run("a", f"rm -r {MOUNT}/d")
    ext2.sync()
    charged = owned.charged()
    assert charged.written["a"] >= 2 * SECTORS, "the directory's page is gone, the bitmaps are a's"
    assert (charged.written["b"], charged.written["c"]) == (0, 0)
    seen(f"ext2: {charged}")


@pytest.mark.contract("own-metadata")
def test_metadata_with_a_journal(ext3, seen):
    """In the journal, a block of metadata that was read or made by a group is written from that group's page."""
    owned = ext3.domain
    owned.run(None, f": > {MOUNT}/new")
    owned.settle()
    ext3.domain.write("a", 0, 64, file=f"{MOUNT}/new")
    read = owned.charged().read["a"]
    ext3.sync()
    charged = owned.charged()
    indirect = SECTORS
    assert charged.written["a"] == 64 * SECTORS + read + indirect
    assert (charged.written["b"], charged.written["c"]) == (0, 0)
    assert charged.written["default"] > 0
    seen(f"ext3: 64 pages of data, {read} sectors of metadata that it read, one block that it made: {charged}")
