"""Which locks a change of the configuration takes: lockdep can trace every one.

I/O uses what is configured at any moment and on any CPU. A change without the lock would go wrong once in a blue moon.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator

import pytest

from harness.guest import Guest
from harness.tracing import FOLDER, Event, parse

pytestmark = [pytest.mark.guest, pytest.mark.flavours("debug")]

OUTER, INNER = "ioband_lock", "&dp->g_lock"
# For a kernel on which a command waits for another thread: that takes so many other locks that the buffer overflows.
ONLY = f'name == "{OUTER}" || name == "{INNER}"'

# In their order: each finds what the one before left. Where it can, the shell itself writes: little else is traced.
CHANGES = {
    "a message": 'echo "d weight 8" > {top}/blkio.devices',
    "io_limit": 'echo "d io_limit 99" > {top}/blkio.devices',
    "io_throttle": 'echo "d io_throttle 3" > {top}/blkio.devices',
    "token": 'echo "d token 99" > {top}/blkio.devices',
    "carryover": 'echo "d carryover 2" > {top}/blkio.devices',
    "attaching by message": 'echo "d attach 77" > {top}/blkio.devices',
    "detaching by message": 'echo "d detach 77" > {top}/blkio.devices',
    "the type": 'echo "d type cgroup" > {top}/blkio.devices',
    "the default group": 'echo "d 9" > {top}/blkio.settings',
    "attaching": 'echo "d 10" > {group}/blkio.settings',
    "a group that is attached": 'echo "d 11" > {group}/blkio.settings',
    "the policy": 'echo "d policy range-bw" > {top}/blkio.devices',
    "a range": 'echo "d 1:2" > {group}/blkio.settings',
    "detaching": "echo d > {group}/blkio.settings",
    "attaching again": 'echo "d 1:2" > {group}/blkio.settings',
    # Newer kernels detach some time after, when nobody waits any more.
    "rmdir": "rmdir {group}; n=0; until grep -q 'lock_release: .*ioband_lock' trace || [ $n = 100 ]; do n=$((n+1)); "
    "sleep 0.1; done",
}


def locks(guest: Guest, system: str, command: str) -> tuple[int, list[Event]]:
    """What is done with the driver's two kinds of lock while a command of the shell runs; the shell's pid.

    system: of lockdep's events.
    """
    switch = f"> events/{system}/enable"
    script = (
        f"cd {FOLDER}; echo > trace; ( echo 1 {switch}; {command}; code=$?; echo 0 {switch}; exit $code ) >&2 &\n"
        f"wait $!; code=$?; echo 0 {switch}; echo $!; grep -e '{OUTER}$' -e '{INNER}$' trace; exit $code"
    )
    pid, _, trace = guest.run(script).stdout.partition("\n")
    return int(pid), parse(trace)


@contextlib.contextmanager
def nothing_but_these(guest: Guest, system: str) -> Iterator[None]:
    """Have no other locks traced."""
    files = [f"{FOLDER}/events/{system}/{event}/filter" for event in ("lock_acquire", "lock_release")]

    def only(text: str) -> None:
        guest.run("\n".join(f"echo '{text}' > {file}" for file in files))

    only(ONLY)
    try:
        yield
    finally:
        if guest.machine.console.death is None:
            only("0")


def inner_taken(shell: int, events: list[Event]) -> int:
    """How often the inner lock was taken inside the outer one; by the shell always so, by threads that do I/O as well
    also without.
    """
    locks_of: defaultdict[int, list[str]] = defaultdict(list)
    taken = 0
    for event in events:
        held = locks_of[event.pid]
        # Newer kernels tell its address before.
        lock = event.text.split()[-1]
        if event.name == "lock_release":
            held.remove(lock)
            continue
        assert lock == OUTER or held == [OUTER] or event.pid != shell, events
        taken += lock == INNER and held == [OUTER]
        held.append(lock)
    assert not any(locks_of.values()), events
    return taken


@pytest.mark.contract("lock-01")
def test_changes(guest, blkio, band, fact, seen):
    band("d")
    group = blkio.create("a")
    system = fact("lock_events")
    with nothing_but_these(guest, system) if fact("locks_are_told_apart") else contextlib.nullcontext():
        for what, change in CHANGES.items():
            command = change.format(top=blkio.path, group=group.path)
            taken = inner_taken(*locks(guest, system, command))
            assert taken > 0, what
            seen(f"{what}: {taken} times")
    blkio.forget(group)
    assert blkio.root.read("blkio.settings") == "d range-bw=0:0\n"
