"""Unloading the driver: refused while it has I/O to do, and safe at any moment otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from gate import LOWER, scene
from race import race
from test_integrity import LIMIT, PARKED, USERS, fill, still_parked

from harness.cgroup import Hierarchy

MODULE = (("CONFIG_DM_IOBAND", "m"),)

pytestmark = [
    pytest.mark.guest,
    pytest.mark.flavours("perf", "debug"),
    pytest.mark.machine(cpus=2, config=MODULE),
]

INSMOD, RMMOD = "insmod /lib/modules/dm-ioband.ko", "rmmod dm-ioband"
# rmmod ends with 0 even where it is refused.
LOADED = "grep -q '^dm_ioband ' /proc/modules"


def is_loaded(guest) -> bool:
    return guest.run(LOADED, check=False).exit_code == 0


@contextlib.contextmanager
def module(guest) -> Iterator[None]:
    guest.run(INSMOD)
    try:
        yield
    finally:
        if guest.machine.console.death is None:
            guest.run(RMMOD)
    assert not is_loaded(guest)


@pytest.mark.contract("int-18", "chk-09")
def test_unloading_is_refused_while_bios_are_parked(guest, seen):
    read = f"bs=4k count={LIMIT} iflag=direct | md5sum"
    with module(guest):
        with scene(guest, **USERS) as stage:
            parked = fill(stage)
            guest.run(RMMOD)
            assert is_loaded(guest), "unloaded under a device in use"
            still_parked(stage)
            stage.open()
            done = parked.finish(0)
        before = guest.run(f"dd if={LOWER} {read}").stdout
    with module(guest), scene(guest, **USERS):
        assert guest.run(f"dd if=/dev/mapper/front {read}").stdout == before
    seen(f"refused with {PARKED} parked, {done} I/Os ended; after unloading and loading the data is there")


@pytest.mark.contract("stress-07", "chk-20")
def test_module_against_cgroup_files(guest, seen):
    against_cgroup_files(guest, seen, 60)


@pytest.mark.contract("stress-07", "chk-20")
@pytest.mark.flavours("perf")
@pytest.mark.machine(config=MODULE)
def test_module_against_cgroup_files_on_one_cpu(guest, seen):
    """Whoever sleeps hands over; a few rounds."""
    against_cgroup_files(guest, seen, 15)


def against_cgroup_files(guest, seen, rounds: int) -> None:
    with Hierarchy(guest, "blkio") as hierarchy:
        top, group = hierarchy.path, hierarchy.create("g").path
        life = f"""
	run {INSMOD}
	{LOADED}; good
	refused=0
	while {LOADED}; do {RMMOD} >/dev/null 2>&1; refused=$((refused + 1)); done
	echo $((refused - 1)) >>refused
"""
        sides = race(
            guest,
            ("life", life, rounds),
            {
                "read": f"get {top}/blkio.devices; get {group}/blkio.settings",
                "write": f'put "s reset" {top}/blkio.devices',
                "groups": f"run mkdir {top}/h; run rmdir {top}/h",
            },
            both=["write"],
        )
        refused = sum(map(int, guest.get("/tmp/race/refused").split()))
        read, write = sides["read"], sides["write"]
        seen(
            f"{sides['life'].rounds} times loaded and unloaded, {refused} times a file was in use just then;"
            f" {read.rounds} rounds of reads, {write.ok} writes without the driver, {write.bad} with it"
        )
        assert sides["life"].bad == read.bad == sides["groups"].bad == 0, sides
        assert write.ok > 0 < write.bad
        assert set(write.errors) == {"No such device"}
