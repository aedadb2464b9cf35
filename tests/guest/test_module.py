"""The driver as a module: without it the cgroup files are empty and take everything, with it they work."""

from __future__ import annotations

import pytest

from harness import dm

MODULE = {"config": (("CONFIG_DM_IOBAND", "m"),)}
pytestmark = [pytest.mark.guest, pytest.mark.machine(**MODULE)]


def test_load(guest):
    guest.run(["insmod", "/lib/modules/dm-ioband.ko"])
    assert "ioband" in dm.targets(guest)
    guest.run(["rmmod", "dm-ioband"])
