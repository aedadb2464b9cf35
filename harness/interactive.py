"""``harness boot``: a machine of one's own, with a shell over SSH or one command."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from harness import progress, project, testbed
from harness.accelerator import Wanted
from harness.errors import UserError
from harness.machine import Disk
from harness.store import Store

# At most ten terabytes, in MB: more is a slip of the finger.
_NUMBER = re.compile(r"[1-9][0-9]{0,6}")


def parse_disk(text: str, number: int) -> Disk:
    """``SIZE_MB[:IOPS]`` to a disk. Raises UserError."""
    size, _, iops = text.partition(":")
    if not _NUMBER.fullmatch(size) or (iops and not _NUMBER.fullmatch(iops)):
        raise UserError(
            f"not a disk: {text!r}", hint="say SIZE_MB or SIZE_MB:IOPS, for example --disk 64:1000"
        )
    return Disk(name=f"disk{number}", size_mb=int(size), iops=int(iops) if iops else None)


def boot(
    kernel: str,
    series: Path | None,
    command: list[str],
    *,
    bare: bool,
    disks: list[str],
    cpus: int,
    memory_mb: int,
    accel: Wanted,
) -> int:
    """Boot and run ``command`` (its exit code is returned) or, without one, a login shell until it ends."""
    wanted = tuple(parse_disk(text, i) for i, text in enumerate(disks or ["64:1000"]))
    made = testbed.prepare(Store.default(), kernel, series, progress.default(), accel)
    folder = project.new_run_folder()
    build = made.compat if bare else made.build
    with made.boot(folder, build, disks=wanted, cpus=cpus, memory_mb=memory_mb) as guest:
        if not command:
            return guest.shell()
        words = shlex.join(command) if len(command) > 1 else command[0]
        done = guest.run(words, check=False, timeout=None)
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        return done.exit_code
