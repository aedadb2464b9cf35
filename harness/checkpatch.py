"""The kernel's own judge of a patch's style, ``scripts/checkpatch.pl`` of the tree that the patch is for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import host
from harness.errors import InfrastructureError
from harness.series import Patch
from harness.validation import Remark, RemarkKind

SCRIPT = Path("scripts/checkpatch.pl")
# --terse: "FILE:LINE: ERROR: text", or "FILE:LINE: ERROR:KIND: text" from later scripts; no line where there is none.
_REMARK = re.compile(r"^[^:]*:(?:(?P<line>\d+):)? *(?P<kind>ERROR|WARNING|CHECK):\s*(?P<text>.*)$")
# Exit codes of the script: nothing to remark, something.
_CODES = (0, 1)


class Checkpatch:
    """The script of a tree. options: for it, as ``--strict``. accepted: why remarks that contain a text are no
    mistakes. log: gets all that it prints.
    """

    def __init__(self, tree: Path, options: Sequence[str], accepted: Mapping[str, str], log: Path) -> None:
        self._tree = tree
        self._options = options
        self._accepted = accepted
        self._log = log

    def remarks(self, patch: Patch) -> tuple[Remark, ...]:
        """What it remarks on a patch and its description.

        Raises:
            InfrastructureError: perl is missing, or cannot run the script.
        """
        words = [f"--root={self._tree}", "--terse", *self._options, "-"]
        done = host.run(
            ["perl", self._tree / SCRIPT, *words],
            cwd=self._tree,
            check=False,
            log=self._log,
            input=patch.description + patch.diff,
        )
        found = [m for m in map(_REMARK.match, done.stdout.splitlines()) if m]
        if done.returncode not in _CODES or bool(done.returncode) != bool(found):
            raise InfrastructureError(
                f"{SCRIPT} of this kernel does not judge {patch.name}: exit code {done.returncode}",
                hint="this perl may be too new for it: that is a patch for kernel/*/compat",
                log=self._log,
            )
        return tuple(self._remark(m) for m in found)

    def _remark(self, found: re.Match[str]) -> Remark:
        why = next((why for text, why in self._accepted.items() if text in found["text"]), None)
        return Remark(
            kind=RemarkKind(found["kind"]), line=int(found["line"] or 0), text=found["text"], accepted=why
        )
