"""A QEMU process: its command line, its monitor, its lifetime."""

from __future__ import annotations

import copy
import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from fcntl import F_SETPIPE_SZ, fcntl
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from harness import host
from harness.console import Console
from harness.errors import GuestError, GuestLost, InfrastructureError, KernelHang
from harness.qemu import Accel, Clock, Disk, MachineSpec, command_line

if TYPE_CHECKING:
    from harness.qmp import Monitor

__all__ = ["INIT", "READY", "Accel", "Clock", "Disk", "Machine", "MachineSpec"]

INIT = "harness: init"
"""The first line of the guest's /init: the kernel has booted."""
READY = "harness: ready"
"""Its last: SSH answers."""

BOOT_SECONDS = 30.0
"""How long a guest may take until it is ready on the reference host (1.2 s; debug kernels up to 10)."""

# Bytes a guest may print while nobody reads, without QEMU making it wait, which would be seen on the
# virtual clock. Linux merges single bytes in a pipe (not so in a socket, which takes some 280 of them); 1
# MiB is what it grants anyone.
PIPE_BYTES = 1 << 20
# Seconds for QEMU to end after SIGTERM (measured: 0.02 to 0.1), before SIGKILL.
TERMINATION = 5.0
# Seconds of silence after which the answer to a SysRq key is complete, and the most that each may take.
SYSRQ_SILENCE, SYSRQ_LONGEST = 0.5, 5.0
# blocked tasks, all tasks, locks held (needs lockdep, else backtrace of all CPUs), memory
SYSRQ_KEYS = "wtlm"

_WHILE_WE_LIVE = ["/bin/sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"']
# 2.6.31 does not know what mke2fs makes by default today.
_MKE2FS: dict[str, list[str]] = {
    "ext2": ["-t", "ext2", "-I", "128"],
    "ext3": ["-t", "ext3", "-O", "^metadata_csum,^64bit"],
}


@cache
def _starter() -> ThreadPoolExecutor:
    """The thread that starts every QEMU.

    Linux sends a child its parent-death signal (prctl(2)) when the *thread* that made it ends: this one lives
    as long as the process.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="qemu-starter")


class Machine:
    """A running QEMU; a context manager, whose end leaves no process, port, pipe or disk.

    folder: gets console.log (written by QEMU) and qemu.log (QEMU's own output). started: time.monotonic().
    Entering raises InfrastructureError: QEMU is missing or does not start.
    """

    def __init__(self, spec: MachineSpec, folder: Path) -> None:
        self.spec = spec
        self.folder = folder
        self.console_log = folder / "console.log"
        self.qemu_log = folder / "qemu.log"
        self.accel: Accel = spec.accel
        self.slowdown = spec.slowdown
        self.argv: tuple[str, ...] = ()
        self.started = 0.0
        self._stack = ExitStack()
        self._starting: Future[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._console: Console | None = None
        self._monitor: Monitor | None = None
        self._input = -1
        self._port: int | None = None
        self._ending = False
        self._evidence = threading.Lock()

    # ---- lifetime

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End QEMU and everything that belongs to the machine; may be called twice."""
        self._stack.close()

    def kill(self) -> None:
        """End QEMU now, from any thread: who waits for the guest gets a GuestLost. `close` does the rest."""
        self._ending = True
        if self._process is not None:
            self._process.kill()

    def _start(self, stack: ExitStack) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # What QEMU has opened or inherited by the time its monitor answers is closed and removed here at
        # once, so that nothing is left behind even when this process is killed.
        with ExitStack() as passing:
            pipes = Path(passing.enter_context(tempfile.TemporaryDirectory(prefix="harness-"))) / "console"
            output = self._open_console(pipes, stack, passing)
            ours, theirs = socket.socketpair()
            passing.callback(theirs.close)
            disks = [self._disk(disk, passing) for disk in self.spec.disks]
            self.argv = tuple(command_line(self.spec, self.folder, pipes, theirs.fileno(), disks))
            stack.callback(self._end)
            self._starting = _starter().submit(self._spawn, [theirs.fileno(), *disks])
            self._starting.result()
            theirs.close()  # or QEMU's end would not be seen on ours
            self._console = Console(
                output, log=self.console_log, vmlinux=self.spec.vmlinux, ended=self._ended, hung=self.hang
            )
            self._console.start()
            from harness.qmp import Monitor  # 0.1 s, while QEMU starts

            self._monitor = Monitor(ours)
            try:
                self._monitor.connected()
            except InfrastructureError as e:
                raise self._launch_failure(e) from e

    def _open_console(self, pipes: Path, stack: ExitStack, passing: ExitStack) -> int:
        """Make the console's pipes; returns the end to read from, which ends when the last writer does."""
        for name in (f"{pipes}.in", f"{pipes}.out"):
            os.mkfifo(name, 0o600)
        output = os.open(f"{pipes}.out", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(PermissionError):  # the user has a great many pipes open: 64 KiB must do then
            fcntl(output, F_SETPIPE_SZ, PIPE_BYTES)
        # Until QEMU has opened it: without a writer a pipe reads as ended.
        passing.callback(os.close, os.open(f"{pipes}.out", os.O_WRONLY | os.O_CLOEXEC))
        self._input = os.open(f"{pipes}.in", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, self._input)
        return output

    def _disk(self, disk: Disk, passing: ExitStack) -> int:
        """A sparse file, with a file system if one is wanted, that has no name any more; its descriptor."""
        path = self.folder / f"{disk.name}.img"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        passing.callback(os.close, fd)
        try:
            os.truncate(fd, disk.size_mb << 20)
            if disk.format != "raw":
                host.run(["mke2fs", "-q", "-F", *_MKE2FS[disk.format], path])
        finally:
            path.unlink()
        return fd

    def _spawn(self, fds: list[int]) -> None:
        with self.qemu_log.open("wb") as log:
            self.started = time.monotonic()
            # A session of its own: Ctrl-C in the terminal is ours to act on, and QEMU's end is ours to
            # bring about.
            self._process = subprocess.Popen(
                [
                    host.find_tool("setpriv"),
                    "--pdeathsig",
                    "KILL",
                    *_WHILE_WE_LIVE,
                    str(os.getpid()),
                    *self.argv,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
                start_new_session=True,
            )
            if self._ending:  # `kill` came before there was a process
                self._process.kill()

    def _end(self) -> None:
        self._ending = True
        if self._starting is not None and not self._starting.cancel():
            futures.wait([self._starting])
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(TERMINATION)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._monitor is not None:
            self._monitor.close()
        if self._console is not None:
            self._console.join()

    def _launch_failure(self, error: InfrastructureError) -> InfrastructureError:
        said = self.qemu_log.read_text(errors="replace").strip() or "it printed nothing"
        return InfrastructureError(
            f"QEMU did not start: {self._ended()}\n{said}\ncommand: {shlex.join(self.argv)}",
            log=self.qemu_log,
            hint="`harness doctor` says what this machine has; the command can be tried by hand",
        )

    def _ended(self) -> str:
        """What became of QEMU, whose streams have ended."""
        if self._process is None:
            return "QEMU was not started"
        try:
            code = self._process.wait(TERMINATION)
        except subprocess.TimeoutExpired:
            return "QEMU closed its console and runs on"
        if self._ending:
            return "the harness ended QEMU"
        if code < 0:
            return f"QEMU was killed by {signal.Signals(-code).name}"
        said = self.qemu_log.read_text(errors="replace").strip()
        return f"QEMU exited with {code}" + (f": {said[-1000:]}" if said else "")

    # ---- what it is and does

    @property
    def console(self) -> Console:
        """The serial console."""
        assert self._console is not None, "the machine has not been entered"
        return self._console

    @property
    def monitor(self) -> Monitor:
        """QEMU's monitor."""
        assert self._monitor is not None, "the machine has not been entered"
        return self._monitor

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        assert self._process is not None, "the machine has not been entered"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """QEMU's exit code, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def ssh_port(self) -> int:
        """The port on 127.0.0.1 that leads to the guest's port 22."""
        if self._port is None:
            text = self.monitor.human("info usernet")
            found = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", text)
            if found is None:
                raise InfrastructureError(f"QEMU's monitor names no forwarded port: {text!r}")
            self._port = int(found[1])
        return self._port

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command; returns QEMU's answer. Raises MonitorError (an InfrastructureError)."""
        return self.monitor.execute(command, **arguments)

    def registers(self) -> str:
        """The registers of every CPU, as QEMU's monitor prints them."""
        return self.monitor.human("info registers -a").replace("\r\n", "\n")

    def wait_ready(self, seconds: float = BOOT_SECONDS) -> float:
        """Wait until the guest can be driven; ``seconds`` on the reference host. Returns seconds from start.

        Raises GuestError: the kernel died, the machine ended, or (KernelHang) the time went by.
        """
        return self.console.wait(READY, seconds * self.slowdown) - self.started

    def wait_exit(self, timeout: float) -> int:
        """Wait until the guest has switched itself off; QEMU's exit code.

        Raises GuestError: the kernel died instead, or (KernelHang) ``timeout`` seconds went by.
        """
        death = self.console.wait_death(timeout)
        if death is None:
            raise self.hang(f"it did not switch itself off within {timeout:.1f} s")
        if not isinstance(death, GuestLost):
            self.console.check()
        assert self._process is not None
        return self._process.wait()

    # ---- a guest that gives no sign of life

    def sysrq(self, key: str) -> str:
        """Send a SysRq key over the serial line (a break, then the key); returns what the kernel prints.

        The kernel listens once a program has the console open, which /init does.
        """
        start = self.console.position
        self.qmp("chardev-send-break", id="console")
        os.write(self._input, key.encode())
        self.console.wait_quiet(SYSRQ_SILENCE, SYSRQ_LONGEST)
        return self.console.since(start)

    def hang(self, message: str) -> GuestError:
        """State that the guest hangs and gather evidence: SysRq w, t, l, m and the registers, decoded.

        Returns the error to raise; when the guest turns out to have died, that one.
        """
        with self._evidence:
            if self.console.death is None:
                raw = self._gather()
                self.console.die(
                    KernelHang(
                        f"the guest hangs: {message}",
                        raw=raw,
                        trace=self.console.decoded(raw),
                        log=self.console_log,
                        hint="its tasks and registers when time was up are in the trace",
                    )
                )
        assert self.console.death is not None
        return copy.copy(self.console.death)

    def _gather(self) -> str:
        parts = []
        try:
            parts.append(f"QEMU: {self.qmp('query-status')['status']}\n{self.registers()}")
            parts += [f"SysRq {key}:\n{self.sysrq(key)}" for key in SYSRQ_KEYS]
        except InfrastructureError as e:
            parts.append(f"(no more: {e.message})")
        text = "\n".join(parts)
        (self.folder / "hang.log").write_text(text)
        return text
