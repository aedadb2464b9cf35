"""What a machine is made of, and QEMU's command line for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness import host

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

SHIFT = 3
NS_PER_INSTRUCTION = 1 << SHIFT
"""On the virtual clock."""

Clock = Literal["real", "virtual"]
Accel = Literal["tcg", "kvm"]
Filesystem = Literal["raw", "ext2", "ext3"]


class Disk(BaseModel):
    """A virtio disk, the machine's first is /dev/vda; empty at the start and gone at the end.

    iops, bytes_per_second: QEMU's throttle for reads and writes together, by the host's clock; None: no
    limit. format: a file system that is on it at the start.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,20}$")]
    size_mb: Annotated[int, Field(ge=1)]
    iops: Annotated[int, Field(ge=1)] | None = None
    bytes_per_second: Annotated[int, Field(ge=1)] | None = None
    format: Filesystem = "raw"


class MachineSpec(BaseModel):
    """What a machine is made of.

    append: the kernel's command line. cpu: QEMU's name of the CPU model; None: by accelerator. clock: real
    time, or guest time that advances by 2**shift ns per instruction and not at all by what the host does
    (QEMU's -icount). slowdown: by what factor this host is slower than the reference host
    (`harness.accelerator`): deadlines scale with it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernel: Path
    initrd: Path
    vmlinux: Path | None = None
    append: str = ""
    memory_mb: Annotated[int, Field(ge=16)] = 256
    cpus: Annotated[int, Field(ge=1)] = 1
    accel: Accel = "tcg"
    cpu: str | None = None
    clock: Clock = "real"
    shift: Annotated[int, Field(ge=0, le=10)] = SHIFT
    disks: tuple[Disk, ...] = ()
    network: bool = True
    slowdown: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _one_clock(self) -> Self:
        if self.clock == "virtual":
            if self.accel != "tcg" or self.cpus != 1:
                raise ValueError(
                    "the virtual clock counts the instructions of one emulated CPU: accel tcg, cpus 1"
                )
            if any(d.iops or d.bytes_per_second for d in self.disks):
                raise ValueError(
                    "QEMU throttles disks by the host's clock: no throttled disk on the virtual clock"
                )
        return self


def _quoted(value: str | Path) -> str:
    """A value inside QEMU's comma-separated options."""
    return str(value).replace(",", ",,")


def command_line(
    spec: MachineSpec, folder: Path, console: Path, monitor: int, disks: Sequence[int]
) -> list[str]:
    """The command line.

    console: path of two named pipes less their suffixes .in and .out. monitor: descriptor of a connected
    socket. disks: descriptors of the disks' files.
    """
    argv = [str(host.find_tool("qemu-system-x86_64")), "-nodefaults", "-no-user-config", "-no-reboot"]
    argv += [
        "-display",
        "none",
        "-sandbox",
        SANDBOX,
        "-machine",
        "pc",
        "-smp",
        str(spec.cpus),
        "-m",
        str(spec.memory_mb),
    ]
    # One thread for all CPUs lets one wait for the other for up to a tenth of a second: races would hardly be seen.
    threads = "single" if spec.cpus == 1 else "multi"
    argv += ["-accel", f"tcg,thread={threads}" if spec.accel == "tcg" else "kvm"]
    # Plain models: with the host's own CPU a kernel of 2009 meets features, and nested KVM registers, that
    # it or the host's KVM does not know (seen: QEMU aborts with "failed to set MSR 0x10a").
    argv += ["-cpu", spec.cpu or ("qemu64" if spec.accel == "tcg" else "kvm64")]
    if spec.clock == "virtual":
        # sleep=off: when the guest idles, its clock jumps to the next timer. seed: QEMU's own random numbers.
        argv += ["-icount", f"shift={spec.shift},sleep=off", "-rtc", "base=2009-09-09,clock=vm", "-seed", "1"]
    else:
        argv += ["-rtc", "base=utc"]
    argv += ["-kernel", str(spec.kernel), "-initrd", str(spec.initrd), "-append", spec.append]
    log = _quoted(folder / "console.log")
    argv += ["-chardev", f"pipe,id=console,path={_quoted(console)},logfile={log},logappend=off"]
    argv += [
        "-serial",
        "chardev:console",
        "-chardev",
        f"socket,id=monitor,fd={monitor}",
        "-mon",
        "chardev=monitor,mode=control",
    ]
    if spec.network:
        # Port 0: the system chooses a free one, and QEMU tells which.
        argv += ["-netdev", "user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22"]
        # No boot ROM: 0.1 s less.
        device = "virtio-net-pci,netdev=net,romfile="
        # Else another thread of QEMU's answers what the driver asks when the interface is brought up, and how many
        # instructions the guest waits differs (6.1: 4 outcomes in 8 boots; 1 without).
        argv += ["-device", f"{device},ioeventfd=off" if spec.clock == "virtual" else device]
    for number, (disk, fd) in enumerate(zip(spec.disks, disks, strict=True)):
        argv += ["-add-fd", f"fd={fd},set={number}", "-drive", _drive(disk, number)]
        # One queue however many CPUs: newer QEMUs would make one for each, another disk for the guest's scheduler.
        argv += ["-device", f"virtio-blk-pci,drive=disk{number},serial={disk.name},num-queues=1"]
    return argv


def _drive(disk: Disk, number: int) -> str:
    # cache=unsafe: the disk ends with the machine, so that what the host does with a flush is nobody's
    # concern.
    words = [f"if=none,id=disk{number},format=raw,cache=unsafe,auto-read-only=off,file=/dev/fdset/{number}"]
    if disk.iops:
        words.append(f"throttling.iops-total={disk.iops}")
    if disk.bytes_per_second:
        words.append(f"throttling.bps-total={disk.bytes_per_second}")
    return ",".join(words)
