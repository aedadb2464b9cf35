"""Disks and file systems on a domain that counts everything, and writeback that waits to be asked for."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from lab import until
from owners import SECTORS, Domain, domain

from harness.dm import Linear, sectors

PAGES = 256
ALL = PAGES * SECTORS
MOUNT = "/mnt/owned"
MKFS = {
    "ext2": "mke2fs -q -t ext2 -I 128 -b 4096",
    "ext3": "mke2fs -q -t ext3 -O ^metadata_csum,^64bit -b 4096",
}
# The journal is written when it is asked to be, not every five seconds.
OPTIONS = {"ext2": "noatime", "ext3": "noatime,commit=3600"}


@dataclass
class Place:
    """Where the data goes: the device itself, or a file of ``PAGES`` pages on it that was there before."""

    domain: Domain
    kind: str
    path: str

    def fresh(self) -> None:
        """Nothing of its data is cached, but its metadata is; nothing is dirty or counted."""
        self.domain.settle()
        self.domain.read(None, 0, PAGES, "iflag=direct", self.path)
        self.domain.reset()

    def remount(self):
        """So that nothing at all of the file system is cached but what it read to be mounted."""
        self.domain.guest.run(["umount", MOUNT])
        mount(self.domain.guest, self.kind, self.domain.path)

    def write(self, group, first=0, count=PAGES, flags=""):
        self.domain.write(group, first, count, flags, self.path)

    def read(self, group, first=0, count=PAGES, flags=""):
        self.domain.read(group, first, count, flags, self.path)

    def sync(self):
        """By the top group."""
        self.domain.guest.run(["sync"])

    def expect(self, seen, *, read=None, written=None):
        """Exactly these sectors by group, and none to the others.

        File systems write metadata of their own accord, which is the default group's where the top group syncs.
        """
        charged = self.domain.charged()
        for counts, wanted in ((charged.read, read or {}), (charged.written, written or {})):
            for name, count in counts.items():
                if name != "default" or self.kind == "raw":
                    assert count == wanted.get(name, 0), f"{name}: {charged}"
        seen(f"{self.kind}: {charged}")
        return charged


def mount(guest, kind, device, options=""):
    guest.run(f"mkdir -p {MOUNT} && mount -t {kind} -o {OPTIONS[kind]}{options} {device} {MOUNT}")


@contextlib.contextmanager
def held_back(guest):
    """Nothing is written back unless somebody asks for it."""
    with settings(guest, dirty_expire_centisecs=360000, dirty_writeback_centisecs=0):
        yield


@contextlib.contextmanager
def settings(guest, **values):
    """Other values in /proc/sys/vm."""
    folder = "/proc/sys/vm"
    before = {name: guest.run(["cat", f"{folder}/{name}"]).stdout for name in values}
    # A limit in bytes that was never set reads 0 and cannot be written: its ratio is what holds then.
    ratios = {f"{n[:-5]}ratio" for n in values if n.endswith("_bytes")}
    before |= {name: guest.run(["cat", f"{folder}/{name}"]).stdout for name in ratios}
    before = {name: text for name, text in before.items() if not name.endswith("_bytes")}
    try:
        for name, value in values.items():
            guest.run(["sh", "-c", 'echo "$0" > "$1"', str(value), f"{folder}/{name}"])
        yield
    finally:
        for name, text in before.items():
            guest.run(["sh", "-c", 'echo "$0" > "$1"', text.strip(), f"{folder}/{name}"])


@contextlib.contextmanager
def place_of(kind, guest, *subsystems):
    with contextlib.ExitStack() as stack:
        stack.enter_context(held_back(guest))
        owned = stack.enter_context(domain(guest, *subsystems))
        path = owned.path
        if kind == "raw":
            # A disk that nobody has open any more is written back and forgotten: a device above keeps it open.
            above = Linear(guest, "above").create([(path, 0, sectors(guest, path))])
            stack.enter_context(above)
        else:
            guest.run(f"{MKFS[kind]} {owned.path}")
            mount(guest, kind, owned.path)
            stack.callback(guest.run, ["umount", MOUNT])
            path = f"{MOUNT}/file"
        place = Place(owned, kind, path)
        place.write(None)
        place.fresh()
        yield place


def wait_written(owned, group, wanted):
    """Until so many sectors were charged; nobody tells when the kernel writes of its own accord."""
    number = owned[group].id
    until(
        owned.guest,
        lambda: owned.device.status().groups[number].write_sectors,
        f"{wanted} sectors of {group} are written",
        lambda written: written >= wanted,
    )
