"""The machine's lifetime: how it starts, what it leaves behind, and how a guest's death is told."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.errors import GuestLost, InfrastructureError, KernelHang, KernelOops, KernelPanic
from harness.guest import Guest
from harness.keys import RunKeys
from harness.machine import INIT, READY, Disk, Machine, MachineSpec

pytestmark = pytest.mark.guest

APPEND = "console=ttyS0 panic=1 no_timer_check"


@pytest.fixture
def keys():
    return RunKeys.generate()


@pytest.fixture
def spec(kernel_build, image, keys, tmp_path):
    initrd = image.with_segment(tmp_path / "initrd", keys.files())
    return MachineSpec(
        kernel=kernel_build.bzimage, vmlinux=kernel_build.vmlinux, initrd=initrd, append=APPEND
    )


def ended(pid: int, seconds: float) -> bool:
    """Whether a process that is no child of ours ends in time."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)


def test_what_is_left_after_a_run(spec, keys, tmp_path):
    descriptors, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    disks = (Disk(name="one", size_mb=16, iops=500), Disk(name="two", size_mb=32))
    with Machine(spec.model_copy(update={"disks": disks}), tmp_path / "m") as machine:
        with Guest.connect(machine, keys) as guest:
            sizes = [guest.run(["blockdev", "--getsize64", f"/dev/vd{c}"]).stdout.strip() for c in "ab"]
        pid, port = machine.pid, machine.ssh_port
    assert sizes == [str(16 << 20), str(32 << 20)]
    assert machine.exit_code == 0
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["console.log", "qemu.log"]
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert threading.active_count() - threads <= 1  # the thread that starts every QEMU stays
    assert READY in machine.console_log.read_text()


def test_a_journalling_disk(spec, keys, tmp_path):
    disk = Disk(name="journal", size_mb=16, format="ext3")
    with (
        Machine(spec.model_copy(update={"disks": (disk,)}), tmp_path / "m") as machine,
        Guest.connect(machine, keys) as guest,
    ):
        guest.run("mkdir -p /mnt && mount -t ext3 /dev/vda /mnt && echo x > /mnt/file && umount /mnt")


def test_panic_ends_a_waiting_command(spec, keys, tmp_path):
    with Machine(spec, tmp_path / "m") as machine, Guest.connect(machine, keys) as guest:
        guest.run("echo 1 > /proc/sys/kernel/panic_on_oops")
        with pytest.raises(KernelPanic) as caught:
            guest.run("sleep 0.3; echo c > /proc/sysrq-trigger; sleep 100")
        told = time.monotonic()
        assert told - machine.console.seen("Kernel panic") < 10
        assert "drivers/" in caught.value.trace and "sysrq.c:" in caught.value.trace
        assert "sysrq.c:" not in caught.value.raw
        assert "Kernel panic" in caught.value.message
        began = time.monotonic()
        with pytest.raises(KernelPanic):
            guest.run("true")
        assert time.monotonic() - began < 5


def overwrite(machine: Machine, socket_file: Path, address: int, data: bytes) -> None:
    """Write into the kernel's memory as a debugger does, which the kernel cannot refuse; the guest stands meanwhile."""
    machine.monitor.human(f"gdbserver unix:{socket_file},server=on,wait=off")
    with socket.socket(socket.AF_UNIX) as debugger:
        debugger.settimeout(10)
        debugger.connect(str(socket_file))
        for packet in (f"M{address:x},{len(data):x}:{data.hex()}", "D"):
            debugger.sendall(f"${packet}#{sum(packet.encode()) % 256:02x}".encode())
            said = b""
            while b"$OK#" not in said:  # it also tells that the guest stands
                said += debugger.recv(64)
                assert b"$E" not in said, f"{packet}: {said!r}"
            debugger.sendall(b"+")
    machine.monitor.human("gdbserver none")


def test_oops_is_a_death_though_the_kernel_lives_on(spec, keys, tmp_path):
    """An invalid instruction is written over a system call in the kernel's memory, and the call made."""
    rows = subprocess.run(
        ["nm", spec.vmlinux], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    symbols = {name: int(at, 16) for at, _, name in map(str.split, rows) if at != "U"}
    names = ("__do_sys_sethostname", "__x64_sys_sethostname", "sys_sethostname")
    call = next(symbols[name] for name in names if name in symbols)
    with Machine(spec, tmp_path / "m") as machine, Guest.connect(machine, keys) as guest:
        overwrite(machine, tmp_path / "debugger", call, b"\x0f\x0b")  # ud2
        with pytest.raises(KernelOops, match="invalid opcode") as caught:
            guest.run("hostname other; sleep 100")
        assert machine.exit_code is None
        assert "sethostname" in caught.value.raw
        assert " at kernel/sys.c:" in caught.value.trace


def test_killed_qemu_is_a_lost_guest(spec, keys, tmp_path):
    with Machine(spec, tmp_path / "m") as machine, Guest.connect(machine, keys) as guest:
        threading.Timer(0.3, os.kill, (machine.pid, signal.SIGKILL)).start()
        began = time.monotonic()
        with pytest.raises(GuestLost, match="SIGKILL"):
            guest.run(["sleep", "100"])
        assert time.monotonic() - began < 10


def test_switching_off(spec, keys, tmp_path):
    with Machine(spec, tmp_path / "m") as machine, Guest.connect(machine, keys) as guest:
        with pytest.raises(GuestLost, match="switched itself off"):
            guest.run("poweroff -f; sleep 100")
        assert machine.wait_exit(5) == 0


def test_guest_that_never_gets_ready_hangs(spec, tmp_path):
    silent = spec.model_copy(update={"append": f"{APPEND} rdinit=/bin/sh"})
    with Machine(silent, tmp_path / "m") as machine:
        machine.console.wait("Freeing unused kernel", 30)
        with pytest.raises(KernelHang) as caught:
            machine.wait_ready(0.5)
        assert "RIP=" in caught.value.raw
        assert "Show Blocked State" in caught.value.raw and "Show State" in caught.value.raw
        assert "Mem-Info" in caught.value.raw
        # the idle task's registers, and sleeping tasks' traces
        assert " at arch/x86/" in caught.value.trace and " at kernel/" in caught.value.trace
        assert (tmp_path / "m" / "hang.log").read_text() == caught.value.raw


def test_qemu_that_does_not_start(spec, tmp_path):
    broken = spec.model_copy(update={"kernel": tmp_path / "no-kernel"})
    began = time.monotonic()
    with pytest.raises(InfrastructureError) as caught, Machine(broken, tmp_path / "m"):
        pytest.fail("it did start")
    assert time.monotonic() - began < 5
    assert "exited with 1" in caught.value.message
    assert "no-kernel" in caught.value.message and "-accel" in caught.value.message
    assert caught.value.log == tmp_path / "m" / "qemu.log"


def test_machine_outlives_the_thread_that_entered_it(spec, keys, tmp_path):
    machine = Machine(spec, tmp_path / "m")
    thread = threading.Thread(target=machine.__enter__)
    thread.start()
    thread.join()
    try:
        with Guest.connect(machine, keys) as guest:
            assert guest.run(["echo", "here"]).stdout == "here\n"
    finally:
        machine.close()


OTHER_PROCESS = """
import signal, sys
from pathlib import Path
from harness.machine import Machine, MachineSpec
# A shell's background job, and so all that it starts, ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
spec = MachineSpec.model_validate_json(sys.argv[1])
with Machine(spec, Path(sys.argv[2])) as machine:
    machine.wait_ready()
    print(machine.pid, machine.ssh_port, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_qemu_ends_with_the_harness(spec, tmp_path, how):
    harness = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, spec.model_dump_json(), str(tmp_path / "m")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    with harness:
        try:
            pid, port = map(int, harness.stdout.readline().split())
            assert Path(f"/proc/{pid}/comm").read_text().startswith("qemu")
            harness.send_signal(how)
            harness.wait(10)
        finally:
            harness.kill()
    assert ended(pid, 5)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)
    assert not list(tmp_path.glob("harness-*"))


def test_virtual_clock_is_exact(spec, keys, tmp_path):
    exact = spec.model_copy(update={"clock": "virtual"})
    logs = []
    for name in ("one", "two"):
        with Machine(exact, tmp_path / name) as machine:
            machine.wait_ready()
        text = machine.console_log.read_text()
        assert INIT in text
        logs.append(text[: text.index(READY)])
    assert logs[0] == logs[1]  # every line's time stamp, too
