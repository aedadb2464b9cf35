"""Device-mapper devices through dmsetup: the ioband target, and linear for comparison.

Table, status and message formats of the ioband target are those of the dm-ioband series (version 1.12).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from harness.errors import MeasurementError
from harness.guest import Guest

DEFAULT_GROUP = -1
"""The id under which a target's default group is counted in its status."""

# Parameter of a default group that was given none.
_DEFAULT_PARAMETER = {"range-bw": "0:0"}
_DEFAULT_WEIGHT = "100"


@dataclass(frozen=True)
class TableLine:
    """One line of an ioband table: ``START LEN ioband DEV ID IO_THROTTLE IO_LIMIT TYPE POLICY ...``.

    device: path or MAJ:MIN. share: the ioband device's id. start, length: sectors of 512 bytes.
    io_throttle, io_limit, token_base: 0 asks for the driver's default. default: the default group's
    parameter (a weight, or MIN:MAX in KB/s). groups: parameter by group id.
    """

    length: int
    device: str
    share: str
    io_throttle: int = 0
    io_limit: int = 0
    type: str = "none"
    policy: str = "weight"
    token_base: int | None = None
    default: str | None = None
    groups: Mapping[int, str] = field(default_factory=dict)
    start: int = 0

    def render(self) -> str:
        """The line. What must precede a parameter (a token base, a default) is filled in."""
        words = [str(self.start), str(self.length), "ioband", self.device, self.share]
        words += [str(self.io_throttle), str(self.io_limit), self.type, self.policy]
        default = self.default
        if default is None and self.groups:
            default = _DEFAULT_PARAMETER.get(self.policy, _DEFAULT_WEIGHT)
        if self.token_base is not None or default is not None:
            words.append(str(self.token_base or 0))
        if default is not None:
            words.append(f":{default}")
        words += [f"{group}:{parameter}" for group, parameter in sorted(self.groups.items())]
        return " ".join(words)


@dataclass(frozen=True)
class GroupCounters:
    """What one group did since the last reset, counted when a bio is let through; sectors of 512 bytes.

    reads, writes: all bios; reads_deferred, writes_deferred: those of them that had to wait.
    """

    reads: int
    reads_deferred: int
    read_sectors: int
    writes: int
    writes_deferred: int
    write_sectors: int


@dataclass(frozen=True)
class IobandStatus:
    """Status of one ioband target. groups: counters by group id, the default group's id is -1."""

    share: str
    groups: dict[int, GroupCounters]


def _target(text: str, what: str) -> tuple[int, int, list[str]]:
    """START, LEN and the rest of one line for an ioband target, with or without dmsetup's ``NAME: ``."""
    lines = text.strip().splitlines()
    found = (
        re.fullmatch(r"(?:\S+: )?(\d+) (\d+) ioband ?(.*)", lines[0].rstrip()) if len(lines) == 1 else None
    )
    if found is None:
        raise MeasurementError(f"not the {what} of one ioband target: {text!r}")
    return int(found[1]), int(found[2]), found[3].split(" ")


def parse_status(text: str) -> IobandStatus:
    """Read ``dmsetup status`` of one device: ID, then for each group its id and six counters.

    Raises MeasurementError for any other text.
    """
    _, _, words = _target(text, "status")
    share, numbers = words[0], words[1:]
    if not share or len(numbers) % 7 or not numbers or not all(re.fullmatch(r"-?\d+", n) for n in numbers):
        raise MeasurementError(f"the status of an ioband target is not understood: {text!r}")
    values = [int(n) for n in numbers]
    groups = {values[i]: GroupCounters(*values[i + 1 : i + 7]) for i in range(0, len(values), 7)}
    if DEFAULT_GROUP not in groups or len(groups) * 7 != len(values) or min(groups) < DEFAULT_GROUP:
        raise MeasurementError(f"the status of an ioband target has odd group ids: {text!r}")
    if any(n < 0 for i, n in enumerate(values) if i % 7):
        raise MeasurementError(f"the status of an ioband target has a negative counter: {text!r}")
    return IobandStatus(share, groups)


_PARAMETER = re.compile(r"(?P<id>\d*):(?P<value>\d+(?::\d+)?)")


def parse_table(text: str) -> TableLine:
    """Read ``dmsetup table`` of one device, with all defaults filled in by the driver; the device as MAJ:MIN.

    Raises MeasurementError for any other text.
    """
    start, length, words = _target(text, "table")
    parameters = [_PARAMETER.fullmatch(word) for word in words[7:]]
    numbers = [words[i] for i in (2, 3, 6) if i < len(words)]
    if len(words) < 8 or None in parameters or not all(n.isdecimal() for n in numbers):
        raise MeasurementError(f"the table of an ioband target is not understood: {text!r}")
    values = [(p["id"], p["value"]) for p in parameters if p]
    defaults, groups = values[:1], {int(group): value for group, value in values[1:] if group}
    if defaults[0][0] or len(groups) != len(values) - 1:
        raise MeasurementError(f"the table of an ioband target has odd groups: {text!r}")
    return TableLine(
        start=start,
        length=length,
        device=words[0],
        share=words[1],
        io_throttle=int(words[2]),
        io_limit=int(words[3]),
        type=words[4],
        policy=words[5],
        token_base=int(words[6]),
        default=defaults[0][1],
        groups=groups,
    )


def parse_targets(text: str) -> dict[str, tuple[int, int, int]]:
    """Read ``dmsetup targets``: name -> version. Raises MeasurementError for a line of another form."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\S+)\s+v(\d+)\.(\d+)\.(\d+)", line.strip())
        if match is None:
            raise MeasurementError(f"a line of `dmsetup targets` is not understood: {line!r}")
        found[match[1]] = (int(match[2]), int(match[3]), int(match[4]))
    return found


def targets(guest: Guest) -> dict[str, tuple[int, int, int]]:
    """The target types that the guest's kernel has: name -> version."""
    return parse_targets(guest.run(["dmsetup", "targets"]).stdout)


def sectors(guest: Guest, device: str) -> int:
    """Size of a block device in sectors of 512 bytes. Raises CommandError."""
    return int(guest.run(["blockdev", "--getsz", device]).stdout)


class Device:
    """A device-mapper device by name. A context manager: leaving it removes the device.

    Every method raises CommandError, whose errno_name is the kernel's answer (the driver's own words are in
    its log).
    """

    def __init__(self, guest: Guest, name: str) -> None:
        self.guest = guest
        self.name = name
        self.path = f"/dev/mapper/{name}"

    def _create(self, table: str) -> None:
        self.guest.run(["dmsetup", "create", self.name], stdin=f"{table}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.guest.machine.console.death is None and self.exists():
            self.remove()

    def exists(self) -> bool:
        """Whether the device is there."""
        return self.guest.run(["dmsetup", "info", self.name], check=False).exit_code == 0

    def message(self, *words: str) -> None:
        """Send a message to its first target."""
        # `--`: a word like -1:100:500 is no option.
        self.guest.run(["dmsetup", "message", "--", self.name, "0", *words])

    def reload(self, table: str | TableLine) -> None:
        """Load another table, which `resume` makes the live one."""
        text = table if isinstance(table, str) else table.render()
        self.guest.run(["dmsetup", "reload", self.name], stdin=f"{text}\n")

    def suspend(self, *, noflush: bool = False) -> None:
        """Suspend it: what is in flight ends first. noflush: what waits inside may be pushed back."""
        self.guest.run(["dmsetup", "suspend", *(["--noflush"] if noflush else []), self.name])

    def resume(self) -> None:
        """Let I/O flow again, by the table loaded last."""
        self.guest.run(["dmsetup", "resume", self.name])

    def remove(self) -> None:
        """Remove it: EBUSY while it is open."""
        self.guest.run(["dmsetup", "remove", self.name])

    def raw_status(self) -> str:
        """`dmsetup status`, as printed."""
        return self.guest.run(["dmsetup", "status", self.name]).stdout

    def raw_table(self) -> str:
        """`dmsetup table`, as printed."""
        return self.guest.run(["dmsetup", "table", self.name]).stdout


class Ioband(Device):
    """A device with one ioband target."""

    def create(self, table: TableLine | str) -> Self:
        """Make it; text is passed on as it is."""
        self._create(table if isinstance(table, str) else table.render())
        return self

    def status(self) -> IobandStatus:
        """Its counters. Raises CommandError, MeasurementError."""
        return parse_status(self.raw_status())

    def table(self) -> TableLine:
        """Its table, as the driver has it. Raises CommandError, MeasurementError."""
        return parse_table(self.raw_table())


class Linear(Device):
    """A device that maps to another one, sector by sector: what ioband is compared with."""

    def create(self, segments: Sequence[tuple[str, int, int]]) -> Self:
        """Make it of segments (device, first sector there, number of sectors), one after another."""
        lines, start = [], 0
        for device, first, length in segments:
            lines.append(f"{start} {length} linear {device} {first}")
            start += length
        self._create("\n".join(lines))
        return self
