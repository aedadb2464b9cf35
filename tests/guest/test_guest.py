"""Driving a guest over SSH."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.errors import CommandError, InfrastructureError
from harness.guest import Guest
from harness.keys import RunKeys

pytestmark = pytest.mark.guest


def test_what_a_command_gets_and_gives(guest):
    words = ["printf", "%s|", "a b", "$HOME", "it's", "*", ""]
    assert guest.run(words).stdout == "a b|$HOME|it's|*||"
    done = guest.run("echo out; echo err >&2; exit 3", check=False)
    assert (done.exit_code, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert guest.run(["cat"], stdin="text\n").stdout == "text\n"
    assert guest.run(["od", "-An", "-v", "-tu1"], stdin=bytes(range(256))).stdout.split() == [*map(str, range(256))]
    assert guest.run("wc -c", stdin=b"'%\\\0" * 50000).stdout == "200000\n"
    assert guest.run("exit 4", stdin=b"x" * 200000, check=False).exit_code == 4, "what is not read is no error"
    assert guest.run(["cat"]).stdout == ""
    assert guest.run("kill -9 $$", check=False).exit_code == 128 + 9
    assert guest.run(["sh", "-c", "kill -9 $$"], check=False, stdin="x").exit_code == 128 + 9
    assert guest.run("cd /tmp; export LEFT=1; exec 2>&-", check=False).exit_code == 0
    assert guest.run("echo $PWD $LEFT; echo err >&2").stdout == "/root\n", "a command has a shell of its own"
    assert guest.run("echo so far; kill -9 $PPID", check=False).exit_code == -1
    assert guest.run("echo next").stdout == "next\n"


def test_much_output_on_both_streams(guest):
    done = guest.run("head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero")
    assert len(done.stdout) == len(done.stderr) == 3000000


def test_failures_carry_the_kernels_answer(guest):
    with pytest.raises(CommandError) as caught:
        guest.run("echo zz > /proc/sys/vm/swappiness")
    assert (caught.value.exit_code_seen, caught.value.errno_name) == (1, "EINVAL")
    with pytest.raises(CommandError) as caught:
        guest.run(["rmdir", "/proc"])
    assert caught.value.errno_name == "EBUSY"
    with pytest.raises(CommandError) as caught:
        guest.run("echo x > /nowhere/file")
    assert caught.value.errno_name == "ENOENT"


def test_command_that_takes_too_long(guest):
    began = time.monotonic()
    with pytest.raises(CommandError) as caught:
        guest.run("echo so far; sleep 5", timeout=0.5)
    assert time.monotonic() - began < 4
    assert caught.value.exit_code_seen == 124
    assert caught.value.stdout == "so far\n"
    assert guest.run(["echo", "alive"]).stdout == "alive\n"


def test_files(guest, tmp_path):
    data = bytes(range(256)) * 4000
    guest.put(data, "/tmp/data", 0o700)
    assert guest.get("/tmp/data") == data
    assert guest.run(["stat", "-c", "%a", "/tmp/data"]).stdout == "700\n"
    (tmp_path / "file").write_text("from the host")
    guest.put(tmp_path / "file", "/tmp/data")
    assert guest.get("/tmp/data") == b"from the host"
    assert guest.get("/proc/version").startswith(b"Linux version")
    with pytest.raises(CommandError) as caught:
        guest.get("/tmp/none")
    assert caught.value.errno_name == "ENOENT"


def test_tree(guest):
    guest.run(
        "mkdir -p /tmp/tree/below; echo 1 > /tmp/tree/a; echo 2 > /tmp/tree/below/b; ln -s a /tmp/tree/l"
    )
    assert guest.get_tree("/tmp/tree") == {"a": b"1\n", "below/b": b"2\n"}
    with pytest.raises(CommandError):
        guest.get_tree("/tmp/none")


def test_several_threads(guest):
    with ThreadPoolExecutor(8) as pool:
        texts = pool.map(lambda i: guest.run(["sh", "-c", f"sleep 0.1; echo {i}"]).stdout, range(16))
    assert list(texts) == [f"{i}\n" for i in range(16)]


SHELL = """
import sys
from pathlib import Path
from harness.errors import GuestError
from harness.guest import Guest
from harness.keys import RunKeys
from harness.machine import Machine, MachineSpec
from harness.userland import Image
keys = RunKeys.generate()
folder = Path(sys.argv[3])
initrd = Image.model_validate_json(sys.argv[1]).with_segment(folder / "initrd", keys.files())
spec = MachineSpec.model_validate_json(sys.argv[2]).model_copy(update={"initrd": initrd})
with Machine(spec, folder) as machine, Guest.connect(machine, keys) as guest:
    try:
        sys.exit(guest.shell())
    except GuestError as e:
        print(type(e).__name__)
        sys.exit(5)
"""


@pytest.mark.parametrize(
    "ending",
    [("exit 3", 3, ""), ("echo c > /proc/sysrq-trigger", 5, "KernelPanic")],
    ids=["exit", "panic"],
)
def test_shell(fresh_guest, image, tmp_path, ending):
    """On a terminal of its own: what is typed arrives, be it before the prompt is there; the shell's exit code comes
    back, a panic ends it.
    """
    import pexpect

    last, code, said = ending
    spec = fresh_guest.machine.spec.model_dump_json()
    arguments = ["-c", SHELL, image.model_dump_json(), spec, str(tmp_path)]
    with pexpect.spawn(sys.executable, arguments, timeout=60, encoding="utf-8") as terminal:
        terminal.sendline("tty; echo $((6 * 7))")
        terminal.expect(r"/dev/pts/0\r+\n42\r+\n")  # fabric leaves the terminal to add a \r of its own
        terminal.sendline(last)
        terminal.expect(pexpect.EOF)
        assert said in terminal.before
        terminal.close()
        assert terminal.exitstatus == code


@pytest.mark.parametrize("which", ["host", "client"])
def test_wrong_keys_are_refused(fresh_guest, which):
    machine = fresh_guest.machine
    with pytest.raises(InfrastructureError, match="not this run's guest"):
        Guest.connect(machine, _mixed(fresh_guest, which))


def _mixed(guest: Guest, wrong: str) -> RunKeys:
    """The guest's own host key with a stranger's client key, or any client key with a stranger's host key."""
    other = RunKeys.generate()
    if wrong == "host":
        return other
    with guest._link() as link:
        own = link._connection.transport.get_remote_server_key()
    return RunKeys(
        client_private=other.client_private,
        client_public=other.client_public,
        host_private_dropbear=b"",
        host_public=f"{own.get_name()} {own.get_base64()}",
    )
