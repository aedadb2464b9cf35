"""Patch series: a folder of patches in quilt's order, read and applied.

A folder holds the patches and, if their order is not that of their names, a quilt `series` file; or one mbox.
`series.toml` is optional: title, kernel, config symbols, and the series that this one lies on top of.
"""

from __future__ import annotations

import dataclasses
import email
import email.errors
import email.header
import email.message
import hashlib
import mailbox
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from harness import host
from harness.errors import InfrastructureError, UserError
from harness.repository import NO_OTHER_REPOSITORY
from harness.store import digest

if TYPE_CHECKING:
    from unidiff.patch import PatchSet

_DIFF_START = re.compile(rb"^(diff --git |Index: |--- \S[^\n]*\n\+\+\+ )", re.MULTILINE)
# What git format-patch puts at the end: "-- " and git's version.
_SIGNATURE = re.compile(rb"^-- \n[^\n]*\n*\Z", re.MULTILINE)
# "[PATCH v2 3/7]" and its like at the beginning of a subject.
_TAGS = re.compile(r"^\s*(\[[^]]*\]\s*)+")
_SYMBOL = r"^CONFIG_[A-Za-z0-9_]+$"
# Lines of context, each way, in the message about a patch that does not apply.
_CONTEXT = 5


@dataclass(frozen=True)
class Patch:
    """One patch. `diff` is what is applied, bytes as they are in the file; `sha256` is the hash of it alone.

    So a new description or a new signature does not make another build. description: what stands before the diff.
    """

    name: str
    subject: str
    author: str
    diff: bytes
    description: bytes = b""

    @classmethod
    def load(cls, file: Path) -> Patch:
        """Read one from its file. Raises UserError: it cannot be read, or holds no diff."""
        return _read(file)

    @cached_property
    def sha256(self) -> str:
        """sha256 of the diff, in hex."""
        return hashlib.sha256(self.diff).hexdigest()

    @cached_property
    def text(self) -> str:
        """The diff for people; bytes that are not UTF-8 are replaced."""
        return self.diff.decode(errors="replace")

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The paths it touches, below the tree's root.

        Raises:
            UserError: the diff is malformed.
        """
        return tuple(dict.fromkeys(file.path for file in self._parsed))

    @cached_property
    def both_names(self) -> tuple[str, ...]:
        """As `files`, with the old path of a file that gets another one."""
        sides = [side for file in self._parsed for side in (file.source_file, file.target_file)]
        return tuple(dict.fromkeys(side.partition("/")[2] for side in sides if side != "/dev/null"))

    @cached_property
    def _parsed(self) -> PatchSet:
        from unidiff.errors import UnidiffParseError
        from unidiff.patch import PatchSet

        try:
            return PatchSet(self.text)
        except UnidiffParseError as error:
            raise UserError(f"patch {self.name}: the diff is malformed: {error}") from error


_Symbols = dict[str, str | bool | int]


class _Manifest(BaseModel):
    """series.toml. `on`: a folder, relative to this one."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    kernel: str | None = None
    title: str | None = None
    description: str = ""
    config: _Symbols = {}
    configurations: dict[str, _Symbols] = {}
    checkpatch: dict[str, str] = {}
    on: str | None = None


@dataclass(frozen=True)
class Series:
    """Ordered patches on one kernel. `config`: symbols (``CONFIG_X``) to set once the patches define them.

    on: the series underneath, which is always applied whole. kernel: None when series.toml does not say.
    whole: False for a prefix that is not all of it. configurations: by name, symbols of other values with which it
    must build as well. checkpatch: why remarks of checkpatch that contain a text are no mistakes.
    """

    name: str
    kernel: str | None
    title: str
    path: Path
    patches: tuple[Patch, ...]
    config: dict[str, str]
    on: Series | None = None
    description: str = ""
    whole: bool = True
    configurations: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    checkpatch: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, *, may_be_empty: bool = False) -> Series:
        """Read a series from its folder.

        Raises:
            UserError: names the file, and the line or key, and what is wrong with it.
        """
        return _load(folder, (), may_be_empty=may_be_empty)

    def all_patches(self) -> tuple[Patch, ...]:
        """The patches of the series underneath, then one's own."""
        return (*(self.on.all_patches() if self.on else ()), *self.patches)

    def prefix(self, count: int) -> Series:
        """The first `count` of its own patches (on the whole series underneath)."""
        if not 0 <= count <= len(self.patches):
            raise UserError(f"series {self.name} has {len(self.patches)} patches: there is no prefix {count}")
        whole = self.whole and count == len(self.patches)
        return dataclasses.replace(self, patches=self.patches[:count], whole=whole)

    @property
    def all_config(self) -> dict[str, str]:
        """Symbols of the series underneath and its own."""
        return {**(self.on.all_config if self.on else {}), **self.config}

    @property
    def digest(self) -> str:
        """sha256 over the diffs, in order, and the config symbols."""
        config = "".join(f"{name}={value}\n" for name, value in sorted(self.all_config.items()))
        return digest(config, *(patch.diff for patch in self.all_patches()))

    def apply(self, tree: Path, log: Path) -> None:
        """Apply all patches, the series' underneath first, to a tree, as strictly as ``git apply`` does.

        Raises:
            UserError: one does not apply; says which, at which file and hunk, and what the tree has there.
        """
        patches = self.all_patches()
        for number, patch in enumerate(patches, 1):
            with log.open("a") as stream:
                stream.write(f"patch {number} of {len(patches)}: {patch.name}\n")
            result = _git_apply(patch, tree, "--verbose", log=log)
            if result.returncode != 0:
                which = f"patch {number} of {len(patches)}, {patch.name}"
                raise _does_not_apply(self.name, which, result.stdout, tree, log)

    def revert(self, tree: Path) -> None:
        """Undo `apply`.

        Raises:
            InfrastructureError: the tree is not as `apply` left it.
        """
        for patch in reversed(self.all_patches()):
            result = _git_apply(patch, tree, "--reverse")
            if result.returncode != 0:
                raise InfrastructureError(f"patch {patch.name} cannot be taken back: {result.stderr}")


def _git_apply(patch: Patch, tree: Path, *words: str, log: Path | None = None) -> CompletedProcess[str]:
    # A tree below somebody's git repository must not be taken for a part of it.
    outside = {**NO_OTHER_REPOSITORY, "GIT_CEILING_DIRECTORIES": str(tree.resolve().parent)}
    return host.run(
        ["git", "apply", *words, "--whitespace=nowarn", "-"],
        cwd=tree.resolve(),
        env=outside,
        input=patch.diff,
        log=log,
        check=False,
    )


# ---- reading


def _load(folder: Path, above: tuple[Path, ...], *, may_be_empty: bool = False) -> Series:
    folder = folder.absolute()
    if not folder.is_dir():
        raise UserError(f"there is no series {folder}: not a folder")
    manifest = _manifest(folder)
    on = None
    if manifest.on is not None:
        below = (folder / manifest.on).resolve()
        if below in (*above, folder.resolve()):
            raise UserError(f"{folder / 'series.toml'}: on: the series lies on top of itself")
        on = _load(below, (*above, folder.resolve()))
    patches = tuple(_patches(folder))
    if not patches and not may_be_empty:
        raise UserError(
            f"{folder} holds no patches",
            hint="put *.patch files there (and a quilt `series` if their names do not sort), or an mbox",
        )
    name = manifest.name or folder.name
    return Series(
        name=name,
        kernel=manifest.kernel or (on.kernel if on else None),
        title=manifest.title or name,
        path=folder,
        patches=patches,
        config=_symbols(manifest.config, "config", folder),
        on=on,
        description=manifest.description,
        configurations={
            name: _symbols(symbols, f"configurations: {name}", folder)
            for name, symbols in manifest.configurations.items()
        },
        checkpatch=manifest.checkpatch,
    )


def _manifest(folder: Path) -> _Manifest:
    file = folder / "series.toml"
    if not file.exists():
        return _Manifest()
    try:
        return _Manifest.model_validate(tomllib.loads(file.read_text()))
    except ValidationError as error:
        wrong = "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"{file}:\n{wrong}") from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: {error}") from error


def _symbols(given: _Symbols, key: str, folder: Path) -> dict[str, str]:
    symbols = {}
    for name, value in given.items():
        if not re.match(_SYMBOL, name):
            raise UserError(f"{folder / 'series.toml'}: {key}: {name!r} is not like CONFIG_DM_IOBAND")
        symbols[name] = ("y" if value else "n") if isinstance(value, bool) else str(value)
    return symbols


def _patches(folder: Path) -> Iterator[Patch]:
    order = folder / "series"
    if order.exists():
        yield from _quilt(order)
        return
    files = sorted((*folder.glob("*.patch"), *folder.glob("*.diff")))
    boxes = sorted(folder.glob("*.mbox"))
    if not files and len(boxes) == 1:
        yield from _mbox(boxes[0])
        return
    for file in files:
        yield _read(file)


def _quilt(order: Path) -> Iterator[Patch]:
    """The patches that a quilt `series` file names: one a line, ``#`` begins a comment."""
    seen: dict[str, int] = {}
    for number, line in enumerate(_text(order).splitlines(), 1):
        words = re.sub(r"(^|\s)#.*", "", line).split()
        if not words:
            continue
        place, name = f"{order}:{number}", words[0]
        if words[1:] not in ([], ["-p1"]):
            raise UserError(f"{place}: `{' '.join(words[1:])}`: only patches with -p1 can be used")
        if name in seen:
            raise UserError(f"{place}: {name} stands in line {seen[name]} already")
        seen[name] = number
        if not (order.parent / name).is_file():
            raise UserError(f"{place}: there is no patch {name}")
        yield _read(order.parent / name)


def _mbox(box: Path) -> Iterator[Patch]:
    """The mails of an mbox that carry a diff; a cover letter does not."""
    for number, mail in enumerate(mailbox.mbox(box, create=False), 1):
        patch = _parse(f"{box.name}:{number}", mail.as_bytes())
        if patch is not None:
            yield patch


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: {error}") from error


def _read(file: Path) -> Patch:
    try:
        patch = _parse(file.name, file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error
    if patch is None:
        raise UserError(f"{file} holds no diff")
    return patch


def _parse(name: str, data: bytes) -> Patch | None:
    """A mail, or a bare diff with or without words before it. None: there is no diff in it."""
    mail = email.message_from_bytes(data)
    parts = [part.get_payload(decode=True) for part in mail.walk() if not part.is_multipart()]
    body = b"".join(part for part in parts if isinstance(part, bytes))
    start = _DIFF_START.search(body)
    if start is None:
        return None
    said = body[: start.start()].decode(errors="replace")
    first_line = next((line.strip() for line in said.splitlines() if line.strip()), name)
    return Patch(
        name=name,
        subject=_TAGS.sub("", _header(mail, "Subject")) or first_line,
        author=_header(mail, "From"),
        diff=_SIGNATURE.sub(b"", body[start.start() :]),
        description=_description(data, mail, said),
    )


def _description(data: bytes, mail: email.message.Message, said: str) -> bytes:
    """What stands before the diff, as it came; of a mail that is encoded, the headers for people and the text."""
    if start := _DIFF_START.search(data):
        return data[: start.start()]
    headers = "".join(
        f"{name}: {_header(mail, name)}\n" for name in ("From", "Date", "Subject") if name in mail
    )
    return f"{headers}\n{said}".encode()


def _header(mail: email.message.Message, name: str) -> str:
    """A header for people; one that cannot be decoded is shown as it came."""
    raw = str(mail.get(name, ""))
    with suppress(LookupError, UnicodeError, email.errors.MessageError):  # an unknown or a wrong charset
        raw = str(email.header.make_header(email.header.decode_header(raw)))
    return re.sub(r"\s+", " ", raw.encode(errors="replace").decode()).strip()


# ---- a patch that does not apply


def _does_not_apply(series: str, which: str, said: str, tree: Path, log: Path) -> UserError:
    """git's complaint, with what the tree has at that place."""
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    lines = [f"series {series}: {which} does not apply"]
    hunk = re.search(r"^error: patch failed: (.+):(\d+)$", said, re.MULTILINE)
    if hunk is None:
        lines += [f"  {line}" for line in errors or said.strip().splitlines()[-3:]]
    else:
        file, line = hunk[1], int(hunk[2])
        lines[0] += f": {file}, the hunk at line {line}"
        wanted = re.search(r"^error: while searching for:\n(.*?)\n\nerror: patch failed", said, re.M | re.S)
        if wanted:
            lines += ["it expects:", *_quoted(wanted[1].splitlines()[: 2 * _CONTEXT])]
        lines += [f"the tree has around line {line}:", *_excerpt(tree / file, line)]
    return UserError(
        "\n".join(lines),
        log=log,
        hint="rebase the series on this kernel, or check that it is in the right order",
    )


def _quoted(lines: Sequence[str]) -> list[str]:
    return [f"    | {line}" for line in lines]


def _excerpt(file: Path, line: int) -> list[str]:
    if not file.is_file():
        return _quoted(["(no such file)"])
    text = file.read_bytes().decode(errors="replace").splitlines()
    return _quoted(text[max(0, line - 1) : line - 1 + 2 * _CONTEXT])
