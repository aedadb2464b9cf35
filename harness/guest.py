"""The guest, driven over SSH: run, put, get, an interactive shell."""

from __future__ import annotations

import errno
import io
import os
import shlex
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from harness.errnos import errno_name
from harness.errors import CommandError
from harness.keys import RunKeys
from harness.machine import BOOT_SECONDS, Machine

if TYPE_CHECKING:
    import paramiko

    from harness.ssh import Link

SIGN_OF_LIFE = 5.0
"""After a command's timeout: how long the guest may take to run `true`, on the reference host."""

TRANSFER_SECONDS = 30.0
"""Between two answers of the guest's SFTP server, on the reference host."""

TIMED_OUT = 124
"""Exit code of a command that was still running when its time was up, as timeout(1) has it."""


@dataclass(frozen=True)
class Completed:
    """A command that ended.

    exit_code: 128 + n when signal n ended it, as shells have it; -1 when the shell that started it was ended as well.
    seconds: by the host's clock.
    """

    argv: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str
    seconds: float


class Guest:
    """A booted guest; a context manager. Any thread may call its methods.

    It has one SSH connection for all that is done one after another, and makes another when a thread wants
    something while one waits. Every method raises GuestError within a second of the guest's death, also
    while it waits.
    """

    def __init__(self, machine: Machine, keys: RunKeys) -> None:
        self.machine = machine
        self._keys = keys
        self._idle: list[Link] = []
        self._lock = threading.Lock()
        # dropbear refuses more than five logins at a time from one address (MAX_UNAUTH_PER_IP).
        self._login = threading.Lock()
        self._stack = ExitStack()

    @classmethod
    def connect(cls, machine: Machine, keys: RunKeys, timeout: float = BOOT_SECONDS) -> Self:
        """Wait until the guest is ready, and log in as root.

        timeout: seconds until the guest is ready, on the reference host. Raises GuestError: it died, was
        lost, or does not answer. InfrastructureError: what answers has other keys than ``keys``.
        """
        from harness.ssh import Link  # 0.2 s, while the guest boots

        machine.wait_ready(timeout)
        guest = cls(machine, keys)
        guest._idle.append(guest._keep(Link(machine, keys)))
        return guest

    def _keep(self, link: Link) -> Link:
        with self._lock:
            self._stack.callback(link.close)
        return link

    @contextmanager
    def _link(self) -> Iterator[Link]:
        """A connection that nobody else uses, and on which no command runs."""
        from harness.ssh import Link

        with self._lock:
            link = self._idle.pop() if self._idle else None
        if link is None:
            with self._login:
                link = self._keep(Link(self.machine, self._keys))
        try:
            yield link
        except BaseException:
            link.close()  # a command may still run on it
            raise
        with self._lock:
            self._idle.append(link)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connections; the machine goes on."""
        self._stack.close()

    # ---- commands

    def run(
        self,
        command: Sequence[str] | str,
        *,
        check: bool = True,
        timeout: float | None = 60.0,
        stdin: str | bytes | None = None,
    ) -> Completed:
        """Run a command: an argument list, or text for the guest's shell.

        timeout: seconds on the reference host; None: no limit. stdin: what it reads; None: nothing.
        Raises CommandError: it ended with another code than 0 (with ``check``), or was still running when its
        time was up (code 124; it goes on in the guest). KernelHang: so it was, and nothing else runs either.
        """
        argv = (command,) if isinstance(command, str) else tuple(command)
        text = command if isinstance(command, str) else shlex.join(command)
        began = time.monotonic()
        code, out, err = self._execute(argv, text, timeout, stdin)
        done = Completed(argv, code, _text(out), _text(err), time.monotonic() - began)
        if check and code != 0:
            raise self._failed(argv, code, done.stdout, done.stderr)
        return done

    def _failed(self, argv: Sequence[str], code: int, stdout: str, stderr: str) -> CommandError:
        name = errno_name(stderr)
        return CommandError(argv, code, stdout, stderr, errno_name=name, log=self.machine.console_log)

    def _execute(
        self, argv: Sequence[str], text: str, timeout: float | None, stdin: str | bytes | None = None
    ) -> tuple[int, bytes, bytes]:
        """Exit code, stdout, stderr; when the time is up, whether the command or the guest is to blame."""
        from harness.ssh import Overdue

        limit = None if timeout is None else timeout * self.machine.slowdown
        data = stdin.encode() if isinstance(stdin, str) else stdin or b""
        try:
            with self._link() as link:
                return link.execute(text, limit, data)
        except Overdue as overdue:
            said = f"{_text(overdue.stderr)}still running after {overdue.seconds:.1f} s"
            try:
                with self._link() as link:
                    link.execute("true", SIGN_OF_LIFE * self.machine.slowdown)
            except Overdue:
                raise self.machine.hang(f"`{text}` is {said}, and nothing else runs") from None
            raise self._failed(argv, TIMED_OUT, _text(overdue.stdout), said) from None

    # ---- files

    def put(self, data: bytes | str | Path, remote: str, mode: int | None = None) -> None:
        """Write a file in the guest: content, or a host's file to copy. Raises CommandError, GuestError."""
        if isinstance(data, Path):
            data = data.read_bytes()
        content = data.encode() if isinstance(data, str) else data
        with self._transfer("put", remote) as sftp:
            sftp.putfo(io.BytesIO(content), remote)
            if mode is not None:
                sftp.chmod(remote, mode)

    def get(self, remote: str) -> bytes:
        """The content of a file of the guest; also of /proc and /sys, whose files say they are empty."""
        with self._transfer("get", remote) as sftp, sftp.open(remote, "rb") as file:
            return bytes(file.read())

    @contextmanager
    def _transfer(self, verb: str, remote: str) -> Iterator[paramiko.SFTPClient]:
        with self._link() as link, link.ended(f"{verb} {remote}"):
            try:
                yield link.sftp(TRANSFER_SECONDS * self.machine.slowdown)
            except TimeoutError:
                raise self.machine.hang(f"no answer to {verb} {remote}") from None
            except OSError as e:
                # SFTP has words for two failures (with an errno), and `Failure` for all others
                # (SSH_FX_FAILURE).
                if e.errno is None and str(e) != "Failure":
                    raise
                said = f"{remote}: {os.strerror(e.errno or errno.EIO)}"
                raise self._failed(("sftp", verb, remote), 1, "", said) from e

    def get_tree(self, remote: str, timeout: float | None = 60.0) -> dict[str, bytes]:
        """All files below a folder of the guest, by path relative to it. Raises CommandError, GuestError.

        They come as one tar archive: one round trip, however many they are.
        """
        argv = ("tar", "-C", remote, "-cf", "-", ".")
        code, out, err = self._execute(argv, shlex.join(argv), timeout)
        if code != 0:
            raise self._failed(argv, code, "", _text(err))
        found = {}
        with tarfile.open(fileobj=io.BytesIO(out), mode="r:") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None:
                    found[member.name.removeprefix("./")] = file.read()
        return found

    # ---- interactive

    def shell(self) -> int:
        """A login shell on this terminal until it ends; its exit code. Raises GuestError."""
        with self._link() as link:
            return link.shell()


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
