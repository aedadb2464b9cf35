"""How long work shows itself: one small protocol, and who shows it where.

Work that takes more than a second takes a `Progress` and opens a task on it::

    with progress.task("unpacking linux-2.6.31", total=30000) as task:
        for name in members:
            ...
            task.advance()

A terminal gets bars (`BarProgress`), a log file or CI gets one line when a task starts and one when it ends
(`LineProgress`), a caller that wants quiet passes `SilentProgress`. `default()` picks by what stderr is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import rich.progress

Unit = Literal["items", "bytes"]


class Task(Protocol):
    """One piece of work in progress."""

    def advance(self, amount: float = 1) -> None:
        """`amount` more of the work is done."""

    def update(
        self, *, completed: float | None = None, total: float | None = None, detail: str | None = None
    ) -> None:
        """State how much is done or to be done in all, or what is being done just now."""


class Progress(Protocol):
    """Where work in progress is shown."""

    def task(
        self, description: str, total: float | None = None, *, unit: Unit = "items"
    ) -> AbstractContextManager[Task]:
        """A task that lasts as long as the `with` block. `total` None: not known (yet)."""

    def say(self, text: str) -> None:
        """One line that stays, above whatever is in progress."""


class _SilentTask:
    def advance(self, amount: float = 1) -> None:
        pass

    def update(
        self, *, completed: float | None = None, total: float | None = None, detail: str | None = None
    ) -> None:
        pass


class SilentProgress:
    """Shows nothing."""

    @contextmanager
    def task(self, description: str, total: float | None = None, *, unit: Unit = "items") -> Iterator[Task]:
        yield _SilentTask()

    def say(self, text: str) -> None:
        pass


class LineProgress:
    """One line when a task starts, one when it ends: for logs, where bars would be noise."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr

    @contextmanager
    def task(self, description: str, total: float | None = None, *, unit: Unit = "items") -> Iterator[Task]:
        self.say(f"{description} ...")
        started = time.monotonic()
        yield _SilentTask()
        self.say(f"{description}: {time.monotonic() - started:.1f} s")

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class _BarTask:
    def __init__(self, bars: rich.progress.Progress, id_: rich.progress.TaskID) -> None:
        self._bars = bars
        self._id = id_

    def advance(self, amount: float = 1) -> None:
        self._bars.advance(self._id, amount)

    def update(
        self, *, completed: float | None = None, total: float | None = None, detail: str | None = None
    ) -> None:
        if detail is None:
            self._bars.update(self._id, completed=completed, total=total)
        else:
            self._bars.update(self._id, completed=completed, total=total, detail=detail)


class BarProgress:
    """Bars on a terminal. They vanish when their task is over; what should stay is said with `say`.

    A context manager is not needed: the display starts with the first task and stops with the last, so that
    nothing redraws the terminal while an interactive program owns it.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._bars: rich.progress.Progress | None = None
        self._open = 0

    @contextmanager
    def task(self, description: str, total: float | None = None, *, unit: Unit = "items") -> Iterator[Task]:
        bars = self._bars = self._bars or self._make()
        if self._open == 0:
            bars.start()
        self._open += 1
        id_ = bars.add_task(description, total=total, detail="", unit=unit)
        try:
            yield _BarTask(bars, id_)
        finally:
            bars.remove_task(id_)
            self._open -= 1
            if self._open == 0:
                bars.stop()

    def say(self, text: str) -> None:
        if self._bars is not None and self._open:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def _make(self) -> rich.progress.Progress:
        # rich takes 0.1 s to import: only a run that shows a bar pays for it.
        from rich.console import Console
        from rich.filesize import decimal
        from rich.progress import (
            BarColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Task as RichTask
        from rich.text import Text

        class Amount(ProgressColumn):
            """`1 204/1 580` or `12.1 MB/63.3 MB`; only what is done when the total is not known."""

            def render(self, task: RichTask) -> Text:
                show = decimal if task.fields["unit"] == "bytes" else str
                done = show(int(task.completed))
                return Text(done if task.total is None else f"{done}/{show(int(task.total))}")

        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            Amount(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[detail]}", markup=False),
            console=Console(file=self._stream),
            transient=True,
        )


def default() -> Progress:
    """Bars when stderr is a terminal, else lines."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()
