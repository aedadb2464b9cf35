"""Kernel trees: what a base kernel is (`kernel/<name>/kernel.toml`), and where its source comes from.

A tree is copied once into the cache, under an identity that follows from its files' paths and contents alone:
the same release from a tarball, a git repository or a folder is the same tree; untracked junk never gets in.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness import host, unpack
from harness.controller import Controller
from harness.distro import BinaryPackages, Package, describe
from harness.errors import HarnessError, InfrastructureError, UserError
from harness.fetch import FetchError, download
from harness.progress import Progress, SilentProgress
from harness.repository import Repository
from harness.store import Store, file_digest

KIND = "tree"
# Bytes of an unpacked tree, about (2.6.31: 0.4e9, 6.1: 1.3e9).
_TREE_SIZE = 1 << 30
_HELP = "`harness kernel add --help` shows the ways to supply a tree"


# ---- kernel.toml


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tarball(_Strict):
    """An upstream tarball and where it lies; `sha256` is of the file as downloaded."""

    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    urls: tuple[str, ...] = Field(min_length=1)


class GitName(_Strict):
    """What upstream calls this release in git."""

    tag: str
    commit: str = Field(pattern=r"^[0-9a-f]{40}$")


class PackageName(_Strict):
    """The distribution's package that holds this kernel. file: the tarball inside it, below the root."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.+-]+$")
    file: str = Field(pattern=r"^[^/].*$")


class VirtualDisk(_Strict):
    """The disk simulated inside the guest, for the virtual clock.

    append: the kernel's command line, with places for ``parameters`` (str.format), whose usual values these are:
    size_mb, partitions, delay_ms, virtual_gb; and depth, how many I/Os it serves at a time, where it can be told.
    There is also a place {delay_ns}: delay_ms in nanoseconds, less half a tick of 1 ms. It is for a disk whose timer
    takes any time and goes off with a tick: of an I/O that begins with a tick, as all do that follow another one, that
    is the tick delay_ms later, and not the next after it.
    """

    module: str
    append: str
    device: str
    parameters: dict[str, int] = {}

    def command_line(self, parameters: Mapping[str, int]) -> str:
        """What to append, with these parameters instead of the usual ones."""
        told = {**self.parameters, **parameters}
        if "delay_ms" in told:
            told["delay_ns"] = told["delay_ms"] * 1_000_000 - 500_000
        return self.append.format_map(told)


class Schedulers(_Strict):
    """The I/O schedulers that scenarios ask for, as this kernel calls them, or what comes closest to them.

    queueing: instead of noop where a scenario asks for more requests than the disk serves at a time, if noop itself
    has no more. queueing_settings: files below the queue's ``iosched`` in sysfs, and what makes a noop of it: that it
    serves what comes first first.
    """

    noop: str = "noop"
    deadline: str = "deadline"
    cfq: str = "cfq"
    queueing: str | None = None
    queueing_settings: dict[Annotated[str, Field(pattern=r"^[a-z_]+$")], int] = {}


class Fact(_Strict):
    """Something in which base kernels differ and that tests must know. why: it is so on this one, in words."""

    value: int | str | tuple[str, ...]
    why: str


class KernelSpec(_Strict):
    """A base kernel: all of `kernel/<name>/`. File names are absolute once loaded.

    preference: where nobody names a kernel, the one with the least number whose source is to be had is taken.
    append: words for every kernel command line. smp_append: for those with more than one CPU. slowdown: by what
    factor a flavour is slower than `perf`, where it is: deadlines scale with it. lacks: what other base kernels have
    and this one has not, and why; tests that need it are skipped. facts: by name, the same names for every kernel.
    checkpatch: options for the tree's own. controllers: what it brings itself for sharing a disk by cgroup, by name.
    """

    name: str
    folder: Path
    preference: int = 100
    version: str = Field(pattern=r"^\d+(\.\d+)+$")
    arch: str
    image: str
    kconfig: str = "Kconfig"
    compilers: tuple[str, ...] = Field(min_length=1)
    append: str
    smp_append: str = ""
    make_variables: dict[str, str] = {}
    checkpatch: tuple[str, ...] = ()
    flavours: dict[str, tuple[Path, ...]]
    slowdown: dict[str, Annotated[float, Field(ge=1)]] = {}
    series_fragments: tuple[Path, ...] = ()
    schedulers: Schedulers = Schedulers()
    lacks: dict[str, str] = {}
    facts: dict[str, Fact] = {}
    controllers: dict[str, Controller] = {}
    virtual_disk: VirtualDisk
    git: GitName | None = None
    tarballs: tuple[Tarball, ...] = ()
    package: PackageName | None = None
    compat: Path

    @field_validator("controllers", mode="before")
    @classmethod
    def _named(cls, tables: Any) -> Any:
        """A controller's name is its table's."""
        if not isinstance(tables, dict):
            return tables
        return {k: {**v, "name": k} if isinstance(v, dict) else v for k, v in tables.items()}

    @classmethod
    def load(cls, folder: Path) -> KernelSpec:
        """Read `kernel.toml`.

        Raises:
            UserError: there is none, or something in it is wrong; names the file and the key.
        """
        file = folder / "kernel.toml"
        try:
            data = tomllib.loads(file.read_text())
        except OSError as error:
            known = ", ".join(sorted(path.parent.name for path in folder.parent.glob("*/kernel.toml")))
            raise UserError(
                f"there is no kernel `{folder.name}`: {file}: {error.strerror}",
                hint=f"kernels that are described: {known or 'none'}",
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: {error}") from error
        try:
            spec = cls.model_validate({"compat": "compat", **data, "name": folder.name, "folder": folder})
        except ValidationError as error:
            wrong = "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise UserError(f"{file}:\n{wrong}") from error
        return spec._with_absolute_names(file)

    def _with_absolute_names(self, file: Path) -> KernelSpec:
        def there(path: Path) -> Path:
            if not (self.folder / path).exists():
                raise UserError(f"{file}: names `{path}`, which is not in {self.folder}")
            return self.folder / path

        return self.model_copy(
            update={
                "flavours": {name: tuple(map(there, paths)) for name, paths in self.flavours.items()},
                "series_fragments": tuple(map(there, self.series_fragments)),
                "compat": there(self.compat),
            }
        )

    def told(self, texts: Iterable[str]) -> str:
        """All that a test is told of this kernel, and a machine of it, beside its build, as JSON: of the facts, those
        whose names are in one of the texts (the tests' own). What a test found holds for as long as it stays the same.
        """
        named = {name for text in texts for name in self.facts if name in text}
        return self.model_copy(
            update={"facts": {name: fact for name, fact in self.facts.items() if name in named}}
        ).model_dump_json(
            include={
                *("append", "smp_append", "slowdown", "schedulers", "virtual_disk"),
                *("lacks", "facts", "controllers"),
            }
        )

    def is_release(self, version: str) -> bool:
        """Is `version` this kernel, or a point release of it?"""
        return re.fullmatch(rf"{re.escape(self.version)}(\.\d+)?", version) is not None


# ---- trees


class NoSource(InfrastructureError):
    """No place has a kernel's source."""


class Tree(BaseModel):
    """A kernel tree in the cache. `path` is shared and must not be written to.

    version: as its Makefile has it, e.g. 2.6.31.3. id: sha256 over paths and contents. origin: for people.
    """

    model_config = ConfigDict(frozen=True)

    kernel: str
    version: str
    id: str
    path: Path
    origin: str


def at_hand(store: Store, spec: KernelSpec) -> Tree | None:
    """The tree that was supplied or downloaded for this kernel, if any."""
    found = store.pinned(_pin_name(spec))
    if found is None:
        return None
    folder, pin = found
    path = folder / "linux"
    try:
        version = makefile_version(path)
    except UserError:
        return None  # somebody deleted files in the cache
    return Tree(kernel=spec.name, version=version, id=pin.key, path=path, origin=pin.note)


def add(store: Store, spec: KernelSpec, what: str, progress: Progress | None = None) -> Tree:
    """Take this kernel's tree from ``PATH[@REV]``: a git repository, a tarball, a folder or a package.

    REV is a tag, branch or commit; without it, the repository's tag for the newest point release.

    Raises:
        UserError: there is nothing there, or it is not this kernel. What was supplied before stays.
    """
    progress = progress or SilentProgress()
    path, rev = _split(what)
    if path.is_file() and rev is None:
        if spec.package is not None and unpack.is_package(path):
            return _take_package(store, spec, spec.package, describe(path), progress)
        return _take_file(store, spec, path, f"tarball {path} (sha256 {file_digest(path)[:12]})", progress)
    with store.workspace("tree", size=_TREE_SIZE) as work:
        linux = work / "linux"
        repository = Repository.at(path)
        if repository is not None:
            origin = _export(repository, rev, spec, linux, progress)
        elif rev is not None:
            raise UserError(f"{path} is not a git repository, so there is no `{rev}` in it")
        else:
            origin = _copy_folder(path, spec, linux, progress)
        return _keep(store, spec, linux, origin, progress)


def obtain(store: Store, spec: KernelSpec, progress: Progress) -> Tree:
    """The tree at hand, else upstream's tarball from the network, else the distribution's package.

    Raises:
        NoSource: it is not to be had; names every place tried, why each failed, and what to do.
        InfrastructureError: the disk is full.
    """
    tree = at_hand(store, spec)
    if tree is not None:
        return tree
    failures = [f"`harness kernel add {spec.name} ...`: not used so far"]
    log: Path | None = None
    for tarball in spec.tarballs:
        tree = _from_upstream(store, spec, tarball, failures, progress)
        if tree is not None:
            return tree
    if spec.package is not None:
        try:
            return _from_distribution(store, spec, spec.package, progress)
        except FetchError as error:
            failures.append(f"package {spec.package.name}: {error.message}")
            log = error.log
    raise _no_source(spec, failures, log)


def _from_upstream(
    store: Store, spec: KernelSpec, tarball: Tarball, failures: list[str], progress: Progress
) -> Tree | None:
    """The tree of a tarball from one of the places where it lies; None, and why each failed, when none gives it."""
    with store.shared_folder(f"downloads-{tarball.sha256[:16]}", tarball.name) as folder:
        path = folder / tarball.name
        for url in tarball.urls:
            try:
                download(url, tarball.sha256, path, progress)
            except FetchError as error:
                failures.append(error.message)
                continue
            tree = _take_file(store, spec, path, f"{url} (sha256 {tarball.sha256[:12]})", progress)
            path.unlink()
            return tree
    return None


def _from_distribution(store: Store, spec: KernelSpec, wanted: PackageName, progress: Progress) -> Tree:
    """The tree of the package that would be installed. What is downloaded stays until the tree is in the cache.

    Raises FetchError: the package is not to be had, or does not hold what it should.
    """
    log = store.log_path("package", wanted.name)
    log.write_bytes(b"")
    with store.shared_folder(f"downloads-{wanted.name}", f"package {wanted.name}") as folder:
        with progress.task(f"downloading the package {wanted.name}"):
            package = BinaryPackages(folder, log=log).obtain(wanted.name)
        tree = _take_package(store, spec, wanted, package, progress)
        shutil.rmtree(folder)
    return tree


def _no_source(spec: KernelSpec, failures: list[str], log: Path | None) -> NoSource:
    tried = "\n".join(f"  {failure}" for failure in failures)
    tag = f"@{spec.git.tag}" if spec.git else "[@REV]"
    file = spec.tarballs[0].name if spec.tarballs else f"linux-{spec.version}.tar.xz"
    ways = [
        f"  harness kernel add {spec.name} /path/to/a/git/clone{tag}",
        f"  harness kernel add {spec.name} /path/to/{file}",
        f"  harness kernel add {spec.name} /path/to/an/unpacked/tree",
    ]
    if spec.package is not None:
        ways.append(f"  harness kernel add {spec.name} /path/to/{spec.package.name}_VERSION_all.deb")
    return NoSource(
        f"no source of kernel {spec.name}; tried:\n{tried}",
        hint="supply it in one of these ways:\n" + "\n".join(ways),
        log=log,
    )


def check(store: Store, spec: KernelSpec) -> host.Check:
    """For `doctor`: is a source at hand?"""
    tree = at_hand(store, spec)
    name = f"kernel {spec.name}"
    if tree is None:
        hint = f"harness kernel add {spec.name} PATH[@REV]"
        place = f"the distribution's package {spec.package.name}" if spec.package else "upstream's tarball"
        detail = f"no source at hand; {place} would be downloaded"
        return host.Check(name=name, ok=None, detail=detail, hint=hint)
    return host.Check(name=name, ok=True, detail=f"{tree.version}, {tree.origin}")


def makefile_version(tree: Path) -> str:
    """The version that a tree's Makefile states, e.g. ``2.6.31.3``, ``6.1.128``, ``2.6.31-rc5``.

    Raises:
        UserError: there is no kernel Makefile.
    """
    try:
        text = (tree / "Makefile").read_text(errors="replace")
    except OSError as error:
        raise UserError(f"{tree} is not a kernel tree: Makefile: {error.strerror}", hint=_HELP) from error
    return _version_in(text, str(tree))


def _version_in(makefile: str, place: str) -> str:
    pattern = r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(\S*)"
    found: dict[str, str] = dict(re.findall(pattern, makefile, re.MULTILINE))
    if not all(found.get(name) for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")):
        raise UserError(f"{place} is not a kernel tree: its Makefile states no version", hint=_HELP)
    # From 3.0 on SUBLEVEL counts point releases, and x.y.0 is called x.y.
    parts = [found["VERSION"], found["PATCHLEVEL"]]
    if int(found["VERSION"]) < 3 or found["SUBLEVEL"] != "0":
        parts.append(found["SUBLEVEL"])
    return ".".join(parts) + found.get("EXTRAVERSION", "")


def _require_release(spec: KernelSpec, version: str, place: str) -> None:
    if not spec.is_release(version):
        raise UserError(
            f"{place} is Linux {version}; kernel `{spec.name}` wants {spec.version} or a point release of it",
            hint="name another revision with @REV, or another kernel",
        )


def _pin_name(spec: KernelSpec) -> str:
    return f"kernel-{spec.name}"


def _split(what: str) -> tuple[Path, str | None]:
    """``PATH[@REV]``: a path may hold an @ itself, so one that exists is taken whole."""
    if not what:
        raise UserError("no path was given", hint=_HELP)
    path = Path(what).expanduser()
    rev = None
    if not path.exists() and "@" in what:
        head, _, rev = what.rpartition("@")
        path = Path(head).expanduser()
    if not path.exists():
        raise UserError(f"there is no {path}", hint=_HELP)
    return path.absolute(), rev


# ---- git


def _export(
    repository: Repository, rev: str | None, spec: KernelSpec, linux: Path, progress: Progress
) -> str:
    """Unpack one commit; what is not committed stays out."""
    tags = [tag for tag in repository.tags(f"v{spec.version}*") if spec.is_release(tag[1:])]
    if rev is None and not tags:
        raise UserError(
            f"the git repository {repository.path} has no tag v{spec.version} or v{spec.version}.y",
            hint=f"say which commit: harness kernel add {spec.name} {repository.path}@REV",
        )
    rev = rev if rev is not None else tags[0]
    commit = repository.commit(rev)
    if commit is None:
        raise UserError(
            f"the git repository {repository.path} has no revision `{rev}`",
            hint=f"its tags of this kernel: {', '.join(tags)}" if tags else "name a commit that it has",
        )
    place = f"{repository.path} at {rev}"
    _require_release(spec, _version_in(repository.file(commit, "Makefile"), place), place)
    with (
        progress.task(f"unpacking {repository.path.name} at {rev}", unit="bytes") as task,
        repository.archive(commit) as chunks,
    ):
        failure = unpack.stream(chunks, (), linux, task)
    if failure:
        raise InfrastructureError(f"{place} cannot be unpacked: {failure}")
    upstream = ", upstream's release" if spec.git and spec.git.commit == commit else ""
    return f"git repository {repository.path} at {rev} (commit {commit[:12]}{upstream})"


# ---- files and folders


def _take_file(
    store: Store, spec: KernelSpec, path: Path, origin: str, progress: Progress, member: str | None = None
) -> Tree:
    """The tree of a tarball; with ``member``, of the tarball of that name inside a package."""
    with store.workspace("tree", size=_TREE_SIZE) as work:
        if member is None:
            failure = unpack.tarball(path, work / "linux", progress)
        else:
            failure = unpack.package(path, member, work / "linux", progress)
        if failure:
            raise UserError(f"{path} {failure}", hint=_HELP)
        return _keep(store, spec, work / "linux", origin, progress)


def _take_package(
    store: Store, spec: KernelSpec, wanted: PackageName, package: Package, progress: Progress
) -> Tree:
    origin = f"package {package.name} {package.version} (sha256 {file_digest(package.file)[:12]})"
    return _take_file(store, spec, package.file, origin, progress, wanted.file)


def _copy_folder(path: Path, spec: KernelSpec, linux: Path, progress: Progress) -> str:
    """Copy a tree and, in the copy, delete what a build left there."""
    place = str(path)
    _require_release(spec, makefile_version(path), place)
    with progress.task(f"copying {path}"):
        host.run(["cp", "--recursive", "--no-dereference", "--reflink=auto", path, linux])
        if any((linux / name).exists() for name in (".config", "vmlinux", "include/config")):
            host.run(["make", "--silent", "-C", linux, f"ARCH={spec.arch}", "mrproper"])
        shutil.rmtree(linux / ".git", ignore_errors=True)
    return f"folder {path}"


# ---- into the cache


def _keep(store: Store, spec: KernelSpec, linux: Path, origin: str, progress: Progress) -> Tree:
    """Check the tree, give its files modes that do not depend on its origin, put it into the cache."""
    version = makefile_version(linux)
    _require_release(spec, version, origin)
    with progress.task(f"checking Linux {version}"):
        id_ = tree_id(linux)

        def put(folder: Path) -> None:
            _normalise_modes(linux)
            host.run(["cp", "--archive", "--reflink=auto", linux, folder])

        try:
            store.build(KIND, id_, put, what=f"Linux {version} source", meta={"version": version})
        except subprocess.CalledProcessError as error:
            raise InfrastructureError(f"the cache cannot be written to disk: {error}") from error
    store.pin(_pin_name(spec), KIND, id_, origin)
    tree = at_hand(store, spec)
    if tree is None:
        raise HarnessError(f"{origin}: the tree vanished from the cache {store.root}", hint="try again")
    return tree


def tree_id(folder: Path) -> str:
    """sha256 over the sorted paths and contents of all files and links below `folder`; modes do not count."""
    whole = hashlib.sha256()
    for relative, path in sorted(_files(folder)):
        content = os.fsencode(path.readlink()) if path.is_symlink() else bytes.fromhex(file_digest(path))
        kind = b"link" if path.is_symlink() else b"file"
        whole.update(b"%s %d %s %d %s" % (kind, len(relative), relative, len(content), content))
    return whole.hexdigest()


def _files(folder: Path) -> Iterator[tuple[bytes, Path]]:
    for parent, folders, files in os.walk(folder):
        for name in (*files, *(name for name in folders if Path(parent, name).is_symlink())):
            path = Path(parent, name)
            if path.is_symlink() or path.is_file():
                yield os.fsencode(path.relative_to(folder)), path


def _normalise_modes(folder: Path) -> None:
    """0755 for folders and scripts, 0644 for the rest: tarballs of patches and old archives lose x bits."""
    folder.chmod(0o755)
    for parent, folders, files in os.walk(folder):
        for name in folders:
            Path(parent, name).chmod(0o755, follow_symlinks=True)
        for name in files:
            path = Path(parent, name)
            if not path.is_symlink():
                with path.open("rb") as stream:
                    path.chmod(0o755 if stream.read(2) == b"#!" else 0o644)
