"""The error tree: what happened, where the log is, what to do next, and the exit code that says so.

Every error a user can meet is one of these. ``cli`` prints it without a traceback and exits with ``exit_code``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

EXIT_PASSED = 0
EXIT_FAILED = 1
EXIT_USER = 2
EXIT_ENVIRONMENT = 3
EXIT_INCONCLUSIVE = 4
EXIT_GUEST_DIED = 5
EXIT_INTERRUPTED = 130


class HarnessError(Exception):
    """Something a user has to know about.

    message: one sentence, what happened. hint: what to do next. log: the file that says more.
    """

    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, message: str, *, hint: str | None = None, log: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log

    def __str__(self) -> str:
        lines = [self.message]
        if self.log is not None:
            lines.append(f"log: {self.log}")
        if self.hint is not None:
            lines.append(f"next: {self.hint}")
        return "\n".join(lines)


class UserError(HarnessError):
    """The input is wrong: an option, a manifest, a series that does not apply, a config symbol that cannot be had."""

    exit_code = EXIT_USER


class InfrastructureError(HarnessError):
    """The environment is wrong: a missing tool, no kernel source, a full disk, QEMU that does not start."""

    exit_code = EXIT_ENVIRONMENT


class CompileError(UserError):
    """The kernel with this series does not compile; ``message`` carries the first error with its context."""


class CommandError(HarnessError):
    """A command in the guest ended with another exit code than 0.

    argv: the command. exit_code_seen: its exit code. errno_name: e.g. ``EINVAL`` when its error text names one.
    stderr: all of it.
    """

    def __init__(
        self,
        argv: Sequence[str],
        exit_code_seen: int,
        stdout: str,
        stderr: str,
        *,
        errno_name: str | None = None,
        log: Path | None = None,
    ) -> None:
        self.argv = tuple(argv)
        self.exit_code_seen = exit_code_seen
        self.stdout = stdout
        self.stderr = stderr
        self.errno_name = errno_name
        said = stderr.strip() or stdout.strip() or "it printed nothing"
        name = f" ({errno_name})" if errno_name else ""
        super().__init__(
            f"in the guest, `{' '.join(argv)}` exited with {exit_code_seen}{name}: {said}", log=log
        )


class MeasurementError(HarnessError):
    """Two records of the same I/O disagree (the kernel's counters and fio's), or one cannot be read.

    No verdict can rest on it.
    """


class DirtyGuest(HarnessError):
    """A test left something behind in the guest, leaked memory, or made its kernel complain."""


class GuestError(HarnessError):
    """The guest kernel died or was lost.

    raw: the console's report of it. trace: the same, decoded where vmlinux is known.
    """

    exit_code = EXIT_GUEST_DIED
    kind: ClassVar[str] = "guest died"

    def __init__(
        self,
        message: str,
        *,
        trace: str = "",
        raw: str = "",
        hint: str | None = None,
        log: Path | None = None,
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.trace = trace
        self.raw = raw


class KernelPanic(GuestError):
    """The kernel said ``Kernel panic``."""

    kind = "panic"


class KernelOops(GuestError):
    """The kernel said ``BUG:``, ``Oops`` or ``general protection fault``."""

    kind = "oops"


class KernelHang(GuestError):
    """A hung task, a soft lock-up, or no sign of life before the deadline."""

    kind = "hang"


class GuestLost(GuestError):
    """QEMU ended, or the guest stopped to answer, without a word on the console."""

    kind = "lost"
