"""Building one guest program: its toolchain, its source, its log.

Programs are static and linked against musl. glibc 2.33 and later implements fstat by
newfstatat(AT_EMPTY_PATH), which kernels before 2.6.39 refuse; musl's programs run on 2.6.31 and on
every later kernel.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from harness.distro import SourcePackages
from harness.errors import InfrastructureError
from harness.fetch import FetchError, download, verify
from harness.host import find_tool, run, started
from harness.progress import Progress
from harness.recipe import Program, Recipe, SourceSpec
from harness.store import Store, digest

# Part of every key: changed when this module builds differently from the same recipe.
BUILDER: Final = "1"
TAIL_LINES: Final = 20
DESCRIPTION: Final = "program.json"
TARBALL: Final = "tarball"
# Below the cache: what is on its way, and what somebody brought.
DOWNLOADS: Final = "downloads"


class BuiltProgram(BaseModel):
    """What a build left: ``files`` maps image paths to files of the entry, ``links`` image paths to
    their targets.

    weak_links: as ``links``, but anything else of that name goes before them.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    licence: str
    files: dict[str, str]
    links: dict[str, str]
    weak_links: dict[str, str]

    @classmethod
    def load(cls, entry: Path) -> BuiltProgram:
        return cls.model_validate_json((entry / DESCRIPTION).read_bytes())


@dataclass(frozen=True)
class Toolchain:
    """The static C compiler of this host. ``id`` changes whenever its output may."""

    compiler: Path
    asm: Path
    id: str

    @classmethod
    def find(cls) -> Toolchain:
        """Raises InfrastructureError: no musl-gcc, or no kernel headers."""
        compiler = find_tool("musl-gcc")
        version = run([compiler, "--version"]).stdout
        linker = run(["ld", "--version"]).stdout
        libc = Path(run([compiler, "-print-file-name=libc.a"]).stdout.strip())
        triplet = run(["gcc", "-print-multiarch"]).stdout.strip()
        headers = Path("/usr/include")
        asm = next((path for path in (headers / triplet / "asm", headers / "asm") if path.is_dir()), None)
        uapi = headers / "linux/version.h"
        if asm is None or not uapi.is_file() or not libc.is_file():
            raise InfrastructureError(
                f"headers or C library are missing: one of {asm or headers / 'asm'}, {uapi}, {libc}",
                hint="install the packages linux-libc-dev and musl-dev",
            )
        return cls(compiler, asm, digest(BUILDER, version, linker, libc, uapi))

    def wrapper(self, folder: Path, sysroots: Sequence[Path]) -> Path:
        """Write a compiler into ``folder`` that finds the kernel's headers and ``sysroots`` but not the
        host's libc.

        musl-gcc looks into none of the host's folders, and -I/usr/include would bring in glibc: so the
        kernel's own folders are linked to from a place of their own. Paths of the build are kept out of
        what is compiled.
        """
        headers = folder / "kernel-headers"
        headers.mkdir()
        for name in ("linux", "asm-generic", "mtd"):
            (headers / name).symlink_to(Path("/usr/include") / name)
        (headers / "asm").symlink_to(self.asm)
        words = [str(self.compiler), f"-ffile-prefix-map={folder}=."]
        after = ["-idirafter", str(headers)]
        for root in sysroots:
            after += ["-I", str(root / "include"), "-L", str(root / "lib")]
        path = folder / "cc"
        path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@" {shlex.join(after)}\n')
        path.chmod(0o755)
        return path


class Jobs:
    """Running build commands of several threads, which can all be stopped at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str], log: Path) -> int:
        """The exit code of a command whose output is appended to ``log``."""
        with ExitStack() as stack:
            output = stack.enter_context(log.open("ab"))
            output.write(f"$ {shlex.join(argv)}\n".encode())
            output.flush()
            with self._lock:
                if self._stopped:
                    raise InfrastructureError("the build was stopped", log=log)
                process = stack.enter_context(
                    started(
                        argv,
                        cwd=cwd,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )
                self._live.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._live.discard(process)

    def stop(self) -> None:
        """Kill what runs, with all its children, and start nothing any more."""
        with self._lock:
            self._stopped = True
            for process in self._live:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


class SourceMissing(InfrastructureError):
    """No place has the source of a guest program."""


@dataclass(frozen=True)
class Sources:
    """Gets release tarballs: from the cache, the distribution or upstream, in this order."""

    store: Store
    packages: SourcePackages
    progress: Progress

    def obtain(self, spec: SourceSpec, what: str) -> Path:
        """The release tarball of ``what``, checked.

        Raises SourceMissing naming every place tried and why it failed.
        """
        for sha256 in spec.accepted:
            found = self.store.find("source", sha256)
            if found is not None:
                return found / TARBALL
        what = f"source of {what}"
        tried: list[str] = []
        with self.store.shared_folder(DOWNLOADS, what) as downloads:
            for sha256, url in _places(spec):

                def fetch(new: Path, sha256: str = sha256, url: str | None = url) -> None:
                    if url is None:
                        with self.progress.task(f"source package {spec.package}"):
                            self.packages.obtain(spec.package, sha256, new / TARBALL)
                    else:
                        self._upstream(url, sha256, downloads, new / TARBALL)

                try:
                    return self.store.build("source", sha256, fetch, what=what) / TARBALL
                except FetchError as error:
                    tried.append(error.message)
        raise SourceMissing(
            f"the {what} is not to be had; tried:\n" + "\n".join(f"  - {reason}" for reason in tried),
            hint=_by_hand([spec], downloads),
        )

    def obtain_all(self, recipes: Iterable[Recipe]) -> dict[str, Path]:
        """The tarball by name of every recipe that has one.

        Raises SourceMissing about all that are not to be had.
        """
        found: dict[str, Path] = {}
        missing: dict[SourceSpec, str] = {}
        for recipe in recipes:
            if recipe.source is None:
                continue
            try:
                found[recipe.name] = self.obtain(recipe.source, f"{recipe.name} {recipe.version}")
            except SourceMissing as error:
                missing[recipe.source] = error.message
        if missing:
            hint = _by_hand(missing, self.store.root / DOWNLOADS)
            raise SourceMissing("\n".join(missing.values()), hint=hint)
        return found

    def _upstream(self, url: str, sha256: str, downloads: Path, out: Path) -> None:
        """What somebody put into ``downloads`` goes before the URL."""
        file = downloads / url.rsplit("/", 1)[-1]
        if file.exists():
            verify(file, sha256, str(file))
        else:
            download(url, sha256, file, self.progress)
        file.rename(out)


def _by_hand(specs: Iterable[SourceSpec], downloads: Path) -> str | None:
    """How to supply sources that no place has."""
    urls = [" or ".join(place.url for place in spec.upstream) for spec in specs if spec.upstream]
    return f"download elsewhere, and put into {downloads}:\n  " + "\n  ".join(urls) if urls else None


def _places(spec: SourceSpec) -> list[tuple[str, str | None]]:
    """Wanted sha256 and URL, in the order to try; URL None: the distribution's source package."""
    return [(spec.sha256, None), *((place.sha256 or spec.sha256, place.url) for place in spec.upstream)]


def build(
    store: Store,
    program: Program,
    key: str,
    *,
    toolchain: Toolchain,
    tarball: Path | None,
    needs: Sequence[Path],
    jobs: Jobs,
) -> Path:
    """The store entry of a program, built unless it is there. ``tarball``: its source, if its files are not
    all. ``needs``: the entries of the programs it needs.

    Raises InfrastructureError with the tail of the log when a step fails, or a product is not a static
    program.
    """
    recipe = program.recipe
    what = f"{recipe.name} {recipe.version}"
    logs = store.root / "logs"
    log = logs / f"{recipe.name}-{recipe.version}.log"

    def make(new: Path) -> None:
        logs.mkdir(exist_ok=True)
        log.write_bytes(b"")
        with store.workspace(f"program-{recipe.name}") as work:
            cc = toolchain.wrapper(work, [entry / "sysroot" for entry in needs])
            tree = work / "tree"
            tree.mkdir()
            step = _Step(what, tree, _environment(recipe, work), log, jobs)
            if tarball is not None:
                source = f"--file={tarball.absolute()}"
                step(["tar", "--extract", "--no-same-owner", "--strip-components=1", source])
            for name, place in recipe.files.items():
                (tree / place).parent.mkdir(parents=True, exist_ok=True)
                (tree / place).write_bytes(program.data[name])
            for argv in recipe.steps:
                step(
                    [
                        word.replace("@CC@", str(cc)).replace("@JOBS@", str(len(os.sched_getaffinity(0))))
                        for word in argv
                    ]
                )
            _collect(recipe, tree, new, step)
        log.rename(new / "build.log")

    return store.build("program", key, make, what=what)


@dataclass(frozen=True)
class _Step:
    """Runs the commands of one build."""

    what: str
    tree: Path
    environment: Mapping[str, str]
    log: Path
    jobs: Jobs

    def __call__(self, argv: Sequence[str]) -> None:
        try:
            code = self.jobs.run(argv, self.tree, self.environment, self.log)
        except FileNotFoundError as error:
            raise self.failed(f"`{argv[0]}` is not there") from error
        if code != 0:
            raise self.failed(f"`{shlex.join(argv)}` exited with {code}")

    def failed(self, why: str) -> InfrastructureError:
        tail = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        lines = "\n".join(f"    {line}" for line in tail)
        return InfrastructureError(
            f"{self.what} for the guest does not build: {why}; the log ends with\n{lines}",
            hint="`harness doctor` names tools that are missing",
            log=self.log,
        )


def _environment(recipe: Recipe, work: Path) -> dict[str, str]:
    """Nothing of the caller's environment (CFLAGS, locale, a configure cache) reaches a build."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(work),
        "LC_ALL": "C",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": "0",
        **recipe.environment,
    }


def _collect(recipe: Recipe, tree: Path, new: Path, step: _Step) -> None:
    """Copy products and exports out of the build tree and describe them."""
    files: dict[str, str] = {}
    links: dict[str, str] = {}
    weak: dict[str, str] = {}
    (new / "files").mkdir()
    for product in recipe.products:
        place = f"files/{product.path.rsplit('/', 1)[-1]}"
        built = tree / product.file
        if not built.is_file():
            raise step.failed(f"it did not make {product.file}")
        if _interpreter(built):
            raise step.failed(f"{product.file} is not static")
        step([str(find_tool("strip")), "-o", str(new / place), str(built)])
        files[product.path] = place
        links |= dict.fromkeys(product.links, product.path)
        if product.link_list is not None:
            names = (tree / product.link_list).read_text(encoding="utf-8").split()
            weak |= dict.fromkeys(names, product.path)
    for kind, exported in (("include", recipe.exports.include), ("lib", recipe.exports.lib)):
        folder = new / "sysroot" / kind
        folder.mkdir(parents=True)
        for name in exported:
            (folder / Path(name).name).write_bytes((tree / name).read_bytes())
    description = BuiltProgram(
        name=recipe.name,
        version=recipe.version,
        licence=recipe.licence,
        files=files,
        links=links,
        weak_links=weak,
    )
    (new / DESCRIPTION).write_text(description.model_dump_json(indent=1))


def _interpreter(program: Path) -> bool:
    """Does the program ask for a dynamic loader?"""
    return "INTERP" in run(["readelf", "--program-headers", "--wide", program]).stdout
