"""host.py: tools by name, commands that leave nothing behind, what this machine is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import gone

from harness import host
from harness.errors import InfrastructureError, UserError
from harness.store import Store


def tool(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(host, "_MORE_PATH", str(tmp_path))
    with pytest.raises(InfrastructureError, match="`musl-gcc` is not installed") as caught:
        host.find_tool("musl-gcc")
    assert caught.value.hint == "apt-get install musl-tools"
    with pytest.raises(InfrastructureError) as caught:
        host.run(["qemu-img", "info"])
    assert caught.value.hint == "apt-get install qemu-utils"


def test_run_keeps_streams_apart() -> None:
    result = host.run(["sh", "-c", "cat; echo err >&2; exit 3"], input="in\n", check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("in\n", "err\n", 3)


def test_run_logs_and_calls(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines: list[str] = []
    result = host.run(["sh", "-c", "echo one; echo two >&2"], log=log, on_line=lines.append)
    assert lines == ["one", "two"]
    assert result.stdout == "one\ntwo\n"
    assert log.read_text() == "$ " + f"{host.find_tool('sh')} -c 'echo one; echo two >&2'\none\ntwo\n"
    host.run(["echo", "more"], log=log)
    assert log.read_text().endswith("more\n")


def test_run_survives_bytes_that_are_no_text(tmp_path: Path) -> None:
    result = host.run(["printf", r"a\377b\n"], log=tmp_path / "log")
    assert result.stdout == "a�b\n"


def test_failed_command_says_what_it_printed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(InfrastructureError, match="exited with 7") as caught:
        host.run(["sh", "-c", "seq 100; exit 7"], log=log)
    assert "100" in caught.value.message
    assert "\n  85\n" not in caught.value.message
    assert caught.value.log == log
    with pytest.raises(InfrastructureError, match="killed by signal SIGTERM"):
        host.run(["sh", "-c", "kill $$"])


def test_full_disk_is_recognised() -> None:
    with pytest.raises(InfrastructureError) as caught:
        host.run(["sh", "-c", "echo 'cc1: error: No space left on device'; exit 1"])
    assert "cache prune" in str(caught.value.hint)


def test_environment() -> None:
    result = host.run(["sh", "-c", "echo $LC_ALL $ADDED ${HOME-no home}"], env={"ADDED": "x", "HOME": None})
    assert result.stdout == "C x no home\n"


def test_block_left_kills_the_whole_group() -> None:
    """A grandchild (make's compilers) is gone too."""
    with (
        pytest.raises(KeyboardInterrupt),
        host.started(["sh", "-c", "sleep 100 & echo $!; wait"], stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        assert Path(f"/proc/{grandchild}").exists()
        raise KeyboardInterrupt
    assert gone(grandchild)


def test_group_dies_with_this_process() -> None:
    """Even when the harness gets kill -9 and cannot clean up."""
    script = (
        "from harness import host\n"
        "host.run(['sh', '-c', 'sleep 100 & echo $!; wait'], on_line=lambda line: print(line, flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as harness:
        assert harness.stdout is not None
        grandchild = int(harness.stdout.readline())
        assert Path(f"/proc/{grandchild}").exists()
        harness.send_signal(signal.SIGKILL)
    assert gone(grandchild)


def test_compiler_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tool(tmp_path, "gcc-77", "echo 'gcc-77 (Debian 77.2.0-14+deb12u1) 77.2.0'; echo Copyright")
    tool(tmp_path, "clang-77", "echo 'clang version 77.0.0 (1) 1.2'")
    chosen = host.compiler(None, ["gcc-98", "gcc-77", "gcc-12"])
    assert (chosen.name, chosen.major, chosen.path) == ("gcc-77", 77, tmp_path / "gcc-77")
    assert chosen.version_line == "gcc-77 (Debian 77.2.0-14+deb12u1) 77.2.0"
    with pytest.raises(UserError, match="not a GCC"):
        host.compiler("clang-77")
    with pytest.raises(InfrastructureError) as caught:
        host.compiler(None, ["gcc-98", "gcc-99"])
    assert caught.value.hint == "apt-get install gcc-98"
    with pytest.raises(InfrastructureError, match="gcc-99"):
        host.compiler("gcc-99", ["gcc-77"])


def test_facts_of_this_machine() -> None:
    facts = host.host_facts()
    assert facts.cores == len(os.sched_getaffinity(0))
    assert facts.memory_mb > 100
    assert facts.kernel in Path("/proc/version").read_text()
    assert facts.cpu


def test_doctor_tells_missing_from_unneeded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "_MORE_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    tool(tmp_path, "make", "echo; echo GNU Make 4.3; echo Built for fun")
    checks = {check.name: check for check in host.doctor(Store(tmp_path / "cache"))}
    assert checks["make"].ok is True
    assert checks["make"].detail == f"{tmp_path}/make (GNU Make 4.3)"
    assert checks["git"].ok is False
    assert checks["git"].hint == "apt-get install git"
    assert checks["ccache"].ok is None
    assert checks["cache"].detail.startswith(str(tmp_path / "cache"))
    assert checks["python: pydantic"].ok is True


def test_doctor_small_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "_DISK_WANTED", 1 << 60)
    [check] = [check for check in host.doctor(Store(tmp_path)) if check.name == "cache"]
    assert check.ok is False
    assert "wanted" in check.detail
