"""A scenario under a controller that the kernel itself brings, in place of the series: whether it suits, and what the
guest writes to which files. The scenario's file, its disk, its load and its seeds stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.controller import Controller, filled
from harness.scenario import Group, Scenario

SHELL_DEVICE = "$device"
"""In the guest's script: MAJOR:MINOR of the disk."""

ABOVE_ALONE = 1.15
"""A latency that is promised, over what the group has by itself. Documentation/admin-guide/cgroup-v2.rst: "setting at
10-15% higher than the value in io.stat" during normal operation.
"""

LATE = 1.25
"""Over what an I/O of the disk takes: where one has had to wait."""


@dataclass(frozen=True)
class Settings:
    """(file, text) in the order in which they are written. queue: below the disk's folder of that name in sysfs. root:
    below the root cgroup. groups: by group, below its own cgroup.
    """

    queue: tuple[tuple[str, str], ...]
    root: tuple[tuple[str, str], ...]
    groups: dict[str, tuple[tuple[str, str], ...]]


def unsuited(scenario: Scenario, controller: Controller) -> str | None:
    """Why the controller cannot be asked for what the scenario wants; None: it can."""
    by_promise = {"weights": _unsuited_weights, "maxima": _unsuited_maxima, "latency": _unsuited_latency}
    return _unsuited_load(scenario) or by_promise[controller.promises](scenario, controller)


def settings(
    scenario: Scenario, controller: Controller, weights: Mapping[str, int] | None = None
) -> Settings:
    """What is written where. weights: of groups that have another one than at first."""
    disk = {
        "device": SHELL_DEVICE,
        "iops": scenario.disk.most_iops,
        "late_us": round(1000 * LATE * scenario.disk.delay_ms),
    }
    guarded = protected(scenario).name if controller.promises == "latency" else None
    divisor = _divisor(scenario, controller)
    groups = {}
    for group in scenario.group:
        most = _maximum(scenario, group)
        fields = {
            **disk,
            "weight": (weights or {}).get(group.name, group.weight) // divisor,
            "rbps": most,
            "wbps": most,
            "target_us": round(1e6 * target_seconds(scenario)),
        }
        files = {**controller.group, **(controller.protected if group.name == guarded else {})}
        groups[group.name] = filled(files, fields)
    return Settings(queue=filled(controller.queue, disk), root=filled(controller.root, disk), groups=groups)


def protected(scenario: Scenario) -> Group:
    """The group that a latency is promised to: the one of the greatest weight."""
    return max(scenario.group, key=lambda g: g.weight)


def target_seconds(scenario: Scenario) -> float:
    """The latency that is promised: somewhat more than a group has by itself. A process that submits I/Os has those of
    them in the kernel that the disk serves, and one more, which waits for its turn; the others wait in the process.
    """
    return ABOVE_ALONE * _latency(scenario, waiting=1)


def _latency(scenario: Scenario, waiting: int) -> float:
    """Seconds that an I/O takes in the kernel while so many wait for their turn."""
    return scenario.disk.delay_ms / 1000 + waiting / scenario.disk.most_iops


def _weights(scenario: Scenario) -> list[int]:
    """All that groups ever have."""
    return [g.weight for g in scenario.group] + [w for p in scenario.phase for w in p.weights.values()]


def _divisor(scenario: Scenario, controller: Controller) -> int:
    """Weights that are too great for a controller are told in their least terms: it is their ratios that count."""
    weights = _weights(scenario)
    return math.gcd(*weights) if max(weights) > controller.weights[1] else 1


def _maximum(scenario: Scenario, group: Group) -> str:
    """Bytes per second of reads, and of writes. They are limited each by themselves: of a load that is half of each,
    half of its maximum is each direction's.
    """
    most = int(group.bandwidth.partition(":")[2])
    if scenario.ioband.policy != "range-bw" or most == 0:
        return "max"
    mixed = group.load(scenario.load).rw == "randrw"
    return str(1024 * most // (2 if mixed else 1))


def _unsuited_load(scenario: Scenario) -> str | None:
    """Whatever the controller."""
    if scenario.by != "cgroup":
        return f"its groups are told apart by {scenario.by}, and by cgroup here"
    if scenario.clock != "virtual":
        return "controllers are compared on the virtual clock"
    if scenario.load.buffered and not scenario.own_partition:
        return "it is about delayed writes to one device, and without the series each group has its own"
    if len(set(scenario.parts.values())) > 1:
        return "it has several bandwidth domains on one disk"
    return None


def _unsuited_weights(scenario: Scenario, controller: Controller) -> str | None:
    if scenario.ioband.policy == "range-bw":
        return "it has weights, and the scenario bounds of bandwidth"
    least, greatest = controller.weights
    wanted = [weight // _divisor(scenario, controller) for weight in _weights(scenario)]
    if min(wanted) < least or max(wanted) > greatest:
        return f"its weights are {least} to {greatest}"
    unlike = len({load.bs for load in scenario.loads}) > 1
    divided = "sectors" if scenario.ioband.policy == "weight-iosize" else "ios"
    if unlike and divided != controller.divides:
        words = {"ios": "I/Os", "sectors": "sectors"}
        return f"it divides {words[controller.divides]}, and the scenario {words[divided]} of unlike size"
    return None


def _unsuited_maxima(scenario: Scenario, controller: Controller) -> str | None:
    if scenario.ioband.policy != "range-bw":
        return "it has maxima, and the scenario weights"
    if any(int(g.bandwidth.partition(":")[0]) for g in scenario.group):
        return "it has maxima, and no minimum"
    return None


def _unsuited_latency(scenario: Scenario, controller: Controller) -> str | None:
    weights = [g.weight for g in scenario.group]
    if scenario.ioband.policy == "range-bw" or weights.count(max(weights)) != 1:
        return "it protects one group's latency, and no group comes before all others"
    if scenario.phase:
        return "it promises a latency over the whole run, which has phases"
    if _latency(scenario, sum(g.jobs for g in scenario.group)) <= target_seconds(scenario):
        return "the latency that it would promise is kept without it: what waits for the disk waits in fio"
    return None
