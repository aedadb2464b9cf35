"""dmsetup message: what each changes, what each refuses, and that a refusal changes nothing."""

from __future__ import annotations

import pytest
from lab import DISK, KernelLog, by_row, devices, refused, shown

pytestmark = [pytest.mark.guest, pytest.mark.flavours("perf", "debug")]

PLAIN = "s 4 128 none weight 512 :100"
USERS = "s 4 128 user weight 512 :40 7:80 8:20"

# rows, table before, message, table after
TAKEN = [
    *((["msg-throttle-01"], PLAIN, f"io_throttle {n}", f"s {shown} 128 none weight 512 :100")
      for n, shown in (("0", 4), ("1", 1), ("7", 7), ("0x10", 16), ("010", 8), ("128", 128))),
    *((["msg-limit-01"], PLAIN, f"io_limit {n}", f"s 4 {shown} none weight {4 * shown} :100")
      for n, shown in (("0", 128), ("4", 4), ("64", 64), ("0x20", 32), ("020", 16), ("32767", 32767))),
    (["msg-limit-02"], "s 4 128 none weight 1000 :100", "io_limit 64", "s 4 64 none weight 256 :100"),
    (["msg-limit-02"], "s 4 300 none weight 77 :100", "io_limit 300", "s 4 300 none weight 1200 :100"),
    *((["msg-type-01"], PLAIN, f"type {name}", f"s 4 128 {name} weight 512 :100")
      for name in ("none", "user", "uid", "gid", "pid", "pgrp", "cgroup", "node", "cpuset")),
    (["msg-attach-01"], USERS, "attach 9", f"{USERS} 9:100"),
    (["msg-attach-01"], USERS, "attach 0", USERS.replace(" 7:", " 0:100 7:")),
    (["msg-attach-01"], USERS, "attach 0x10", f"{USERS} 16:100"),
    (["msg-attach-01"], USERS, "attach 2147483647", f"{USERS} 2147483647:100"),
    (["msg-detach-01"], USERS, "detach 7", "s 4 128 user weight 512 :40 8:20"),
    (["msg-detach-01"], USERS, "detach 0x8", "s 4 128 user weight 512 :40 7:80"),
    (["msg-policy-01", "chk-06"], "s 4 128 user weight 999 :40 7:80", "policy weight",
     "s 4 128 user weight 999 :40 7:80"),
    (["msg-policy-02", "chk-06"], "s 9 200 user weight 999 :40 7:80", "policy default",
     "s 9 200 user default 800 :100 7:100"),
    (["msg-policy-02"], "s 4 128 user default 999 :40 7:80", "policy weight", "s 4 128 user weight 512 :100 7:100"),
    *((["msg-weight-01", "chk-07"], USERS, f"weight {text}", USERS.replace(":40", f":{shown}"))
      for text, shown in (("50", 50), ("1", 1), ("32767", 32767), (":50", 50), ("=50", 50), (",50", 50), ("-1:50", 50),
                          ("0x10", 16))),
    *((["msg-weight-02", "chk-07"], USERS, f"weight {text}", USERS.replace("7:80", f"7:{shown}"))
      for text, shown in (("7:50", 50), ("7=50", 50), ("7,50", 50), ("0x7:1", 1), ("07:32767", 32767))),
    *((["msg-token-01"], USERS, f"token {text}", USERS.replace("512", str(shown)))
      for text, shown in (("1", 1), ("1000", 1000), ("0x100", 256), ("2147483647", 2147483647), ("7:99", 99),
                          (":98", 98))),
    (["msg-token-01"], "s 4 128 none weight 1000 :100", "token 0", PLAIN),
]  # fmt: skip

UNRECOGNISED = "Unrecognised band message received."
NOT_ONE = ("x", "5x", "0x", "1.5", "99999999999999999999")

# rows, table before, message, errno, what the kernel says besides ("" : nothing that is promised)
REFUSED = [
    *((["msg-throttle-02"], PLAIN, f"io_throttle {n}", "EINVAL", "") for n in ("-1", "32768", *NOT_ONE)),
    (["msg-throttle-03", "chk-06"], PLAIN, "io_throttle 129", "EINVAL", ""),
    (["msg-throttle-03"], "s 2 3 none weight 12 :100", "io_throttle 0", "EINVAL", ""),
    *((["msg-limit-03"], PLAIN, f"io_limit {n}", "EINVAL", "") for n in ("-1", "32768", *NOT_ONE)),
    (["msg-limit-04", "chk-06"], PLAIN, "io_limit 3", "EINVAL", ""),
    (["msg-limit-04"], "s 200 200 none weight 800 :100", "io_limit 0", "EINVAL", ""),
    *((["msg-type-02"], PLAIN, f"type {name}", "EINVAL", f"{name} isn't supported") for name in ("users", "0", "NONE")),
    (["msg-type-03", "chk-06"], USERS, "type gid", "EBUSY", ""),
    (["msg-type-03"], USERS, "type user", "EBUSY", ""),
    *((["msg-attach-02"], USERS, f"attach {n}", "EINVAL", "") for n in ("2147483648", "9:50", *NOT_ONE)),
    *((["msg-attach-03"], USERS, f"attach {n}", "EINVAL", "") for n in ("-1", "-2147483648")),
    (["msg-attach-04"], PLAIN, "attach 7", "EINVAL", ""),
    *((["msg-attach-05"], USERS, f"attach {n}", "EEXIST", "") for n in ("7", "0x7")),
    *((["msg-detach-02", "chk-06"], USERS, f"detach {n}", "EINVAL", "") for n in ("77", "0")),
    *((["msg-detach-03"], USERS, f"detach {n}", "EINVAL", "") for n in ("-1", "2147483648", "7:80", *NOT_ONE)),
    *((["msg-policy-03"], USERS, f"policy {name}", "EINVAL", "") for name in ("weights", "Weight", "0", "bfq")),
    *((["msg-weight-03"], USERS, f"weight {text}", "EINVAL", "")
      for text in ("0", "32768", "-1", *NOT_ONE, ":0", "7:0", "7:32768", "7:x", "7:", "7:8:9", ":")),
    *((["msg-weight-04", "chk-07"], USERS, f"weight {text}", "EINVAL", "") for text in ("77:50", "0:50", "-2:50")),
    *((["msg-weight-05"], USERS, f"weight {text}", "EINVAL", "")
      for text in ("x:50", "7x:50", "4294967303:50", "99999999999999999999:50")),
    *((["msg-token-02"], USERS, f"token {text}", "EINVAL", "")
      for text in ("-1:-5", "2147483648", "7:-1", "77:5", *NOT_ONE)),
    *((["msg-carryover-02"], USERS, f"carryover {text}", "EINVAL", "")
      for text in ("-1:-5", "2147483648", "7:-1", "77:5", *NOT_ONE)),
    *((["msg-unknown-01", "chk-07"], USERS, text, "EINVAL", "")
      for text in ("nonsense 1", "Weight 50", "min-bw 1", "debug 1")),
    *((["msg-unknown-02", "chk-07"], USERS, text, "EINVAL", UNRECOGNISED)
      for text in ("weight 1 2", "weight", "attach", "nonsense", "reset 1 2", "io_throttle 4 128")),
    (["msg-unknown-03"], USERS, "reset 1", "EINVAL", ""),
]  # fmt: skip


@pytest.fixture
def make(guest):
    """``make(line, name)``: a device of a line after the lower device; gone with the test."""
    with devices(guest, 64) as made:
        yield lambda line, name="d": made(f"{DISK} {line}", name)


@pytest.mark.parametrize("some", by_row(TAKEN))
def test_taken(make, seen, some):
    for before, message, after in some:
        device = make(before)
        assert shown(device) == before
        device.message(*message.split())
        assert shown(device) == after, message
        device.remove()
        seen(f"{message} \N{RIGHTWARDS ARROW} {after}")


@pytest.mark.parametrize("some", by_row(REFUSED))
def test_refused(guest, make, seen, some):
    device = None
    for before, message, errno_name, words in some:
        if device is None or shown(device) != before:
            if device is not None:
                device.remove()
            device = make(before)
        with KernelLog(guest) as log, refused(errno_name):
            device.message(*message.split())
        assert not words or words in log.text, message
        assert shown(device) == before, f"{message} is refused and yet changes something"
        seen(f"{message} \N{RIGHTWARDS ARROW} {errno_name}{f' {words!r}' * bool(words)}")


@pytest.mark.contract("msg-carryover-01")
def test_carryover(make, blkio, seen):
    device = make("s 0 0 user weight 0 :40 7:80")
    told = []
    for value in ("7", "0", "7:9", "2147483647", "0x10"):
        device.message("carryover", value)
        told.append(blkio.root.devices[0].carryover)
    assert told == [7, 4, 9, 2147483647, 16]
    seen(f"7, 0, 9 of a group, 2147483647, 0x10: {told}")


@pytest.mark.contract("msg-carryover-03")
def test_carryover_follows_the_tokens(make, blkio, seen):
    device = make("s 0 0 none weight")
    told = {}
    for tokens in ("1", "512", "1000", "2048", "5000"):
        device.message("token", tokens)
        told[tokens] = blkio.root.devices[0].carryover
    assert told == {"1": 2048, "512": 4, "1000": 2, "2048": 1, "5000": 1}
    seen(", ".join(f"{tokens} tokens: {epochs}" for tokens, epochs in told.items()))


@pytest.mark.contract("msg-limit-02")
def test_io_limit_brings_carryover_back(make, blkio, seen):
    device = make("s 0 0 none weight")
    device.message("carryover", "9")
    device.message("io_limit", "64")
    assert (blkio.root.devices[0].token, blkio.root.devices[0].carryover) == (256, 8)
    seen("io_limit 64: token 256, carryover 8")


@pytest.mark.contract("msg-policy-02")
def test_policy_brings_carryover_back(make, blkio, seen):
    device = make("s 0 0 none weight 100")
    device.message("carryover", "9")
    device.message("policy", "default")
    assert (blkio.root.devices[0].token, blkio.root.devices[0].carryover) == (512, 4)
    seen("token 512, carryover 4")


@pytest.mark.contract("msg-share-01")
@pytest.mark.parametrize(
    ("message", "first", "second"),
    [
        ("io_throttle 9", "s 9 128 user weight 512 :40 7:80", "s 9 128 none weight 512 :30"),
        ("io_limit 64", "s 4 64 user weight 256 :40 7:80", "s 4 64 none weight 256 :30"),
        ("token 99", "s 4 128 user weight 99 :40 7:80", "s 4 128 none weight 99 :30"),
        ("policy default", "s 4 128 user default 512 :100 7:100", "s 4 128 none default 512 :100"),
    ],
)
def test_what_belongs_to_the_share_changes_at_every_target(make, seen, message, first, second):
    devices = make("s 0 0 user weight 0 :40 7:80"), make("s 0 0 none weight 0 :30", "e")
    devices[1].message(*message.split())
    assert (shown(devices[0]), shown(devices[1])) == (first, second)
    seen(f"{message} to one: the other shows {first}")


@pytest.mark.contract("msg-share-02")
@pytest.mark.parametrize("message", ["weight 50", "weight 7:50", "attach 9", "detach 7"])
def test_what_belongs_to_a_target_changes_there_only(make, seen, message):
    devices = make("s 0 0 user weight 0 :40 7:80"), make("s 0 0 user weight 0 :30 7:20", "e")
    devices[1].message(*message.split())
    assert shown(devices[0]) == "s 4 128 user weight 512 :40 7:80"
    assert shown(devices[1]) != "s 4 128 user weight 512 :30 7:20"
    seen(f"{message}: {shown(devices[1])}")


@pytest.mark.contract("msg-share-02")
def test_type_is_the_targets_own(make, seen):
    devices = make("s 0 0 none weight"), make("s 0 0 none weight", "e")
    devices[1].message("type", "gid")
    assert [shown(d).split()[3] for d in devices] == ["none", "gid"]
    seen("type gid: the other target keeps none")


@pytest.mark.contract("msg-detach-04")
def test_a_detached_id_can_be_attached_again_with_the_default(make, seen):
    device = make("s 0 0 user weight 0 :40 7:80")
    device.message("detach", "7")
    device.message("attach", "7")
    assert shown(device) == "s 4 128 user weight 512 :40 7:100"
    device.message("detach", "7")
    device.message("type", "gid")
    seen("7:80, gone, 7:100; without groups the type can change")


@pytest.mark.contract("msg-limit-01")
@pytest.mark.parametrize("requests", [64, 200])
def test_io_limit_0_follows_the_queue(guest, make, fact, seen, requests):
    device = make("s 0 0 none weight")
    guest.run(f"echo {requests} > /sys/block/vda/queue/nr_requests")
    try:
        device.message("io_limit", "0")
        io_limit = device.table().io_limit
        assert io_limit == max(requests, fact("least_default_io_limit"))
    finally:
        guest.run("echo 128 > /sys/block/vda/queue/nr_requests")
    seen(f"nr_requests {requests}: io_limit {io_limit}")
