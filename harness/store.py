"""The cache: finished things, each a folder named by the hash of all that went into it.

Layout below the root (``$HARNESS_CACHE``, else the user's cache folder)::

    <kind>/<key>/            a finished entry: what its maker wrote, and
        .entry.json            what it is (`Entry`); its mtime is the time of last use
        .manifest.json         sha256 of every file, for `Store.verify`
    tmp/<name>/              work in progress, owned by whoever holds the lock of that name; some is in memory
    locks/<name>.lock        flock(2): the system drops it when its holder dies, however it dies
    logs/                    of what failed, until it is tried again
    pins/<name>.json         which entry a name stands for; a pinned entry is not pruned

An entry appears by rename(2), so it is there whole or not at all. Work in progress whose lock is free belongs
to a dead process and is removed by the next one that builds something.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
from pydantic import BaseModel, ConfigDict, ValidationError

from harness import scratch
from harness.errors import InfrastructureError

ENTRY_FILE = ".entry.json"
MANIFEST_FILE = ".manifest.json"
# Up to this many files `find` compares each size (a stat takes some 2 us); larger entries are kernel trees.
SIZES_CHECKED = 100
# Above this many files one syncfs(2) is faster than an fsync(2) each.
FSYNC_EACH = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Entry(BaseModel):
    """One finished thing. ``size`` in bytes, ``seconds`` spent making it; times since the epoch."""

    model_config = ConfigDict(frozen=True)

    kind: str
    key: str
    what: str
    created: float
    used: float
    seconds: float
    size: int
    sizes: dict[str, int] | None
    meta: dict[str, Any]


class Pin(BaseModel):
    """A name that stands for an entry, and words about why."""

    model_config = ConfigDict(frozen=True)

    kind: str
    key: str
    note: str = ""


def digest(*parts: str | bytes | Path) -> str:
    """sha256, in hex, over all parts, each preceded by its length; a `Path` stands for the file's content."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part
        data = data.encode() if isinstance(data, str) else data
        whole.update(len(data).to_bytes(8, "little"))
        whole.update(data)
    return whole.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of one file's content, in hex (what ``sha256sum`` prints)."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Store:
    """The cache below one root. Any number of processes and threads may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def default(cls) -> Store:
        """``$HARNESS_CACHE``, else the user's cache folder. Nothing is created before something is built."""
        from platformdirs import user_cache_path

        named = os.environ.get("HARNESS_CACHE")
        return cls(Path(named).expanduser().absolute() if named else user_cache_path("harness"))

    # ---- finished entries

    def find(self, kind: str, key: str) -> Path | None:
        """The finished entry's folder, or None. Marks it as used.

        Looks for damage that costs next to nothing to see (missing files, wrong sizes); `verify` sees all.
        """
        folder = self._folder(kind, key)
        entry = self._read(folder)
        if entry is None:
            return None
        try:
            for name, size in (entry.sizes or {}).items():
                if (folder / name).stat().st_size != size:
                    return None
        except OSError:
            return None
        with suppress(OSError):  # a cache that may only be read is still good for reading
            os.utime(folder / ENTRY_FILE)
        return folder

    def build(
        self,
        kind: str,
        key: str,
        make: Callable[[Path], None],
        *,
        what: str,
        meta: dict[str, Any] | None = None,
    ) -> Path:
        """The entry's folder, made by ``make(empty folder)`` unless it is there already.

        Two that want the same key: one makes it, the other says that it waits. Whatever `make` raises, and
        Ctrl-C, goes to the caller and leaves no entry. `what` names the entry for people; `meta` is
        kept in its description.

        Raises:
            InfrastructureError: the disk is full, or the cache cannot be written.
        """
        found = self.find(kind, key)
        if found is not None:
            return found
        name = f"{kind}.{key}"
        with self._writing(what), self._locked(name, what):
            found = self.find(kind, key)
            if found is not None:
                return found
            self._remove_leftovers()
            new = self.root / "tmp" / name
            _remove_tree(new)
            new.mkdir(parents=True)
            try:
                started = time.time()
                make(new)
                _describe(
                    new,
                    Entry(
                        kind=kind,
                        key=key,
                        what=what,
                        created=started,
                        used=started,
                        seconds=0,
                        size=0,
                        sizes=None,
                        meta=meta or {},
                    ),
                )
                self._move_in(new, self._folder(kind, key))
            finally:
                _remove_tree(new)
        return self._folder(kind, key)

    def entries(self) -> list[Entry]:
        """All finished entries, the last used first."""
        found = []
        for description in self.root.glob(f"*/*/{ENTRY_FILE}"):
            if description.parent.parent.name in {"tmp", "locks", "pins", "logs"}:
                continue
            entry = self._read(description.parent)
            if entry is not None:
                with suppress(OSError):
                    found.append(entry.model_copy(update={"used": description.stat().st_mtime}))
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def path(self, entry: Entry) -> Path:
        """The folder of an entry."""
        return self._folder(entry.kind, entry.key)

    def remove(self, entry: Entry) -> None:
        """Delete an entry. It is gone at once for everybody who looks for it from now on."""
        name = f"{entry.kind}.{entry.key}"
        with self._writing(entry.what), self._locked(name, entry.what):
            self._discard(self._folder(entry.kind, entry.key), name)

    def prune(self, *, keep_bytes: int | None = None, older_than: float | None = None) -> list[Entry]:
        """Delete entries, the least recently used first; pinned ones stay.

        keep_bytes: go on until all that is left takes at most this many bytes. older_than: delete what was
        not used for this many seconds. Returns what was deleted.
        """
        with self._writing("pruning"):
            self._remove_leftovers()
        pinned = {(pin.kind, pin.key) for pin in self._pins()}
        entries = self.entries()
        total = sum(entry.size for entry in entries)
        deleted = []
        for entry in reversed(entries):
            too_much = keep_bytes is not None and total > keep_bytes
            too_old = older_than is not None and time.time() - entry.used > older_than
            if (too_much or too_old) and (entry.kind, entry.key) not in pinned:
                self.remove(entry)
                total -= entry.size
                deleted.append(entry)
        return deleted

    def verify(self) -> list[str]:
        """Hash every file again. One sentence for each that is missing, changed or added; [] is good."""
        problems = []
        for entry in self.entries():
            folder = self.path(entry)
            try:
                noted = json.loads((folder / MANIFEST_FILE).read_bytes())
                seen = _manifest(folder)
            except (OSError, ValueError) as error:
                problems.append(f"{entry.what} ({folder}): {error}")
                continue
            for name in sorted(noted.keys() | seen.keys()):
                if noted.get(name) != seen.get(name):
                    fault = "changed" if name in seen and name in noted else "missing"
                    fault = fault if name in noted else "not part of it"
                    problems.append(f"{entry.what}: {folder / name} is {fault}")
        return problems

    # ---- names for entries

    def pin(self, name: str, kind: str, key: str, note: str = "") -> None:
        """Let `name` stand for an entry from now on, and keep that entry when the cache is pruned."""
        pins = self.root / "pins"
        with self._writing(name), self._locked(f"pin.{name}", name):
            pins.mkdir(parents=True, exist_ok=True)
            new = self.root / "tmp" / f"pin.{name}"
            new.parent.mkdir(exist_ok=True)
            new.write_text(Pin(kind=kind, key=key, note=note).model_dump_json())
            new.replace(pins / f"{name}.json")

    def pinned(self, name: str) -> tuple[Path, Pin] | None:
        """The folder of the entry that `name` stands for; None: no such name, or the entry is gone."""
        try:
            pin = Pin.model_validate_json((self.root / "pins" / f"{name}.json").read_bytes())
        except (OSError, ValidationError):
            return None
        folder = self.find(pin.kind, pin.key)
        return None if folder is None else (folder, pin)

    # ---- work in progress

    @contextmanager
    def workspace(self, name: str, *, size: int | None = None) -> Iterator[Path]:
        """An empty folder that nobody else uses, deleted afterwards.

        Its path is the same from one time to the next (`name` and a small number), since debug information
        and compiler caches may depend on it. size: about how many bytes will be in it; if there is plenty of
        memory, it is there. None: it is on the cache's disk, so what is made can be renamed into the cache.
        """
        with self._writing(name):
            self._remove_leftovers()
            number = 0
            while (lock := self._try_lock(f"{name}-{number}")) is None:
                number += 1
            try:
                folder = None if size is None else scratch.make(self.root, f"{name}-{number}", size)
                if folder is None:
                    folder = self.root / "tmp" / f"{name}-{number}"
                    _remove_tree(folder)
                    folder.mkdir(parents=True)
                try:
                    yield folder
                finally:
                    _remove_tree(folder)
            finally:
                lock.release()

    @contextmanager
    def shared_folder(self, name: str, what: str) -> Iterator[Path]:
        """The folder ``<root>/<name>``, which stays, while nobody else is in it: half-done downloads."""
        with self._writing(what), self._locked(name, what):
            folder = self.root / name
            folder.mkdir(parents=True, exist_ok=True)
            yield folder

    def log_path(self, kind: str, key: str) -> Path:
        """Where the log of making an entry is written; it outlives a failure, until the next attempt."""
        folder = self.root / "logs"
        with self._writing(f"log of {kind}"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{kind}-{key[:16]}.log"

    # ---- inside

    def _folder(self, kind: str, key: str) -> Path:
        if not (_NAME.fullmatch(kind) and _NAME.fullmatch(key)):
            raise ValueError(f"not a name for a cache entry: {kind!r}, {key!r}")
        return self.root / kind / key

    def _read(self, folder: Path) -> Entry | None:
        try:
            return Entry.model_validate_json((folder / ENTRY_FILE).read_bytes())
        except (OSError, ValidationError):
            return None

    def _pins(self) -> list[Pin]:
        found = []
        for path in (self.root / "pins").glob("*.json"):
            with suppress(OSError, ValidationError):
                found.append(Pin.model_validate_json(path.read_bytes()))
        return found

    def _move_in(self, new: Path, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._discard(folder, f"{folder.parent.name}.{folder.name}")
        new.rename(folder)
        _fsync(folder.parent)

    def _discard(self, folder: Path, name: str) -> None:
        """Delete a finished entry (under its lock): out of sight first, so that nobody sees a part of it."""
        if folder.exists():
            trash = self.root / "tmp" / f"{name}.old"
            _remove_tree(trash)
            trash.parent.mkdir(exist_ok=True)
            folder.rename(trash)
            _remove_tree(trash)

    def _lock(self, name: str) -> filelock.FileLock:
        locks = self.root / "locks"
        if not locks.is_dir():
            locks.mkdir(parents=True, exist_ok=True)
            # https://bford.info/cachedir/: backup programs leave such a folder out.
            (self.root / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
        return filelock.FileLock(locks / f"{name}.lock", thread_local=False)

    def _try_lock(self, name: str) -> filelock.FileLock | None:
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return None
        return lock

    @contextmanager
    def _locked(self, name: str, what: str) -> Iterator[None]:
        lock = self._try_lock(name)
        if lock is None:
            print(f"waiting for another process: {what}", file=sys.stderr, flush=True)
            lock = self._lock(name)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _remove_leftovers(self) -> None:
        """Delete work in progress of processes that are no more."""
        on_disk = ((folder.name, folder) for folder in (self.root / "tmp").glob("*"))
        for name, folder in (*on_disk, *scratch.existing(self.root)):
            lock = self._try_lock(name.removesuffix(".old"))
            if lock is not None:
                try:
                    _remove_tree(folder)
                finally:
                    lock.release()

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Turn the system's refusals to write below the root into errors that say what to do."""
        try:
            yield
        except OSError as error:
            if not _below(error, self.root) and not _below(error, scratch.SHM):
                raise
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                free = shutil.disk_usage(_existing(self.root)).free
                raise InfrastructureError(
                    f"{what}: the disk that holds the cache {self.root} is full ({free >> 20} MiB free)",
                    hint="free some space, or `harness cache prune`, or set HARNESS_CACHE to a larger disk",
                ) from error
            if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}:
                raise InfrastructureError(
                    f"{what}: the cache {self.root} cannot be written: {error.strerror}",
                    hint="set HARNESS_CACHE to a folder that you may write to",
                ) from error
            raise


def _below(error: OSError, root: Path) -> bool:
    """Is it about the cache? A full disk has no file name when write(2) reports it, so one without counts."""
    if error.filename is None:
        return True
    path = Path(os.fsdecode(error.filename))
    return path.is_relative_to(root) or root.is_relative_to(path)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _describe(folder: Path, entry: Entry) -> None:
    """Complete `entry` with what was made since ``entry.created``; get all of it to the disk."""
    manifest = _manifest(folder)
    sizes = {name: (folder / name).stat().st_size for name, value in manifest.items() if value[0] != "-"}
    now = time.time()
    entry = entry.model_copy(
        update={
            "created": now,
            "used": now,
            "seconds": now - entry.created,
            "size": sum(sizes.values()),
            "sizes": sizes if len(sizes) <= SIZES_CHECKED else None,
        }
    )
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=0, sort_keys=True))
    (folder / ENTRY_FILE).write_text(entry.model_dump_json(indent=1))
    if len(sizes) > FSYNC_EACH:
        subprocess.run(["sync", "--file-system", str(folder)], check=True)
    else:
        for name in (*sizes, MANIFEST_FILE, ENTRY_FILE):
            _fsync(folder / name)
        _fsync(folder)


def _manifest(folder: Path) -> dict[str, str]:
    """sha256 of every file, ``-> target`` of every link, by path below the folder."""
    found: dict[str, str] = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            relative = str(path.relative_to(folder))
            if path.is_symlink():
                found[relative] = f"-> {path.readlink()}"
            elif path.is_file() and relative not in {ENTRY_FILE, MANIFEST_FILE}:
                found[relative] = file_digest(path)
    return found


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_tree(path: Path) -> None:
    """Delete a folder or file, which need not be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
