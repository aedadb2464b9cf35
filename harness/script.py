"""A scenario compiled to what the guest runs: one shell script and a fio job file per group.

The same files serve both clocks: /init runs the script by itself on the virtual one, SSH starts it on the real one.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

import jinja2

from harness import fio
from harness.errors import UserError
from harness.scenario import FIRST_UID, Scenario

SCRIPT = "/etc/harness/scenario"
JOBS = "/etc/harness/jobs"
RESULTS = "/results"
SHARE = "share1"
AS_UID = "chpst -u"

DEPTHS = (1, 2, 4, 8, 16, 32, 64)
SATURATION_SECONDS = 2

Role = Literal["series", "compat", "weights"]


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
    weight: int
    uid: int
    device: str
    lower: str
    delay: float
    fio: str


def device_of(scenario: Scenario, group: str, controlled: bool) -> str:
    """The dm device that a group's I/O goes to: one for all, or one each (partitions, uncontrolled baseline)."""
    return f"disk-{group}" if scenario.by == "partition" or not controlled else "disk"


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


def compile_scenario(
    scenario: Scenario, role: Role, seed: int, disk: str, weights: tuple[int, ...] = ()
) -> dict[str, bytes]:
    """Files of one run, path in the guest -> content.

    disk: the block device, e.g. ``/dev/sda``. weights: those of a ``weights`` control, in the groups' order.
    Raises UserError for a scenario that this disk cannot serve.
    """
    if scenario.by == "partition" and scenario.clock == "real":
        raise UserError(
            f"scenario {scenario.name}: partitions exist on the virtual clock's disk only",
            hint='say clock = "virtual"',
        )
    controlled = role != "compat"
    variation = vary(scenario, seed)
    views = {}
    files = {}
    for index, group in enumerate(scenario.group):
        device = device_of(scenario, group.name, controlled)
        path = f"{JOBS}/{group.name}.fio"
        views[group.name] = _GroupView(
            name=group.name,
            weight=weights[index] if weights else group.weight,
            uid=FIRST_UID + index,
            device=device,
            lower=f"{disk}{index + 1}" if scenario.by == "partition" else disk,
            delay=variation.delay[group.name],
            fio=f"fio --output-format=json --output={RESULTS}/fio-{group.name}.json {path}",
        )
        files[path] = _job(scenario, group.name, group.jobs, f"/dev/mapper/{device}", variation).encode()
    script = _template("scenario.sh.j2").render(
        s=scenario,
        role=role,
        seed=seed,
        disk=disk,
        share=SHARE,
        controlled=controlled,
        device="disk",
        groups=[views[name] for name in variation.order],
        steps=math.ceil((scenario.duration + sum(variation.delay.values())) / scenario.timing.step),
        as_uid=AS_UID,
    )
    files[SCRIPT] = script.encode()
    return files


def compile_saturation(scenario: Scenario, disk: str) -> dict[str, bytes]:
    """Files of the run that measures the scenario's disk by itself, at ``DEPTHS``, with the scenario's load."""
    files = {
        f"{JOBS}/depth-{depth}.fio": fio.render(
            [
                fio.Job(
                    name=f"depth-{depth}",
                    filename=disk,
                    rw=scenario.load.rw,
                    bs=scenario.load.bs,
                    iodepth=depth,
                    ioengine="libaio",
                    direct=True,
                    runtime=SATURATION_SECONDS,
                    ramp_time=1,  # a throttled disk starts with a burst credit of 0.1 s
                    randseed=depth,
                )
            ]
        ).encode()
        for depth in DEPTHS
    }
    script = _template("saturation.sh.j2").render(s=scenario, disk=disk, depths=DEPTHS, jobs=JOBS)
    return {**files, SCRIPT: script.encode()}


def _job(scenario: Scenario, group: str, jobs: int, filename: str, variation: Variation) -> str:
    return fio.render(
        [
            fio.Job(
                name=group,
                filename=filename,
                rw=scenario.load.rw,
                bs=scenario.load.bs,
                iodepth=scenario.load.depth,
                ioengine="libaio",
                direct=True,
                numjobs=jobs,
                runtime=math.ceil(scenario.duration),
                randseed=variation.randseed[group],
            )
        ]
    )
