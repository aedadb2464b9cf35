"""Packages of the host's distribution, through apt, without touching the system's apt set-up.

The package lists go into a folder of their own, with entries derived from the system's own: same archives, same keys.
No root is needed.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from harness.errors import InfrastructureError
from harness.fetch import FetchError, verify
from harness.host import run

OS_RELEASE: Final = Path("/etc/os-release")
APT_ETC: Final = Path("/etc/apt")
# Below the workspace.
LISTS: Final = "apt/state/lists"

Kind = Literal["deb", "deb-src"]

# What apt says when there is no room for what it downloads.
_FULL = re.compile(r"No space left on device|enough free space")
# One-line style: `deb [options] uri suite component...` (sources.list(5)); options may hold blanks.
_LINE = re.compile(r"^\s*deb(?:-src)?\s+(?P<rest>(?:\[[^]]*\]\s+)?\S+\s+(?P<suite>\S+)(?:\s.*)?)$")
_TYPES = re.compile(r"^Types:.*$", re.MULTILINE | re.IGNORECASE)
_SUITES = re.compile(r"^Suites:(?P<suites>.*(?:\n[ \t].*)*)$", re.MULTILINE | re.IGNORECASE)


class _Packages:
    """A folder with apt's lists of packages of one kind. Use it from one thread at a time.

    workspace: an empty or earlier used folder that belongs to this object alone. log: what apt was told and what it
    said is appended here.
    """

    _kind: ClassVar[Kind]
    # In the name of every list of such packages; what such packages are called.
    _list: ClassVar[str]
    _what: ClassVar[str]

    def __init__(
        self,
        workspace: Path,
        *,
        etc: Path = APT_ETC,
        os_release: Path = OS_RELEASE,
        log: Path | None = None,
    ) -> None:
        self._workspace = workspace
        self._etc = etc
        self._os_release = os_release
        self._log = log
        self._options: list[str] | None = None
        self._refused: FetchError | None = None

    def _ready(self) -> list[str]:
        """Have the lists downloaded once; the options that make apt use them."""
        if self._refused is not None:
            raise self._refused
        if self._options is None:
            try:
                options = self._set_up()
                self._update(options)
            except FetchError as error:
                self._refused = error
                raise
            self._options = options
        return self._options

    def _update(self, options: Sequence[str]) -> None:
        """Download the lists. apt-get calls it a success when no archive answered."""
        said = self._apt("apt-get", [*options, "update"]).stderr
        if not any((self._workspace / LISTS).glob(f"*{self._list}*")):
            raise FetchError(
                f"no package archive gave a list of its {self._what}: {_said(said)}", log=self._log
            )

    def _set_up(self) -> list[str]:
        codename = read_codename(self._os_release)
        lines, stanzas = read_entries(self._etc, codename, self._kind)
        if not lines and not stanzas:
            raise FetchError(
                f"{self._etc} names no package archive of this distribution ({codename or 'unknown'})"
            )
        root = self._workspace / "apt"
        for folder in (root / "parts", self._workspace / LISTS / "partial", root / "cache/archives/partial"):
            folder.mkdir(parents=True, exist_ok=True)
        (root / "parts/source.list").write_text("".join(f"{line}\n" for line in lines))
        (root / "parts/source.sources").write_text("\n".join(stanzas))
        values = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": root / "parts",
            "Dir::State": root / "state",
            "Dir::State::lists": self._workspace / LISTS,
            "Dir::Cache": root / "cache",
            # As root apt downloads as user _apt, which may not be allowed into this folder.
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": 2,
            "Acquire::http::Timeout": 20,
            "Acquire::https::Timeout": 20,
        }
        return ["--quiet=2", *(word for name, value in values.items() for word in ("-o", f"{name}={value}"))]

    def _apt(self, tool: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            done = run([tool, *arguments], cwd=self._workspace, check=False)
        except InfrastructureError as error:
            raise FetchError(f"no {self._what}: {error.message}") from error
        if self._log is not None:
            with self._log.open("a") as log:
                log.write(f"$ {shlex.join([tool, *arguments])}\n{done.stdout}{done.stderr}")
        if _FULL.search(done.stderr):
            raise InfrastructureError(
                f"the disk that holds {self._workspace} is full: {_said(done.stderr)}",
                hint="free some space, or `harness cache prune`",
                log=self._log,
            )
        if done.returncode != 0:
            raise FetchError(
                f"{tool} {arguments[-1]}: {_said(done.stderr) or f'exit code {done.returncode}'}",
                log=self._log,
            )
        return done


class SourcePackages(_Packages):
    """The distribution's source packages."""

    _kind = "deb-src"
    _list = "Sources"
    _what = "source packages"

    def obtain(self, package: str, sha256: str, out: Path) -> None:
        """Put the file with this sha256 of source package ``package`` (any version of it) at ``out``.

        Raises FetchError: no apt here, no archive answers, or no version of the package has such a file.
        """
        options = self._ready()
        showsrc = self._apt("apt-cache", [*options, "showsrc", "--only-source", package])
        offers = parse_showsrc(showsrc.stdout)
        version = next((version for version, files in offers.items() if sha256 in files), None)
        if version is None:
            seen = ", ".join(offers) if offers else "no version"
            raise FetchError(
                f"the distribution's source package {package} ({seen}) does not hold the pinned file"
            )
        name = offers[version][sha256]
        # `source` downloads into the working directory; --tar-only leaves out the packaging.
        argv = [*options, "source", "--download-only", "--tar-only", "--only-source", f"{package}={version}"]
        self._apt("apt-get", argv)
        got = self._workspace / name
        if not got.exists():
            raise FetchError(f"apt-get source {package}={version} did not leave {name}")
        try:
            verify(got, sha256, f"the distribution's {name}")
            got.rename(out)
        finally:
            got.unlink(missing_ok=True)


@dataclass(frozen=True)
class Package:
    """A package that was downloaded. file: the .deb. version: the distribution's, e.g. ``6.1.128-1``."""

    name: str
    version: str
    file: Path


class BinaryPackages(_Packages):
    """The distribution's packages as they are installed."""

    _kind = "deb"
    _list = "Packages"
    _what = "packages"

    def obtain(self, name: str) -> Package:
        """Download the version that would be installed; it lies in the workspace then, checked by apt.

        Raises FetchError: no apt here, no archive answers, or there is no such package. InfrastructureError: the disk
        is full.
        """
        options = self._ready()
        self._apt("apt-get", [*options, "download", name])
        # Of several, left by calls that were interrupted, the last.
        found = sorted(self._workspace.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise FetchError(f"apt-get download {name} left no file", log=self._log)
        return describe(found[-1])


def describe(file: Path) -> Package:
    """What a .deb says it is.

    Raises FetchError: it is damaged, or no package. InfrastructureError: there is no dpkg-deb here.
    """
    done = run(["dpkg-deb", "--show", "--showformat", "${Package} ${Version}", file], check=False)
    name, _, version = done.stdout.partition(" ")
    if done.returncode != 0 or not version:
        raise FetchError(f"{file} is not a Debian package: {done.stderr.strip()}")
    return Package(name, version, file)


def _said(stderr: str) -> str:
    """What apt complains about: its errors, else its first warning."""
    lines = list(dict.fromkeys(line for line in stderr.splitlines() if line.startswith(("E:", "W:"))))
    errors = [line for line in lines if line.startswith("E:")]
    return "; ".join(errors or lines[:1])


def read_codename(os_release: Path) -> str:
    """VERSION_CODENAME of os-release(5), e.g. ``bookworm``; empty when there is none."""
    try:
        text = os_release.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    found = re.search(r"^VERSION_CODENAME=\"?([^\"\n]*)\"?$", text, re.MULTILINE)
    return found[1] if found else ""


def read_entries(etc: Path, codename: str, kind: Kind) -> tuple[list[str], list[str]]:
    """The system's package archives as entries of a kind: lines in one-line style, and deb822 stanzas.

    etc: ``/etc/apt``. Archives of others (another suite than the distribution's ``codename`` and its
    ``-updates`` and the like) are left out: they seldom have sources. Without a codename, or when
    nothing remains, all are taken.
    """
    parts = etc / "sources.list.d"
    one_line = [etc / "sources.list", *sorted(parts.glob("*.list"))]
    lines = [line for path in one_line for line in _text(path).splitlines()]
    stanzas = [text for path in sorted(parts.glob("*.sources")) for text in re.split(r"\n\s*\n", _text(path))]
    own = _lines(lines, codename, kind), _stanzas(stanzas, codename, kind)
    if any(own):
        return own
    return _lines(lines, "", kind), _stanzas(stanzas, "", kind)


def _lines(lines: Iterable[str], codename: str, kind: Kind) -> list[str]:
    """``deb`` and ``deb-src`` lines of the distribution ``codename`` ("" for all), as lines of this kind, each once."""
    found = (_LINE.match(line) for line in lines)
    kept = (match for match in found if match and _belongs(match["suite"].split(), codename))
    return list(dict.fromkeys(f"{kind} {match['rest'].rstrip()}" for match in kept))


def _stanzas(stanzas: Iterable[str], codename: str, kind: Kind) -> list[str]:
    """The same for deb822 stanzas. Everything but ``Types`` stays as it is: keys, options, ``Enabled:
    no``.
    """
    found: dict[str, None] = {}
    for stanza in stanzas:
        text = "".join(
            f"{line}\n" for line in stanza.splitlines() if line.strip() and not line.startswith("#")
        )
        suites = _SUITES.search(text)
        if suites and _TYPES.search(text) and _belongs(suites["suites"].split(), codename):
            found[_TYPES.sub(f"Types: {kind}", text)] = None
    return list(found)


def _belongs(suites: Sequence[str], codename: str) -> bool:
    """Is one of these a suite of the distribution: ``bookworm``, ``bookworm-updates``,
    ``bookworm/updates``?
    """
    return not codename or any(
        suite == codename or suite.startswith((f"{codename}-", f"{codename}/")) for suite in suites
    )


def parse_showsrc(text: str) -> dict[str, dict[str, str]]:
    """The output of ``apt-cache showsrc``: for each version the names of its files by their sha256."""
    offers: dict[str, dict[str, str]] = {}
    for stanza in re.split(r"\n\s*\n", text):
        version = re.search(r"^Version: (\S+)$", stanza, re.MULTILINE)
        sums = re.search(r"^Checksums-Sha256:[ \t]*\n((?: .*(?:\n|$))+)", stanza, re.MULTILINE)
        if version and sums:
            rows = (line.split() for line in sums[1].splitlines())
            offers.setdefault(version[1], {}).update({sha256: name for sha256, _size, name in rows})
    return offers


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
