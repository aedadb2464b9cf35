"""dmsetup on a real kernel: devices made, read back, driven and taken away again."""

from __future__ import annotations

import pytest

from harness import dm
from harness.errors import CommandError

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

DISK = "/dev/vda"


def test_linear_halves(guest):
    half = dm.sectors(guest, DISK) // 2
    with dm.Linear(guest, "swapped").create([(DISK, half, half), (DISK, 0, half)]) as device:
        assert dm.sectors(guest, device.path) == 2 * half
        guest.run(["dd", "of=/dev/vda", "bs=512", f"seek={half}", "conv=notrunc,fsync"], stdin=b"half" * 128)
        guest.run("echo 3 > /proc/sys/vm/drop_caches")
        assert guest.run(["head", "-c", "4", device.path]).stdout == "half"
        device.suspend()
        device.resume()
    assert not device.exists()


def test_refusals_carry_the_kernels_answer(guest):
    with pytest.raises(CommandError) as caught:
        dm.Linear(guest, "bad").create([(DISK, 0, dm.sectors(guest, DISK) + 8)])
    assert caught.value.errno_name == "EINVAL"
    with pytest.raises(CommandError) as caught:
        dm.Device(guest, "absent").remove()
    assert caught.value.errno_name == "ENXIO"
    with dm.Linear(guest, "busy").create([(DISK, 0, 8)]):
        with pytest.raises(CommandError) as caught:
            guest.run("exec 3< /dev/mapper/busy; dmsetup remove busy")
        assert caught.value.errno_name == "EBUSY"


@pytest.fixture
def ioband(guest):
    if "ioband" not in dm.targets(guest):
        pytest.skip("this kernel has no ioband target")
    return dm.TableLine(
        length=dm.sectors(guest, DISK),
        device=DISK,
        share="share1",
        type="user",
        groups={1000: "80", 2000: "20"},
    )


def test_ioband_table_reads_back_and_loads_again(guest, ioband):
    with dm.Ioband(guest, "band").create(ioband) as device:
        table = device.table()
        assert (table.share, table.type, table.policy, table.default) == ("share1", "user", "weight", "100")
        assert table.groups == ioband.groups
        device.message("weight", "1000:50")
        assert device.table().groups == {1000: "50", 2000: "20"}
        device.reload(table)
        device.resume()
        assert device.table() == table
    assert "band" not in guest.run(["dmsetup", "ls"]).stdout


def test_ioband_counts_by_group(guest, ioband):
    with dm.Ioband(guest, "band").create(ioband) as device:
        guest.run(["chmod", "666", device.path])
        before = device.status()
        assert set(before.groups) == {-1, 1000, 2000}
        read = f"dd if={device.path} of=/dev/null bs=4096 count=10 iflag=direct"
        guest.run(["chpst", "-u", "1000:1000", "sh", "-c", read])
        after = device.status()
        assert after.groups[1000].reads - before.groups[1000].reads == 10
        assert after.groups[1000].read_sectors - before.groups[1000].read_sectors == 80
        assert after.groups[2000] == before.groups[2000]
        device.message("reset")
        assert device.status().groups[1000].reads == 0
        with pytest.raises(CommandError) as caught:
            device.message("weight", "77:50")
        assert caught.value.errno_name == "EINVAL"
