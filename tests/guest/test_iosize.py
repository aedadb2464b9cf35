"""Policy weight-iosize: its numbers and its words. That it shares by sectors is the scenarios' matter."""

from __future__ import annotations

import pytest
from lab import DISK, refused, shown

from harness.cgroup import Hierarchy, Setting
from harness.dm import Ioband, sectors

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]


def sharing(guest, arguments: str) -> str:
    """tokens/carryover of a share made with these arguments, as blkio.devices has them."""
    length = sectors(guest, DISK)
    with (
        Ioband(guest, "d").create(f"0 {length} ioband {DISK} {arguments}"),
        Hierarchy(guest, "blkio") as blkio,
    ):
        (share,) = blkio.root.devices
        return f"{share.token}/{share.carryover}"


@pytest.mark.contract("iosize-01")
@pytest.mark.parametrize(
    ("limit", "tokens", "carryover"),
    [(0, 4096, 4), (128, 4096, 4), (192, 6144, 2), (64, 2048, 8), (100, 3200, 5), (4, 128, 128), (513, 16416, 1),
     (32767, 1048544, 1)],
)  # fmt: skip
def test_defaults(guest, seen, limit, tokens, carryover):
    assert sharing(guest, f"s 4 {limit} cgroup weight-iosize") == f"{tokens}/{carryover}"
    seen(f"io_limit {limit}: {tokens} tokens, carryover {carryover}")


@pytest.mark.contract("iosize-02")
@pytest.mark.parametrize(
    ("base", "tokens", "carryover"),
    [(0, 4096, 4), (1, 1, 16384), (1000, 1000, 16), (16384, 16384, 1), (2147483647, 2147483647, 1)],
)
def test_a_token_base(guest, seen, base, tokens, carryover):
    assert sharing(guest, f"s 4 128 cgroup weight-iosize {base}") == f"{tokens}/{carryover}"
    seen(f"{base}: {tokens} tokens, carryover {carryover}")


@pytest.mark.contract("iosize-02")
def test_token_and_carryover_by_message(guest, seen):
    length = sectors(guest, DISK)
    with (
        Ioband(guest, "d").create(f"0 {length} ioband {DISK} s 4 128 cgroup weight-iosize") as device,
        Hierarchy(guest, "blkio") as blkio,
    ):
        for words, expected in (
            ("token 1000", (1000, 16)),
            ("carryover 3", (1000, 3)),
            ("token 0", (4096, 3)),
            ("carryover 0", (4096, 4)),
            ("carryover 9", (4096, 9)),
            ("io_limit 64", (2048, 8)),
        ):
            device.message(*words.split())
            (share,) = blkio.root.devices
            assert (share.token, share.carryover) == expected, words
            seen(f"{words}: {share.token}/{share.carryover}")


@pytest.mark.contract("iosize-03")
def test_switching(guest, seen):
    with Ioband(guest, "d").create(f"0 64 ioband {DISK} s 4 128 user weight 999 :40 7:80") as device:
        device.message("policy", "weight-iosize")
        assert shown(device) == "s 4 128 user weight-iosize 4096 :100 7:100"
        seen(shown(device))
        device.message("weight", "7:5")
        device.message("token", "77")
        device.message("policy", "weight-iosize")
        assert shown(device) == "s 4 128 user weight-iosize 77 :100 7:5", "the same policy is left alone"
        device.message("policy", "weight")
        assert shown(device) == "s 4 128 user weight 512 :100 7:100"
        seen(shown(device))


@pytest.mark.contract("iosize-04")
def test_weights(guest, seen):
    with Ioband(guest, "d").create(f"0 64 ioband {DISK} s 0 0 user weight-iosize 0 :40 7:80") as device:
        assert shown(device) == "s 4 128 user weight-iosize 4096 :40 7:80"
        device.message("weight", "7:32767")
        device.message("weight", "1")
        device.message("attach", "8")
        assert shown(device) == "s 4 128 user weight-iosize 4096 :1 7:32767 8:100"
        seen(shown(device))
        for wrong in ("0", "32768", "7:0", "7:x", "77:5", "7:1:2"):
            with refused("EINVAL"):
                device.message("weight", wrong)
        assert shown(device) == "s 4 128 user weight-iosize 4096 :1 7:32767 8:100"
        text = device.raw_table()
        device.reload(text.strip())
        device.resume()
        assert device.raw_table() == text


@pytest.mark.contract("iosize-05")
def test_cgroup_files(guest, seen):
    length = sectors(guest, DISK)
    with (
        Ioband(guest, "d").create(f"0 {length} ioband {DISK} s 4 128 cgroup weight-iosize"),
        Hierarchy(guest, "blkio") as blkio,
    ):
        group = blkio.create("g")
        group.set("d", Setting(weight=40))
        assert group.read("blkio.settings") == "d weight=40\n"
        with refused("EINVAL"):
            group.write("blkio.settings", "d 1:2")
        line = "s policy=weight-iosize io_throttle=4 io_limit=128 token=4096 carryover=4\n  d\n"
        assert blkio.root.read("blkio.devices") == line
        seen(line.splitlines()[0])
