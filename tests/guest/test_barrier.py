"""Barriers through an ioband device: what the disk is told, in the order in which it is told.

ext3 writes the record that commits a transaction as a barrier: everything of the transaction must be on the disk before
it. Here the disk (scsi_debug) logs every command that it gets, so the log is the order of arrival itself.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from gate import LOWER, Scene, scene

from harness import fio
from harness.guest import Guest

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

OPTS = "/sys/bus/pseudo/drivers/scsi_debug/opts"
DELAY = "/sys/bus/pseudo/drivers/scsi_debug/delay"
# Jiffies of a command: long enough for the slowest kernel to submit more than is let through meanwhile.
SLOW = 5
PRINTK = "/proc/sys/kernel/printk"
COMMITS = 12
USER = 1000
# Blocks that the user writes.
CROWD = 256
FS_BLOCK = 1024
JOURNAL_MAGIC, COMMIT_RECORD = 0xC03B3998, 2
WRITE_10, READ_10, SYNCHRONIZE_CACHE, WRITE_6, READ_6 = 0x2A, 0x28, 0x35, 0x0A, 0x08


@dataclass(frozen=True)
class Command:
    """A command to the disk; block, blocks: of the file system."""

    code: int
    block: int = 0
    blocks: int = 0

    @classmethod
    def parse(cls, words: str) -> Command:
        raw = bytes.fromhex(words)
        if raw[0] in (WRITE_6, READ_6):
            sector, count = int.from_bytes(raw[1:4], "big") & 0x1FFFFF, raw[4] or 256
        else:
            sector, count = int.from_bytes(raw[2:6], "big"), int.from_bytes(raw[7:9], "big")
        return cls(raw[0], sector * 512 // FS_BLOCK, count * 512 // FS_BLOCK)

    @property
    def writes(self) -> bool:
        return self.code in (WRITE_6, WRITE_10)


@contextlib.contextmanager
def told(guest: Guest, commands: list[Command]) -> Iterator[None]:
    """Have the disk, slowed down, log its commands for a while, and append them."""
    console = guest.run(["cat", PRINTK]).stdout.split()[0]
    delay = guest.run(["cat", DELAY]).stdout.strip()
    mark = "barrier test: begin"
    guest.run(f"echo 1 >{PRINTK}; dmesg -c >/dev/null; echo '{mark}' >/dev/kmsg; echo 1 >{OPTS}; echo {SLOW} >{DELAY}")
    try:
        yield
    finally:
        if guest.machine.console.death is None:
            guest.run(f"echo {delay} >{DELAY}; echo 0 >{OPTS}; echo {console} >{PRINTK}")
    log = guest.run(["dmesg"]).stdout
    assert mark in log, "the kernel's log was too small"
    commands += [Command.parse(words) for words in re.findall(r"scsi_debug: cmd ((?:[0-9a-f]{2} )+)", log)]


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


@pytest.mark.contract("int-15")
def test_commit_records_go_between_two_flushes(guest, seen):
    with scene(guest, **TABLE) as stage, mounted(stage, barrier=1) as place:
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
                written = [
                    b for c in commands[last:first] if c.writes for b in range(c.block, c.block + c.blocks)
                ]
                assert sorted(b for b in written if b in journal) == list(journal) != []
                complete += 1
            last, previous = second, record.block
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "in their order"
        assert complete >= COMMITS - 2, "the journal is larger than what is written"
        # By count: dm core hands bios that come while it deals with a barrier, or is suspended, to a thread of its own,
        # whose user is another.
        writes, parked = (sum(getattr(g, what) for g in groups.values()) for what in ("writes", "writes_deferred"))
        user_parked = parked - (writes - CROWD)
        assert user_parked > 0, f"{parked} of {writes} writes parked, {CROWD} of all are the user's"
        seen(
            f"{len(numbers)} commits among {len(commands)} commands, each between two flushes, {complete} seen to come"
            f" after all their blocks, with suspend, noflush suspend and policy switch meanwhile;"
            f" {user_parked} of the user's {CROWD} writes at least were parked"
        )


@pytest.mark.contract("int-15")
def test_without_barriers_the_disk_is_told_of_none(guest, seen):
    """What the other test sees is there because of the barriers."""
    with scene(guest, **TABLE) as stage, mounted(stage, barrier=0) as place:
        commands = commit(stage, place)
        assert sum(command.writes for command in commands) > COMMITS
        assert not [command for command in commands if command.code == SYNCHRONIZE_CACHE]
        seen(f"barrier=0: no flush among {len(commands)} commands")
