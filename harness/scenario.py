"""A bandwidth scenario: who does what I/O in which group, and what share each should get. Data, read from TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness import shares
from harness.contract import RowId
from harness.errors import UserError

Clock = Literal["real", "virtual"]
By = Literal["cgroup", "uid", "partition"]
Weight = Annotated[int, Field(ge=1, le=32767)]

FIRST_UID = 1001  # uids 1000-1010 exist in the guest; 1000 is left to the reader who tries things by hand


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Load(_Strict):
    """What each fio job does. bs is fio's syntax; depth is I/Os in flight of one job; libaio, O_DIRECT."""

    rw: Literal["randread", "randwrite", "randrw", "read", "write"] = "randrw"
    bs: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}[km]?$")] = "4k"
    depth: Literal[1, 2, 4, 8, 16, 32, 64] = 32


class Group(_Strict):
    """One consumer: its weight, and how many jobs of the scenario's load it runs at once."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,15}$")]
    weight: Weight
    jobs: Annotated[int, Field(ge=1, le=256)] = 1


class Ioband(_Strict):
    """The dm-ioband device's parameters; 0 is the driver's default."""

    io_throttle: Annotated[int, Field(ge=0, le=32767)] = 0
    io_limit: Annotated[int, Field(ge=0, le=32767)] = 0
    policy: Literal["weight"] = "weight"


class Disk(_Strict):
    """The real clock's disk: virtio, throttled by QEMU. The virtual clock's disk is in the kernel's manifest."""

    size_mb: Annotated[int, Field(ge=16)] = 64
    iops: Annotated[int, Field(ge=100, le=2000)] = 1000


class Timing(_Strict):
    """Seconds of guest time. Counters are read every ``step``; ``ramp`` after the last group's start does not count."""

    ramp: Annotated[float, Field(ge=0.5)] = 1.0
    window: Annotated[float, Field(ge=1.0)] = 4.0
    step: Annotated[float, Field(ge=0.05)] = 0.5


class Control(_Strict):
    """A negative control: the same load where the shares must *not* come out as the scenario's target.

    compat: the kernel without the series, each group on a dm-linear of its own. weights: the series, but with
    these weights.
    """

    kind: Literal["compat", "weights"]
    weights: tuple[Weight, ...] = ()

    @model_validator(mode="after")
    def _weights_go_with_their_kind(self) -> Self:
        if (self.kind == "weights") != bool(self.weights):
            raise ValueError('weights = [...] goes with kind = "weights", and only with it')
        return self

    @property
    def name(self) -> str:
        """``compat`` or ``weights-50-50``."""
        return "-".join([self.kind, *map(str, self.weights)])


class Scenario(_Strict):
    """One scenario file. ``tolerance`` is half the width, as a share (0.03 = 3 points), of what counts as on target.

    contract: the rows of the conformance contract that its verdict answers.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: str
    contract: tuple[RowId, ...] = ()
    clock: Clock = "virtual"
    by: By = "cgroup"
    scheduler: Literal["noop", "deadline", "cfq"] = "noop"
    tolerance: Annotated[float, Field(gt=0, lt=0.5)] = 0.03
    load: Load = Load()
    ioband: Ioband = Ioband()
    disk: Disk = Disk()
    timing: Timing = Timing()
    group: Annotated[tuple[Group, ...], Field(min_length=2)]
    control: Annotated[tuple[Control, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [g.name for g in self.group]
        if len(set(names)) != len(names):
            raise ValueError(f"group names must differ: {', '.join(names)}")
        if self.by == "partition" and len(self.group) != 2:
            raise ValueError('by = "partition" takes two groups: the disk has two partitions')
        for control in self.control:
            if control.weights and len(control.weights) != len(self.group):
                raise ValueError(f"control {control.name}: {len(self.group)} groups need as many weights")
        if self.timing.step * 4 > self.timing.window:
            raise ValueError("timing: a window must be at least four steps long")
        kinds = [c.name for c in self.control]
        if len(set(kinds)) != len(kinds):
            raise ValueError("two controls are the same")
        if "compat" not in kinds:
            raise ValueError(
                'a control of kind = "compat" is needed: it also measures the total without control'
            )
        return self

    @property
    def targets(self) -> dict[str, float]:
        """The share each group should get, 0..1, in proportion to its weight."""
        return shares.targets({g.name: g.weight for g in self.group})

    @property
    def duration(self) -> float:
        """Seconds of guest time each fio job runs: ramp, window, and a step at either end for the unlike starts."""
        return self.timing.ramp + self.timing.window + 2 * max(self.timing.step, 0.5)


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
    """Every ``*.toml`` of a folder, by name. Raises UserError when there is none."""
    found = [load(p) for p in sorted(folder.glob("*.toml"))]
    if not found:
        raise UserError(f"no scenario in {folder}", hint="add one (*.toml), or name another folder")
    return found
