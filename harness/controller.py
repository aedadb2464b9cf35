"""Bandwidth controllers that a base kernel brings itself, as data: what each is told, in which files, what it promises.

A series is compared with them (``rival.py``). Their files are those of control groups of version 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from string import Formatter
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Promise = Literal["weights", "maxima", "latency"]

DISK_FIELDS = ("device", "iops", "late_us")
GROUP_FIELDS = (*DISK_FIELDS, "weight", "rbps", "wbps", "target_us")

File = Annotated[str, Field(pattern=r"^[a-z0-9_]+([./][a-z0-9_]+)*$")]
Text = Annotated[str, Field(pattern=r"^[A-Za-z0-9 =:._{}-]+$")]
"""What is written to a file, harmless in a shell; with places for fields (str.format)."""


class Controller(BaseModel):
    """One of them, under the settings that its documentation asks for.

    promises: what groups get by it: shares by ``weights``, ``maxima`` of their bandwidth, or a ``latency`` for the one
    of the greatest weight. divides: what its shares are shares of, where I/Os differ in size. weights: the least and
    the greatest that it takes. scheduler: the I/O scheduler that it is; None: it goes with a scenario's own.
    documented: what its documentation says that it does, and does not do, for readers of a comparison.

    queue: files below the disk's folder ``queue`` in sysfs, in their order, and what is written there. root: likewise
    of the root cgroup. group: of each group's cgroup. protected: of the cgroup that a latency is promised to.

    Fields of what is written: ``device`` is MAJOR:MINOR. ``iops``: I/Os per second that the disk gives at most.
    ``late_us``: microseconds that none of its I/Os takes unless it has to wait. Of a group: its ``weight``; its maxima
    ``rbps`` and ``wbps``, in bytes per second or ``max``; ``target_us``, the latency that it is promised.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
    title: str
    promises: Promise
    divides: Literal["ios", "sectors"] = "ios"
    weights: tuple[int, int] = (1, 10000)
    scheduler: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] | None = None
    documented: str
    queue: dict[File, Text] = {}
    root: dict[File, Text] = {}
    group: dict[File, Text] = {}
    protected: dict[File, Text] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        of_disk, of_group = (self.queue, self.root), (self.group, self.protected)
        for files, known in [(f, DISK_FIELDS) for f in of_disk] + [(f, GROUP_FIELDS) for f in of_group]:
            for file, text in files.items():
                unknown = sorted(set(_fields(text)) - set(known))
                if unknown:
                    raise ValueError(f"{file}: no field {', '.join(unknown)}; there are {', '.join(known)}")
        if bool(self.protected) != (self.promises == "latency"):
            raise ValueError('protected goes with promises = "latency", and only with it')
        return self


def filled(files: Mapping[str, str], fields: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """(file, what is written there) with these fields in their places."""
    return tuple((file, text.format_map(fields)) for file, text in files.items())


def _fields(text: str) -> Iterator[str]:
    """Names of the places. Raises ValueError for braces that do not match."""
    return (name for _, name, _, _ in Formatter().parse(text) if name is not None)
