"""The look at the guest after each test, on a real kernel: what is left behind is seen, and who left it."""

from __future__ import annotations

import pytest

from harness.checkup import Checkup
from harness.errors import DirtyGuest

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]


def test_boot_is_clean(fresh_guest, flavour):
    said = fresh_guest.machine.console.text
    assert fresh_guest.machine.console.events == [], said
    assert fresh_guest.run(["cat", "/proc/sys/kernel/tainted"]).stdout == "0\n"
    checkup = Checkup(fresh_guest)
    checkup.after("nothing")
    assert checkup.detector == (flavour == "debug"), "kmemleak is there, and did not switch itself off"


@pytest.mark.parametrize(
    ("leave", "what"),
    [
        ("dmsetup create left --table '0 8 linear /dev/vda 0'", "dm device left behind: dm-0"),
        ("mkdir -p /cg && mount -t cgroup -o freezer cgroup /cg", "mount left behind: /cg (cgroup)"),
        # Unmounted and still busy: only the kernel's list of subsystems tells.
        (
            "mkdir -p /cg && mount -t cgroup -o blkio cgroup /cg && exec 3< /cg/tasks && "
            "{ sleep 60 < /dev/null > /dev/null 2>&1 & } && exec 3<&- && umount -l /cg",
            "subsystem in a cgroup hierarchy left behind: blkio",
        ),
        ("dd if=/dev/zero of=/tmp/f bs=1M count=1 && losetup /dev/loop0 /tmp/f", "block device left behind: loop0"),
        ("mkswap /dev/vda && swapon /dev/vda", "swap area left behind: /dev/vda"),
    ],
)  # fmt: skip
def test_what_is_left_is_named(fresh_guest, leave, what):
    checkup = Checkup(fresh_guest)
    checkup.after("a clean test")
    fresh_guest.run(leave)
    with pytest.raises(DirtyGuest) as caught:
        checkup.after("a test that leaves something")
    assert what in caught.value.message.splitlines()
