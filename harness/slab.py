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

# Of what kmalloc() serves. Where there is nothing the file says so.
_FILES = "/sys/kernel/slab/kmalloc-*/alloc_calls"
_NOTHING = "No data"
_LINE = re.compile(r" *(?P<count>\d+) (?P<function>[^\s+]+)(?:\+\S+)?(?: .*)?")


def parse(text: str) -> Counter[str]:
    """Read files alloc_calls, one after the other. Raises MeasurementError for text of another form."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            found[match["function"]] += int(match["count"])
        elif line != _NOTHING:
            raise MeasurementError(f"not a count of SLUB's: {line!r}")
    return found


def users(guest: Guest) -> Counter[str]:
    """Objects that kmalloc() gave away and has not got back, by its caller. Raises CommandError: no owners are kept."""
    return parse(guest.run(f"cat {_FILES}").stdout)
