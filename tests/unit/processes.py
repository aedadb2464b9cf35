"""Has a process ended?"""

from __future__ import annotations

import threading
import time
from pathlib import Path


def gone(pid: int, seconds: float = 30) -> bool:
    """Does the process end within some seconds? (A zombie has ended: its parent only has not asked yet.)"""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        threading.Event().wait(0.01)
    return False
