"""Kernel builds: pristine tree + compat + series + configuration + compiler, made once and kept.

The kernel is built in a private copy of the tree, in an environment of its own, with everything fixed that
would make two builds of the same input differ.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from harness import diagnostics, host, kconfig
from harness.diagnostics import Warning
from harness.errors import CompileError, InfrastructureError, UserError
from harness.host import Compiler
from harness.kconfig import KconfigReader, Request
from harness.progress import Progress
from harness.series import Series
from harness.source import KernelSpec, Tree
from harness.store import Store, digest

KIND = "build"
# Part of every key: to be raised when this module begins to build differently.
RECIPE = "2"
# Part of the keys of builds with gcov's counters: as RECIPE, for what makes them different.
COVERAGE_RECIPE = "coverage 1"
# Objects that a build has, roughly, when none was built here before.
_USUAL_STEPS = 1100
_NEEDED = ("make", "perl", "gzip", "ld", "nm", "git")
# Bytes that a tree takes while it is built, with debug information (2.6.31: 0.6e9, 6.1: 1.6e9).
WORK_SIZE = 3 << 29
# Architectures whose folder below arch/ has another name.
SOURCE_ARCH = {"x86_64": "x86", "i386": "x86"}
# Tools by the names that Kconfig files have for them.
_KCONFIG_TOOLS = {
    "LD": "ld",
    "NM": "nm",
    "OBJCOPY": "objcopy",
    "PAHOLE": "pahole",
    "RUSTC": "rustc",
    "BINDGEN": "bindgen",
}
# Of the caller's environment the build sees nothing else: MAKEFLAGS, CROSS_COMPILE, V ... stay out.
_KEPT = {"PATH", "HOME", "TMPDIR"}
# Who built it, when and where is the same for everybody: 2.6.31 was released on that day.
_BUILD_TIME = 1252534439
_IDENTITY = {
    "KBUILD_BUILD_TIMESTAMP": "Wed Sep 9 22:13:59 UTC 2009",
    "KBUILD_BUILD_USER": "harness",
    "KBUILD_BUILD_HOST": "localhost",
    "KCONFIG_NOTIMESTAMP": "1",
    "SOURCE_DATE_EPOCH": str(_BUILD_TIME),
}


# The compiler. With CCACHE_DEPEND ccache does not see what the assembler reads (.incbin): a kernel that contains
# another binary than it should would be the result. Kbuild's source file is the last argument.
_CACHED = """#!/bin/sh
for file; do :; done
case $file in
*.c) grep -qs incbin "$file" || exec {ccache} {compiler} "$@" ;;
esac
exec {compiler} "$@"
"""


@dataclass(frozen=True)
class BuildSpec:
    """What is to be built. `series` None: compat only, the kernel that a series is compared with.

    config: symbols (``CONFIG_X``) that have another value than flavour and series say. coverage: the objects of C files
    that the series touches count what is executed (gcov).
    """

    kernel: KernelSpec
    tree: Tree
    series: Series | None
    flavour: str
    compiler: Compiler
    config: Mapping[str, str] = field(default_factory=dict)
    coverage: bool = False

    @cached_property
    def compat(self) -> Series:
        """What the tree needs in order to build with today's tools."""
        return Series.load(self.kernel.compat, may_be_empty=True)

    @cached_property
    def requests(self) -> list[Request]:
        """The symbols that the flavour asks for.

        Raises:
            UserError: there is no such flavour, or a fragment is malformed.
        """
        fragments = self.kernel.flavours.get(self.flavour)
        if fragments is None:
            known = ", ".join(sorted(self.kernel.flavours))
            raise UserError(f"kernel {self.kernel.name} has no flavour `{self.flavour}`; it has: {known}")
        counting = [Request("CONFIG_GCOV_KERNEL", "y", "--coverage")] if self.coverage else []
        asked = [request for file in fragments for request in kconfig.read_fragment(file)]
        return kconfig.merge([*asked, *counting])

    @cached_property
    def series_requests(self) -> list[Request]:
        """The symbols that are asked for where the patched tree defines them."""
        files = self.kernel.series_fragments
        requests = [request for file in files for request in kconfig.read_fragment(file)]
        if self.series:
            place = str(self.series.path / "series.toml")
            requests += [Request(name, value, place) for name, value in self.series.all_config.items()]
        requests += [Request(name, value, "this build") for name, value in self.config.items()]
        return kconfig.merge(requests)

    @cached_property
    def counting(self) -> tuple[str, ...]:
        """The objects that count what is executed, below the tree's root, without ``.o``; one need not be built."""
        patches = self.series.all_patches() if self.series and self.coverage else ()
        sources = {file for patch in patches for file in patch.files if file.endswith(".c")}
        return tuple(sorted(file.removesuffix(".c") for file in sources))

    @cached_property
    def key(self) -> str:
        """sha256 over all that goes in: two specs with the same key give the same kernel."""
        asked = [f"{request.symbol}={request.value}" for request in (*self.requests, *self.series_requests)]
        variables = json.dumps(self.kernel.make_variables, sort_keys=True)
        return digest(
            RECIPE,
            self.tree.id,
            self.compat.digest,
            *(patch.diff for patch in (self.series.all_patches() if self.series else ())),
            "\n".join(asked),
            self.compiler.version_line,
            self.kernel.arch,
            self.kernel.image,
            variables,
            *([COVERAGE_RECIPE] if self.coverage else []),
        )

    @property
    def what(self) -> str:
        """In words."""
        count = len(self.series.all_patches()) if self.series else 0
        series = f"{self.series.name} ({count} patches)" if self.series else "compat only"
        config = "".join(f", {name}={value}" for name, value in self.config.items())
        counting = ", coverage" if self.coverage else ""
        return f"Linux {self.tree.version}, {series}, {self.flavour}{config}{counting}, {self.compiler.name}"


class SeriesInfo(BaseModel):
    """The series of a build: name, digest, names of the patches applied."""

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    patches: tuple[str, ...]


class Build(BaseModel):
    """A finished kernel. path: its folder in the cache. seconds: what it took. cached: it was made earlier.

    commands: what was run in the patched tree. steps: commands that the build consisted of. coverage: some of its
    objects count what is executed, see ``notes``.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    path: Path
    kernel_version: str
    tree_id: str
    compiler: str
    flavour: str
    series: SeriesInfo | None
    compat: tuple[str, ...]
    warnings: tuple[Warning, ...]
    commands: tuple[str, ...]
    steps: int
    seconds: float
    cached: bool = False
    coverage: bool = False

    @property
    def config_path(self) -> Path:
        """The .config."""
        return self.path / "config"

    @property
    def bzimage(self) -> Path:
        """What QEMU boots."""
        return self.path / "bzImage"

    @property
    def vmlinux(self) -> Path:
        """The kernel with symbols and debug information."""
        return self.path / "vmlinux"

    @property
    def modules(self) -> list[Path]:
        """What is configured as a module: NAME.ko."""
        return sorted((self.path / "modules").glob("*.ko"))

    @property
    def notes(self) -> Path:
        """What the compiler noted of each object that counts, by its place in the tree: NAME.gcno."""
        return self.path / "notes"

    @property
    def system_map(self) -> Path:
        """Symbols by address."""
        return self.path / "System.map"

    @property
    def log(self) -> Path:
        """All that patching, configuring and compiling printed."""
        return self.path / "build.log"


def find(store: Store, spec: BuildSpec) -> Build | None:
    """The build, if it was made before."""
    return kept(store, spec.key)


def kept(store: Store, key: str) -> Build | None:
    """The build with this key, if it was made before."""
    folder = store.find(KIND, key)
    return None if folder is None else _load(folder, cached=True)


def build(store: Store, spec: BuildSpec, progress: Progress, *, jobs: int | None = None) -> Build:
    """The build, made now unless it was made before. jobs: compilers at once; None: one for each CPU.

    Raises:
        UserError: a patch does not apply, a config symbol did not take effect.
        CompileError: it does not compile.
        InfrastructureError: a tool is missing, the disk or the memory is full.
    """
    found = find(store, spec)
    if found is not None:
        return found
    for tool in _NEEDED:
        host.find_tool(tool)
    job = Job(store, spec, progress, jobs)
    folder = store.build(KIND, spec.key, job.make, what=spec.what)
    return _load(folder, cached=not job.commands)  # another process may have made it while we waited


def _load(folder: Path, *, cached: bool) -> Build:
    data = json.loads((folder / "build.json").read_bytes())
    return Build.model_validate({**data, "path": folder, "cached": cached})


class Job:
    """One build being made: `make` does all of it; its steps are for who keeps the tree for more builds."""

    def __init__(self, store: Store, spec: BuildSpec, progress: Progress, jobs: int | None) -> None:
        self.store = store
        self.spec = spec
        self.progress = progress
        self.log = store.log_path(KIND, spec.key)
        self.jobs = jobs or len(os.sched_getaffinity(0))
        self.commands: list[str] = []
        self.steps = 0
        self.warnings: list[Warning] = []
        self._started = 0.0

    def begin(self) -> None:
        """Start the log and the clock."""
        self._started = time.monotonic()
        self.log.write_text(f"{self.spec.what}\nkey {self.spec.key}\ntree {self.spec.tree.origin}\n")

    def make(self, folder: Path) -> None:
        """Do it all; what is to be kept goes into `folder`."""
        self.begin()
        with self.store.workspace("kernel", size=WORK_SIZE) as work:
            self.prepare(work)
            self.compile(work)
            self.keep(work, folder)

    def prepare(self, work: Path) -> None:
        """A patched and configured tree, ``<work>/linux``."""
        with self.progress.task(f"patching: {self.spec.what}"):
            self.patched_copy(work / "linux")
        self.tools(work)
        self._configure(work / "linux", self.environment(work))

    def keep(self, work: Path, folder: Path) -> None:
        """Put into `folder` what a build consists of. The tree stays as it is, but for its kernel."""
        tree = work / "linux"
        for source, name in (
            (self.spec.kernel.image, "bzImage"),
            ("vmlinux", "vmlinux"),
            ("System.map", "System.map"),
        ):
            shutil.move(tree / source, folder / name)
        shutil.copy2(tree / ".config", folder / "config")
        (folder / "modules").mkdir()
        for module in tree.rglob("*.ko"):
            shutil.copy2(module, folder / "modules" / module.name)
        for name in self.spec.counting:
            if (tree / f"{name}.gcno").exists():  # it was compiled
                (folder / "notes" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(tree / f"{name}.gcno", folder / "notes" / f"{name}.gcno")
        self._describe(folder)
        shutil.move(self.log, folder / "build.log")

    def patched_copy(self, tree: Path) -> None:
        """The tree without the architectures that are neither built nor patched: two fifths of its files in 2.6.31.

        Of those only Kconfig files stay that others read in, whatever the architecture (crypto/Kconfig of 6.1).
        """
        spec, pristine = self.spec, self.spec.tree.path
        series = [spec.compat, *([spec.series] if spec.series else [])]
        patched = {file for one in series for patch in one.all_patches() for file in patch.files}
        wanted = {SOURCE_ARCH.get(spec.kernel.arch, spec.kernel.arch)}
        wanted |= {file.split("/")[1] for file in patched if file.startswith("arch/")}
        (tree / "arch").mkdir(parents=True)
        copy = ["cp", "--archive", "--reflink=auto", "--target-directory"]
        host.run([*copy, tree, *(path for path in pristine.iterdir() if path.name != "arch")])
        arch = [path for path in (pristine / "arch").iterdir() if path.is_file() or path.name in wanted]
        host.run([*copy, tree / "arch", *arch])
        while wanting := [n for n in kconfig.missing_sources(tree) if (pristine / n).is_file()]:
            for name in wanting:
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(pristine / name, tree / name)
        for one in series:
            one.apply(tree, self.log)

    def tools(self, work: Path) -> None:
        """The compiler by its name, through ccache if there is one."""
        (work / "bin").mkdir()
        tool = work / "bin" / self.spec.compiler.name
        if host.have_tool("ccache"):
            compiler, ccache = shlex.quote(str(self.spec.compiler.path)), host.find_tool("ccache")
            tool.write_text(_CACHED.format(compiler=compiler, ccache=shlex.quote(str(ccache))))
            tool.chmod(0o755)
        else:
            tool.symlink_to(self.spec.compiler.path)

    def environment(self, work: Path) -> dict[str, str | None]:
        """Nothing of the caller's."""
        ccache = host.have_tool("ccache")
        compilers = self.spec.compiler.path.parent
        return {
            **{name: None for name in os.environ if name not in _KEPT},
            **_IDENTITY,
            "PATH": f"{work / 'bin'}:{compilers}:{os.environ.get('PATH', os.defpath)}",
            # Debug information names the folder of the build. Mapped to "." it is the same everywhere, and
            # ccache may hit whichever folder an earlier build was made in (NOHASHDIR).
            # -g1: functions, inlined ones, and lines are all that a call trace is decoded with. The code is the same;
            # of the compiler's time a fifth goes into the rest (types, variables), and of an object three quarters.
            "KCFLAGS": f"-g1 -fdebug-prefix-map={work / 'linux'}=.",
            "KAFLAGS": f"-fdebug-prefix-map={work / 'linux'}=.",
            "CCACHE_DIR": str(self.store.root / "ccache") if ccache else None,
            "CCACHE_NOHASHDIR": "1" if ccache else None,
            "CCACHE_MAXSIZE": "5G" if ccache else None,
            # Looked up by the files that were read, not by what the preprocessor makes of them: a file that is not in
            # the cache takes 6 % longer than without ccache instead of 40 %.
            "CCACHE_DEPEND": "1" if ccache else None,
        }

    def _make_words(self, *words: str) -> list[str]:
        spec = self.spec
        variables = {
            "ARCH": spec.kernel.arch,
            "CC": spec.compiler.name,
            "HOSTCC": spec.compiler.name,
            **spec.kernel.make_variables,
        }
        return ["make", *(f"{name}={value}" for name, value in variables.items()), *words]

    def _counting_words(self) -> list[str]:
        """Which objects count. scripts/Makefile.lib asks GCOV_PROFILE_<object>, GCOV_PROFILE and
        CONFIG_GCOV_PROFILE_ALL, in this order, and the first answer holds: a Makefile that says no to one of the first
        two, since the object would not link, is obeyed. The last one is expanded for each object; it looks at the
        folder, too, as memory.o alone would be the boot loader's besides mm/memory.o.
        """
        if not self.spec.coverage:
            return []
        return [
            f"CONFIG_GCOV_PROFILE_ALL=$(if $(filter {' '.join(self.spec.counting)},$(obj)/$(basetarget)),y)"
        ]

    def _configure(self, tree: Path, environment: dict[str, str | None]) -> None:
        """`make allnoconfig` with the merged fragments, and the proof that each symbol took effect."""
        defined = kconfig.defined_symbols(tree)
        self._require_defined(defined)
        wanted = [request for request in self.spec.series_requests if request.symbol in defined]
        requests = kconfig.merge([*self.spec.requests, *wanted])
        merged = tree.parent / "merged.config"
        merged.write_text("".join(f"{request.line}\n" for request in requests))
        words = self._make_words(f"KCONFIG_ALLCONFIG={merged}", "allnoconfig")
        self.commands.append(shlex.join(words).replace(str(merged), "merged.config"))
        result = host.run(words, cwd=tree, env=environment, log=self.log, check=False)
        if result.returncode != 0:
            raise self._failure(result.stdout, "cannot be configured")
        reader = KconfigReader(tree, self.spec.kernel.kconfig, self._kconfig_environment(environment))
        kconfig.require(requests, tree / ".config", reader)

    def _kconfig_environment(self, environment: Mapping[str, str | None]) -> dict[str, str]:
        """What the tree's Makefile would export for Kconfig files: the architecture, and the tools that they probe."""
        spec = self.spec
        arch = spec.kernel.arch
        return {
            **{name: value for name, value in environment.items() if value is not None},
            **_KCONFIG_TOOLS,
            "ARCH": arch,
            "SRCARCH": SOURCE_ARCH.get(arch, arch),
            "KERNELVERSION": spec.tree.version,
            "CC": spec.compiler.name,
            "HOSTCC": spec.compiler.name,
            "CC_VERSION_TEXT": spec.compiler.version_line,
        }

    def _require_defined(self, defined: set[str]) -> None:
        """A whole series must define every symbol that its series.toml asks for; a prefix need not yet."""
        series = self.spec.series
        if series is None or not series.whole:
            return
        missing = sorted((series.all_config.keys() | self.spec.config.keys()) - defined)
        if missing:
            raise UserError(
                f"{series.path / 'series.toml'}: config: no Kconfig file of the patched tree defines "
                f"{', '.join(missing)}"
            )

    def compile(self, work: Path) -> None:
        """``make bzImage`` (and modules), of what is not made yet."""
        tree = work / "linux"
        # make would count how often this tree was linked, and the kernel would say it.
        (tree / ".version").unlink(missing_ok=True)
        targets = [Path(self.spec.kernel.image).name]
        if "m" in kconfig.values((tree / ".config").read_text()).values():
            targets.append("modules")
        # --output-sync: what two compilers say at once must not be mixed, not even within a line.
        counting = self._counting_words()
        words = ["nice", *self._make_words(*counting, f"-j{self.jobs}", "--output-sync=target", *targets)]
        self.commands.append(shlex.join(words[1:]))
        with self.progress.task(f"building: {self.spec.what}", self._expected_steps()) as task:

            def on_line(line: str) -> None:
                if step := diagnostics.STEP.match(line):
                    self.steps += 1
                    task.update(completed=self.steps, detail=step["target"])

            result = host.run(
                words,
                cwd=tree,
                env=self.environment(work),
                log=self.log,
                check=False,
                on_line=on_line,
            )
        if result.returncode != 0:
            raise self._failure(result.stdout, "does not compile")
        self.warnings = diagnostics.warnings(result.stdout.splitlines())

    def _expected_steps(self) -> int:
        """As many as the last build of this kernel had."""
        builds = (_load(self.store.path(e), cached=True) for e in self.store.entries() if e.kind == KIND)
        return next((b.steps for b in builds if b.kernel_version == self.spec.tree.version), _USUAL_STEPS)

    def _describe(self, folder: Path) -> None:
        spec = self.spec
        facts = Build(
            key=spec.key,
            path=folder,
            kernel_version=spec.tree.version,
            tree_id=spec.tree.id,
            compiler=spec.compiler.version_line,
            flavour=spec.flavour,
            series=_series_info(spec.series),
            compat=tuple(patch.name for patch in spec.compat.all_patches()),
            warnings=tuple(self.warnings),
            commands=tuple(self.commands),
            steps=self.steps,
            seconds=time.monotonic() - self._started,
            coverage=spec.coverage,
        )
        (folder / "build.json").write_text(facts.model_dump_json(indent=1, exclude={"path", "cached"}))

    def _failure(self, output: str, how: str) -> UserError | InfrastructureError:
        """The first error of the log, with its context, and whose patch the file belongs to."""
        if "No space left on device" in output:
            return InfrastructureError(
                "the disk became full during a kernel build",
                hint="free some space, or `harness cache prune`",
                log=self.log,
            )
        if "Killed signal terminated program" in output:
            return InfrastructureError(
                "the system killed a compiler: most likely out of memory",
                hint="free some memory",
                log=self.log,
            )
        file, lines = diagnostics.first_error(output.splitlines())
        series = self.spec.series
        touching = [p.name for p in (series.all_patches() if series else ()) if file and file in p.files]
        whose = f"\n{file} is touched by {', '.join(touching)}" if touching else ""
        shown = "\n".join(f"  {line}" for line in lines)
        return CompileError(f"{self.spec.what}: {how}:\n{shown}{whose}", log=self.log)


def _series_info(series: Series | None) -> SeriesInfo | None:
    if series is None:
        return None
    patches = tuple(patch.name for patch in series.all_patches())
    return SeriesInfo(name=series.name, digest=series.digest, patches=patches)
