"""Control groups of version 1, as files: hierarchies, groups, and blkio's own files.

The formats of blkio.devices and blkio.settings are those of the blkio-cgroup series.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from harness.errors import DirtyGuest, MeasurementError
from harness.guest import Guest
from harness.patience import until


@dataclass(frozen=True)
class Setting:
    """What one group was given on one dm device: either a weight, or a range in KB/s (0: no limit)."""

    weight: int | None = None
    range_bw: tuple[int, int] | None = None

    def render(self) -> str:
        """As blkio.settings takes it: ``40`` or ``100:500``."""
        return str(self.weight) if self.range_bw is None else "{}:{}".format(*self.range_bw)


@dataclass(frozen=True)
class Share:
    """One ioband device in blkio.devices.

    token, carryover: of the weight policies. devices: names of its dm devices of type cgroup.
    """

    name: str
    policy: str
    io_throttle: int
    io_limit: int
    token: int | None
    carryover: int | None
    devices: tuple[str, ...]


_SETTING = re.compile(r"(?P<name>.+) (?:weight=(?P<weight>\d+)|range-bw=(?P<min>\d+):(?P<max>\d+))")
_SHARE = re.compile(
    r"(?P<name>.+) policy=(?P<policy>\S+) io_throttle=(?P<throttle>\d+) io_limit=(?P<limit>\d+)"
    r"(?: token=(?P<token>\d+) carryover=(?P<carryover>\d+))?"
)


def parse_settings(text: str) -> dict[str, Setting]:
    """Read blkio.settings: dm device -> setting. Raises MeasurementError for a line of another form."""
    settings = {}
    for line in text.splitlines():
        found = _SETTING.fullmatch(line)
        if found is None:
            raise MeasurementError(f"a line of blkio.settings is not understood: {line!r}")
        if found["weight"]:
            settings[found["name"]] = Setting(weight=int(found["weight"]))
        else:
            settings[found["name"]] = Setting(range_bw=(int(found["min"]), int(found["max"])))
    return settings


def parse_devices(text: str) -> list[Share]:
    """Read blkio.devices. Raises MeasurementError for a line of another form."""
    shares: list[tuple[re.Match[str], list[str]]] = []
    for line in text.splitlines():
        found = _SHARE.fullmatch(line)
        if line.startswith("  ") and len(line) > 2 and shares:
            shares[-1][1].append(line[2:])
        elif found is not None and not line.startswith(" "):
            shares.append((found, []))
        else:
            raise MeasurementError(f"a line of blkio.devices is not understood: {line!r}")
    return [
        Share(
            name=found["name"],
            policy=found["policy"],
            io_throttle=int(found["throttle"]),
            io_limit=int(found["limit"]),
            token=int(found["token"]) if found["token"] else None,
            carryover=int(found["carryover"]) if found["carryover"] else None,
            devices=tuple(devices),
        )
        for found, devices in shares
    ]


class Hierarchy:
    """A mounted hierarchy. A context manager: leaving it removes the groups made through it, and unmounts.

    Some kernels do most of this in the background. When the context has ended, all of it is done.
    """

    def __init__(self, guest: Guest, *subsystems: str, path: str = "/cgroup") -> None:
        self.guest = guest
        self.subsystems = subsystems
        self.path = path
        self._groups: list[Cgroup] = []

    def mount(self, path: str | None = None) -> Self:
        """Mount it, at ``path`` if that is given.

        Raises CommandError: EBUSY for a subsystem that another hierarchy has, EINVAL or ENOENT for none.
        """
        self.path = path or self.path
        self.guest.run(["mkdir", "-p", self.path])
        self.guest.run(["mount", "-t", "cgroup", "-o", ",".join(self.subsystems), "cgroup", self.path])
        return self

    def unmount(self) -> None:
        """Unmount it. Raises CommandError."""
        self.guest.run(["umount", self.path])

    def __enter__(self) -> Self:
        return self.mount()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.guest.machine.console.death is not None:
            return
        for group in reversed(self._groups):
            group.remove()
        # With a group left it would not end when it is unmounted, and keep its subsystems.
        self.settle()
        self.unmount()
        self._wait(
            lambda: not self._lingers(), f"the hierarchy of {self.path} is there after it was unmounted"
        )

    @property
    def root(self) -> Cgroup:
        """The top group."""
        return Cgroup(self, "")

    def create(self, name: str) -> Cgroup:
        """Make a group (``a/b``: below another). Raises CommandError."""
        group = Cgroup(self, name)
        self.guest.run(["mkdir", group.path])
        self._groups.append(group)
        return group

    def forget(self, group: Cgroup) -> None:
        """The group is no more: do not remove it at the end."""
        self._groups = [known for known in self._groups if known is not group]

    def settle(self) -> None:
        """Wait until groups without a directory are gone: detached, and their ids free.

        Raises DirtyGuest: they do not go. Dirty and cached pages keep a group of the memory controller: they are
        written and dropped.
        """

        def gone() -> bool:
            left = self._left()
            if left and "memory" in self.subsystems:
                self.guest.run("sync; echo 3 > /proc/sys/vm/drop_caches")
            return left == 0

        self._wait(gone, f"groups of {self.path} are there after they were removed")

    def _left(self) -> int:
        """How many groups the kernel has that have no directory any more."""
        script = 'cat /proc/cgroups && find "$0" -type d | wc -l'
        *rows, directories = self.guest.run(["sh", "-c", script, self.path]).stdout.splitlines()
        counts = {name: int(count) for name, _, count, _ in map(str.split, rows) if not name.startswith("#")}
        return counts[self.subsystems[0]] - int(directories)

    def _lingers(self) -> bool:
        """Whether its first subsystem is in a hierarchy that is mounted nowhere."""
        subsystem = self.subsystems[0]
        text = self.guest.run(["cat", "/proc/cgroups", "/proc/mounts"]).stdout
        rows = [line.split() for line in text.splitlines()]
        used = any(row[0] == subsystem and row[1] != "0" for row in rows)
        return used and not any(row[2] == "cgroup" and subsystem in row[3].split(",") for row in rows)

    def _wait(self, enough: Callable[[], bool], otherwise: str) -> None:
        """Look until it is so. Raises DirtyGuest, in these words, when it does not come."""
        until(self.guest, enough, lambda _: DirtyGuest(otherwise, log=self.guest.machine.console_log))

    def subsystems_enabled(self) -> dict[str, bool]:
        """/proc/cgroups: every subsystem the kernel has, and whether it is enabled."""
        rows = [line.split() for line in self.guest.run(["cat", "/proc/cgroups"]).stdout.splitlines()]
        return {row[0]: row[3] == "1" for row in rows if not row[0].startswith("#")}


class Cgroup:
    """A directory of a hierarchy. name: relative to the mount point; empty: the top group."""

    def __init__(self, hierarchy: Hierarchy, name: str) -> None:
        self.hierarchy = hierarchy
        self.guest = hierarchy.guest
        self.name = name
        self.path = f"{hierarchy.path}/{name}".rstrip("/")

    def read(self, file: str) -> str:
        """The content of one of its files. Raises CommandError."""
        return self.guest.run(["cat", f"{self.path}/{file}"]).stdout

    def write(self, file: str, text: str) -> None:
        """Write exactly ``text`` in one write(2). Raises CommandError: errno_name is the answer."""
        if not text:
            raise ValueError("a write of nothing does not reach the kernel; a newline does")
        block = [f"bs={len(text.encode())}", "count=1", "iflag=fullblock", "conv=notrunc"]
        self.guest.run(["dd", *block, f"of={self.path}/{file}"], stdin=text)

    @property
    def id(self) -> int:
        """blkio.id. Raises MeasurementError: it is not a number."""
        text = self.read("blkio.id")
        if not text.strip().isdecimal():
            raise MeasurementError(f"{self.path}/blkio.id is not a number: {text!r}")
        return int(text)

    @property
    def settings(self) -> dict[str, Setting]:
        """blkio.settings: dm device -> setting."""
        return parse_settings(self.read("blkio.settings"))

    @property
    def devices(self) -> list[Share]:
        """blkio.devices, which is the same in every group."""
        return parse_devices(self.read("blkio.devices"))

    def set(self, device: str, setting: Setting | int) -> None:
        """Attach the group to a dm device, or change its setting there; an int is a weight."""
        value = Setting(weight=setting) if isinstance(setting, int) else setting
        self.write("blkio.settings", f"{device} {value.render()}")

    def detach(self, device: str) -> None:
        """Detach the group from a dm device. Raises CommandError."""
        self.write("blkio.settings", device)

    def message(self, device: str, *words: str) -> None:
        """Send a dm message through blkio.devices, which the kernel admits in the top group only."""
        self.write("blkio.devices", " ".join([device, *words]))

    def add(self, pid: int) -> None:
        """Move one thread here. Raises CommandError."""
        self.write("tasks", str(pid))

    @property
    def tasks(self) -> list[int]:
        """Ids of its threads."""
        return [int(line) for line in self.read("tasks").split()]

    def exec_prefix(self, argv: Sequence[str]) -> list[str]:
        """A command that starts ``argv`` inside the group: it is there before it opens its first file."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', f"{self.path}/tasks", *argv]

    def remove(self) -> None:
        """Remove it. Raises CommandError: EBUSY while it has processes or children."""
        self.guest.run(["rmdir", self.path])
        self.hierarchy.forget(self)
