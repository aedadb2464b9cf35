"""What is under test, made ready: kernel tree, series, its build and the one without it, guest image, keys."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness import accelerator, gcov, kbuild, project, source, userland
from harness.accelerator import Choice, Wanted
from harness.errors import HarnessError, UserError
from harness.guest import Guest
from harness.host import Compiler, compiler
from harness.kbuild import Build, BuildSpec
from harness.keys import RunKeys
from harness.machine import Disk, Machine, MachineSpec
from harness.progress import Progress
from harness.record import BuildRecord
from harness.scenario import Clock
from harness.series import Series
from harness.source import KernelSpec, Tree
from harness.store import Store
from harness.userland import Image, ImageFile

MEMORY_MB = 256
FLAVOUR = "perf"


@dataclass(frozen=True)
class Testbed:
    """Everything that a machine of this run is made of.

    build: the kernel with the series, as `perf`. compat: the same without it, the negative control. accel: of
    the real clock. tcg: of the virtual clock, which exists under emulation only. counting: as ``build``, with gcov's
    counters, where coverage is asked for: then all machines of the real clock with the series run such kernels. Those
    of the virtual clock do not: there an instruction more is another outcome.
    """

    store: Store
    spec: KernelSpec
    tree: Tree
    series: Series
    compiler: Compiler
    build: Build
    compat: Build
    image: Image
    keys: RunKeys
    accel: Choice
    tcg: Choice
    counting: Build | None = None
    _made: dict[str, Build | HarnessError] = field(default_factory=dict)
    _making: threading.Lock = field(default_factory=threading.Lock)

    def flavour(
        self,
        name: str,
        progress: Progress,
        made: Callable[[Build], None] | None = None,
        config: Mapping[str, str] | None = None,
    ) -> Build:
        """The kernel with the series in another flavour, built when it is first asked for.

        made: told of the build then. config: symbols (``CONFIG_X``) of other values than the flavour and the
        series give them. Raises as ``prepare`` does, and the same again when asked again.
        """
        if name == FLAVOUR and not config:
            return self.with_series("real")
        wanted = BuildSpec(
            kernel=self.spec,
            tree=self.tree,
            series=self.series,
            flavour=name,
            compiler=self.compiler,
            config=config or {},
            coverage=self.counting is not None,
        )
        with self._making:
            found = self._made.get(wanted.what)
            if found is None:
                try:
                    found = kbuild.build(self.store, wanted, progress)
                except HarnessError as e:
                    found = e
                self._made[wanted.what] = found
                if made is not None and isinstance(found, Build):
                    made(found)
        if isinstance(found, HarnessError):
            raise found
        return found

    def with_series(self, clock: Clock) -> Build:
        """The kernel with the series, as `perf`."""
        return self.build if clock == "virtual" or self.counting is None else self.counting

    def machine_spec(
        self,
        build: Build,
        initrd: Path,
        *,
        clock: Clock,
        disks: tuple[Disk, ...] = (),
        append: str = "",
        memory_mb: int = MEMORY_MB,
        cpus: int = 1,
        virtual_disk: Mapping[str, int] | None = None,
    ) -> MachineSpec:
        """A machine of this kernel; on the virtual clock its disk is the one of the kernel's manifest, with
        ``virtual_disk`` for its parameters (`source.VirtualDisk`).
        """
        accel = self.tcg if clock == "virtual" else self.accel
        words = [self.spec.append, self.spec.smp_append if cpus > 1 else "", append]
        if clock == "virtual":
            words.append(self.spec.virtual_disk.command_line(virtual_disk or {}))
        return MachineSpec(
            kernel=build.bzimage,
            vmlinux=build.vmlinux,
            initrd=initrd,
            append=" ".join(w for w in words if w),
            memory_mb=memory_mb,
            cpus=cpus,
            accel=accel.name,
            slowdown=accel.slowdown * self.spec.slowdown.get(build.flavour, 1.0),
            clock=clock,
            disks=disks,
        )

    def segment(self, files: dict[str, bytes], settings: dict[str, str]) -> list[ImageFile]:
        """The second cpio segment of a run: keys, settings, and what else the run needs (path -> content)."""
        text = "".join(f"{key}={value}\n" for key, value in sorted(settings.items()))
        return [
            *self.keys.files(),
            ImageFile(path="/etc/harness/settings", data=text.encode()),
            *(ImageFile(path=path, data=data) for path, data in sorted(files.items())),
        ]

    @contextlib.contextmanager
    def boot(
        self,
        folder: Path,
        build: Build | None = None,
        *,
        clock: Clock = "real",
        disks: tuple[Disk, ...] = (),
        append: str = "",
        memory_mb: int = MEMORY_MB,
        cpus: int = 1,
    ) -> Iterator[Guest]:
        """Boot (the series' kernel unless another is named) and log in; everything ends with the context.

        The build's modules lie in the guest's /lib/modules, not loaded.
        """
        folder.mkdir(parents=True, exist_ok=True)
        booted = build or self.with_series(clock)
        files = {f"/lib/modules/{module.name}": module.read_bytes() for module in booted.modules}
        initrd = self.image.with_segment(folder / "initrd", self.segment(files, {}))
        machine_spec = self.machine_spec(
            booted,
            initrd,
            clock=clock,
            disks=disks,
            append=append,
            memory_mb=memory_mb,
            cpus=cpus,
        )
        with Machine(machine_spec, folder) as machine, Guest.connect(machine, self.keys) as guest:
            yield guest


def build_record(build: Build) -> BuildRecord:
    """What the run's record says of a build."""
    return BuildRecord(
        key=build.key,
        role="series" if build.series else "compat",
        flavour=build.flavour,
        compiler=build.compiler,
        seconds=build.seconds,
        cached=build.cached,
        warnings=len(build.warnings),
        config=build.config_path,
        log=build.log,
        coverage=build.coverage,
    )


def series_folder(kernel: str, series: Path | None) -> Path:
    """The series to test: the folder that the user named, else the project's own for this kernel."""
    folder = series or project.patches_dir() / f"ioband-{kernel}"
    if not folder.is_dir():
        raise UserError(
            f"no such series: {folder} is not a folder",
            hint="name the folder that holds your patches: make boot-test SERIES=folder",
        )
    return folder


def kernel_names() -> list[str]:
    """The base kernels that the project describes."""
    return sorted(manifest.parent.name for manifest in project.kernel_dir("").glob("*/kernel.toml"))


def kernel_spec(name: str) -> KernelSpec:
    """The manifest of base kernel ``name``. Raises UserError that lists the kernels there are."""
    folder = project.kernel_dir(name)
    if not (folder / "kernel.toml").is_file():
        raise UserError(f"no kernel named {name!r}", hint=f"known kernels: {', '.join(kernel_names())}")
    return KernelSpec.load(folder)


def build_prefix(
    store: Store, kernel: str, series: Path | None, prefix: int | None, progress: Progress
) -> Build:
    """Build a kernel with the first ``prefix`` patches of a series; None: with all. Raises as ``prepare`` does."""
    under_test = None
    if prefix != 0:
        chosen = Series.load(series_folder(kernel, series))
        under_test = chosen if prefix is None else chosen.prefix(prefix)
    return kbuild.build(store, _build_spec(store, kernel, under_test, progress), progress)


def prepare(
    store: Store,
    kernel: str,
    series: Path | None,
    progress: Progress,
    accel: Wanted = "auto",
    *,
    coverage: bool = False,
) -> Testbed:
    """Get the source, build with and without the series, build the image; from the cache when nothing changed.

    coverage: build the kernel with the series once more, with counters (`Testbed.counting`).
    Raises UserError (no such kernel or series, does not apply, does not compile) and InfrastructureError (no
    source, tools missing, an accelerator that was asked for is not usable).
    """
    spec = kernel_spec(kernel)
    under_test = Series.load(series_folder(kernel, series))
    tree = source.obtain(store, spec, progress)
    chosen = compiler(None, spec.compilers)
    if coverage:
        _require_coverage(spec, chosen)
    image = userland.image(store, progress)
    plain = BuildSpec(kernel=spec, tree=tree, series=under_test, flavour=FLAVOUR, compiler=chosen)
    with_series, compat = (
        kbuild.build(store, replace(plain, series=which), progress) for which in (under_test, None)
    )
    counting = kbuild.build(store, replace(plain, coverage=True), progress) if coverage else None
    # The kernel without the series: one that panics must not speak for the accelerator.
    real = accelerator.choose(store, accel, compat.bzimage, image.path)
    tcg = real if real.name == "tcg" else accelerator.choose(store, "tcg", compat.bzimage, image.path)
    return Testbed(
        store=store,
        spec=spec,
        tree=tree,
        series=under_test,
        compiler=chosen,
        build=with_series,
        compat=compat,
        image=image,
        keys=RunKeys.generate(),
        accel=real,
        tcg=tcg,
        counting=counting,
    )


def _require_coverage(spec: KernelSpec, chosen: Compiler) -> None:
    """That it cannot be had is told before anything is built."""
    if "coverage" in spec.lacks:
        raise UserError(
            f"kernel {spec.name} has no coverage: {spec.lacks['coverage']}",
            hint="without --coverage the tests run on it",
        )
    gcov.tool(chosen)


def whole(store: Store, kernel: str, series: Path | None, progress: Progress) -> BuildSpec:
    """A kernel with all of a series, not built yet. Raises as ``prepare`` does."""
    return _build_spec(store, kernel, Series.load(series_folder(kernel, series)), progress)


def _build_spec(store: Store, kernel: str, series: Series | None, progress: Progress) -> BuildSpec:
    spec = kernel_spec(kernel)
    return BuildSpec(
        kernel=spec,
        series=series,
        tree=source.obtain(store, spec, progress),
        flavour=FLAVOUR,
        compiler=compiler(None, spec.compilers),
    )
