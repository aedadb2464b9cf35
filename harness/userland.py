"""The guest's root file system: static programs and a few files, as one initramfs for every kernel.

Built once and cached. What differs from run to run (keys, settings, the compiled scenario) travels in a
second cpio archive behind it, so the image itself never changes.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness import recipe as recipes
from harness.cpio import Directory, ImageFile, Link, Member, Node, archive, parents, segment
from harness.distro import SourcePackages
from harness.errors import UserError
from harness.program import BuiltProgram, Jobs, Sources, Toolchain, build
from harness.progress import Progress
from harness.project import images_dir
from harness.recipe import ImagePath, Program
from harness.store import Store, digest

__all__ = ["Image", "ImageFile", "image"]

# Part of the image's key: changed when this module makes another image of the same parts.
ASSEMBLER: Final = "2"
ARCHIVE: Final = "initramfs.cpio"
DESCRIPTION: Final = "image.json"

Mode = Annotated[int, Field(ge=0, le=0o7777)]


class DeviceNode(BaseModel):
    """A character device that must be there before /init makes the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode
    major: int
    minor: int


class Layout(BaseModel):
    """``images/rootfs.toml``: what a tree of files under version control cannot say.

    directories: mode by path, where it is not 0755 or the directory is empty. nodes: character devices
    by path.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    directories: dict[ImagePath, Mode]
    nodes: dict[ImagePath, DeviceNode]


class Image(BaseModel):
    """An initramfs. ``path``: the archive. ``programs``: version by name. ``directories``: all it holds."""

    model_config = ConfigDict(frozen=True)

    path: Path
    key: str
    programs: dict[str, str]
    directories: frozenset[str]

    def with_segment(self, out: Path, files: Sequence[ImageFile]) -> Path:
        """Write the image followed by a second archive with ``files`` to ``out``; returns ``out``.

        A file of the second archive replaces one of the same path. About 10 ms.
        """
        second = segment(files, self.directories)
        with self.path.open("rb") as first, out.open("wb") as combined:
            while chunk := first.read(1 << 20):
                combined.write(chunk)
            combined.write(second)
        return out


def image(store: Store, progress: Progress, folder: Path | None = None) -> Image:
    """The guest's initramfs, from the cache or built from the recipes of ``folder`` (default: the project's).

    Raises UserError: a recipe or the layout is wrong. InfrastructureError: no source to be had, a tool
    is missing, or a program does not build.
    """
    folder = folder or images_dir()
    programs = recipes.load(folder / "programs")
    skeleton = _skeleton(folder)
    toolchain = Toolchain.find()
    keys: dict[str, str] = {}
    for program in programs:
        keys[program.recipe.name] = program.key(toolchain.id, keys)
    key = digest(ASSEMBLER, *sorted(keys.values()), archive(skeleton))
    entry = store.find("image", key)
    if entry is None:
        entries = _build_programs(store, programs, keys, toolchain, progress)
        built = [BuiltProgram.load(entries[name]) for name in sorted(entries)]
        members = _members(skeleton, built, entries)

        def make(new: Path) -> None:
            # Not compressed: under TCG gunzip costs the guest 0.3 s, reading 3 MB more costs QEMU next
            # to nothing.
            (new / ARCHIVE).write_bytes(archive(members))
            described = Image(
                path=Path(ARCHIVE),
                key=key,
                programs={program.name: program.version for program in built},
                directories=frozenset(member.path for member in members if isinstance(member, Directory)),
            )
            (new / DESCRIPTION).write_text(described.model_dump_json(indent=1))

        entry = store.build("image", key, make, what="guest image")
    described = Image.model_validate_json((entry / DESCRIPTION).read_bytes())
    return described.model_copy(update={"path": entry / ARCHIVE})


def _build_programs(
    store: Store,
    programs: Sequence[Program],
    keys: Mapping[str, str],
    toolchain: Toolchain,
    progress: Progress,
) -> dict[str, Path]:
    """The store entry of every program; those that are missing are built, several at a time."""
    found = {name: store.find("program", key) for name, key in keys.items()}
    entries = {name: entry for name, entry in found.items() if entry is not None}
    missing = {program.recipe.name: program for program in programs if program.recipe.name not in entries}
    if not missing:
        return entries
    tarballs = _obtain_sources(store, list(missing.values()), progress)
    jobs = Jobs()

    def run(name: str) -> Path:
        program = missing[name]
        needs = [entries[needed] for needed in program.recipe.needs]
        return build(
            store,
            program,
            keys[name],
            toolchain=toolchain,
            tarball=tarballs.get(name),
            needs=needs,
            jobs=jobs,
        )

    graph = {name: [n for n in program.recipe.needs if n in missing] for name, program in missing.items()}
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    pending: dict[Future[Path], str] = {}
    with ExitStack() as stack:
        task = stack.enter_context(progress.task("guest programs", len(missing)))
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=_workers()))
        stack.callback(jobs.stop)  # before the pool waits for its threads: an error or Ctrl-C ends them all
        while sorter.is_active():
            pending |= {pool.submit(run, name): name for name in sorter.get_ready()}
            task.update(detail=", ".join(pending.values()))
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                name = pending.pop(future)
                entries[name] = future.result()
                sorter.done(name)
                task.advance()
    return entries


def _workers() -> int:
    """Configure scripts use one CPU each, so several programs at a time keep the others busy."""
    return min(4, len(os.sched_getaffinity(0)))


def _obtain_sources(store: Store, programs: Sequence[Program], progress: Progress) -> dict[str, Path]:
    """The tarball of every program, by name."""
    with store.workspace("source-packages") as work:
        sources = Sources(store, SourcePackages(work), progress)
        return sources.obtain_all(program.recipe for program in programs)


def _skeleton(folder: Path) -> list[Member]:
    """Files of ``images/rootfs/`` and what ``images/rootfs.toml`` adds. Of a file's mode only the x bit
    counts.
    """
    path = folder / "rootfs.toml"
    try:
        layout = Layout.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    root = folder / "rootfs"
    files = [
        ImageFile(
            f"/{file.relative_to(root)}", file.read_bytes(), 0o755 if os.access(file, os.X_OK) else 0o644
        )
        for file in sorted(root.rglob("*"))
        if file.is_file()
    ]
    directories = [Directory(path, mode) for path, mode in layout.directories.items()]
    nodes = [Node(path, node.mode, node.major, node.minor) for path, node in layout.nodes.items()]
    return [*files, *directories, *nodes]


def _members(
    skeleton: Sequence[Member], built: Sequence[BuiltProgram], entries: Mapping[str, Path]
) -> list[Member]:
    """All members of the image, with the directories they need. Raises UserError when two want one path."""
    members: dict[str, Member] = {}

    def add(member: Member, owner: str) -> None:
        if member.path in members:
            raise UserError(f"{owner} brings {member.path} into the image, which is there already")
        members[member.path] = member

    for member in skeleton:
        add(member, "rootfs")
    for program in built:
        for path, file in program.files.items():
            add(ImageFile(path, (entries[program.name] / file).read_bytes(), 0o755), program.name)
        for path, target in program.links.items():
            add(Link(path, target), program.name)
    for program in built:
        for path, target in program.weak_links.items():
            members.setdefault(path, Link(path, target))
    for path in list(members):
        for parent in parents(path):
            members.setdefault(parent, Directory(parent))
    return list(members.values())
