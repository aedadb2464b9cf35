"""Memory in use in the kernel, by the function that asked for it: exact, and known at once.

kmemleak finds what nothing points to, which a value that looks like a pointer can hide. This count hides nothing, but
says only how much there is: two of them are to be compared. SLUB keeps it where it remembers the owners of objects
(CONFIG_SLUB_DEBUG_ON).
"""

from __future__ import annotations

import re
from collections import Counter

from harness.errors import MeasurementError
from harness.guest import Guest

# Of what kmalloc() serves. Where there is nothing the file says so. Since 5.14 the files are in debugfs, and since 5.18
# the calls that led there follow each line, and an empty line them.
_FILES = "/sys/kernel/slab/kmalloc-*/alloc_calls", "/sys/kernel/debug/slab/kmalloc-*/alloc_traces"
_NOTHING = "No data"
_LINE = re.compile(r" *(?P<count>\d+) (?P<function>[^\s+]+)(?:\+\S+)?(?: .*)?")
_TRACE = re.compile(r"((?: {8}\S+(?: \[\w+\])?\n)+)\n")


def parse(text: str) -> Counter[str]:
    """Read files alloc_calls or alloc_traces, one after the other. Raises MeasurementError for text of another form."""
    found: Counter[str] = Counter()
    for line in _TRACE.sub("", text).splitlines():
        match = _LINE.fullmatch(line)
        if match:
            found[match["function"]] += int(match["count"])
        elif line != _NOTHING:
            raise MeasurementError(f"not a count of SLUB's: {line!r}")
    return found


def users(guest: Guest) -> Counter[str]:
    """Objects that kmalloc() gave away and has not got back, by its caller. Raises CommandError: no owners are kept."""
    old, new = _FILES
    return parse(guest.run(f"if [ -d /sys/kernel/debug/slab ]; then cat {new}; else cat {old}; fi").stdout)
