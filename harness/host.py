"""What this machine has (tools, compilers, disk, accelerators), and running its commands.

Commands are argument lists. Each runs in a process group of its own that is gone when the command's block is
left for whatever reason, and when this process dies: a killed `make -j` would otherwise leave its compilers.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict

from harness import project
from harness.errors import InfrastructureError, UserError
from harness.store import Store

# The Debian package that brings each tool.
PACKAGES = {
    "addr2line": "binutils",
    "apt-get": "apt",
    "ar": "binutils",
    "bzip2": "bzip2",
    "ccache": "ccache",
    "dpkg-deb": "dpkg",
    "g++": "g++",
    "gcc": "gcc",
    "git": "git",
    "gzip": "gzip",
    "ld": "binutils",
    "make": "make",
    "mke2fs": "e2fsprogs",
    "musl-gcc": "musl-tools",
    "nm": "binutils",
    "perl": "perl",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "strip": "binutils",
    "tar": "tar",
    "xz": "xz-utils",
}
# An unprivileged user's PATH often lacks these two, where e.g. mke2fs lies.
_MORE_PATH = "/usr/sbin:/sbin"
_TAIL_LINES = 15
_TMP_FULL = "No space left on device"


# ---- tools


def find_tool(name: str) -> Path:
    """The absolute path of a program.

    Raises:
        InfrastructureError: it is not installed; the hint says which Debian package brings it.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_MORE_PATH}")
    if found is None:
        raise InfrastructureError(f"the program `{name}` is not installed", hint=_install_hint(name))
    return Path(found)


def have_tool(name: str) -> bool:
    """Is this program installed?"""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_MORE_PATH}") is not None


def _install_hint(name: str) -> str:
    if re.fullmatch(r"gcc-\d+", name):
        return f"apt-get install {name}"
    package = PACKAGES.get(name)
    return f"apt-get install {package}" if package else f"install the package that brings `{name}`"


class Compiler(BaseModel):
    """A C compiler of this host. `version_line`: the first line of ``--version``, which keys builds."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: Path
    version_line: str
    major: int


def compiler(name: str | None, known_good: Sequence[str] = ()) -> Compiler:
    """The compiler called `name`; with None, the first of `known_good` that is installed.

    Raises:
        InfrastructureError: it, or every one of them, is missing. UserError: `name` is not a GCC.
    """
    if name is None:
        name = next((candidate for candidate in known_good if have_tool(candidate)), None)
        if name is None:
            raise InfrastructureError(
                f"none of the compilers known to build this kernel is installed: {', '.join(known_good)}",
                hint=_install_hint(known_good[0]) if known_good else None,
            )
    path = find_tool(name)
    version_line = run([path, "--version"]).stdout.partition("\n")[0]
    # gcc --version: "gcc-12 (Debian 12.2.0-14) 12.2.0"; the package's own version stands in the brackets
    match = re.search(r"\) (\d+)\.\d+", version_line)
    if "gcc" not in Path(name).name or match is None:
        raise UserError(f"`{name}` is not a GCC: it says it is {version_line!r}", hint="name one like gcc-12")
    return Compiler(name=name, path=path, version_line=version_line, major=int(match[1]))


# ---- commands


@contextmanager
def started(argv: Sequence[str | Path], **popen: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A running command in a process group of its own.

    The whole group is killed at the end of the block, and by a watcher as soon as this process is no more
    (even by SIGKILL). `popen`: further arguments of `subprocess.Popen`.
    """
    with ExitStack() as stack:
        process = subprocess.Popen([str(word) for word in argv], start_new_session=True, **popen)
        stack.enter_context(process)
        stack.callback(_kill_group, process.pid)
        # `read` returns when the last writer of the pipe, which is this process, is gone.
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; kill -s KILL -- "-$1"', "watcher", str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        stack.enter_context(watcher)
        stack.callback(watcher.kill)
        yield process


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def run(
    argv: Sequence[str | Path],
    *,
    log: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    check: bool = True,
    input: str | bytes | None = None,
    on_line: Callable[[str], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    log: the command and all its output are appended here while it runs. on_line: called with each line of
    output. With either, `stdout` of the result holds both streams as they came; else they are kept apart.
    env: variables on top of our own environment (None: unset); messages are always in English (``LC_ALL=C``).

    Raises:
        InfrastructureError: the program is missing, or (with `check`) ended with another code than 0; its
            message carries the last lines that it printed.
    """
    words = [str(word) for word in argv]
    words[0] = str(find_tool(words[0])) if "/" not in words[0] else words[0]
    merged = log is not None or on_line is not None
    with ExitStack() as stack:
        stdin: int | IO[bytes] = subprocess.DEVNULL
        if input is not None:
            stdin = stack.enter_context(tempfile.TemporaryFile())
            stdin.write(input.encode() if isinstance(input, str) else input)
            stdin.seek(0)
        process = stack.enter_context(
            started(
                words,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merged else subprocess.PIPE,
                cwd=cwd,
                env=environment(env),
            )
        )
        if merged:
            out, err = _follow(process, words, log, on_line), ""
        else:
            raw_out, raw_err = process.communicate()
            out, err = raw_out.decode(errors="replace"), raw_err.decode(errors="replace")
        code = process.wait()
    if check and code != 0:
        raise command_failed(words, code, out + err, log)
    return subprocess.CompletedProcess(words, code, out, err)


def environment(changes: Mapping[str, str | None] | None) -> dict[str, str]:
    wanted = {**os.environ, "LC_ALL": "C", **(changes or {})}
    return {name: value for name, value in wanted.items() if value is not None}


def _follow(
    process: subprocess.Popen[bytes],
    words: Sequence[str],
    log: Path | None,
    on_line: Callable[[str], None] | None,
) -> str:
    """Pass on what a command prints, line by line, until it ends; all of it."""
    lines = []
    with ExitStack() as stack:
        stream = stack.enter_context(log.open("a", errors="replace", buffering=1)) if log else None
        if stream:
            stream.write(f"$ {shlex.join(words)}\n")
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.decode(errors="replace")
            lines.append(line)
            if stream:
                stream.write(line)
            if on_line:
                on_line(line.rstrip("\n"))
    return "".join(lines)


def command_failed(
    words: Sequence[str], code: int, output: str, log: Path | None = None
) -> InfrastructureError:
    """The error for a host command that ended with `code` (negative: the signal that killed it)."""
    lines = output.strip().splitlines()
    # cp says it of every file that it still tries.
    tail = [line for line in lines if _TMP_FULL in line][:1] or lines[-_TAIL_LINES:]
    ended = f"exited with {code}" if code >= 0 else f"was killed by signal {signal.Signals(-code).name}"
    said = "\n  ".join(tail) if tail else "it printed nothing"
    hint = "free some space, or `harness cache prune`" if _TMP_FULL in output else None
    return InfrastructureError(f"`{_short(words)}` {ended}:\n  {said}", log=log, hint=hint)


def _short(words: Sequence[str], width: int = 160) -> str:
    text = shlex.join(words)
    return text if len(text) <= width else f"{text[: width - 4]} ..."


# ---- what this machine is


class HostFacts(BaseModel):
    """What a measurement should be read beside. `memory_mb` in MiB."""

    cpu: str
    cores: int
    memory_mb: int
    kernel: str
    distribution: str
    qemu: str
    compiler: str
    python: str


def host_facts() -> HostFacts:
    """This machine, for the record; programs that are missing are named as such."""
    try:
        distribution = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        distribution = platform.system()
    return HostFacts(
        cpu=_proc_value("/proc/cpuinfo", "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_mb=int((_proc_value("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) >> 10,
        kernel=platform.release(),
        distribution=distribution,
        qemu=_version("qemu-system-x86_64"),
        compiler=_version("gcc"),
        python=platform.python_version(),
    )


def _proc_value(path: str, name: str) -> str | None:
    match = re.search(rf"^{name}\s*:\s*(.*)$", Path(path).read_text(), re.MULTILINE)
    return match[1] if match else None


def _version(tool: str) -> str:
    """The first line of what a program says about its version."""
    if not have_tool(tool):
        return "not installed"
    result = run([tool, "--version"], check=False)
    return (result.stdout or result.stderr).strip().partition("\n")[0]


# ---- doctor


class Check(BaseModel):
    """One thing that was looked at. `ok` None: not needed, or not known yet."""

    name: str
    ok: bool | None
    detail: str
    hint: str | None = None


# What each tool is for; those in _OPTIONAL only make things faster or more.
_NEEDED = {
    "make": "kernel and guest programs",
    "gcc": "kernel and guest programs",
    "ld": "kernel and guest programs",
    "perl": "kernel: kernel/timeconst.pl",
    "gzip": "kernel: the image",
    "bzip2": "kernel: the upstream tarball",
    "xz": "source tarballs",
    "tar": "source tarballs",
    "git": "kernel trees, series",
    "musl-gcc": "guest programs",
    "qemu-system-x86_64": "the machine",
    "setpriv": "QEMU that dies with the harness",
    "addr2line": "decoded traces",
}
_OPTIONAL = {"ccache": "a second build of the same files takes seconds"}
# A kernel tree (6.1: 1.3 GB), its build (2.4 GB) and the cache entries, with room to spare.
_DISK_WANTED = 6 << 30


def doctor(store: Store | None = None) -> list[Check]:
    """Everything on this machine that the harness needs, whether it is there, and what to do if not.

    Kernel sources are `source.check`'s business, proof of an accelerator `accelerator`'s.
    """
    checks = [_check_tool(name, purpose, needed=True) for name, purpose in _NEEDED.items()]
    checks += [_check_tool(name, purpose, needed=False) for name, purpose in _OPTIONAL.items()]
    return [*checks, _check_kvm(), _check_cache(store or Store.default()), *_check_packages()]


def _check_tool(name: str, purpose: str, *, needed: bool) -> Check:
    if have_tool(name):
        return Check(name=name, ok=True, detail=f"{find_tool(name)} ({_version(name)})")
    return Check(
        name=name,
        ok=False if needed else None,
        detail=f"not installed; for: {purpose}",
        hint=_install_hint(name),
    )


def _check_kvm() -> Check:
    device = Path("/dev/kvm")
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Check(name="kvm", ok=None, detail=f"{device}: {error.strerror}; guests run under TCG")
    return Check(
        name="kvm", ok=None, detail=f"{device} opens; whether a guest boots under it only a boot tells"
    )


def _check_cache(store: Store) -> Check:
    place = store.root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    detail = f"{store.root}, {free / (1 << 30):.1f} GiB free"
    if not os.access(place, os.W_OK | os.X_OK):
        hint = "set HARNESS_CACHE to a folder that you may write to"
        return Check(name="cache", ok=False, detail=f"{detail}, cannot be written", hint=hint)
    if free < _DISK_WANTED:
        hint = "free some space, or `harness cache prune`"
        return Check(name="cache", ok=False, detail=f"{detail}, {_DISK_WANTED >> 30} GiB wanted", hint=hint)
    return Check(name="cache", ok=True, detail=detail)


def _check_packages() -> list[Check]:
    """The Python packages that pyproject.toml names."""
    import tomllib
    from importlib import metadata

    wanted = tomllib.loads((project.ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    checks = []
    for requirement in wanted:
        name = re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0]
        try:
            checks.append(Check(name=f"python: {name}", ok=True, detail=metadata.version(name)))
        except metadata.PackageNotFoundError:
            checks.append(
                Check(name=f"python: {name}", ok=False, detail="not installed", hint="run `ci/setup`")
            )
    return checks
