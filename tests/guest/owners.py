"""What the tests of ownership share: a device that counts everything, and processes that use memory on command."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from lab import Counters, stat_file, until

from harness.cgroup import Cgroup, Hierarchy
from harness.dm import DEFAULT_GROUP, Ioband, TableLine, sectors
from harness.guest import Guest

DISK = "/dev/vda"
PAGE = 4096
SECTORS = PAGE // 512

_count = itertools.count(1)

T = TypeVar("T")


@dataclass(frozen=True)
class Charged:
    """What was charged to each group since the last reset, by the group's name (default: the default group)."""

    read: Mapping[str, int]
    """Sectors of 512 bytes."""
    written: Mapping[str, int]
    writes: Mapping[str, int]
    """Bios."""
    bios: int
    """Writes that came to the device, all groups together."""

    def __str__(self) -> str:
        parts = [
            f"{verb} {', '.join(f'{name} {n}' for name, n in counts.items() if n) or 'nothing'}"
            for verb, counts in (("read", self.read), ("written", self.written))
            if any(counts.values())
        ]
        return f"sectors {'; '.join(parts)}" if parts else "no I/O"


class Domain:
    """An ioband device of type cgroup on the whole disk, and the groups a, b, c that are attached to it.

    It has so many tokens and so much room that nothing is ever held: every bio is let through at once and counted,
    urgent ones too (those that are held are not). ``charged`` sees to it.
    """

    def __init__(self, guest: Guest, hierarchy: Hierarchy, device: Ioband, groups: Mapping[str, Cgroup]) -> None:
        self.guest = guest
        self.hierarchy = hierarchy
        self.device = device
        self.groups = groups
        self.path = device.path
        self._stat = stat_file(device)
        self._before = self.arrived()
        self._names = {DEFAULT_GROUP: "default", **{group.id: name for name, group in groups.items()}}

    def __getitem__(self, name: str) -> Cgroup:
        return self.groups[name]

    def arrived(self) -> Counters:
        """As device-mapper itself has them since the beginning."""
        return Counters.parse(self.guest.run(["cat", self._stat]).stdout)

    def reset(self) -> None:
        """Count from zero."""
        self._before = self._at_once(lambda: self.device.message("reset"))[1]

    def _at_once(self, look: Callable[[], T]) -> tuple[T, Counters]:
        """What is seen of the groups and what had arrived by then: nothing arrived while both were looked at."""

        def both() -> tuple[Counters, T, Counters]:
            return self.arrived(), look(), self.arrived()

        def quiet(seen: tuple[Counters, T, Counters]) -> bool:
            return (seen[0].ios, seen[0].sectors) == (seen[2].ios, seen[2].sectors)

        _, found, arrived = until(self.guest, both, "nothing arrives while it is counted", quiet)
        return found, arrived

    def settle(self) -> None:
        """Write back all that is dirty, forget all that is cached, and count from zero."""
        self.guest.run("sync && echo 3 > /proc/sys/vm/drop_caches")
        self.reset()

    def charged(self) -> Charged:
        """What was charged to whom; all that came to the device was charged to somebody."""
        groups, arrived = self._at_once(lambda: self.device.status().groups)
        arrived -= self._before
        assert not any(g.reads_deferred or g.writes_deferred for g in groups.values()), "something was held"
        assert sum(g.read_sectors for g in groups.values()) == arrived.read_sectors
        assert sum(g.write_sectors for g in groups.values()) == arrived.write_sectors
        counts = {self._names.get(number, str(number)): count for number, count in groups.items()}
        return Charged(
            {name: c.read_sectors for name, c in counts.items()},
            {name: c.write_sectors for name, c in counts.items()},
            {name: c.writes for name, c in counts.items()},
            arrived.writes,
        )

    def run(self, name: str | None, command: str, **options: object) -> str:
        """Run a shell command in a group (None: where we are, the top); what it prints."""
        argv = ["sh", "-c", command]
        return self.guest.run(self[name].exec_prefix(argv) if name else argv, **options).stdout  # type: ignore[arg-type]

    def write(self, name: str | None, first: int, count: int, flags: str = "", file: str = "") -> None:
        """Write ``count`` pages from page ``first`` on, as dd does it, to the device or a file."""
        where = f"if=/dev/zero of={file or self.path} bs={PAGE} seek={first} count={count}"
        self.run(name, f"dd {where} conv=notrunc {flags}")

    def read(self, name: str | None, first: int, count: int, flags: str = "", file: str = "") -> None:
        """Read ``count`` pages from page ``first`` on."""
        where = f"if={file or self.path} of=/dev/null bs={PAGE} skip={first} count={count}"
        self.run(name, f"dd {where} {flags}")

    def used_before_by(self, name: str, megabytes: int = 150) -> None:
        """Let a group use most of memory and give it back, so that free pages were this group's last.

        A page that is not tagged anew when it gets another user would then be charged to that group.
        """
        with Pages(self, name) as pages:
            count = megabytes * 256
            pages.tell(f"anon {count}")
            pages.tell(f"write 0 {count} 1")


class Pages:
    """A process of a group that uses memory on command (the guest's program `pages`)."""

    def __init__(self, domain: Domain, group: str | None) -> None:
        self.domain = domain
        self.guest = domain.guest
        self.group = group
        self.pid = 0
        self._folders: list[str] = []
        self._children: list[str] = []
        self._speaker: str | None = None

    def __enter__(self) -> Self:
        self.folder = self._folder()
        self.guest.run(["mkfifo", f"{self.folder}/gone"])
        obey = ["pages", self.folder]
        argv = self.domain[self.group].exec_prefix(obey) if self.group else obey
        # Whoever waits for it is not in the group, which can be removed once it is gone.
        script = '{ "$@"; echo > "$0/gone"; } < /dev/null > /dev/null 2>&1 &'
        self.guest.run(["sh", "-c", script, self.folder, *argv])
        self.pid = self.tell("id")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.guest.machine.console.death is not None:
            return
        while self._children:
            self.end(self._children[0])
        self.tell("quit", self._speaker)
        self.guest.run(["sh", "-c", 'cat "$0/gone" && rm -r "$@"', self.folder, *self._folders])

    def _folder(self) -> str:
        folder = f"/tmp/pages-{next(_count)}"
        self._folders.append(folder)
        self.guest.run(["sh", "-c", 'mkdir "$0" && mkfifo "$0/in" "$0/out"', folder])
        return folder

    def tell(self, command: str, folder: str | None = None, prefix: Sequence[str] = ()) -> int:
        """Have a command done and wait until it is; its number, 0 where it has none."""
        script = 'echo "$1" > "$0/in" && cat "$0/out"'
        words = [*prefix, "sh", "-c", script, folder or self.folder, command]
        answer = self.guest.run(words, timeout=120).stdout.split()
        assert answer[0] == "ok", f"pages: {command}: {' '.join(answer)}"
        return int(answer[1]) if len(answer) > 1 else 0

    def fork(self, group: str | None) -> str:
        """A child that is moved to a group; the folder to tell it by."""
        folder = self._worker("fork", group)
        self._children.append(folder)
        return folder

    def thread(self, group: str | None) -> str:
        """A thread that is moved to a group; the folder to tell it by."""
        return self._worker("thread", group)

    def _worker(self, verb: str, group: str | None) -> str:
        folder = self._folder()
        self.move(group, self.tell(f"{verb} {folder}"))
        return folder

    def end(self, child: str) -> None:
        """End a child, and wait until it is gone."""
        self._children.remove(child)
        self.tell("quit", child)
        self.tell("reap")

    def leave_to(self, thread: str) -> None:
        """End the first thread; another one goes on."""
        self.tell("leave")
        self._speaker = thread

    def move(self, group: str | None, number: int | None = None) -> None:
        """Move the first thread, or another, to a group (None: the top)."""
        target = self.domain[group] if group else self.domain.hierarchy.root
        target.add(number or self.pid)


@contextlib.contextmanager
def domain(
    guest: Guest, *subsystems: str, disk: str = DISK, names: Sequence[str] = ("a", "b", "c")
) -> Iterator[Domain]:
    """A domain; ``subsystems``: what to mount beside blkio in the same hierarchy."""
    line = TableLine(
        length=sectors(guest, disk), device=disk, share="counted", io_limit=32767, type="cgroup",
        token_base=1_000_000_000, default="100",
    )  # fmt: skip
    with Ioband(guest, "counted").create(line) as device, Hierarchy(guest, "blkio", *subsystems) as hierarchy:
        groups = {name: hierarchy.create(name) for name in names}
        for group in groups.values():
            group.set("counted", 100)
        made = Domain(guest, hierarchy, device, groups)
        made.reset()
        yield made
