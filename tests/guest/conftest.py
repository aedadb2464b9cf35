"""Fixtures of several test files."""

from __future__ import annotations

import contextlib
import functools
import weakref

import pytest

# Before they are imported: that their assertions, too, say what the values were.
pytest.register_assert_rewrite("gate", "lab", "owners", "places", "race")

from lab import DISK, Lower, Submitters, devices  # noqa: E402
from places import place_of  # noqa: E402

from harness.cgroup import Hierarchy  # noqa: E402
from harness.dm import Ioband, TableLine  # noqa: E402
from harness.guest import Guest  # noqa: E402

LENGTH = 8192

_guests_at_hand: weakref.WeakSet[Guest] = weakref.WeakSet()


@pytest.fixture
def guest(guest):
    """The shared guest, as `harness.plugin` has it; its disk has 128 requests, which io_limit 0 stands for."""
    if guest not in _guests_at_hand:
        guest.run(f"echo 128 > /sys/block/{DISK.removeprefix('/dev/')}/queue/nr_requests")
        _guests_at_hand.add(guest)
    return guest


@pytest.fixture
def stack():
    """What is put on it ends with the test."""
    with contextlib.ExitStack() as made:
        yield made


@pytest.fixture
def blkio(guest):
    """The hierarchy of blkio."""
    with Hierarchy(guest, "blkio") as hierarchy:
        yield hierarchy


@pytest.fixture
def band(guest, stack):
    """``band(name, share, ...)``: another ioband device on the disk, until the test's end."""

    def make(name, share="s", **parameters):
        words = {"type": "cgroup", "token_base": 0, "default": "100", **parameters}
        line = TableLine(length=LENGTH, device=DISK, share=share, **words)
        return stack.enter_context(Ioband(guest, name).create(line))

    return make


@pytest.fixture
def submitters(fact):
    """``submitters(guest)``: as `lab.Submitters`."""
    return functools.partial(Submitters, waits=fact("io_waits"))


@pytest.fixture
def low(guest):
    """A device between the disk and what is tested, which can keep what it is given."""
    with Lower(guest) as device:
        yield device


@pytest.fixture
def make(guest, low):
    """``make(line, name)``: a device on ``low`` of a line after the lower device, with nothing counted yet; gone with
    the test. Files with other lower devices have their own.
    """
    with devices(guest, low.length) as made:

        def one(line, name="d", lower=low):
            device = made(f"{lower.path} {line}", name, lower.length)
            device.message("reset")  # whoever looks at a new device for partitions has read from it
            return device

        yield one


@pytest.fixture(params=["raw", "ext2", "ext3"])
def place(request, guest):
    """Where data goes, on a device that counts everything: the device itself, and files."""
    with place_of(request.param, guest) as made:
        yield made


@pytest.fixture
def raw(guest):
    """As `place`: the device itself."""
    with place_of("raw", guest) as made:
        yield made


@pytest.fixture
def ext2(guest):
    """As `place`: a file on ext2."""
    with place_of("ext2", guest) as made:
        yield made


@pytest.fixture
def ext3(guest):
    """As `place`: a file on ext3."""
    with place_of("ext3", guest) as made:
        yield made
