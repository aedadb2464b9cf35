"""QEMU's command line, and what a machine may be made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from harness import host
from harness.machine import Machine
from harness.qemu import Disk, MachineSpec, command_line


@pytest.fixture(autouse=True)
def no_qemu_needed(monkeypatch):
    monkeypatch.setattr(host, "find_tool", lambda name: Path("/usr/bin") / name)


def spec(**fields):
    return MachineSpec(kernel=Path("/k/bzImage"), initrd=Path("/k/initrd"), append="console=ttyS0", **fields)


def words(made: MachineSpec, folder: str = "/run", disks: list[int] | None = None) -> list[str]:
    return command_line(made, Path(folder), Path("/tmp/pipes/console"), 7, disks or [])


def value(argv: list[str], option: str) -> list[str]:
    return [argv[i + 1] for i, word in enumerate(argv) if word == option]


def test_real_clock():
    argv = words(spec())
    assert argv[0] == "/usr/bin/qemu-system-x86_64"
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} < set(argv)
    assert value(argv, "-accel") == ["tcg,thread=single"]
    assert value(words(spec(cpus=2)), "-accel") == ["tcg,thread=multi"]
    assert value(argv, "-cpu") == ["qemu64"]
    assert value(argv, "-smp") == ["1"]
    assert value(argv, "-m") == ["256"]
    assert value(argv, "-rtc") == ["base=utc"]
    assert "-icount" not in argv
    assert value(argv, "-append") == ["console=ttyS0"]
    assert value(argv, "-sandbox") == [
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    ]


def test_virtual_clock():
    argv = words(spec(clock="virtual", shift=4))
    assert value(argv, "-icount") == ["shift=4,sleep=off"]
    assert value(argv, "-rtc") == ["base=2009-09-09,clock=vm"]
    assert value(argv, "-seed") == ["1"]
    assert "virtio-net-pci,netdev=net,romfile=,ioeventfd=off" in value(argv, "-device")


def test_network_is_closed_but_for_one_port_of_loopback():
    argv = words(spec())
    assert value(argv, "-netdev") == ["user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22"]
    assert "virtio-net-pci,netdev=net,romfile=" in value(argv, "-device")
    assert not value(words(spec(network=False)), "-netdev")


def test_kvm():
    argv = words(spec(accel="kvm", cpus=2, memory_mb=512))
    assert value(argv, "-accel") == ["kvm"]
    assert value(argv, "-cpu") == ["kvm64"]
    assert value(argv, "-smp") == ["2"]
    assert value(argv, "-m") == ["512"]
    assert value(words(spec(cpu="max")), "-cpu") == ["max"]


def test_disks_in_order_with_their_throttles():
    disks = (
        Disk(name="first", size_mb=64, iops=1000),
        Disk(name="second", size_mb=8, bytes_per_second=32 << 20),
        Disk(name="third", size_mb=8),
    )
    argv = words(spec(disks=disks), disks=[11, 12, 13])
    assert value(argv, "-add-fd") == ["fd=11,set=0", "fd=12,set=1", "fd=13,set=2"]
    drives = value(argv, "-drive")
    assert [d.split(",")[1] for d in drives] == ["id=disk0", "id=disk1", "id=disk2"]
    assert drives[0].endswith("file=/dev/fdset/0,throttling.iops-total=1000")
    assert drives[1].endswith("file=/dev/fdset/1,throttling.bps-total=33554432")
    assert drives[2].endswith("file=/dev/fdset/2")
    assert all("cache=unsafe" in d for d in drives)
    assert [d for d in value(argv, "-device") if "blk" in d] == [
        "virtio-blk-pci,drive=disk0,serial=first,num-queues=1",
        "virtio-blk-pci,drive=disk1,serial=second,num-queues=1",
        "virtio-blk-pci,drive=disk2,serial=third,num-queues=1",
    ]


def test_commas_in_folders_are_not_options():
    (console, monitor) = value(words(spec(), folder="/runs/a,b"), "-chardev")
    assert console == ("pipe,id=console,path=/tmp/pipes/console,logfile=/runs/a,,b/console.log,logappend=off")
    assert monitor == "socket,id=monitor,fd=7"


@pytest.mark.parametrize(
    "fields",
    [
        {"clock": "virtual", "accel": "kvm"},
        {"clock": "virtual", "cpus": 2},
        {"clock": "virtual", "disks": (Disk(name="d", size_mb=1, iops=10),)},
        {"accel": "auto"},
        {"memory_mb": 1},
        {"unknown": 1},
    ],
)
def test_specs_that_make_no_machine(fields):
    with pytest.raises(ValidationError):
        spec(**fields)


@pytest.mark.parametrize("name", ["", "a,b", "a=b", "x" * 21, "../x"])
def test_disk_names_cannot_be_options_or_paths(name):
    with pytest.raises(ValidationError):
        Disk(name=name, size_mb=1)


def test_machine_that_was_not_entered():
    machine = Machine(spec(), Path("/run"))
    assert machine.exit_code is None
    machine.kill()
    machine.close()
