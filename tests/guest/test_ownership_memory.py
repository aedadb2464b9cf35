"""Whose I/O is it? Anonymous memory, tmpfs and dirty pages under memory pressure, with swap on an ioband device.

The kernel's own count of pages swapped (/proc/vmstat) says what there must be: the groups' sectors are equal to it.
"""

from __future__ import annotations

import contextlib

import pytest
from lab import until
from owners import DISK, PAGE, SECTORS, Charged, Domain, Pages, domain
from places import place_of

from harness.cgroup import Hierarchy

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

COUNT = 1024
SMALL = "512K"
ROOMY = "100M"
# So many pages reclaim takes at a time.
BATCH = 32


class Swap:
    """Swap on a domain's device, and limits of memory by which its groups are made to swap."""

    def __init__(self, owned: Domain, limits: dict[str, str]) -> None:
        self.domain = owned
        self.guest = owned.guest
        self._limits = limits
        self.restart()

    def _counts(self) -> dict[str, int]:
        words = self.guest.run(["cat", "/proc/vmstat"]).stdout.split()
        return dict(zip(words[::2], map(int, words[1::2]), strict=True))

    def restart(self) -> None:
        """Count from zero."""
        self.domain.reset()
        self._before = self._counts()

    def since(self, what: str) -> int:
        """How often this happened, by the kernel's own count."""
        return self._counts()[what] - self._before[what]

    def gone(self) -> int:
        """Pages that were swapped out and are no longer in memory: who wants them must read them."""
        script = "sed -n 's/^SwapCached: *\\([0-9]*\\) kB$/\\1/p' /proc/meminfo"
        return self.since("pswpout") - int(self.guest.run(script).stdout) * 1024 // PAGE

    def at_rest(self) -> None:
        """Wait until the kernel's own reclaim has done, and its I/O. It sleeps on if enough memory is free."""
        script = "cat /proc/$(pidof kswapd0)/wchan"
        until(self.guest, lambda: self.guest.run(script).stdout, "kswapd has no work", lambda f: f == "kswapd")
        until(self.guest, lambda: self.domain.arrived().in_flight, "all I/O has ended", lambda n: n == 0)

    def limit(self, group: str) -> str:
        """The file with the limit of a group's memory."""
        return f"{self._limits[group]}/memory.limit_in_bytes"

    def squeeze(self, group: str, by: str | None) -> None:
        """Have a group's memory swapped out, all but little of it, by a task of another group.

        Newer kernels give up with EBUSY while all that is left is on its way to the disk.
        """
        file = self.limit(group)
        smaller = f"said=$(echo {SMALL} 2>&1 > {file})"
        busy = 'case $said in *busy*) sleep 0.05;; *) echo "$said" >&2; exit 1;; esac'
        self.domain.run(by, f"until {smaller}; do {busy}; done")
        self.guest.run(["sh", "-c", 'echo "$0" > "$1"', ROOMY, file])

    def charged(self) -> tuple[Charged, dict[str, int]]:
        """By group, and how many pages were swapped by then: none was while both were looked at."""

        def all_three() -> tuple[dict[str, int], Charged, dict[str, int]]:
            return self._swapped(), self.domain.charged(), self._swapped()

        seen = until(self.guest, all_three, "nothing is swapped while it is counted", lambda s: s[0] == s[2])
        return seen[1:]

    def _swapped(self) -> dict[str, int]:
        return {what: self.since(what) for what in ("pswpout", "pswpin")}

    def expect(self, seen, what: str, *, out: str | None = None, into: str | None = None) -> None:
        """All pages that were swapped belong to these groups, and there were enough of them to tell."""
        charged, swapped = self.charged()
        for counts, who, event in ((charged.written, out, "pswpout"), (charged.read, into, "pswpin")):
            pages = swapped[event]
            assert (pages > COUNT // 4) == (who is not None), f"{event}: {pages} pages"
            for name, sectors in counts.items():
                assert sectors == (pages * SECTORS if name == who else 0), f"{name}, {pages} pages: {charged}"
        seen(f"{what}: {charged}")


@contextlib.contextmanager
def swapping(guest, *subsystems, disk=DISK):
    """Swap on a domain; memory is in its hierarchy, or (no subsystems) in one of its own."""
    with contextlib.ExitStack() as stack:
        owned = stack.enter_context(domain(guest, *subsystems, disk=disk))
        limits = {name: group.path for name, group in owned.groups.items()}
        if "memory" not in subsystems:
            apart = stack.enter_context(Hierarchy(guest, "memory", path="/memory"))
            limits = {name: apart.create(name).path for name in owned.groups}
        guest.run(["mkswap", owned.path])
        guest.run(["swapon", owned.path])
        stack.callback(guest.run, ["swapoff", owned.path], check=False)
        owned.used_before_by("c")
        owned.settle()
        yield Swap(owned, limits)


@pytest.fixture
def swap(guest):
    with swapping(guest, "memory") as made:
        yield made


def filled(stack, swap, group, verb="anon", count=COUNT):
    """A process of a group with that many pages of its own."""
    process = stack.enter_context(Pages(swap.domain, group))
    process.tell(f"{verb} {count}")
    process.tell(f"write 0 {count} 9")
    return process


@pytest.mark.contract("own-anon", "own-swapout", "chk-19")
def test_swap_out_and_in(swap, stack, seen):
    process = filled(stack, swap, "a")
    swap.squeeze("a", by="b")
    swap.expect(seen, "memory of a, swapped out by b", out="a")
    swap.restart()
    assert process.tell(f"read 0 {COUNT}") == 9 * COUNT
    swap.expect(seen, "a reads it again", into="a")


@pytest.mark.contract("own-swapout", "own-swapin")
def test_two_groups_squeeze_each_other(swap, stack, seen):
    first, second = filled(stack, swap, "a"), filled(stack, swap, "b")
    swap.squeeze("b", by="a")
    swap.expect(seen, "memory of b, swapped out by a", out="b")
    swap.restart()
    swap.squeeze("a", by=None)
    swap.expect(seen, "memory of a, swapped out by the top group", out="a")
    swap.restart()
    first.tell(f"read 0 {COUNT}")
    second_before = swap.domain.charged().read
    assert second_before["b"] == 0
    second.tell(f"read 0 {COUNT}")
    charged, swapped = swap.charged()
    assert sum(charged.read.values()) == swapped["pswpin"] * SECTORS
    assert min(charged.read["a"], charged.read["b"]) > COUNT // 4 * SECTORS
    assert charged.read["c"] == charged.read["default"] == 0
    seen(f"each reads its own: {charged}")


@pytest.mark.contract("own-swapout")
def test_a_page_written_while_it_is_swapped_out(guest, low, stack, seen):
    """It stays in the swap cache, and whoever swaps it out again finds it dirty in the page table only."""
    swap = stack.enter_context(swapping(guest, "memory", disk=low.path))
    process = filled(stack, swap, "a")
    squeeze = swap.domain["b"].exec_prefix(["sh", "-c", f"echo {SMALL} > {swap.limit('a')}"])
    with low.holding():
        # It may wait for what is held, or give up.
        script = '"$@" > /dev/null 2>&1 < /dev/null & echo $!'
        pid = guest.run(["sh", "-c", script, "sh", *squeeze]).stdout.strip()
        until(guest, lambda: swap.since("pswpout"), "pages are on their way", lambda pages: pages >= BATCH)
        process.tell(f"write 0 {COUNT} 4")
        guest.run(["kill", "-9", pid], check=False)
    until(guest, lambda: guest.run(["test", "-e", f"/proc/{pid}"], check=False).exit_code, "it has given up")
    swap.restart()
    swap.squeeze("a", by="b")
    swap.expect(seen, "written anew by a, swapped out again by b", out="a")
    assert process.tell(f"read 0 {COUNT}") == 4 * COUNT


def frames(process):
    """The page frame of each page of anonymous memory that a process has filled."""
    maps = process.guest.run(["cat", f"/proc/{process.pid}/maps"]).stdout.splitlines()
    sizes = {}
    for line in maps:
        first, last = (int(word, 16) for word in line.split()[0].split("-"))
        sizes[last - first] = first
    first = sizes[COUNT * PAGE] // PAGE
    script = f"dd if=/proc/{process.pid}/pagemap bs=8 skip={first} count={COUNT} | od -An -v -t x8"
    present, frame = 1 << 63, (1 << 55) - 1
    words = [int(word, 16) for word in process.guest.run(script).stdout.split()]
    assert len(words) == COUNT and all(word & present for word in words)
    return [word & frame for word in words]


@pytest.mark.needs("compaction")
@pytest.mark.contract("own-migrate")
def test_pages_that_are_moved(swap, stack, seen):
    """To where c's were before: a's are between those of two processes of c, which end."""
    with contextlib.ExitStack() as before:
        filled(before, swap, "c", count=18 * COUNT)
        processes = [filled(stack, swap, "a") for _ in range(6)]
        filled(before, swap, "c", count=10 * COUNT)
    old = [frame for process in processes for frame in frames(process)]
    swap.guest.run("echo 1 > /proc/sys/vm/compact_memory")
    new = [frame for process in processes for frame in frames(process)]
    moved = sum(a != b for a, b in zip(old, new, strict=True))
    assert moved > COUNT
    swap.restart()
    swap.squeeze("a", by="b")
    swap.expect(seen, f"a's memory, {moved} pages of which were moved, swapped out by b", out="a")
    for process in processes:
        assert process.tell(f"read 0 {COUNT}") == 9 * COUNT


@pytest.mark.needs("hugepages")
@pytest.mark.contract("own-huge")
def test_huge_pages(swap, stack, seen):
    """Swapped out, they are split. With so little memory the kernel makes none unless it is told to."""
    count, each = 8 * COUNT, 512
    folder = "/sys/kernel/mm/transparent_hugepage"
    swap.guest.run(f"for f in enabled defrag; do echo madvise > {folder}/$f; done")
    stack.callback(swap.guest.run, f"for f in enabled defrag; do echo never > {folder}/$f; done")
    process = filled(stack, swap, "a", "huge", count)
    huge = swap.since("thp_fault_alloc")
    assert huge > count // each // 2
    swap.restart()
    swap.squeeze("a", by="b")
    split = swap.since("thp_split_page")
    assert split > huge // 2
    swap.expect(seen, f"{huge} huge pages of a, {split} split, swapped out by b", out="a")
    assert process.tell(f"read 0 {count}") == 9 * count


@pytest.mark.contract("own-cow")
def test_copy_on_write(swap, stack, seen):
    parent = filled(stack, swap, "a")
    child = parent.fork("b")
    parent.tell(f"read 0 {COUNT}")
    parent.tell(f"write 0 {COUNT} 5", child)
    swap.restart()
    swap.squeeze("b", by="c")
    swap.expect(seen, "the copy of b's child", out="b")
    swap.restart()
    swap.squeeze("a", by="c")
    swap.expect(seen, "the original of a's parent", out="a")


@pytest.mark.contract("own-mmap-private")
@pytest.mark.parametrize("first", ["read", "write"])
def test_private_copy_of_a_file(swap, stack, seen, first):
    """The file is a's; the copies are b's, whether the page was mapped before or not."""
    guest = swap.guest
    file = "/tmp/original"
    swap.domain.run("a", f"dd if=/dev/zero of={file} bs=4096 count={COUNT}")
    stack.callback(guest.run, ["rm", file])
    process = stack.enter_context(Pages(swap.domain, "b"))
    process.tell(f"private {file} {COUNT}")
    process.tell(f"{first} 0 {COUNT} 3")
    process.tell(f"write 0 {COUNT} 4")
    swap.restart()
    swap.squeeze("b", by="c")
    swap.expect(seen, f"private copies, {first} first", out="b")
    assert process.tell(f"read 0 {COUNT}") == 4 * COUNT


@pytest.mark.contract("own-swapin", "chk-19")
def test_who_faults_has_the_swap_in(swap, stack, seen):
    parent = filled(stack, swap, "a")
    child = parent.fork("b")
    swap.squeeze("a", by=None)
    swap.expect(seen, "memory that a and b's child share", out="a")
    swap.restart()
    assert parent.tell(f"read 0 {COUNT}", child) == 9 * COUNT
    swap.expect(seen, "the child reads it", into="b")


@pytest.mark.contract("own-swapin-owner", "chk-19")
def test_a_page_that_another_read_from_swap(swap, stack, seen):
    """b's child reads the pages from swap and goes; a finds them in the swap cache and writes to them."""
    parent = filled(stack, swap, "a")
    child = parent.fork("b")
    swap.squeeze("a", by=None)
    parent.tell(f"read 0 {COUNT}", child)
    parent.end(child)
    parent.tell(f"write 0 {COUNT} 6")
    swap.restart()
    swap.squeeze("b", by="c")
    swap.squeeze("a", by="c")
    swap.expect(seen, "read by b's child, written by a", out="a")
    assert parent.tell(f"read 0 {COUNT}") == 6 * COUNT


@pytest.mark.contract("own-swapin-owner")
def test_a_page_that_swapoff_read(swap, stack, seen):
    process = filled(stack, swap, "a")
    swap.squeeze("a", by="b")
    swap.restart()
    swap.domain.run("c", f"swapoff {swap.domain.path}", timeout=300)
    swap.expect(seen, "swapoff by c", into="c")
    swap.guest.run(["swapon", swap.domain.path])
    swap.restart()
    swap.squeeze("a", by="b")
    swap.expect(seen, "swapped out again", out="a")
    assert process.tell(f"read 0 {COUNT}") == 9 * COUNT


@pytest.mark.contract("own-tmpfs")
def test_tmpfs(swap, stack, seen):
    file = "/tmp/pages-of-tmpfs"
    swap.domain.run("a", f"dd if=/dev/zero of={file} bs=4096 count={COUNT}")
    stack.callback(swap.guest.run, ["rm", file])
    swap.restart()
    swap.squeeze("a", by="b")
    swap.expect(seen, "a file of a, swapped out by b", out="a")
    swap.restart()
    swap.domain.run("b", f"cat {file} > /dev/null")
    swap.expect(seen, "read by b", into="b")
    wanted_back = swap.since("pswpin")
    swap.restart()
    swap.squeeze("b", by="c")
    swap.squeeze("a", by="c")
    charged, swapped = swap.charged()
    pages = {name: count // SECTORS for name, count in charged.written.items() if count}
    assert sum(pages.values()) == swapped["pswpout"]
    # What had not been swapped out nobody had to read.
    still = pages.pop("a", 0)
    assert still <= COUNT - wanted_back
    assert pages.keys() == {"b"} and pages["b"] > COUNT // 2, pages
    seen(f"swapped out again by c: {pages['b']} pages of {wanted_back} that b had read, {still} that had stayed")


def short_of_memory(owned, group, enough):
    """Let a group take memory that cannot be swapped out, little by little, until ``enough()``; it then gives it back,
    so that nothing is swapped while others count.
    """
    with Pages(owned, group) as greedy:
        greedy.tell("lock")
        free = int(
            owned.guest.run(["sed", "-n", "s/^MemFree: *\\([0-9]*\\) kB$/\\1/p", "/proc/meminfo"]).stdout
        )
        greedy.tell(f"anon {free // 4 - 4 * COUNT}")
        for _ in range(100):
            if enough():
                return
            greedy.tell("anon 128")
    raise AssertionError(f"100 times half a megabyte and the kernel is not short of memory; {free} kB were free")


@pytest.mark.contract("own-swapout", "own-swapin", "chk-19")
def test_the_kernels_own_reclaim(swap, stack, seen):
    """b takes memory until the kernel swaps. b's cannot be swapped until b ends and gives it back; what a has to read
    again was a's when it was written.
    """
    victims = [filled(stack, swap, "a") for _ in range(6)]
    swap.restart()
    short_of_memory(swap.domain, "b", lambda: swap.gone() > COUNT // 2)
    swap.at_rest()
    out, swapped = swap.charged()
    assert sum(out.written.values()) == swapped["pswpout"] * SECTORS
    assert out.written["a"] > COUNT // 4 * SECTORS
    assert out.written["c"] == 0
    seen(f"b short of memory, a swapped out: {out}")
    for victim in victims:
        assert victim.tell(f"read 0 {COUNT}") == 9 * COUNT
    swap.at_rest()
    charged, swapped = swap.charged()
    assert sum(charged.read.values()) == swapped["pswpin"] * SECTORS
    assert charged.read["a"] > COUNT // 8 * SECTORS
    assert out.written["a"] >= charged.read["a"]
    assert (charged.read["b"], charged.read["c"]) == (0, 0)
    seen(f"read again by a: {charged}")


@pytest.mark.contract("own-memalloc")
def test_dirty_pages_of_a_group_that_is_squeezed(guest, stack, seen):
    """Nothing else writes here: b's want of a's memory leads to it, by reclaim or the flusher that it wakes."""
    raw = stack.enter_context(place_of("raw", guest, "memory"))
    swap = Swap(raw.domain, {name: group.path for name, group in raw.domain.groups.items()})
    raw.domain.settle()
    raw.write("a", 0, COUNT)
    assert not any(raw.domain.charged().written.values())
    swap.squeeze("a", by="b")
    charged = raw.domain.charged()
    assert charged.written["a"] > COUNT // 4 * SECTORS
    seen(f"without a sync: {charged}")
    raw.sync()
    raw.expect(seen, written={"a": COUNT * SECTORS})


@pytest.mark.contract("own-memalloc")
def test_dirty_pages_when_memory_is_short(guest, stack, seen):
    """b takes memory until dirty pages of a are written, by the kernel's reclaim or the flusher that it wakes."""
    raw = stack.enter_context(place_of("raw", guest))
    raw.write("a", 0, 6 * COUNT)
    a = raw.domain["a"].id
    short_of_memory(
        raw.domain, "b", lambda: raw.domain.device.status().groups[a].write_sectors > COUNT * SECTORS
    )
    raw.sync()
    raw.expect(seen, written={"a": 6 * COUNT * SECTORS})


@pytest.mark.contract("own-memory-mounted")
def test_memory_in_a_hierarchy_of_its_own(guest, stack, seen):
    swap = stack.enter_context(swapping(guest))
    process = stack.enter_context(Pages(swap.domain, "a"))
    guest.run(["sh", "-c", 'echo "$0" > /memory/b/tasks', str(process.pid)])
    stack.callback(guest.run, ["sh", "-c", 'echo "$0" > /memory/tasks', str(process.pid)])
    process.tell(f"anon {COUNT}")
    process.tell(f"write 0 {COUNT} 9")
    swap.restart()
    swap.squeeze("b", by="c")
    swap.expect(seen, "a of blkio, b of memory; squeezed by c", out="a")
    swap.restart()
    assert process.tell(f"read 0 {COUNT}") == 9 * COUNT
    swap.expect(seen, "read again", into="a")


@pytest.mark.contract("own-memory-mounted")
def test_buffered_writes_with_memory_mounted_together(guest, seen):
    with domain(guest, "memory") as owned:
        owned.write("a", 0, 64)
        guest.run(["sync"])
        charged = owned.charged()
    assert charged.written == {"default": 0, "a": 64 * SECTORS, "b": 0, "c": 0}
    seen(f"-o blkio,memory: {charged}")
