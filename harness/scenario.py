"""A bandwidth scenario: who does what I/O in which group, and what should come out. Data, read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness import shares
from harness.contract import RowId
from harness.errors import UserError
from harness.figures import Figure

Clock = Literal["real", "virtual"]
By = Literal["cgroup", "uid", "partition"]
Policy = Literal["weight", "weight-iosize", "range-bw"]
Pattern = Literal["randread", "randwrite", "randrw", "read", "write"]
Weight = Annotated[int, Field(ge=1, le=32767)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,15}$")]
Size = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}[km]?$")]
Depth = Literal[1, 2, 4, 8, 16, 32, 64]
Jobs = Annotated[int, Field(ge=1, le=256)]
Percent = Annotated[float, Field(ge=0, le=100)]

FIRST_UID = 1001  # uids 1000-1010 exist in the guest; 1000 is left to the reader who tries things by hand


AT_A_TIME = 16
"""I/Os that the virtual clock's disk serves at a time, where a scenario does not say one."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Load(_Strict):
    """What each fio job does. bs, region: in fio's syntax. depth: I/Os in flight of one job (libaio, O_DIRECT).

    buffered: through the page cache instead, synchronously, without fsync: the kernel writes when it sees fit.
    region: every job keeps to a part of the device of this size, one after another; else all use all of it.
    """

    rw: Pattern = "randrw"
    bs: Size = "4k"
    depth: Depth = 32
    buffered: bool = False
    region: Size | None = None

    @model_validator(mode="after")
    def _buffered_writes(self) -> Self:
        if self.buffered and (
            self.rw not in ("write", "randwrite") or self.region is None or self.depth != 1
        ):
            raise ValueError("a buffered load writes, with depth = 1 and a region for each job")
        return self


class Group(_Strict):
    """One consumer: its parameter, and how many jobs of which load it runs at once.

    weight: of the weight policies. bandwidth: of policy range-bw, ``MIN:MAX`` in KB/s. share: the name of the ioband
    device that it belongs to; another one is another bandwidth domain. rw, bs, depth: where they differ from the
    scenario's load. published: the share in per cent that was published for it.
    """

    name: Name
    weight: Weight = 100
    bandwidth: Annotated[str, Field(pattern=r"^[0-9]{1,9}:[0-9]{1,9}$")] = "0:0"
    jobs: Jobs = 1
    share: Name = "share1"
    rw: Pattern | None = None
    bs: Size | None = None
    depth: Depth | None = None
    published: Percent | None = None

    def load(self, common: Load) -> Load:
        """The scenario's load with this group's differences."""
        own = {key: value for key in ("rw", "bs", "depth") if (value := getattr(self, key)) is not None}
        return Load.model_validate({**common.model_dump(), **own})


class Ioband(_Strict):
    """The dm-ioband device's parameters; 0 is the driver's default."""

    io_throttle: Annotated[int, Field(ge=0, le=32767)] = 0
    io_limit: Annotated[int, Field(ge=0, le=32767)] = 0
    carryover: Annotated[int, Field(ge=0)] = 0
    policy: Policy = "weight"


class Disk(_Strict):
    """size_mb: of either clock's disk. iops: to what QEMU throttles the real clock's, a virtio disk.

    The rest is for the virtual clock's disk, which serves 16 I/Os at a time. delay_ms: how long each takes. partitions:
    equal ones. merges: whether the block layer may make one request of several I/Os. nr_requests: of its queue, 0 for
    the kernel's default. one_at_a_time: it serves one I/O after the other, where need be by the thread of a loop device
    in front; for reads. virtual_gb: how large it says it is, in GiB, if not size_mb: the same data again and again. A
    loop device keeps what it has read, so that its disk must be larger than memory.
    """

    size_mb: Annotated[int, Field(ge=16, le=512)] = 64
    iops: Annotated[int, Field(ge=100, le=2000)] = 1000
    delay_ms: Annotated[int, Field(ge=1, le=1000)] = 8
    partitions: Annotated[int, Field(ge=2, le=4)] = 2
    merges: bool = True
    nr_requests: Annotated[int, Field(ge=0, le=8192)] = 0
    one_at_a_time: bool = False
    virtual_gb: Annotated[int, Field(ge=0, le=64)] = 0

    @property
    def most_iops(self) -> int:
        """I/Os per second that the virtual clock's disk gives at most, by what it is made of."""
        return round(1000 * (1 if self.one_at_a_time else AT_A_TIME) / self.delay_ms)


class Dirty(_Strict):
    """How much written data may wait in memory, in KiB, before the kernel writes it, and before writers must help.

    Without this table the kernel's defaults hold, and it would not write within a run of seconds.
    """

    background_kb: Annotated[int, Field(ge=64)]
    limit_kb: Annotated[int, Field(ge=128)]


class Timing(_Strict):
    """Seconds of guest time. Counters are read every ``step``; ``ramp`` after the last group's start does not count."""

    ramp: Annotated[float, Field(ge=0.5)] = 1.0
    window: Annotated[float, Field(ge=1.0)] = 4.0
    step: Annotated[float, Field(ge=0.05)] = 0.5


class Phase(_Strict):
    """A part of the run, one after another; without any, the run is one phase, ``timing.window`` long.

    weights: of the groups whose weight changes when it begins. idle: groups that rest in it. more: so many further jobs
    of a group from here on. judged: whether its shares are; else they are only reported. reaches: of an expected
    failure, a phase whose target is reached all the same. settle: seconds at its beginning that its shares leave out.
    published: by group, the share in per cent that was published.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9 :-]{0,30}$")]
    seconds: Annotated[float, Field(ge=1.0)]
    weights: dict[Name, Weight] = {}
    idle: tuple[Name, ...] = ()
    more: dict[Name, Jobs] = {}
    judged: bool = True
    reaches: bool = False
    settle: Annotated[float, Field(ge=0)] = 0.0
    published: dict[Name, Percent] = {}


class Control(_Strict):
    """A control: the same load where the scenario's targets must *not* come out; with ``reaches``, where they must.

    Of an expected failure: where it must not come out as documented; with ``reaches``, where all targets must.

    compat: the kernel without the series, each group on a dm-linear of its own. weights: the series, but with these
    weights. ioband: the series, but with these parameters of the ioband device. one-share: the series, but all groups
    in one bandwidth domain.
    """

    kind: Literal["compat", "weights", "ioband", "one-share"]
    weights: tuple[Weight, ...] = ()
    ioband: Ioband | None = None
    reaches: bool = False

    @model_validator(mode="after")
    def _parameters_go_with_their_kind(self) -> Self:
        if (self.kind == "weights") != bool(self.weights):
            raise ValueError('weights = [...] goes with kind = "weights", and only with it')
        if (self.kind == "ioband") != bool(self.ioband and self.ioband.model_fields_set):
            raise ValueError('a table ioband goes with kind = "ioband", and only with it')
        return self

    @property
    def changes(self) -> dict[str, int | str]:
        """What it changes of the ioband device."""
        return (
            {key: getattr(self.ioband, key) for key in sorted(self.ioband.model_fields_set)}
            if self.ioband
            else {}
        )

    @property
    def name(self) -> str:
        """``compat``, ``weights-50-50`` or ``io_throttle-1``."""
        if self.kind == "ioband":
            return "-".join(f"{key}-{value}" for key, value in self.changes.items())
        return "-".join([self.kind, *map(str, self.weights)])

    def applied(self, scenario: Scenario) -> Scenario:
        """The scenario with this control's parameters."""
        if self.kind == "weights":
            pairs = zip(scenario.group, self.weights, strict=True)
            groups = tuple(g.model_copy(update={"weight": weight}) for g, weight in pairs)
            return scenario.model_copy(update={"group": groups})
        if self.kind == "ioband":
            return scenario.model_copy(update={"ioband": scenario.ioband.model_copy(update=self.changes)})
        return scenario


class Scenario(_Strict):
    """One scenario file. ``tolerance`` is half the width, as a share (0.03 = 3 points), of what counts as on target.

    core: it belongs to the selection that `make boot-test` judges. compared: to the one in which `harness compare` puts
    the series beside the kernel's own controllers. needs: what not every kernel has (`lacks` in kernel.toml). contract:
    the rows of the conformance contract that its verdict answers. hierarchy: the version of control groups in which the
    series gets its groups; in version 2 memory is controlled as well, as the kernel writes delayed pages by cgroup only
    then. metric: what shares are shares of. own_partition: each group has an ioband device of its own, on a partition
    of its own. saturates: whether the groups together must fill the disk, without which shares say nothing.
    expected_failure: why the targets are *not* reached, as documented; a judged phase that reaches its target is then a
    failure, unless it says that it ``reaches``. Missing a target is easy, for a driver that does nothing as well: a
    phase that reaches, or a figure with bounds, must tell the documented limit from that; or, where nothing can in this
    set-up, the scenario named as ``beside``, in which the same load reaches its target. published: where published
    shares are from, and how that set-up differed.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: str
    core: bool = False
    compared: bool = False
    needs: tuple[str, ...] = ()
    contract: tuple[RowId, ...] = ()
    expected_failure: str | None = None
    beside: str | None = None
    published: str | None = None
    clock: Clock = "virtual"
    by: By = "cgroup"
    hierarchy: Literal[1, 2] = 1
    own_partition: bool = False
    memory_mb: Annotated[int, Field(ge=192, le=1024)] = 256
    scheduler: Literal["noop", "deadline", "cfq"] = "noop"
    metric: Literal["ios", "sectors"] = "ios"
    tolerance: Annotated[float, Field(gt=0, lt=0.5)] = 0.03
    saturates: bool = True
    load: Load = Load()
    ioband: Ioband = Ioband()
    disk: Disk = Disk()
    dirty: Dirty | None = None
    timing: Timing = Timing()
    group: Annotated[tuple[Group, ...], Field(min_length=2)]
    phase: tuple[Phase, ...] = ()
    figure: tuple[Figure, ...] = ()
    control: Annotated[tuple[Control, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for mistake in _mistakes(self):
            raise ValueError(mistake)
        return self

    @property
    def targets(self) -> dict[str, float]:
        """The share each group should get in the first judged phase, 0..1, of the bandwidth domain it is in."""
        judged = next((p for p in self.phase if p.judged), None)
        if self.phase and judged is None:
            return {}
        return self.targets_in(judged)

    def targets_in(self, phase: Phase | None) -> dict[str, float]:
        """The share of each group that does not rest in a phase, 0..1, in proportion to the weights then in force."""
        weights = self.weights_in(phase)
        found: dict[str, float] = {}
        for share in dict.fromkeys(g.share for g in self.group):
            busy = {
                g.name: weights[g.name]
                for g in self.group
                if g.share == share and not (phase and g.name in phase.idle)
            }
            found |= shares.targets(busy) if busy else {}
        return found

    def weights_in(self, phase: Phase | None) -> dict[str, int]:
        """Weight by group in a phase: the last that was set up to then."""
        weights = {g.name: g.weight for g in self.group}
        for earlier in self.phase:
            if phase is None:
                break
            weights |= earlier.weights
            if earlier == phase:
                break
        return weights

    @property
    def missed(self) -> tuple[Phase, ...]:
        """The phases whose targets are documented to be out of reach."""
        return tuple(p for p in self.phase if self.expected_failure and p.judged and not p.reaches)

    @property
    def loads(self) -> list[Load]:
        """What the groups do, each kind once."""
        return list(dict.fromkeys(g.load(self.load) for g in self.group))

    @property
    def places(self) -> int:
        """How many parts of the disk it uses, each a partition if there are several."""
        return (
            len(self.group) if self.by == "partition" or self.own_partition else len(set(self.parts.values()))
        )

    @property
    def parts(self) -> dict[str, str]:
        """The bandwidth domain of each group."""
        return {g.name: g.share for g in self.group}

    @property
    def duration(self) -> float:
        """Seconds of guest time each fio job runs: ramp, window, and a step at either end for the unlike starts."""
        window = sum(p.seconds for p in self.phase) or self.timing.window
        return self.timing.ramp + window + 2 * max(self.timing.step, 0.5)


def _mistakes(s: Scenario) -> Iterator[str]:
    """What is wrong with a scenario whose parts are each right."""
    yield from _mistakes_of_groups(s)
    yield from _mistakes_of_controls(s)
    yield from _mistakes_of_phases(s)
    yield from _mistakes_of_loads(s)
    yield from _mistakes_of_expected_failures(s)


def _mistakes_of_groups(s: Scenario) -> Iterator[str]:
    if s.hierarchy == 2 and (s.by != "cgroup" or "cgroup2" not in s.needs):
        yield 'hierarchy = 2 goes with by = "cgroup" and needs = ["cgroup2"]'
    names = [g.name for g in s.group]
    if len(set(names)) != len(names):
        yield f"group names must differ: {', '.join(names)}"
    places = s.places
    if places > 1 and places > s.disk.partitions:
        yield f"{places} partitions are needed: say so as disk.partitions"
    if places > 1 and s.disk.one_at_a_time:
        yield "a disk that does one I/O at a time has no partitions"
    if s.published is None and any(
        [g.published is not None for g in s.group] + [bool(p.published) for p in s.phase]
    ):
        yield 'published = "..." must say where the published shares are from'


def _mistakes_of_controls(s: Scenario) -> Iterator[str]:
    for control in s.control:
        if control.weights and len(control.weights) != len(s.group):
            yield f"control {control.name}: {len(s.group)} groups need as many weights"
    kinds = [c.name for c in s.control]
    if len(set(kinds)) != len(kinds):
        yield "two controls are the same"
    if "compat" not in kinds:
        yield 'a control of kind = "compat" is needed: it also measures the total without control'


def _mistakes_of_phases(s: Scenario) -> Iterator[str]:
    names = {g.name for g in s.group}
    phases = [p.name for p in s.phase]
    if len(set(phases)) != len(phases):
        yield f"phase names must differ: {', '.join(phases)}"
    for phase in s.phase:
        unknown = {*phase.weights, *phase.idle, *phase.more, *phase.published} - names
        if unknown:
            yield f"phase {phase.name}: no group {', '.join(sorted(unknown))}"
    for figure in s.figure:
        if not {figure.phase, figure.since or figure.phase} <= set(phases):
            yield f"figure {figure.label}: no such phase"
        if not set(figure.groups) <= names:
            yield f"figure {figure.label}: no such group"
    if s.timing.step * 4 > min([s.timing.window, *(p.seconds - p.settle for p in s.phase)]):
        yield "timing: a window must be at least four steps long"
    if not s.figure and not s.targets:
        yield "nothing is judged: no phase, and no figure"


def _mistakes_of_loads(s: Scenario) -> Iterator[str]:
    if s.disk.one_at_a_time and any(load.rw not in ("read", "randread") for load in s.loads):
        yield "a disk that does one I/O at a time is for reads"
    if s.disk.one_at_a_time and not s.disk.virtual_gb:
        yield "a disk that does one I/O at a time must be larger than memory: say disk.virtual_gb"
    if s.load.buffered != (s.dirty is not None):
        yield "a buffered load goes with a table dirty, and only it"
    if s.clock == "real" and (s.phase or s.load.buffered or s.places > 1):
        yield 'phases, partitions and buffered loads exist on the virtual clock only: say clock = "virtual"'


def _mistakes_of_expected_failures(s: Scenario) -> Iterator[str]:
    reaching = [p for p in s.phase if p.reaches]
    for phase in reaching:
        if not phase.judged or s.expected_failure is None:
            yield f"phase {phase.name}: reaches = true is for judged phases of an expected failure"
    if s.expected_failure is None:
        if s.beside is not None:
            yield "beside = ... goes with expected_failure"
        return
    if s.phase and not s.missed:
        yield "expected_failure: no phase misses its target"
    if not reaching and not any(f.why for f in s.figure) and s.beside is None:
        yield (
            "expected_failure: doing nothing would pass: no phase reaches, no figure has bounds, none is beside it"
        )


def load(path: Path) -> Scenario:
    """Read one scenario file; its name is the file's. Raises UserError that names the file and each wrong key."""
    try:
        content = tomllib.loads(path.read_text())
        if "name" in content:
            raise UserError(f"{path}: name: a scenario's name is that of its file", hint="leave it out")
        return Scenario.model_validate({"name": path.stem, **content})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not valid TOML: {e}", hint="correct the file") from e
    except OSError as e:
        raise UserError(
            f"{path}: cannot be read: {e.strerror}", hint="name a scenario file that exists"
        ) from e
    except ValidationError as e:
        wrong = "; ".join(f"{'.'.join(map(str, x['loc'])) or 'file'}: {x['msg']}" for x in e.errors())
        raise UserError(
            f"{path}: {wrong}", hint="correct the file; other scenarios beside it are examples"
        ) from e


def load_all(folder: Path) -> list[Scenario]:
    """Every ``*.toml`` of a folder, by name. Raises UserError when there is none, or one names another that is not."""
    found = [load(p) for p in sorted(folder.glob("*.toml"))]
    if not found:
        raise UserError(f"no scenario in {folder}", hint="add one (*.toml), or name another folder")
    reaching = {s.name for s in found if s.expected_failure is None}
    for s in found:
        if s.beside is not None and s.beside not in reaching:
            raise UserError(
                f"{s.name}: beside: no scenario {s.beside} that reaches its target", hint="name one that does"
            )
    return found
