"""cgroupfs on a real kernel."""

from __future__ import annotations

import pytest

from harness import dm
from harness.cgroup import Hierarchy, Setting
from harness.errors import CommandError

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]


def test_groups_come_and_go(guest):
    with Hierarchy(guest, "freezer", path="/cgroup-freezer") as hierarchy:
        group = hierarchy.create("a")
        seen = guest.run(group.exec_prefix(["cat", "/proc/self/cgroup"])).stdout
        assert "/a\n" in seen
        guest.run(group.exec_prefix(["sh", "-c", "sleep 30 </dev/null >/dev/null 2>&1 &"]))
        (sleeper,) = group.tasks
        with pytest.raises(CommandError) as caught:
            group.remove()
        assert caught.value.errno_name == "EBUSY"
        hierarchy.root.add(sleeper)
        assert group.tasks == []
        guest.run(["kill", str(sleeper)])
    assert "freezer" not in guest.run(["cat", "/proc/mounts"]).stdout


@pytest.fixture
def band(guest):
    if "ioband" not in dm.targets(guest):
        pytest.skip("this kernel has no ioband target")
    line = dm.TableLine(
        length=dm.sectors(guest, "/dev/vda"), device="/dev/vda", share="share1", type="cgroup", default="100"
    )
    with dm.Ioband(guest, "band").create(line) as device:
        yield device


def test_blkio(guest, band):
    with Hierarchy(guest, "blkio") as hierarchy:
        assert hierarchy.root.id == 1
        first, second = hierarchy.create("first"), hierarchy.create("second")
        assert len({1, first.id, second.id}) == 3
        assert first.settings == {}
        first.set("band", 80)
        assert first.settings == {"band": Setting(weight=80)}
        (share,) = hierarchy.root.devices
        assert (share.name, share.policy, share.devices) == ("share1", "weight", ("band",))
        guest.run(
            first.exec_prefix(["dd", f"if={band.path}", "of=/dev/null", "bs=4k", "count=5", "iflag=direct"])
        )
        assert band.status().groups[first.id].reads == 5
        for refused, name in (
            (lambda: second.set("absent", 1), "ENODEV"),
            (lambda: second.set("band", 0), "EINVAL"),
            (lambda: second.detach("band"), "EINVAL"),
            (lambda: second.message("band", "weight", "50"), "EACCES"),
        ):
            with pytest.raises(CommandError) as caught:
                refused()
            assert caught.value.errno_name == name
        first.detach("band")
        assert first.settings == {}
