"""Error numbers by name, from what programs print."""

from __future__ import annotations

import errno
import os
import re
from functools import cache

# strerror(3) of musl, which the guest's programs are linked with, where it differs from glibc's.
_MUSL = {
    "EIO": "I/O error",
    "ECHILD": "No child process",
    "ENOMEM": "Out of memory",
    "EBUSY": "Resource busy",
    "EXDEV": "Cross-device link",
    "EMFILE": "No file descriptors available",
    "ENOTTY": "Not a tty",
    "ESPIPE": "Invalid seek",
    "EDOM": "Domain error",
    "ERANGE": "Result not representable",
    "EDEADLK": "Resource deadlock would occur",
    "ENAMETOOLONG": "Filename too long",
    "ELOOP": "Symbolic link loop",
    "ETIME": "Device timeout",
    "EOVERFLOW": "Value too large for data type",
    "EOPNOTSUPP": "Not supported",
    "ETIMEDOUT": "Operation timed out",
    "EDQUOT": "Quota exceeded",
}

# What busybox's shell says for ENOENT at a redirection.
_ASH = ("nonexistent directory", "no such file")


@cache
def _errors() -> tuple[dict[str, str], re.Pattern[str]]:
    """Error text -> errno's name, and a pattern that finds such a text at the end of a line."""
    texts = {os.strerror(number): name for number, name in errno.errorcode.items()}
    texts |= {text: name for name, text in _MUSL.items()}
    texts |= dict.fromkeys(_ASH, "ENOENT")
    longest_first = sorted(texts, key=len, reverse=True)
    return texts, re.compile(rf"[:=] ?({'|'.join(map(re.escape, longest_first))})\.?$", re.MULTILINE)


def errno_name(text: str) -> str | None:
    """The errno that a message names last: ``EINVAL`` for ``sh: write error: Invalid argument``.

    Knows the messages of glibc and musl. None: it names none.
    """
    texts, pattern = _errors()
    found = pattern.findall(text)
    return texts[found[-1]] if found else None
