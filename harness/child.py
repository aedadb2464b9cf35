"""``harness test`` as a process of its own: for commands that run tests many times, or on many kernels."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from harness import host, project, record
from harness.errors import EXIT_INTERRUPTED, HarnessError, InfrastructureError
from harness.record import RUN_JSON, Run
from harness.shares import Verdict


class Stopped(HarnessError):
    """A child was not run to its end: somebody interrupted it, or the command that started it."""

    exit_code = EXIT_INTERRUPTED


@dataclass(frozen=True)
class Done:
    """A run that ended. folder: the run's. run: its record."""

    folder: Path
    run: Run


class Children:
    """Runs of ``harness test``. A context manager: leaving it interrupts those that still run. Any thread may start
    one. A child dies with this process.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.interrupt()

    def interrupt(self) -> None:
        """Ctrl-C for every child; none is started any more."""
        with self._lock:
            self._stopping = True
            for process in self._running:
                process.send_signal(signal.SIGINT)

    def harness_test(self, folder: Path, words: Sequence[str]) -> Done:
        """Run it with these arguments and wait. folder: gets ``output.txt`` and the folder of its run.

        Raises Stopped, and InfrastructureError: it ended without a record.
        """
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "harness", "test", *words]
        output = folder / "output.txt"
        with output.open("wb") as stream:
            stream.write(f"$ {shlex.join(command)}\n".encode())
            stream.flush()
            with host.started(
                command,
                cwd=project.ROOT,
                env={**os.environ, "HARNESS_RUNS": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            ) as process:
                self._wait(process)
        run_folder = (folder / "latest").resolve()
        if not (run_folder / RUN_JSON).is_file():
            raise InfrastructureError("`harness test` ended without a record of its run", log=output)
        run = record.load(run_folder)
        if run.exit_code is None or run.exit_code == EXIT_INTERRUPTED:
            raise Stopped("`harness test` was interrupted", log=output)
        return Done(run_folder, run)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if self._stopping:
                raise Stopped("`harness test` was not started: the command was interrupted")
            self._running.add(process)
        try:
            process.wait()
        finally:
            with self._lock:
                self._running.discard(process)


def outcomes(run: Run) -> dict[str, str]:
    """How each test ended, by node id, in the order in which they ended; scenarios are tests.

    A test that failed and whose clean-up did not succeed either has failed.
    """
    found: dict[str, str] = {}
    for scenario in run.scenarios:
        nodeid = shlex.split(scenario.command)[-1]
        if scenario.verdict is not None:
            words = {Verdict.PASS: "passed", Verdict.FAIL: "failed", Verdict.INCONCLUSIVE: "inconclusive"}
            found[nodeid] = words[scenario.verdict]
    for test in run.tests:
        if found.get(test.nodeid) != "failed":
            found[test.nodeid] = test.outcome
    return found


def said(run: Run, nodeid: str) -> str:
    """What a test said when it failed; its clean-up included."""
    texts = [t.message for t in run.tests if t.nodeid == nodeid]
    texts += [r for s in run.scenarios if shlex.split(s.command)[-1] == nodeid for r in s.reasons]
    return "\n".join(texts)
