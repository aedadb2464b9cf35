"""Flushes and barriers through an ioband device: what the disk is told, in the order in which it is told.

ext3 commits a transaction with a record that must reach the disk after everything of the transaction. It is written as
a barrier, where there are any, or else with a flush before it and so that it is on the disk when it is done. Here the
disk (scsi_debug) logs every command that it gets, so the log is the order of arrival itself.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from gate import LOWER, Scene, scene, slow_disk

from harness import fio
from harness.dm import GroupCounters
from harness.guest import Guest

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

OPTS = "/sys/bus/pseudo/drivers/scsi_debug/opts"
# Jiffies of a command: long enough for the slowest kernel to submit more than is let through meanwhile.
SLOW = 20
PRINTK = "/proc/sys/kernel/printk"
COMMITS = 12
USER = 1000
# Blocks that the user writes.
CROWD = 256
FS_BLOCK = 1024
JOURNAL_MAGIC, COMMIT_RECORD = 0xC03B3998, 2
WRITE_10, READ_10, SYNCHRONIZE_CACHE, WRITE_6, READ_6 = 0x2A, 0x28, 0x35, 0x0A, 0x08
FUA = 0x08


@dataclass(frozen=True)
class Command:
    """A command to the disk; block, blocks: of the file system. forced: it ends when its data is on the disk (FUA)."""

    code: int
    block: int = 0
    blocks: int = 0
    forced: bool = False

    @classmethod
    def parse(cls, words: str) -> Command:
        raw = bytes.fromhex(words)
        if raw[0] in (WRITE_6, READ_6):
            sector, count = int.from_bytes(raw[1:4], "big") & 0x1FFFFF, raw[4] or 256
        else:
            sector, count = int.from_bytes(raw[2:6], "big"), int.from_bytes(raw[7:9], "big")
        forced = raw[0] == WRITE_10 and bool(raw[1] & FUA)
        return cls(raw[0], sector * 512 // FS_BLOCK, count * 512 // FS_BLOCK, forced)

    @property
    def writes(self) -> bool:
        return self.code in (WRITE_6, WRITE_10)

    @property
    def covered(self) -> range:
        """The blocks that it writes or reads."""
        return range(self.block, self.block + self.blocks)


@contextlib.contextmanager
def told(guest: Guest, commands: list[Command]) -> Iterator[None]:
    """Have the disk, slowed down, log its commands for a while, and append them."""
    console = guest.run(["cat", PRINTK]).stdout.split()[0]
    mark = "barrier test: begin"
    with slow_disk(guest, SLOW):
        guest.run(f"echo 1 >{PRINTK}; dmesg -c >/dev/null; echo '{mark}' >/dev/kmsg; echo 1 >{OPTS}")
        try:
            yield
        finally:
            if guest.machine.console.death is None:
                guest.run(f"echo 0 >{OPTS}; echo {console} >{PRINTK}")
    log = guest.run(["dmesg"]).stdout
    assert mark in log, "the kernel's log was too small"
    commands += [Command.parse(words) for words in re.findall(r"scsi_debug: .*?cmd ((?:[0-9a-f]{2} )+)", log)]


@contextlib.contextmanager
def mounted(stage: Scene, barrier: int) -> Iterator[str]:
    """A new ext3 on the device, and a file of 2 MB in it that user and group may write."""
    guest, place = stage.guest, "/mnt"
    guest.run(["mke2fs", "-q", "-F", "-t", "ext3", "-b", str(FS_BLOCK), "-I", "128",
               "-O", "^metadata_csum,^64bit,^resize_inode", "-J", "size=1", stage.path])  # fmt: skip
    guest.run(
        [
            "mount",
            "-t",
            "ext3",
            "-o",
            f"barrier={barrier},data=ordered,noatime,commit=600",
            stage.path,
            place,
        ]
    )
    try:
        guest.run(f"dd if=/dev/zero of={place}/file bs=64k count=32; chmod 666 {place}/file; sync")
        yield place
    finally:
        if guest.machine.console.death is None:
            guest.run(["umount", place])


def commit(stage: Scene, place: str, changes: Sequence[str] = ()) -> list[Command]:
    """Commit transactions while a user's direct I/O crowds the device; what the disk was told.

    changes: commands of the shell that begin beside the second, the fifth and so on of the commits.
    """
    job = fio.Job(
        name="crowd",
        filename=f"{place}/file",
        rw="randwrite",
        bs="1k",
        size=f"{CROWD}k",
        iodepth=24,
        direct=True,
        verify="crc32c",
        uid=USER,
        extra={
            "verify_fatal": "1",
            "verify_backlog": "64",
            "verify_state_save": "0",
            "allow_file_create": "0",
        },
    )
    commands: list[Command] = []
    with told(stage.guest, commands):
        crowd = stage.load("crowd", [job])
        beside = "".join(f"{3 * n + 2}) ( {change} ) & pids=$pids\\ $! ;; " for n, change in enumerate(changes))
        stage.guest.run(
            f"pids=; for i in $(seq {COMMITS}); do echo $i >{place}/$i; case $i in {beside}*) ;; esac\n"
            f"fsync {place}/$i; done; for p in $pids; do wait $p || exit 1; done"
        )
        crowd.result()
    return commands


def commit_number(guest: Guest, block: int) -> int:
    """The transaction that the commit record in this block ends. The disk keeps it until the journal wraps."""
    read = f"dd if={LOWER} bs={FS_BLOCK} skip={block} count=1 iflag=direct 2>/dev/null"
    text = guest.run(f"{read} | hexdump -v -e '1/1 \"%02x\"'").stdout
    magic, kind, sequence = struct.unpack(">III", bytes.fromhex(text)[:12])
    assert (magic, kind) == (JOURNAL_MAGIC, COMMIT_RECORD), (
        f"block {block} is not a commit record: {text[:24]}"
    )
    return sequence


TABLE = {
    "io_limit": 4,
    "io_throttle": 1,
    "type": "user",
    "token_base": 0,
    "default": "1",
    "groups": {USER: "100"},
}

# What happens to the device meanwhile. The file system is not frozen: it goes on to commit.
CHANGES = (
    "dmsetup suspend --nolockfs band && dmsetup resume band",
    "dmsetup suspend --nolockfs --noflush band && dmsetup resume band",
    "dmsetup message band 0 policy weight-iosize",
)


@pytest.mark.needs("barriers")
@pytest.mark.contract("int-15")
def test_commit_records_go_between_two_flushes(guest, seen):
    with scene(guest, counted=False, **TABLE) as stage, mounted(stage, barrier=1) as place:
        stage.band.message("reset")
        commands = commit(stage, place, CHANGES)
        groups = stage.band.status().groups
        assert stage.band.table().policy == "weight-iosize", "all changes were made"
        flushes = [
            i
            for i, command in enumerate(commands)
            # A barrier that a noflush suspend pushes back begins again, with another flush.
            if command.code == SYNCHRONIZE_CACHE and commands[i + 1 : i + 2] != [command]
        ]
        assert len(flushes) >= 2 * COMMITS, "each fsync is a commit"
        numbers, complete, last, previous = [], 0, -1, None
        for first, second in zip(flushes[::2], flushes[1::2], strict=True):
            assert second == first + 2, f"between two flushes: {commands[first : second + 1]}"
            record = commands[first + 1]
            assert record.writes and record.blocks == 1
            numbers.append(commit_number(guest, record.block))
            if previous is not None and previous < record.block:
                # Its blocks lie between the last record and this one; each was written once, before the first flush.
                journal = range(previous + 1, record.block)
                written = [b for c in commands[last:first] if c.writes for b in c.covered]
                assert sorted(b for b in written if b in journal) == list(journal) != []
                complete += 1
            last, previous = second, record.block
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "in their order"
        assert complete >= COMMITS - 2, "the journal is larger than what is written"
        parked = users_parked(groups)
        seen(
            f"{len(numbers)} commits among {len(commands)} commands, each between two flushes, {complete} seen to come"
            f" after all their blocks, with suspend, noflush suspend and policy switch meanwhile;"
            f" {parked} of the user's {CROWD} writes at least were parked"
        )


def users_parked(groups: dict[int, GroupCounters]) -> int:
    """How many of the user's writes were parked, at least; one was.

    Those of his own group; or by count, as dm core hands bios that come while it deals with a barrier, or is suspended,
    to a thread of its own, whose user is another.
    """
    writes, parked = (sum(getattr(g, what) for g in groups.values()) for what in ("writes", "writes_deferred"))
    user_parked = max(groups[USER].writes_deferred, parked - (writes - CROWD))
    assert user_parked > 0, f"{parked} of {writes} writes parked, {CROWD} of all are the user's"
    return user_parked


def commit_records(guest: Guest) -> dict[int, int]:
    """All that are on the disk: number of the transaction -> block."""
    guest.run(f"dd if={LOWER} of=/tmp/disk bs=64k iflag=direct")
    disk = guest.get("/tmp/disk")
    guest.run(["rm", "/tmp/disk"])
    heads = ((at, struct.unpack_from(">III", disk, at)) for at in range(0, len(disk), FS_BLOCK))
    return {
        sequence: at // FS_BLOCK
        for at, (magic, kind, sequence) in heads
        if (magic, kind) == (JOURNAL_MAGIC, COMMIT_RECORD)
    }


@pytest.mark.contract("int-19")
def test_commit_records_come_after_a_flush_and_what_they_commit(guest, seen):
    with scene(guest, counted=False, **TABLE) as stage, mounted(stage, barrier=1) as place:
        stage.band.message("reset")
        commands = commit(stage, place, CHANGES)
        groups = stage.band.status().groups
        assert stage.band.table().policy == "weight-iosize", "all changes were made"
        where = commit_records(guest)
    arrived = [(i, command) for i, command in enumerate(commands) if command.writes]
    flushes = [i for i, command in enumerate(commands) if command.code == SYNCHRONIZE_CACHE]
    records = [(n, i) for n, block in sorted(where.items()) for i, command in arrived if block in command.covered]
    numbers, last, ends = [n for n, _ in records], -1, [*(i for _, i in records[1:]), len(commands)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "each once, and in their order"
    assert len(numbers) >= COMMITS, "each fsync is a commit"
    for (number, record), end in zip(records, ends, strict=True):
        # The journal is larger than what is written: its blocks lie between the last record and this one.
        journal = range(where[number - 1] + 1, where[number])
        written = [(b, i) for i, command in arrived if last < i < record for b in command.covered if b in journal]
        assert sorted(b for b, _ in written) == list(journal) != [], f"{number}: each block was written once"
        committed = max(i for _, i in written)
        assert [i for i in flushes if committed < i < record], f"{number}: no flush before the record"
        assert commands[record].forced or [i for i in flushes if record < i < end], f"{number}: nor after it"
        last = record
    parked = users_parked(groups)
    seen(
        f"{len(numbers)} commits among {len(commands)} commands, each record after its blocks and a flush, forced or"
        f" flushed, with suspend, noflush suspend and policy switch meanwhile; {parked} of the user's {CROWD} writes at"
        " least were parked"
    )


@pytest.mark.contract("int-19")
def test_without_flushes_the_disk_is_told_of_none(guest, seen):
    """What the other tests see is there because of how the file system is mounted."""
    with scene(guest, counted=False, **TABLE) as stage, mounted(stage, barrier=0) as place:
        commands = commit(stage, place)
        assert sum(command.writes for command in commands) > COMMITS
        assert not [command for command in commands if command.code == SYNCHRONIZE_CACHE or command.forced]
        seen(f"barrier=0: nothing is flushed or forced among {len(commands)} commands")
