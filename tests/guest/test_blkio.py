"""blkio-cgroup's own interface: the subsystem, its mounts, its ids, and what is left of it when it is switched off."""

from __future__ import annotations

import contextlib

import pytest
from lab import refused, until
from owners import SECTORS, domain

from harness.cgroup import Hierarchy
from harness.dm import DEFAULT_GROUP, Ioband, Linear, TableLine, sectors
from harness.machine import Disk

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

DISK = "/dev/vda"
OFF = pytest.mark.machine(append="cgroup_disable=blkio")
OFF_WITH_MEMORY = pytest.mark.machine(append="cgroup_disable=memory,blkio")


# The kernel knows nothing of the rest of the memory until it is told.
BOOT_MB = 128
PLUGGABLE = pytest.mark.machine(
    memory_mb=3 * BOOT_MB,
    append=f"mem={BOOT_MB}M",
    config=(("CONFIG_MEMORY_HOTPLUG", "y"), ("CONFIG_ARCH_MEMORY_PROBE", "y")),
    disks=(Disk(name="disk", size_mb=256),),
)


def subsystems(guest):
    """/proc/cgroups: name -> (hierarchy, number of groups, enabled)."""
    lines = guest.run(["cat", "/proc/cgroups"]).stdout.splitlines()
    assert lines[0] == "#subsys_name\thierarchy\tnum_cgroups\tenabled"
    return {name: tuple(map(int, numbers)) for name, *numbers in (line.split("\t") for line in lines[1:])}


@pytest.mark.contract("blkio-01")
def test_the_kernel_lists_the_subsystem(guest, seen):
    assert subsystems(guest)["blkio"] == (0, 1, 1)
    with Hierarchy(guest, "blkio") as hierarchy:
        hierarchy.create("a")
        number, groups, enabled = subsystems(guest)["blkio"]
        assert number > 0
        assert (groups, enabled) == (2, 1)
    assert subsystems(guest)["blkio"] == (0, 1, 1)
    seen("/proc/cgroups: blkio, 1 group, enabled; 2 groups with a child")


@pytest.mark.contract("blkio-02")
def test_the_files_are_in_every_directory(guest, seen):
    with Hierarchy(guest, "blkio") as hierarchy:
        for group in (hierarchy.root, hierarchy.create("a"), hierarchy.create("a/b")):
            names = [f"blkio.{name}" for name in ("devices", "id", "settings")]
            listed = guest.run(["sh", "-c", 'cd "$0" && stat -c "%a %n" "$@"', group.path, *names]).stdout
            assert listed == "644 blkio.devices\n444 blkio.id\n644 blkio.settings\n"
    seen(", ".join(listed.splitlines()))


@pytest.mark.contract("blkio-03")
def test_id_is_read_only(guest, seen):
    with Hierarchy(guest, "blkio") as hierarchy:
        with refused("EINVAL"):
            hierarchy.root.write("blkio.id", "5")
        assert hierarchy.root.read("blkio.id") == "1\n"
    seen("root's write of 5: EINVAL, and it reads 1")


@pytest.mark.contract("blkio-04", "chk-18")
def test_ids_begin_at_one(guest, seen):
    with Hierarchy(guest, "blkio") as hierarchy:
        groups = [hierarchy.root, *(hierarchy.create(name) for name in ("a", "b", "a/c", "a/c/d"))]
        texts = [group.read("blkio.id") for group in groups]
    assert texts == ["1\n", "2\n", "3\n", "4\n", "5\n"]
    seen("top 1, then 2, 3, 4, 5 in the order of mkdir, whatever the depth")


@pytest.mark.contract("blkio-04")
def test_ids_are_unique(guest, seen):
    with Hierarchy(guest, "blkio") as hierarchy:
        guest.run(f"cd {hierarchy.path} && for i in $(seq 300); do mkdir g$i || exit; done")
        ids = guest.run(f"cd {hierarchy.path} && cat blkio.id g*/blkio.id").stdout.split()
        guest.run(f"cd {hierarchy.path} && rmdir g*")
    assert sorted(map(int, ids)) == list(range(1, 302))
    seen("300 groups: ids 2 to 301, each once")


@pytest.mark.contract("blkio-05")
def test_an_id_is_given_again(guest, seen):
    with Hierarchy(guest, "blkio") as hierarchy:
        first, second, third = (hierarchy.create(name) for name in "abc")
        assert [g.id for g in (first, second, third)] == [2, 3, 4]
        second.remove()
        hierarchy.settle()
        assert hierarchy.create("d").id == 3, "the lowest that is free"
        assert hierarchy.create("e").id == 5
        assert [g.id for g in (first, third)] == [2, 4]
    seen("after rmdir of 3 the next group is 3, the one after it 5")


@pytest.mark.contract("blkio-05")
def test_ids_of_a_new_hierarchy(guest, seen):
    for _ in range(2):
        with Hierarchy(guest, "blkio") as hierarchy:
            assert hierarchy.root.id == 1
            assert hierarchy.create("a").id == 2
    seen("mounted again: top 1, child 2")


@pytest.mark.contract("blkio-06")
def test_mounted_together_with_memory(guest, seen):
    with Hierarchy(guest, "blkio", "memory") as hierarchy:
        group = hierarchy.create("a")
        assert group.id == 2
        group.write("memory.limit_in_bytes", "8M")
        assert group.read("memory.limit_in_bytes") == f"{8 << 20}\n"
        mounts = guest.run(["cat", "/proc/mounts"]).stdout
        (line,) = (line for line in mounts.splitlines() if line.split()[1] == hierarchy.path)
        options = line.split()[3].split(",")
    assert {"blkio", "memory"} <= set(options)
    seen("blkio.* and memory.* in one directory")


@pytest.mark.contract("blkio-07")
def test_one_hierarchy_only(guest, seen):
    with Hierarchy(guest, "blkio") as hierarchy, Hierarchy(guest, "memory", path="/memory"):
        group = hierarchy.create("a")
        with refused("EBUSY"):
            Hierarchy(guest, "blkio", "memory", path="/other").mount()
        with Hierarchy(guest, "blkio", path="/again") as again:
            assert guest.run(["cat", "/again/a/blkio.id"]).stdout == f"{group.id}\n"
            assert again.root.id == 1
    seen("with another subsystem EBUSY; mounted elsewhere: the same groups and ids")


def exported(build):
    """What modules can use of a kernel."""
    lines = build.system_map.read_text().splitlines()
    return {line.partition(" __ksymtab_")[2] for line in lines if " __ksymtab_" in line}


@pytest.mark.contract("blkio-08")
def test_what_is_exported(testbed, fact, seen):
    added = exported(testbed.build) - exported(testbed.compat)
    assert added == set(fact("exports"))
    seen(f"{', '.join(sorted(added))}; nothing else that the kernel without the series has not")


@pytest.mark.contract("blkio-09")
def test_the_owners_are_in_the_boot_log(guest, fact, seen):
    said = guest.machine.console.text  # not dmesg: the ring may have turned over since the boot
    for text in fact("boot_log_of_owners"):
        assert text in said
    seen(f"the boot log has: {'; '.join(fact('boot_log_of_owners'))}")


def owners_are_kept(guest, fact):
    """Whether the kernel has an array in which it notes whose page it is, as it said when it was booted."""
    return fact("boot_log_of_owners")[0] in guest.run(["dmesg"]).stdout


def use_without_blkio(guest):
    """All of the driver but the cgroup files works, and a target of type cgroup has its default group."""
    line = TableLine(
        length=sectors(guest, DISK), device=DISK, share="s", type="cgroup", token_base=0, default="100"
    )
    with Ioband(guest, "d").create(line) as device:
        device.message("attach", "5")
        device.message("reset")
        write = ["dd", "if=/dev/zero", f"of={device.path}", "bs=4k", "count=32", "conv=notrunc"]
        guest.run([*write, "oflag=direct"])
        guest.run(write)
        guest.run(["sync"])
        guest.run("echo 3 > /proc/sys/vm/drop_caches")
        guest.run(["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=32"])
        counted = device.status().groups
    assert counted[DEFAULT_GROUP].write_sectors == 2 * 32 * 8
    assert counted[DEFAULT_GROUP].read_sectors >= 32 * 8
    assert set(counted) == {DEFAULT_GROUP, 5}
    assert (counted[5].reads, counted[5].writes) == (0, 0)


@OFF
@pytest.mark.contract("blkio-10", "chk-18")
def test_switched_off_at_boot(guest, fact, seen):
    assert subsystems(guest)["blkio"][2] == 0
    assert subsystems(guest)["memory"][2] == 1
    with refused("EINVAL"):
        Hierarchy(guest, "blkio").mount()
    with Hierarchy(guest, "memory") as hierarchy:
        files = guest.run(["ls", hierarchy.path]).stdout
    assert "memory." in files
    assert "blkio." not in files
    use_without_blkio(guest)
    assert owners_are_kept(guest, fact) == ("memory" in fact("users_of_the_array_of_owners"))
    seen("enabled 0; mount -o blkio: EINVAL; writes and reads work, all counted in the default group")


@OFF
@pytest.mark.contract("blkio-11")
def test_the_driver_loads_without_blkio(guest, seen):
    said = guest.run(["dmesg"]).stdout
    assert "blkio-cgroup is disabled" in said
    assert "register failed" not in said
    seen("target ioband is there; the log says that blkio-cgroup is disabled")


@OFF_WITH_MEMORY
@pytest.mark.contract("blkio-12")
def test_the_array_of_owners_is_spared(guest, fact, seen):
    found = subsystems(guest)
    assert (found["blkio"][2], found["memory"][2]) == (0, 0)
    assert not owners_are_kept(guest, fact)
    use_without_blkio(guest)
    seen(f"both disabled: no `{fact('boot_log_of_owners')[0]}` in the boot log, and I/O works")


@pytest.mark.machine(append="cgroup_disable=memory")
@pytest.mark.contract("blkio-12", "blkio-13")
def test_without_the_memory_controller(guest, fact, seen):
    assert subsystems(guest)["memory"][2] == 0
    assert owners_are_kept(guest, fact)
    line = TableLine(length=sectors(guest, DISK), device=DISK, share="s", type="cgroup")
    with Hierarchy(guest, "blkio") as hierarchy, Ioband(guest, "d").create(line) as device:
        group = hierarchy.create("a")
        group.set("d", 50)
        write = ["dd", "if=/dev/zero", f"of={device.path}", "bs=4k", "count=32", "conv=notrunc"]
        guest.run(group.exec_prefix(write))
        guest.run(["sync"])
        counted = device.status().groups
        assert (counted[group.id].write_sectors, counted[DEFAULT_GROUP].write_sectors) == (256, 0)
    seen("cgroup_disable=memory: a delayed write still belongs to its cgroup")


@contextlib.contextmanager
def default_hierarchy(guest):
    """The hierarchy of version 2, with the io controller in its groups; its path. Groups a and b are removed."""
    path = "/cgroup2"
    guest.run(f"mkdir -p {path} && mount -t cgroup2 cgroup2 {path} && echo +io > {path}/cgroup.subtree_control")
    try:
        yield path
    finally:
        if guest.machine.console.death is None:
            guest.run(f"cd {path} && rmdir a b; echo -io > cgroup.subtree_control && cd / && umount {path}")
            until(guest, lambda: subsystems(guest)["blkio"], "the groups are gone", lambda s: s == (0, 1, 1))


@pytest.mark.needs("cgroup2")
@pytest.mark.contract("blkio-19")
def test_the_default_hierarchy(guest, seen):
    def said(file):
        return guest.run(["cat", f"{top}/{file}"]).stdout

    line = TableLine(length=sectors(guest, DISK), device=DISK, share="s", type="cgroup", io_limit=128)
    with default_hierarchy(guest) as top, Ioband(guest, "d").create(line) as device:
        guest.run(f"cd {top} && mkdir a b && echo d 50 > a/io.settings && echo s weight 30 > io.devices")
        numbers = [int(said(file)) for file in ("io.id", "a/io.id", "b/io.id")]
        assert numbers[0] == 1
        assert len(set(numbers)) == 3
        assert said("io.devices") == said("a/io.devices")
        assert said("io.devices") == "s policy=weight io_throttle=4 io_limit=128 token=512 carryover=4\n  d\n"
        assert [said(f"{group}io.settings") for group in ("", "a/", "b/")] == ["d weight=30\n", "d weight=50\n", ""]
        with refused("EACCES"):
            guest.run(f"echo s weight 40 > {top}/a/io.devices")
        device.message("reset")
        script = f"echo $$ > {top}/$1/cgroup.procs; exec dd if=/dev/zero of={device.path} bs=4k count=32 seek=$2"
        for group, place in (("a", "0"), ("b", "64")):
            guest.run(["sh", "-c", script, "sh", group, place])
        guest.run(["sync"])
        counted = device.status().groups
        assert counted[numbers[1]].write_sectors == counted[DEFAULT_GROUP].write_sectors == 256
        guest.run(f"rmdir {top}/a")
        until(guest, lambda: set(device.status().groups), "a is detached", lambda ids: ids == {DEFAULT_GROUP})
        guest.run(f"mkdir {top}/a")
    seen("io.id, io.devices, io.settings; what a wrote is a's, what b wrote, not being attached, the default group's")


def memory_mb(guest, what):
    """An entry of /proc/meminfo."""
    return int(guest.run(["sed", "-n", f"s/^{what}: *\\([0-9]*\\) kB$/\\1/p", "/proc/meminfo"]).stdout) >> 10


@PLUGGABLE
@pytest.mark.flavours("perf")
@pytest.mark.contract("blkio-17")
def test_memory_that_is_plugged_in(guest, seen):
    """More is written than fits into the memory that was there at boot."""
    folder = "/sys/devices/system/memory"
    before = memory_mb(guest, "MemTotal")
    guest.run(f"echo {BOOT_MB << 20:#x} > {folder}/probe && echo online > {folder}/memory1/state")
    assert memory_mb(guest, "MemTotal") == before + BOOT_MB
    count = 160 << 8
    with domain(guest) as owned, Linear(guest, "above").create([(owned.path, 0, sectors(guest, owned.path))]):
        owned.used_before_by("c", 190)
        owned.settle()
        owned.write("a", 0, count)
        cached = memory_mb(guest, "Buffers")
        assert cached > BOOT_MB
        guest.run(["sync"])
        charged = owned.charged()
    assert charged.written == {"default": 0, "a": count * SECTORS, "b": 0, "c": 0}
    seen(f"{before} MB, then {BOOT_MB} more; {cached} MB of dirty pages, all a's: {charged}")
