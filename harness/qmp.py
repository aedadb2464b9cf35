"""QEMU's monitor: the `qemu.qmp` library, which is asynchronous, behind plain calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import threading
from contextlib import suppress
from typing import Any

from qemu.qmp import ExecuteError, QMPClient, QMPError

from harness.errors import InfrastructureError

ANSWER = 10.0
"""Seconds in which QEMU answers a monitor command, also on a host with all cores busy (measured: 2 ms)."""


class MonitorError(InfrastructureError):
    """QEMU's monitor refused a command, did not answer, or is gone."""


class Monitor:
    """One connection, served by a thread of its own until `close`.

    connection: a connected socket whose other end QEMU has, e.g. one of a pair; it is closed with the
    monitor.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._client = QMPClient("machine")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connected: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="qmp", daemon=True)
        self._thread.start()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._client.connect(self._connection)
        except QMPError as e:
            self._connection.close()
            self._connected.set_exception(MonitorError(f"no answer from QEMU's monitor: {e}"))
            return
        self._connected.set_result(None)
        await self._stop.wait()
        with suppress(QMPError, EOFError, OSError):  # QEMU has ended before: that is told by its exit code
            await self._client.disconnect()

    def connected(self, timeout: float = ANSWER) -> None:
        """Wait for QEMU's greeting. Raises MonitorError: it ended, or said nothing for ``timeout`` s."""
        try:
            self._connected.result(timeout)
        except TimeoutError:
            raise MonitorError(f"QEMU's monitor said nothing for {timeout:.0f} s") from None

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command; returns what QEMU returned. Raises MonitorError."""
        self.connected()
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(self._client.execute(command, arguments), self._loop)
        try:
            return future.result(ANSWER)
        except ExecuteError as e:
            raise MonitorError(f"QEMU refused `{command}`: {e}") from e
        except TimeoutError:
            future.cancel()
            raise MonitorError(f"QEMU did not answer `{command}` within {ANSWER:.0f} s") from None
        except (QMPError, concurrent.futures.CancelledError) as e:
            raise MonitorError(f"QEMU's monitor is gone (`{command}`)") from e

    def human(self, command: str) -> str:
        """Run a command of the human monitor; returns its text. Raises MonitorError."""
        return str(self.execute("human-monitor-command", **{"command-line": command}))

    def close(self) -> None:
        """End the connection and its thread; may be called twice, and after QEMU has ended."""
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # the loop has ended by itself: QEMU never answered
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
