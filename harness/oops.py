"""What a dying or complaining kernel prints: which line is what, and its addresses decoded.

Both the form of 2.6.31 (``IP: [<ffffffff81149680>] func+0x10/0x20``) and that of current kernels
(``RIP: 0010:func+0x10/0x20``).
"""

from __future__ import annotations

import itertools
import re
from enum import StrEnum
from pathlib import Path

from harness import host


class Sign(StrEnum):
    """What a line of the kernel's log announces."""

    PANIC = "panic"
    OOPS = "oops"
    HANG = "hang"
    WARNING = "warning"
    SPLAT = "splat"
    OOM = "oom"
    ALLOCATION = "allocation"

    @property
    def fatal(self) -> bool:
        """Whether a run ends here."""
        return self in (Sign.PANIC, Sign.OOPS, Sign.HANG)

    @property
    def complaint(self) -> bool:
        """Whether a test that caused it has failed, though the kernel goes on. A single allocation may fail; a process
        that is killed for want of memory need not be the test's own, and what it held stays behind.
        """
        return self in (Sign.WARNING, Sign.SPLAT, Sign.OOM)

    def outweighs(self, other: Sign) -> bool:
        """Whether a report that announces both is one of this."""
        return (self.fatal, self.fatal or self.complaint) > (other.fatal, other.fatal or other.complaint)


STAMP = re.compile(r"^\[ *\d+\.\d+\] ?")
"""What CONFIG_PRINTK_TIME puts before a line."""

CUT_HERE = "------------[ cut here ]------------"
END_TRACE = "---[ end trace"
PANIC = "Kernel panic - not syncing"

# The first that matches decides. A program may have printed something without a newline before, so that the
# kernel's words are looked for behind a time stamp, too.
_SIGNS: tuple[tuple[Sign, re.Pattern[str]], ...] = tuple(
    (sign, re.compile(rf"(?:^|\[ *\d+\.\d+\] ){text}"))
    for sign, text in (
        (Sign.PANIC, re.escape(PANIC)),
        (Sign.HANG, r"BUG: soft lockup"),
        (Sign.HANG, r"(?:watchdog: )?BUG: .*(?:soft|hard) (?:lockup|LOCKUP)"),
        (Sign.HANG, r"INFO: task .* blocked for more than \d+ seconds"),
        (Sign.HANG, r"INFO: rcu\S* (?:detected|self-detected)"),
        (Sign.HANG, r"BUG: spinlock (?:lockup|recursion|cpu recursion)"),
        # The kernel goes on after these; a test that caused one has failed.
        (
            Sign.SPLAT,
            r"BUG: (?:sleeping function|scheduling while atomic|Bad page|spinlock|workqueue leaked)",
        ),
        (Sign.SPLAT, r"BUG: (?:MAX_[A-Z_]+ too low|key \S+ not in \.data)"),
        (Sign.SPLAT, r"BUG \S+: "),  # SLUB: red zones, poison
        (Sign.SPLAT, r"(?:slab error in |Slab corruption|ODEBUG: Out of memory)"),
        (Sign.SPLAT, r"kmemleak: .*(?:Cannot |disabled|exceeded|Found object by alias)"),
        (Sign.OOPS, r"BUG: "),
        (Sign.OOPS, r"kernel BUG at "),
        (Sign.OOPS, r"Oops: "),
        (Sign.OOPS, r"general protection fault"),
        (Sign.OOPS, r"(?:double fault|divide error|invalid opcode|stack segment): "),
        (Sign.OOPS, r"PANIC: double fault"),
        (Sign.OOPS, r"Unable to handle kernel "),
        (Sign.WARNING, r"WARNING: "),
        (Sign.SPLAT, r"(?:\[ )?INFO: (?:possible|inconsistent|suspicious|trying to register|\S+-safe)"),
        (Sign.SPLAT, r"=*\[ BUG: "),
        (Sign.OOM, r"Out of memory: "),
        (Sign.OOM, r"\S+ invoked oom-killer"),
        (Sign.ALLOCATION, r".*: page allocation failure"),
    )
)


def classify(line: str) -> Sign | None:
    """What a line announces, if anything."""
    return next((sign for sign, pattern in _SIGNS if pattern.search(line)), None)


def strip_stamp(line: str) -> str:
    """A line without its time stamp."""
    return STAMP.sub("", line)


_ENTRY = re.compile(
    r"""(?:\[<(?P<address>[0-9a-f]{8,16})>\]\s+)?
        (?P<doubt>\?\s+)?
        (?:[0-9a-f]{4}:)?                                   # RIP: 0010:func
        \b(?P<symbol>[A-Za-z_][\w.$]*)\+(?P<offset>0x[0-9a-f]+)/(?P<size>0x[0-9a-f]+)
        (?P<module>\s+\[\w+\])?""",
    re.VERBOSE,
)
# The registers of QEMU's monitor: `RIP=ffffffff81009d2f RFL=...`.
_REGISTER = re.compile(r"\bRIP=(?P<address>[0-9a-f]{16})\b")


def decode(text: str, vmlinux: Path) -> str:
    """A report of the kernel with function, file and line below every address of its call trace.

    Inlined functions are named too, innermost first. Entries marked ``?`` are leftovers on the stack, no
    callers, and are left out. Addresses inside modules stay as they are.
    Raises InfrastructureError: ``vmlinux`` cannot be read.
    """
    lines = [line for line in text.splitlines() if not _is_doubtful(line)]
    symbols = _symbols(vmlinux)
    addresses: list[int | None] = []
    for line in lines:
        entry, register = _ENTRY.search(line), _REGISTER.search(line)
        if entry is None or entry["module"]:
            addresses.append(int(register["address"], 16) if register else None)
            continue
        address = int(entry["address"], 16) if entry["address"] else _locate(entry, symbols)
        # A call trace holds return addresses: the call is the instruction before.
        at_fault = re.search(r"\bR?IP\b", line[: entry.start()]) is not None
        addresses.append(address if at_fault or address is None else address - 1)
    places = _places({a for a in addresses if a is not None}, symbols, vmlinux)
    out = []
    for line, at in zip(lines, addresses, strict=True):
        out.append(line)
        out.extend(f"        {place}" for place in places.get(at, ()))
    return "".join(f"{line}\n" for line in out)


def callers(text: str) -> tuple[str, ...]:
    """The functions of a call trace, innermost first, without the doubtful ones."""
    entries = (_ENTRY.search(line) for line in text.splitlines())
    return tuple(entry["symbol"] for entry in entries if entry and not entry["doubt"])


def _is_doubtful(line: str) -> bool:
    entry = _ENTRY.search(line)
    return entry is not None and entry["doubt"] is not None


def _symbols(vmlinux: Path) -> dict[str, list[tuple[int, int]]]:
    """Name -> (address, bytes up to the next symbol) of every function of that name."""
    listing = host.run(["nm", "--numeric-sort", "--defined-only", vmlinux]).stdout
    rows = [line.split() for line in listing.splitlines()]
    texts = [(int(row[0], 16), row[2]) for row in rows if len(row) == 3 and row[1] in "tTwW"]
    starts = sorted({address for address, _ in texts})
    following = dict(itertools.pairwise(starts))
    found: dict[str, list[tuple[int, int]]] = {}
    for address, name in texts:
        found.setdefault(name, []).append((address, following.get(address, address) - address))
    return found


def _locate(entry: re.Match[str], symbols: dict[str, list[tuple[int, int]]]) -> int | None:
    """The address of ``name+offset/size``; None when several functions of that name fit, or none."""
    named = symbols.get(entry["symbol"], [])
    fitting = [address for address, size in named if size == int(entry["size"], 16)]
    if len(named) == 1:
        fitting = [named[0][0]]
    return fitting[0] + int(entry["offset"], 16) if len(fitting) == 1 else None


def _places(
    addresses: set[int], symbols: dict[str, list[tuple[int, int]]], vmlinux: Path
) -> dict[int | None, list[str]]:
    """Address -> ``function at file:line``, inlined ones first; paths relative to the kernel's tree."""
    # Where the tree was when it was compiled is told by a function whose file is known: init/main.c.
    landmark = {address for address, _ in symbols.get("start_kernel", [])}
    asked = "".join(f"{address:#x}\n" for address in sorted(addresses | landmark))
    options = ["--addresses", "--functions", "--inlines", f"--exe={vmlinux}"]
    lines = iter(host.run(["addr2line", *options], input=asked).stdout.splitlines())
    found: dict[int, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in lines:
        if line.startswith("0x"):
            current = found.setdefault(int(line, 16), [])
        else:
            current.append((line, next(lines).partition(" (discriminator")[0]))
    tree = next(
        (pairs[-1][1].rpartition("init/main.c")[0] for a, pairs in found.items() if a in landmark), ""
    )
    return {
        address: [
            f"{function} at {place.removeprefix(tree)}"
            for function, place in found.get(address, [])
            if not place.startswith("??")
        ]
        for address in addresses
    }
