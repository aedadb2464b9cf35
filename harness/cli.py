"""The ``harness`` command: every command calls one module. Errors end with an exit code, never a traceback."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from harness.errors import EXIT_ENVIRONMENT, HarnessError, InfrastructureError, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Build a Linux kernel with a patch series, boot it in QEMU, judge its block I/O bandwidth shares.",
)
kernel_app = typer.Typer(no_args_is_help=True, help="Base kernels: supply a source, list, build.")
image_app = typer.Typer(no_args_is_help=True, help="The guest's userland.")
cache_app = typer.Typer(no_args_is_help=True, help="What earlier runs built: list, prune, verify.")
app.add_typer(kernel_app, name="kernel")
app.add_typer(image_app, name="image")
app.add_typer(cache_app, name="cache")

KernelOption = Annotated[
    str | None,
    typer.Option(
        "--kernel",
        help="Base kernel: a folder of kernel/. Else the series' own, or the first whose source is to be had.",
    ),
]
SeriesOption = Annotated[
    Path | None,
    typer.Option("--series", help="Folder of the series; the project's own for that kernel by default."),
]
AccelOption = Annotated[
    Literal["auto", "tcg", "kvm"],
    typer.Option("--accel", help="auto: KVM where a guest has booted under it, else TCG."),
]


def _picked(kernel: str | None, series: Path | None) -> str:
    """The base kernel to take; which and why is said where nobody named it."""
    from harness import pick, progress
    from harness.store import Store

    shown = progress.default()
    chosen = pick.pick(Store.default(), kernel, series, shown)
    if kernel is None:
        shown.say(f"kernel {chosen.kernel}: {chosen.why}")
    return chosen.kernel


@app.command()
def doctor() -> None:
    """Say what this machine has and lacks."""
    from harness import accelerator, host, source, testbed
    from harness.report import terminal
    from harness.store import Store

    store = Store.default()
    checks = host.doctor(store)
    checks += [source.check(store, testbed.kernel_spec(name)) for name in testbed.kernel_names()]
    proof = accelerator.known(store, "kvm")
    if proof is not None:
        checks.append(host.Check(name="KVM, by a boot", ok=proof.usable or None, detail=proof.detail))
    terminal.checks(checks)
    if any(check.ok is False for check in checks):
        raise typer.Exit(EXIT_ENVIRONMENT)


@kernel_app.command("add")
def kernel_add(
    name: Annotated[str, typer.Argument(help="Which base kernel, e.g. 2.6.31.")],
    path: Annotated[str, typer.Argument(help="A git repository (PATH@REV), a tarball or a folder.")],
) -> None:
    """Supply the source of a base kernel from this machine."""
    from harness import progress, source, testbed
    from harness.store import Store

    tree = source.add(Store.default(), testbed.kernel_spec(name), path, progress.default())
    typer.echo(f"kernel {name}: Linux {tree.version} from {tree.origin}")


@kernel_app.command("list")
def kernel_list() -> None:
    """List the base kernels, and whether each one's source is at hand."""
    from harness import source, testbed
    from harness.store import Store

    store = Store.default()
    for name in testbed.kernel_names():
        tree = source.at_hand(store, testbed.kernel_spec(name))
        state = f"Linux {tree.version} from {tree.origin}" if tree else "source not at hand"
        typer.echo(f"{name}: {state}")


@kernel_app.command("build")
def kernel_build(
    kernel: KernelOption = None,
    series: SeriesOption = None,
    prefix: Annotated[
        int | None,
        typer.Option(min=0, help="Build with the first N patches only; 0 is the kernel without the series."),
    ] = None,
) -> None:
    """Build a kernel with a series, and say where it is."""
    from harness import progress, testbed
    from harness.store import Store

    chosen = _picked(kernel, series)
    build = testbed.build_prefix(Store.default(), chosen, series, prefix, progress.default())
    typer.echo(f"{build.bzimage}")
    typer.echo(f"{len(build.warnings)} compiler warnings; log: {build.log}")


@app.command()
def validate(kernel: KernelOption = None, series: SeriesOption = None) -> None:
    """Build and boot every prefix of a series, and the whole in its other configurations; show what compiler and
    checkpatch say of each patch, and write a report.
    """
    from harness import validate as command

    raise typer.Exit(command.run(_picked(kernel, series), series))


@image_app.command("build")
def image_build() -> None:
    """Build the guest's programs and its initramfs."""
    from harness import progress, userland
    from harness.store import Store

    image = userland.image(Store.default(), progress.default())
    typer.echo(f"{image.path}")
    typer.echo(", ".join(f"{name} {version}" for name, version in sorted(image.programs.items())))


@app.command(context_settings={"allow_interspersed_args": False})
def boot(
    command: Annotated[
        list[str] | None, typer.Argument(help="Run this instead of a shell: harness boot -- uname -a")
    ] = None,
    kernel: KernelOption = None,
    series: SeriesOption = None,
    bare: Annotated[bool, typer.Option("--bare", help="Boot the kernel without the series.")] = False,
    disk: Annotated[
        list[str] | None, typer.Option(help="Virtual disk, SIZE_MB[:IOPS]; may be given again.")
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, max=8)] = 1,
    memory: Annotated[int, typer.Option(min=128, help="MB")] = 256,
    accel: AccelOption = "auto",
) -> None:
    """Boot, and open a shell over SSH or run a command there; the exit code is the command's."""
    from harness import interactive

    code = interactive.boot(
        _picked(kernel, series),
        series,
        command or [],
        bare=bare,
        disks=disk or [],
        cpus=cpus,
        memory_mb=memory,
        accel=accel,
    )
    raise typer.Exit(code)


@app.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "help_option_names": ["--help"],
    },
)
def test(
    selection: Annotated[
        list[str] | None, typer.Argument(help="Anything pytest takes: files, -k, -m, -x ...")
    ] = None,
    kernel: KernelOption = None,
    series: SeriesOption = None,
    at_hand: Annotated[
        bool,
        typer.Option(
            "--at-hand", help="Use only kernel sources at hand; skip, and say so, when there is none."
        ),
    ] = False,
    accel: AccelOption = "auto",
    flavour: Annotated[
        list[str] | None,
        typer.Option(help="Only this flavour of tests that run on several; may be repeated."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Test processes at a time, each with its own guests; 0: one per core.")
    ] = 1,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Boot also the virtual clock's machines without the series whose outcome is known.",
        ),
    ] = False,
    coverage: Annotated[
        bool,
        typer.Option(
            "--coverage", help="Report which lines of the series ran (gcov), on the real clock's machines."
        ),
    ] = False,
) -> None:
    """Run tests (by default the bandwidth scenarios), write runs/<id>/ with a report, and print a summary."""
    from harness import session

    raise typer.Exit(
        session.run(
            kernel,
            series,
            selection or [],
            at_hand=at_hand,
            accel=accel,
            flavours=flavour or [],
            workers=workers,
            again=again,
            coverage=coverage,
        )
    )


@app.command()
def compare(
    names: Annotated[
        list[str] | None, typer.Argument(help="Scenarios; those that are marked so by default.")
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            "--kernel", help="Base kernel; else the series' own, or the first that has controllers."
        ),
    ] = None,
    series: SeriesOption = None,
    workers: Annotated[int, typer.Option(min=0, help="Machines at a time; 0: one per core.")] = 0,
    again: Annotated[
        bool, typer.Option("--again", help="Boot also the machines whose outcome is known.")
    ] = False,
) -> None:
    """Run scenarios under the series and under the controllers that the kernel itself brings: accuracy, work
    conservation, latency and cost side by side.
    """
    from harness import compare as comparing

    raise typer.Exit(comparing.run(kernel, series, names or [], workers=workers, again=again))


@app.command()
def mutants(
    names: Annotated[list[str] | None, typer.Argument(help="Which: names or shell patterns; all.")] = None,
    kernel: KernelOption = None,
    listed: Annotated[bool, typer.Option("--list", help="Say what there is, and end.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also those whose verdict is known.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=8, help="Mutants at once.")] = 2,
) -> None:
    """Put mistakes into the kernel's series, one at a time, and see whether the guest suite notices each."""
    from harness import mutants as hunt

    chosen = _picked(kernel, None)
    if listed:
        for name, mistake in hunt.listed(chosen, names or []):
            typer.echo(f"{name:34} {mistake}")
        return
    raise typer.Exit(hunt.run(chosen, names or [], workers=workers, again=again))


@app.command()
def soak(
    rounds: Annotated[int, typer.Argument(min=1, help="How many times.")] = 20,
    selection: Annotated[
        list[str] | None,
        typer.Argument(help="Tests; the guest suite but for what the virtual clock makes exact."),
    ] = None,
    kernel: KernelOption = None,
    series: SeriesOption = None,
    again: Annotated[bool, typer.Option("--again", help="Forget the rounds that passed before.")] = False,
) -> None:
    """Run the guest suite until it has passed N times in a row; stop at the first round that does not pass."""
    from harness import soak as rounds_of

    raise typer.Exit(rounds_of.run(rounds, _picked(kernel, series), series, selection or [], again=again))


@app.command()
def report(
    run: Annotated[Path | None, typer.Argument(help="Folder of a run; the newest one by default.")] = None,
) -> None:
    """Make the reports of a run again from its run.json, and print the summary."""
    from harness import project, record
    from harness import report as reports
    from harness.report import terminal

    folder = run or record.newest(project.runs_dir())
    loaded = record.load(folder / "run.json")
    reports.write_all(folder)
    terminal.summary(loaded, folder)


@app.command()
def bench(
    kernel: KernelOption = None,
    series: SeriesOption = None,
    driver: Annotated[bool, typer.Option("--driver", help="Only what the driver costs an I/O.")] = False,
) -> None:
    """Measure the driver (cost of an I/O) and the harness: boot to SSH, overhead, clocks, spread of shares."""
    from harness import bench as benchmark

    raise typer.Exit(benchmark.run(_picked(kernel, series), series, driver_only=driver))


@cache_app.command("list")
def cache_list() -> None:
    """List the cache's entries."""
    from harness.report import terminal
    from harness.store import Store

    store = Store.default()
    terminal.cache(store.root, store.entries())


@cache_app.command("prune")
def cache_prune(
    days: Annotated[
        float | None, typer.Option(min=0, help="Remove what was not used for this many days.")
    ] = None,
    keep: Annotated[
        float | None, typer.Option(min=0, help="Remove the least recently used until this many GB are left.")
    ] = None,
) -> None:
    """Remove entries that can be made again."""
    from harness.store import Store

    if days is None and keep is None:
        raise UserError("nothing said what to keep", hint="harness cache prune --days 30, or --keep 5 (GB)")
    removed = Store.default().prune(
        keep_bytes=None if keep is None else int(keep * 1e9),
        older_than=None if days is None else days * 86400,
    )
    typer.echo(f"{len(removed)} entries removed, {sum(e.size for e in removed) / 1e6:.0f} MB")


@cache_app.command("verify")
def cache_verify() -> None:
    """Read every entry again and compare it with the hashes taken when it was made."""
    from harness.store import Store

    problems = Store.default().verify()
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(EXIT_ENVIRONMENT)
    typer.echo("every entry is intact")


def _fail(error: HarnessError) -> NoReturn:
    sys.stdout.flush()
    first, *rest = str(error).splitlines()
    sys.stderr.write("\n".join([f"harness: {first}", *rest]) + "\n")
    raise SystemExit(error.exit_code)


def main() -> None:
    """Entry point of the ``harness`` command."""
    try:
        app()
    except HarnessError as e:
        _fail(e)
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(
            InfrastructureError(
                f"the disk is full: {e.filename or e}",
                hint="free some space, or `harness cache prune --keep 5` (GB)",
            )
        )
