"""The pytest plugin: fixtures of a booted guest. Every pytest run of the project loads it, so it imports little."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.recording import SESSION_PLUGIN

if TYPE_CHECKING:
    from harness.campaign import Campaign
    from harness.guest import Guest
    from harness.kbuild import Build
    from harness.session import Session
    from harness.store import Store
    from harness.testbed import Testbed
    from harness.userland import Image


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The rows of the contract that tests name must exist; last, when -k has deselected what it does."""
    if not any(item.get_closest_marker("guest") for item in items):
        return
    from harness import conformance

    conformance.check(items)


@pytest.fixture(scope="session")
def harness_session(pytestconfig: pytest.Config) -> Session:
    """The invocation that this pytest run belongs to; without one, guest tests are skipped."""
    plugin = pytestconfig.stash.get(SESSION_PLUGIN, None)
    if plugin is None:
        pytest.skip("guest tests run through `harness test tests/guest` (or `make test`)")
    return plugin.session


@pytest.fixture(scope="session")
def testbed(harness_session: Session) -> Testbed:
    """Kernel, series, builds, image."""
    if harness_session.testbed is None:
        pytest.skip(harness_session.why_not)
    return harness_session.testbed


@pytest.fixture(scope="session")
def store(testbed: Testbed) -> Store:
    """The cache."""
    return testbed.store


@pytest.fixture(scope="session")
def kernel_build(testbed: Testbed) -> Build:
    """The kernel with the series."""
    return testbed.build


@pytest.fixture(scope="session")
def image(testbed: Testbed) -> Image:
    """The guest's userland."""
    return testbed.image


@pytest.fixture(scope="session")
def campaign(testbed: Testbed, pytestconfig: pytest.Config) -> Campaign:
    """The runs of all selected scenarios."""
    return pytestconfig.stash[SESSION_PLUGIN].started_campaign()


@pytest.fixture(scope="session")
def guest(testbed: Testbed, harness_session: Session) -> Iterator[Guest]:
    """A guest on the real clock with one throttled disk, /dev/vda, shared by the tests of a session."""
    from harness.machine import Disk

    folder = harness_session.recorder.folder / "guest"
    with testbed.boot(folder, disks=(Disk(name="disk", size_mb=64, iops=1000),)) as connected:
        _record(connected, testbed, harness_session)
        yield connected


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """``seen(text)``: what the test saw, for the report's conformance table; several calls, several facts."""

    def note(text: str) -> None:
        request.node.user_properties.append(("seen", text))

    return note


@pytest.fixture
def fresh_guest(testbed: Testbed, tmp_path: Path) -> Iterator[Guest]:
    """A guest of one's own, for tests that leave it broken."""
    from harness.machine import Disk

    with testbed.boot(tmp_path / "guest", disks=(Disk(name="disk", size_mb=64, iops=1000),)) as connected:
        yield connected


def _record(guest: Guest, testbed: Testbed, session: Session) -> None:
    """So that the report shows its QEMU command and its console."""
    from datetime import UTC, datetime

    from harness.record import MachineRecord

    machine = guest.machine
    entry = MachineRecord(
        id="guest",
        role="guest suite",
        argv=list(machine.argv),
        accel=machine.accel,
        clock="real",
        started=datetime.now(UTC),
        build=testbed.build.key,
        console=machine.console_log,
    )
    with session.recorder.change() as run:
        run.machines.append(entry)
