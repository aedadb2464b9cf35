"""One SSH connection to a guest, for one command at a time.

fabric holds the connection, its SFTP session and the terminal. Commands use channels of that connection directly, as
fabric's own runner looks for the end of a command every 10 ms. What dropbear does to open a channel and to end it is
half of the time of a short command, so that one shell, on a channel that stays, starts them all.
"""

from __future__ import annotations

import base64
import io
import logging
import secrets
import shlex
import socket
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

import fabric
import invoke.exceptions
import paramiko
from invoke.terminals import stdin_is_foregrounded_tty

from harness.errors import GuestLost, InfrastructureError
from harness.keys import RunKeys
from harness.machine import Machine

if TYPE_CHECKING:
    from paramiko import Channel, SFTPClient

LOGIN_SECONDS = 10.0
"""For TCP connection, key exchange and authentication on the reference host, where they take 0.15 s."""

# SSH flow control must not make a command wait on stderr while stdout is read: both share one window.
WINDOW = 1 << 30
# Seconds between the end of the connection and what the console has to say about it.
LAST_WORDS = 1.0

# What goes wrong is raised; without a handler the library's log lines would go to the terminal.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class Overdue(Exception):
    """A command was still running when its time was up. stdout, stderr: what it had printed."""

    def __init__(self, seconds: float, stdout: bytes, stderr: bytes) -> None:
        super().__init__(seconds)
        self.seconds, self.stdout, self.stderr = seconds, stdout, stderr


class Link:
    """A connection, logged in as root with the guest's host key pinned.

    The guest's death ends it at once, and with it every call that waits on it. Making one raises
    GuestError: the guest died or does not answer; InfrastructureError: it has other keys than ``keys``.

    One command at a time, as the shell that starts them runs one after another.
    """

    def __init__(self, machine: Machine, keys: RunKeys) -> None:
        self._machine = machine
        self._shell: Channel | None = None
        with ExitStack() as stack:
            self._connection = self._connect(keys, stack)
            self._stack = stack.pop_all()

    def _connect(self, keys: RunKeys, stack: ExitStack) -> fabric.Connection:
        machine = self._machine
        patience = LOGIN_SECONDS * machine.slowdown
        with self.ended("connect", patience):
            link = stack.enter_context(socket.create_connection(("127.0.0.1", machine.ssh_port), patience))
        # A command is several small packets; without this each second one waits 40 ms for an acknowledgement.
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def cut() -> None:
            with suppress(OSError):  # closed already
                link.shutdown(socket.SHUT_RDWR)

        machine.console.on_death(cut)
        stack.callback(machine.console.remove_on_death, cut)
        connection = fabric.Connection(
            "127.0.0.1",
            user="root",
            port=machine.ssh_port,
            # lazy: the user's own fabric and ssh settings are for other hosts.
            config=fabric.Config(lazy=True, overrides={"load_ssh_configs": False}),
            connect_kwargs={
                "sock": link,
                "pkey": paramiko.Ed25519Key.from_private_key(io.StringIO(keys.client_private)),
                "look_for_keys": False,
                "allow_agent": False,
                "timeout": patience,
                "banner_timeout": patience,
                "auth_timeout": patience,
            },
        )
        stack.callback(connection.close)
        algorithm, _, public = keys.host_public.partition(" ")
        pinned = paramiko.Ed25519Key(data=base64.b64decode(public))
        connection.client.get_host_keys().add(f"[127.0.0.1]:{machine.ssh_port}", algorithm, pinned)
        connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            with self.ended("log in", patience):
                connection.open()
        except (paramiko.BadHostKeyException, paramiko.AuthenticationException) as e:
            raise InfrastructureError(
                f"what answers on port {machine.ssh_port} is not this run's guest: {e}",
                hint="boot with an initramfs that holds this run's keys",
                log=machine.console_log,
            ) from e
        return connection

    def close(self) -> None:
        """End the connection."""
        self._stack.close()

    @contextmanager
    def ended(self, what: str, patience: float | None = None) -> Iterator[None]:
        """Turns the end of the connection into the GuestError that says why it ended.

        patience: seconds after which the end means that nothing answered: KernelHang.
        """
        began = time.monotonic()
        try:
            yield
        except (paramiko.BadHostKeyException, paramiko.AuthenticationException):
            raise
        except (paramiko.SSHException, EOFError, OSError) as e:
            if patience is not None and time.monotonic() - began >= patience:
                raise self._machine.hang(f"nothing answered to {what} within {patience:.0f} s") from e
            console = self._machine.console
            console.wait_death(LAST_WORDS * self._machine.slowdown)
            console.check()
            raise GuestLost(
                f"the SSH connection ended at {what}: {str(e) or type(e).__name__}; the kernel said nothing",
                log=self._machine.console_log,
                hint="the SSH server in the guest may have been killed: the log may tell",
            ) from e

    def execute(self, text: str, limit: float | None, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        """Exit code, stdout, stderr of a command for the guest's shell that gets ``limit`` seconds.

        The code is 128 + n when signal n ended it; -1: the shell that started it was ended as well.
        What a command leaves running must not have its output, else later ones seem to have said it.
        Raises Overdue: it needs more. GuestError.
        """
        began = time.monotonic()
        with self.ended(f"`{text}`"), ExitStack() as stack:
            try:
                channel = self._to_shell(limit)
            except paramiko.SSHException:
                if limit is not None and time.monotonic() - began >= limit:
                    raise Overdue(limit, b"", b"") from None
                raise
            expired = stack.enter_context(_closed_after(channel, limit))
            mark = secrets.token_hex(8).encode()
            try:
                channel.sendall(_line(text, stdin, mark.decode()))
            except OSError:
                if not expired.is_set():
                    raise
            out, code = _up_to(mark, channel.recv)
            err, _ = _up_to(mark, channel.recv_stderr)
            if expired.is_set():
                raise Overdue(limit or 0.0, out, err)
            if not code:
                # The shell is no more, or the connection: opening a channel tells. Only once the other has ended, as
                # dropbear (2022.83, sesscheckclose) then closes what has been opened and runs nothing yet.
                channel.status_event.wait()
                self._session(limit).close()
        return int(code or -1), out, err

    def _to_shell(self, limit: float | None) -> Channel:
        """The channel of the shell that starts commands; if it has ended, of a new one."""
        if self._shell is None or self._shell.exit_status_ready():
            channel = self._session(limit)
            with _closed_after(channel, limit):
                channel.exec_command("exec sh")
            self._shell = channel
        return self._shell

    def _session(self, limit: float | None) -> Channel:
        transport = self._connection.transport
        if transport is None:
            raise EOFError("it was closed before")
        session: Channel = transport.open_session(window_size=WINDOW, timeout=limit)
        return session

    def sftp(self, limit: float) -> SFTPClient:
        """The SFTP session; it raises TimeoutError when no answer comes for ``limit`` seconds."""
        client: SFTPClient = self._connection.sftp()
        channel = client.get_channel()
        if channel is not None:
            channel.settimeout(limit)
        return client

    def shell(self) -> int:
        """A login shell on this terminal until it ends; its exit code, or -1. Raises GuestError."""
        with self.ended("the shell"), _key_by_key(sys.stdin):
            try:
                code = int(self._connection.shell().exited)
            except invoke.exceptions.UnexpectedExit as e:  # what fabric makes of any code but 0
                code = int(e.result.exited)
            if code == -1:
                self._session(LOGIN_SECONDS * self._machine.slowdown).close()
        return code


@contextmanager
def _key_by_key(terminal: TextIO) -> Iterator[None]:
    """Keys arrive as they are typed, those typed so far too: fabric, which does this some time after the prompt is
    there unless it is done already, throws away what has come before.
    """
    if not terminal.isatty() or not stdin_is_foregrounded_tty(terminal):
        yield
        return
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def _closed_after(channel: Channel, seconds: float | None) -> Iterator[threading.Event]:
    """Close a channel when its time is up, which ends every call on it; the event says it was so."""
    expired = threading.Event()
    if seconds is None:
        yield expired
        return

    def expire() -> None:
        expired.set()
        with suppress(paramiko.SSHException, EOFError, OSError):  # the connection ended just then
            channel.close()

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


def _line(text: str, stdin: bytes, mark: str) -> bytes:
    """What tells a shell to run a command, in a shell of its own as $$ is to be that one's, and to say on both streams
    when it is done.
    """
    command = f"sh -c {shlex.quote(text)}"
    if stdin:
        octal = "".join(
            chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\{byte:03o}" for byte in stdin
        )
        command = f"printf '{octal}' 2>/dev/null | {command}"
    else:
        command = f"{command} </dev/null"
    return f"{command}; echo {mark} $?; echo {mark} >&2\n".encode()


def _up_to(mark: bytes, receive: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """What is said before a last line that begins with the mark, and the rest of that line, empty if none came."""
    said = bytearray()
    while part := receive(1 << 16):
        said += part
        if said.endswith(b"\n") and mark in said[-2 * len(mark) :]:
            break
    before, _, after = said.rpartition(mark) if mark in said[-2 * len(mark) :] else (said, b"", b"")
    return bytes(before), bytes(after)
