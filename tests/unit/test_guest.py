"""What a guest's answers mean; the SSH connection itself is tested on a guest."""

from __future__ import annotations

import io
import tarfile
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errnos import errno_name
from harness.errors import CommandError, KernelHang
from harness.guest import Guest
from harness.ssh import Overdue


@pytest.mark.parametrize(
    ("text", "name"),
    [
        # printed by the guest's programs (musl) on 2.6.31
        ("sh: write error: Invalid argument\n", "EINVAL"),
        ("cat: write error: Permission denied\n", "EACCES"),
        ("cat: write error: No such device\n", "ENODEV"),
        ("cat: write error: Argument list too long\n", "E2BIG"),
        ("sh: can't create /sys/kernel/nope: nonexistent directory\n", "ENOENT"),
        ("cat: can't open '/dev/tty': No such device or address\n", "ENXIO"),
        (
            "device-mapper: reload ioctl on bad (253:4) failed: Invalid argument\nCommand failed.\n",
            "EINVAL",
        ),
        ("device-mapper: remove ioctl on ioband1  failed: Resource busy\nCommand failed.\n", "EBUSY"),
        ("mount: mounting cgroup on /x failed: No such file or directory\n", "ENOENT"),
        # glibc's words
        ("rmdir: failed to remove 'x': Device or resource busy\n", "EBUSY"),
        ("fio: pid=0, err=5/file:io_u.c:1845, func=io_u error, error=Input/output error\n", "EIO"),
        # the last one named
        ("a: No such file or directory\nb: File exists\n", "EEXIST"),
        ("No error is named here\n", None),
        ("Invalid argument lists are tedious\n", None),
        ("", None),
    ],
)
def test_errno_name(text, name):
    assert errno_name(text) == name


class FakeLink:
    """A connection that answers from a script: an outcome per command, in order."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.asked: list[tuple[str, float | None, bytes]] = []
        self.closed = False

    def execute(self, text, limit, stdin=b""):
        self.asked.append((text, limit, stdin))
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def sftp(self, limit):
        return self.outcomes[0]

    @contextmanager
    def ended(self, what):
        yield

    def close(self):
        self.closed = True


def guest(*links: FakeLink) -> Guest:
    machine = SimpleNamespace(slowdown=2.0, console_log=Path("console.log"), hang=KernelHang)
    made = Guest(machine, keys=None)
    made._idle = list(links[::-1])
    return made


def test_arguments_are_quoted_and_deadlines_scaled():
    link = FakeLink((0, b"out", b""))
    done = guest(link).run(["echo", "a b", "$x"], timeout=3, stdin="in")
    assert link.asked == [("echo 'a b' '$x'", 6.0, b"in")]
    assert (done.argv, done.exit_code, done.stdout) == (("echo", "a b", "$x"), 0, "out")


def test_text_goes_to_the_shell_as_it_is():
    link = FakeLink((0, b"", b""))
    guest(link).run("a | b; c", timeout=None)
    assert link.asked == [("a | b; c", None, b"")]


def test_failure():
    with pytest.raises(CommandError) as caught:
        guest(FakeLink((1, b"o", b"x: Invalid argument\n"))).run(["cmd"])
    error = caught.value
    assert (error.argv, error.exit_code_seen, error.stdout) == (("cmd",), 1, "o")
    assert (error.errno_name, error.log) == ("EINVAL", Path("console.log"))
    assert guest(FakeLink((1, b"", b""))).run(["cmd"], check=False).exit_code == 1


def test_command_that_is_overdue_in_a_guest_that_lives():
    first, second = FakeLink(Overdue(6.0, b"so far", b"")), FakeLink((0, b"", b""), (0, b"", b""))
    made = guest(first, second)
    with pytest.raises(CommandError) as caught:
        made.run(["cmd"], timeout=3)
    assert (caught.value.exit_code_seen, caught.value.stdout) == (124, "so far")
    assert "still running after 6.0 s" in caught.value.stderr
    assert second.asked == [("true", 10.0, b"")]
    assert first.closed  # the command may still run on it
    made.run(["next"])
    assert second.asked[-1][0] == "next"


def test_command_that_is_overdue_in_a_guest_that_hangs():
    made = guest(FakeLink(Overdue(6.0, b"", b"")), FakeLink(Overdue(10.0, b"", b"")))
    with pytest.raises(KernelHang, match=r"`cmd` is still running after 6\.0 s, and nothing else runs"):
        made.run(["cmd"], timeout=3)


def test_links_are_not_shared():
    started, go = threading.Event(), threading.Event()

    class Slow(FakeLink):
        def execute(self, text, limit, stdin=b""):
            started.set()
            go.wait(5)
            return super().execute(text, limit, stdin)

    slow, other = Slow((0, b"slow", b"")), FakeLink((0, b"fast", b""))
    made = guest(slow, other)
    results = []
    thread = threading.Thread(target=lambda: results.append(made.run("a").stdout))
    thread.start()
    started.wait(5)
    assert made.run("b").stdout == "fast"
    go.set()
    thread.join(5)
    assert results == ["slow"]


def test_tree():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (("./a", b"1"), ("./d/b", b"")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("./l")
        link.type, link.linkname = tarfile.SYMTYPE, "a"
        archive.addfile(link)
    made = FakeLink((0, buffer.getvalue(), b""))
    assert guest(made).get_tree("/x y") == {"a": b"1", "d/b": b""}
    assert made.asked[0][0] == "tar -C '/x y' -cf - ."


@pytest.mark.parametrize(
    ("failure", "name"),
    [
        (FileNotFoundError(2, "No such file"), "ENOENT"),
        (PermissionError(13, "no"), "EACCES"),
        (OSError("Failure"), "EIO"),
    ],
)
def test_sftp_failures_in_the_guest(failure, name):
    def put(file, remote):
        raise failure

    with pytest.raises(CommandError) as caught:
        guest(FakeLink(SimpleNamespace(putfo=put))).put(b"x", "/f")
    assert caught.value.argv == ("sftp", "put", "/f")
    assert caught.value.errno_name == name


def test_sftp_that_does_not_answer():
    def put(file, remote):
        raise TimeoutError

    with pytest.raises(KernelHang, match="no answer to put /f"):
        guest(FakeLink(SimpleNamespace(putfo=put))).put(b"x", "/f")
