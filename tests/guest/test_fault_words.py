"""A write to blkio.devices when there is no memory for its words."""

from __future__ import annotations

import pytest

from harness.faults import Faults

pytestmark = [pytest.mark.guest, pytest.mark.flavours("debug")]

# The shell makes fewer allocations for it.
MOST = 400


@pytest.mark.contract("devices-20")
def test_words_come_first(guest, blkio, seen):
    """Nothing has this name. Where there is no memory for the words, that is what is said."""
    write, short = f"echo 'nowhere x' > {blkio.path}/blkio.devices", 0
    with Faults(guest) as faults:
        for n in range(1, MOST):
            attempt = faults.nth(n, write)
            if "argv_split" in attempt.functions:
                assert attempt.errno_name == "ENOMEM", attempt
                short += 1
            elif short or not attempt.hit:
                break
        assert short > 0, "no allocation of the words failed"
        assert faults.nth(MOST, write).errno_name == "ENODEV"
    seen(f"{short} allocations of the words failed, each ENOMEM; without a failure ENODEV")
