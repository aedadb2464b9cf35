"""What the ioband target costs an I/O, against dm-linear on the same disk.

An exact run: on the virtual clock the guest's time is its instruction count (QEMU -icount shift=3: 8 ns each), so
what an I/O takes is the same to the last digit on every host. Two disks inside the guest's memory answer at once:
scsi_debug, which has a request queue and a completion interrupt as real disks have, and for which the goals are;
and brd, which has neither: there the driver's part is as large as it can get.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from harness.errors import GuestError, MeasurementError
from harness.figure import Figure
from harness.guest import Guest
from harness.machine import BOOT_SECONDS, Machine
from harness.qemu import NS_PER_INSTRUCTION
from harness.record import MachineRecord, Recorder
from harness.script import RESULTS, SCRIPT, render
from harness.testbed import Testbed

COUNT = 10_000
"""I/Os of one measurement."""

GROUP_COUNTS = (1, 16, 256)
DEPTHS = (1, 16)
QUEUED, BARE = "sda", "ram0"

TICK_NS = 10_000_000
"""USER_HZ of /proc/stat is 100."""

LEAST_RATE, MOST_LATENCY, MOST_GROWTH = 97.0, 2.0, 2.0
"""Goals, in per cent: I/Os per second of dm-linear's; latency above its; time with many groups above that with one."""

PATIENCE = 600.0
"""Seconds of host time, on the reference host, that the run may take (usual: 40)."""


@dataclass(frozen=True)
class Case:
    """What was measured. target: ``linear`` or ``ioband``. groups: on the ioband device besides the default
    group. users: whose I/O it is in turn, each in a group of his own.
    """

    disk: str
    target: str
    groups: int
    depth: int
    users: int


@dataclass(frozen=True)
class Cost:
    """Nanoseconds of guest time per I/O; busy: those in which the CPU was not idle."""

    ns: float
    busy: float

    @property
    def instructions(self) -> float:
        """Instructions per I/O."""
        return self.busy / NS_PER_INSTRUCTION


def measure(bed: Testbed, recorder: Recorder) -> list[Figure]:
    """the driver against dm-linear"""
    return figures(parse(_run(bed, recorder)))


def parse(text: str) -> dict[Case, Cost]:
    """Read what the guest measured: disk, target, groups, depth, users, ns of all I/Os, idle ticks.

    Raises MeasurementError for any other text.
    """
    costs = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) != 7 or not all(word.isdecimal() for word in words[2:]):
            raise MeasurementError(f"a line of the driver's costs is not understood: {line!r}")
        groups, depth, users, took, idle = map(int, words[2:])
        case = Case(words[0], words[1], groups, depth, users)
        costs[case] = Cost(took / COUNT, max(took - idle * TICK_NS, 0) / COUNT)
    return costs


def figures(costs: dict[Case, Cost]) -> list[Figure]:
    """The figures, with the goals. Raises MeasurementError: a measurement is missing."""
    try:
        return [
            *_rates(costs),
            *_growth(costs),
            *_latencies(costs),
            *_instructions(costs),
        ]
    except KeyError as missing:
        raise MeasurementError(f"the driver's costs lack {missing.args[0]}") from None


ABOUT = "Speed of the driver"


def _how(case: Case) -> str:
    disk = "scsi_debug" if case.disk == QUEUED else "brd, no request queue"
    depth = f"{case.depth} I/O at a time" if case.depth == 1 else f"{case.depth} I/Os at a time"
    users = "one user" if case.users == 1 else f"{case.users} users in turn"
    return f"{COUNT} reads of 4 KiB, {disk}, {depth}, {users}"


def _pair(costs: dict[Case, Cost], case: Case) -> tuple[Cost, Cost]:
    """Of ioband, and of dm-linear under the same load."""
    linear = Case(case.disk, "linear", case.groups, case.depth, case.users)
    return costs[case], costs[linear]


def _rates(costs: dict[Case, Cost]) -> Iterable[Figure]:
    for disk in (QUEUED, BARE):
        for groups in GROUP_COUNTS:
            for users in sorted({1, groups}):
                case = Case(disk, "ioband", groups, max(DEPTHS), users)
                ioband, linear = _pair(costs, case)
                yield Figure(
                    about=ABOUT,
                    what=f"I/Os per second of dm-linear's, {_groups(case)}",
                    value=100 * linear.ns / ioband.ns,
                    unit="%",
                    goal=LEAST_RATE if disk == QUEUED else None,
                    least=True,
                    how=_how(case),
                )


def _growth(costs: dict[Case, Cost]) -> Iterable[Figure]:
    one = costs[Case(QUEUED, "ioband", 1, max(DEPTHS), 1)]
    for groups in GROUP_COUNTS[1:]:
        case = Case(QUEUED, "ioband", groups, max(DEPTHS), 1)
        yield Figure(
            about=ABOUT,
            what=f"time per I/O above that with 1 group, {groups} groups",
            value=100 * (costs[case].ns / one.ns - 1),
            unit="%",
            goal=MOST_GROWTH,
            how=_how(case),
        )


def _latencies(costs: dict[Case, Cost]) -> Iterable[Figure]:
    for disk in (QUEUED, BARE):
        case = Case(disk, "ioband", 1, 1, 1)
        ioband, linear = _pair(costs, case)
        yield Figure(
            about=ABOUT,
            what="latency at depth 1 above dm-linear's",
            value=100 * (ioband.ns / linear.ns - 1),
            unit="%",
            goal=MOST_LATENCY if disk == QUEUED else None,
            how=_how(case),
        )


def _instructions(costs: dict[Case, Cost]) -> Iterable[Figure]:
    for disk in (QUEUED, BARE):
        case = Case(disk, "ioband", 1, max(DEPTHS), 1)
        ioband, linear = _pair(costs, case)
        for what, value in (
            ("CPU per I/O, dm-linear", linear.instructions),
            ("CPU per I/O, ioband, above that", ioband.instructions - linear.instructions),
        ):
            yield Figure(about=ABOUT, what=what, value=value, unit="instructions", goal=None, how=_how(case))


def _groups(case: Case) -> str:
    count = "1 group" if case.groups == 1 else f"{case.groups} groups"
    return count if case.groups == 1 else f"{count}, {case.users} busy"


def _run(bed: Testbed, recorder: Recorder) -> str:
    """Boot, let the script run, fetch what it measured."""
    folder = recorder.folder / "driver"
    folder.mkdir()
    script = render(
        "drivercost.sh.j2",
        count=COUNT,
        disks=(QUEUED, BARE),
        queued=QUEUED,
        scheduler=bed.spec.schedulers.noop,
        group_counts=GROUP_COUNTS,
        depths=DEPTHS,
        results=RESULTS,
    ).encode()
    (folder / "scenario.sh").write_bytes(script)
    files = bed.segment({SCRIPT: script}, {"EXACT": "1", "HOLD_CLOCK": "1"})
    initrd = bed.image.with_segment(folder / "initrd", files)
    machine = Machine(bed.machine_spec(bed.build, initrd, clock="virtual"), folder)
    try:
        with machine:
            entry = MachineRecord(
                id="driver",
                role="speed of the driver",
                argv=list(machine.argv),
                accel=machine.accel,
                clock="virtual",
                started=datetime.now(UTC),
                build=bed.build.key,
                console=machine.console_log,
            )
            with recorder.change() as run:
                run.machines.append(entry)
            machine.wait_ready(BOOT_SECONDS + PATIENCE)
            with Guest.connect(machine, bed.keys) as guest:
                results = guest.get_tree(RESULTS)
    except GuestError as e:
        recorder.died("driver", e)
        raise
    finally:
        initrd.unlink(missing_ok=True)
    with recorder.change():
        entry.wall_seconds = time.monotonic() - machine.started
        entry.exit = machine.exit_code
    for name, data in results.items():
        (folder / name).write_bytes(data)
    if results.get("status", b"").strip() != b"0":
        said = results.get("script.log", b"").decode(errors="replace").strip()[-600:]
        raise MeasurementError(
            f"the driver's costs were not measured: {said or 'the script printed nothing'}",
            log=folder / "script.log",
        )
    return results["drivercost"].decode()
