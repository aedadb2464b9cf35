"""A scenario compiled to what the guest runs: one shell script and a fio job file per group.

The same files serve both clocks: /init runs the script by itself on the virtual one, SSH starts it on the real one.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import cache

import jinja2

from harness import fio, rival
from harness.controller import Controller
from harness.rival import Settings
from harness.scenario import FIRST_UID, Control, Group, Load, Scenario
from harness.source import KernelSpec

SCRIPT = "/etc/harness/scenario"
JOBS = "/etc/harness/jobs"
RESULTS = "/results"
AS_UID = "chpst -u"

# /proc/uptime counts in hundredths of a second; fio needs a moment between exec and its first I/O. fio itself
# waits in steps of 10 ms and starts its jobs within 0.3 s of guest time under TCG.
FIO_START = 0.5

Under = Control | Controller | None
"""What a scenario runs under: a control, a controller of the kernel's own, or (None) the series itself."""

DEPTHS = (1, 2, 4, 8, 16, 32, 64)
SATURATION_SECONDS = 2


@dataclass(frozen=True)
class Variation:
    """What a seed decides: the order of the groups' starts, the seconds before each, fio's random seeds."""

    order: tuple[str, ...]
    delay: dict[str, float]
    randseed: dict[str, int]


def vary(scenario: Scenario, seed: int) -> Variation:
    """The variation of a seed; the same on every host (Mersenne Twister, seeded with text)."""
    rng = random.Random(f"{scenario.name}/{seed}")  # noqa: S311 - a simulation input, not a secret
    names = [g.name for g in scenario.group]
    order = tuple(rng.sample(names, len(names)))
    return Variation(
        order=order,
        delay={name: round(rng.uniform(0.0, scenario.timing.step), 3) for name in names},
        randseed={name: rng.randrange(1, 2**31) for name in names},
    )


@dataclass(frozen=True)
class _GroupView:
    name: str
    parameter: str
    uid: int
    device: str
    delay: float
    fio: str


@dataclass(frozen=True)
class _DeviceView:
    """A dm device: the block device below, its ioband device's id, the default group's parameter, extra groups."""

    name: str
    lower: str
    share: str
    parameter: str
    groups: tuple[str, ...]


@dataclass(frozen=True)
class _PhaseView:
    """A phase: hundredths of seconds it takes, the shell commands that begin it, groups to stop and to continue."""

    name: str
    centiseconds: int
    commands: tuple[str, ...]
    stop: tuple[str, ...]
    go: tuple[str, ...]
    starts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class GuestDisk:
    """The machine's disk under one scenario. device: e.g. ``/dev/sda``. scheduler: by the kernel's name. settings: of
    the scheduler, by the file below ``iosched``.

    loop: it cannot be told to do one I/O at a time, so that a loop device in front has to.
    """

    device: str
    scheduler: str = "noop"
    loop: bool = False
    settings: tuple[tuple[str, int], ...] = ()

    @property
    def path(self) -> str:
        """What scenarios and the saturation run use."""
        return "/dev/loop0" if self.loop else self.device

    def partition(self, number: int) -> str:
        """The name of a partition, the first is 1."""
        return f"{self.device}{'p' if self.device[-1].isdigit() else ''}{number}"


def guest_disk(scenario: Scenario, kernel: KernelSpec) -> GuestDisk:
    """The disk of a scenario's machine with this kernel."""
    if scenario.clock == "real":
        device, loop = "/dev/vda", False
    else:
        device = kernel.virtual_disk.device
        loop = scenario.disk.one_at_a_time and "depth" not in kernel.virtual_disk.parameters
    names = kernel.schedulers
    if scenario.scheduler == "noop" and scenario.disk.nr_requests and names.queueing:
        return GuestDisk(device, names.queueing, loop, tuple(names.queueing_settings.items()))
    return GuestDisk(device, getattr(names, scenario.scheduler), loop)


def virtual_disk(scenario: Scenario, kernel: KernelSpec) -> dict[str, int]:
    """Parameters of the virtual clock's disk (`source.VirtualDisk`) of a scenario's machine with this kernel."""
    shape = scenario.disk.model_dump(include={"size_mb", "partitions", "delay_ms", "virtual_gb"})
    if scenario.disk.one_at_a_time and "depth" in kernel.virtual_disk.parameters:
        shape["depth"] = 1
    return shape


def device_of(scenario: Scenario, group: str, controlled: bool) -> str:
    """The dm device that a group's I/O goes to: one for all of a bandwidth domain, or one each (own partitions,
    uncontrolled baseline).
    """
    if scenario.by == "partition" or scenario.own_partition or not controlled:
        return f"disk-{group}"
    domains = set(scenario.parts.values())
    return f"disk-{scenario.parts[group]}" if len(domains) > 1 else "disk"


def fio_outputs(scenario: Scenario, group: str) -> list[str]:
    """Names in /results of what the fio processes of a group print: one, and one for each phase that adds jobs."""
    later = [i for i, phase in enumerate(scenario.phase) if group in phase.more]
    return [f"fio-{group}.json", *(f"fio-{group}-{i}.json" for i in later)]


def _place(scenario: Scenario, group: str, disk: GuestDisk) -> str:
    """The block device below a group's dm device: the whole disk, or the partition of its device."""
    names = [g.name for g in scenario.group]
    domains = list(dict.fromkeys(scenario.parts.values()))
    if scenario.by == "partition" or scenario.own_partition:
        return disk.partition(names.index(group) + 1)
    if len(domains) > 1:
        return disk.partition(domains.index(scenario.parts[group]) + 1)
    return disk.path


def _parameter(scenario: Scenario, weight: int, bandwidth: str) -> str:
    return bandwidth if scenario.ioband.policy == "range-bw" else str(weight)


def _devices(scenario: Scenario, controlled: bool, one_share: bool, disk: GuestDisk) -> list[_DeviceView]:
    found: dict[str, _DeviceView] = {}
    for group in scenario.group:
        name = device_of(scenario, group.name, controlled)
        members = (*found[name].groups, group.name) if name in found else (group.name,)
        own = scenario.by == "partition"
        found[name] = _DeviceView(
            name=name,
            lower=_place(scenario, group.name, disk),
            share=scenario.group[0].share if one_share else group.share,
            parameter=_parameter(scenario, group.weight if own else 100, group.bandwidth if own else "0:0"),
            groups=members,
        )
    return list(found.values())


@cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - the product is a shell script; every value is validated by the scenario's model
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def render(name: str, **values: object) -> str:
    """A shell script of templates/ with these values, which must be harmless in a shell."""
    return _template(name).render(**values)


def with_series(under: Under) -> bool:
    """Whether the kernel is the one with the series."""
    return under is None or (isinstance(under, Control) and under.kind != "compat")


def role_of(under: Under) -> str:
    """A word for it, for folders and tables."""
    return "series" if under is None else under.name


def compile_scenario(
    scenario: Scenario, under: Under, seed: int, disk: GuestDisk, *, closely: bool = False
) -> dict[str, bytes]:
    """Files of one run, path in the guest -> content.

    disk: as `guest_disk` has it. closely: besides I/Os count how long the CPU idled, and keep each I/O's latency.
    """
    controlled = with_series(under)
    control = under if isinstance(under, Control) else None
    settings: Settings | None = None
    if isinstance(under, Controller):
        settings = rival.settings(scenario, under)
        if under.scheduler:
            disk = replace(disk, scheduler=under.scheduler, settings=())
    one_share = control is not None and control.kind == "one-share"
    changed = control.applied(scenario) if control else scenario
    variation = vary(scenario, seed)
    # Phases end when the clock says so, the window without any when the first job does.
    runtime = scenario.duration + (sum(variation.delay.values()) if scenario.phase else 0)
    views = {}
    files = {}
    for index, group in enumerate(changed.group):
        device = device_of(scenario, group.name, controlled)
        path = f"{JOBS}/{group.name}.fio"
        views[group.name] = _GroupView(
            name=group.name,
            parameter=_parameter(changed, group.weight, group.bandwidth),
            uid=FIRST_UID + index,
            device=device,
            delay=variation.delay[group.name],
            fio=_fio(path, f"fio-{group.name}", closely),
        )
        files[path] = _job(
            scenario, group, f"/dev/mapper/{device}", variation.randseed[group.name], runtime, closely=closely
        )
        for i, phase in enumerate(scenario.phase):
            if group.name in phase.more:
                more = group.model_copy(update={"jobs": phase.more[group.name]})
                seconds = sum(p.seconds for p in scenario.phase[i:]) + scenario.timing.step
                files[f"{JOBS}/{group.name}-{i}.fio"] = _job(
                    scenario,
                    more,
                    f"/dev/mapper/{device}",
                    variation.randseed[group.name] + i + 1,
                    seconds,
                    closely=closely,
                )
    script = _template("scenario.sh.j2").render(
        s=changed,
        role=role_of(under),
        seed=seed,
        disk=disk,
        controlled=controlled,
        devices=_devices(changed, controlled, one_share, disk),
        groups=[views[name] for name in variation.order],
        phases=_phases(changed, views, under, closely),
        settings=settings,
        closely=closely,
        steps=math.ceil((scenario.duration + sum(variation.delay.values())) / scenario.timing.step),
        resting=scenario.phase[-1].idle if scenario.phase else (),
        fio_start=round(100 * FIO_START),
        ramp=round(100 * scenario.timing.ramp),
        as_uid=AS_UID,
    )
    files[SCRIPT] = script.encode()
    return files


def _fio(path: str, output: str, closely: bool) -> str:
    """closely: with how many I/Os took how long."""
    form = "json+" if closely else "json"
    return f"fio --output-format={form} --output={RESULTS}/{output}.json {path}"


def _phases(
    scenario: Scenario, views: dict[str, _GroupView], under: Under, closely: bool
) -> list[_PhaseView]:
    """What happens at the beginning of each phase."""
    found = []
    resting: tuple[str, ...] = ()
    for i, phase in enumerate(scenario.phase):
        commands = [
            command
            for name, weight in phase.weights.items()
            for command in _set_weight(scenario, views[name], weight, under)
        ]
        found.append(
            _PhaseView(
                name=phase.name,
                centiseconds=round(100 * phase.seconds),
                commands=tuple(commands),
                stop=tuple(g for g in phase.idle if g not in resting),
                go=tuple(g for g in resting if g not in phase.idle),
                starts=tuple(
                    (name, _fio(f"{JOBS}/{name}-{i}.fio", f"fio-{name}-{i}", closely)) for name in phase.more
                ),
            )
        )
        resting = phase.idle
    return found


def _set_weight(scenario: Scenario, group: _GroupView, weight: int, under: Under) -> list[str]:
    """What gives a group another weight; nothing where weights say nothing."""
    if isinstance(under, Controller):
        files = rival.settings(scenario, under, {group.name: weight}).groups[group.name]
        return [f'echo "{text}" > /cgroup/{group.name}/{file}' for file, text in files]
    if not with_series(under):
        return []
    match scenario.by:
        case "cgroup":
            file = "io.settings" if scenario.hierarchy == 2 else "blkio.settings"
            return [f'echo "{group.device} {weight}" > /cgroup/{group.name}/{file}']
        case "uid":
            return [f"dmsetup message {group.device} 0 weight {group.uid}:{weight}"]
        case "partition":
            return [f"dmsetup message {group.device} 0 weight {weight}"]


def compile_saturation(scenario: Scenario, load: Load, disk: GuestDisk) -> dict[str, bytes]:
    """Files of the run that measures the scenario's disk by itself, at ``DEPTHS``, with a load of it."""
    # What a loop device has read it has in memory: then each depth needs a part of the disk that is its own.
    part = 100 // len(DEPTHS) if disk.loop else None
    files = {
        f"{JOBS}/depth-{depth}.fio": fio.render(
            [
                fio.Job(
                    name=f"depth-{depth}",
                    filename=disk.path,
                    size=f"{part}%" if part else None,
                    offset=f"{part * index}%" if part else None,
                    rw=load.rw,
                    bs=load.bs,
                    iodepth=depth,
                    ioengine="libaio",
                    direct=True,
                    runtime=SATURATION_SECONDS,
                    ramp_time=1,  # a throttled disk starts with a burst credit of 0.1 s
                    randseed=depth,
                )
            ]
        ).encode()
        for index, depth in enumerate(DEPTHS)
    }
    script = _template("saturation.sh.j2").render(s=scenario, disk=disk, depths=DEPTHS, jobs=JOBS)
    return {**files, SCRIPT: script.encode()}


def _job(
    scenario: Scenario,
    group: Group,
    filename: str,
    randseed: int,
    seconds: float,
    *,
    closely: bool = False,
) -> bytes:
    """The job file of one fio process of a group. seconds: how long it runs.

    closely: latencies are counted from before an I/O is submitted, as some controllers make the submitter wait.
    """
    load = group.load(scenario.load)
    extra = {}
    first = 0
    if load.region is not None:
        extra["offset_increment"] = load.region
        first = _jobs_before(scenario, group.name)
    if load.buffered:
        # fio would otherwise throw the device's page cache away when a job starts, and other jobs' pages with it.
        extra["invalidate"] = "0"
    if closely:
        extra |= {"lat_percentiles": "1", "clat_percentiles": "0"}
    if any(phase.idle for phase in scenario.phase):
        # One process, which a signal stops as a whole; the processes of jobs are each in a session of their own.
        extra["thread"] = "1"
    return fio.render(
        [
            fio.Job(
                name=group.name,
                filename=filename,
                rw=load.rw,
                bs=load.bs,
                size=load.region,
                offset=_times(load.region, first) if load.region and first else None,
                iodepth=load.depth,
                ioengine="psync" if load.buffered else "libaio",
                direct=not load.buffered,
                numjobs=group.jobs,
                runtime=math.ceil(seconds),
                randseed=randseed,
                extra=extra,
            )
        ]
    ).encode()


def _jobs_before(scenario: Scenario, group: str) -> int:
    """How many jobs the groups before this one have at first on the same device, each with its region."""
    devices = {g.name: device_of(scenario, g.name, controlled=True) for g in scenario.group}
    before = scenario.group[: [g.name for g in scenario.group].index(group)]
    return sum(g.jobs for g in before if devices[g.name] == devices[group])


def _times(size: str, number: int) -> str:
    """``3m`` times 8 is ``24m``."""
    unit = size[-1] if size[-1].isalpha() else ""
    return f"{int(size.removesuffix(unit)) * number}{unit}"
