"""Files from the network: resumed, shown, and not used before their sha256 is right.

A file is wanted by its content (sha256); where it comes from does not matter. What was downloaded so
far stays beside the file's final place as ``<name>.part``, so an interrupted download goes on where it
stopped.
"""

from __future__ import annotations

import errno
import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Final

from harness.errors import InfrastructureError
from harness.progress import Progress
from harness.store import file_digest

CHUNK: Final = 1 << 18
# Seconds without a byte after which a server counts as gone.
STALL: Final = 30.0


class FetchError(InfrastructureError):
    """One place did not give the file. The caller has other places to try."""


def verify(path: Path, sha256: str, origin: str) -> None:
    """Raise FetchError unless the file has this sha256. ``origin``: where it came from, for the message."""
    seen = file_digest(path)
    if seen != sha256:
        raise FetchError(f"{origin} has sha256 {seen}, wanted {sha256}")


def download(url: str, sha256: str, out: Path, progress: Progress) -> None:
    """Put the file with this sha256 from ``url`` (http, https, file) at ``out``.

    Raises FetchError: no connection, an HTTP error, a server that stalls, or another content than
    wanted. What was received stays in ``<out>.part`` for the next attempt unless its content turned out
    to be wrong.
    """
    part = out.with_name(out.name + ".part")
    resumed = part.exists() and part.stat().st_size > 0
    _receive(url, part, progress)
    if resumed and file_digest(part) != sha256:
        # The first half may be of another attempt (or of another file): once more, whole.
        part.unlink()
        _receive(url, part, progress)
    try:
        verify(part, sha256, url)
    except FetchError:
        part.unlink()
        raise
    part.replace(out)


def _receive(url: str, part: Path, progress: Progress) -> None:
    """Append to ``part`` what is missing of ``url``."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)  # noqa: S310 (URLs come from the project's own manifests)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=STALL) as answer:  # noqa: S310
            partial = getattr(answer, "status", None) == http.HTTPStatus.PARTIAL_CONTENT
            have = have if partial else 0
            length = answer.headers.get("Content-Length")
            with part.open("ab" if partial else "wb") as file:
                total = have + int(length) if length else None
                _copy(url, answer, file, have=have, total=total, progress=progress)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # the part is whole already; its sha256 decides
        raise FetchError(f"{url}: HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise FetchError(f"{url}: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # no other place to download from helps
        raise FetchError(f"{url}: {error or type(error).__name__}") from error


def _copy(
    url: str, source: IO[bytes], target: IO[bytes], *, have: int, total: int | None, progress: Progress
) -> None:
    with progress.task(f"download {url.rsplit('/', 1)[-1]}", total, unit="bytes") as task:
        task.update(completed=have)
        while chunk := source.read(CHUNK):
            target.write(chunk)
            have += len(chunk)
            task.advance(len(chunk))
    if total is not None and have < total:
        raise FetchError(f"{url}: the connection ended after {have} of {total} bytes")
