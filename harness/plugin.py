"""The pytest plugin: fixtures of a booted guest. Every pytest run of the project loads it, so it imports little."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from harness.recording import SESSION_PLUGIN

if TYPE_CHECKING:
    from harness.campaign import Campaign
    from harness.guest import Guest
    from harness.guests import Guests, Shape
    from harness.kbuild import Build
    from harness.oops import Sign
    from harness.session import Session
    from harness.store import Store
    from harness.testbed import Testbed
    from harness.userland import Image

_DEFAULT_FLAVOUR = "perf"


def pytest_configure(config: pytest.Config) -> None:
    """In one of several test processes: what it belongs to."""
    given = getattr(config, "workerinput", {}).get("harness")
    if given is not None:
        from harness import parallel

        parallel.begin_worker(config, given)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of one kind of guest one after another, `perf` with one CPU first: none is booted twice.

    The rows of the contract that tests name must exist; last, when -k has deselected what it does.
    """
    items.sort(key=kind)
    if not any(item.get_closest_marker("guest") for item in items):
        return
    from harness import conformance, needs

    conformance.check(items)
    plugin = config.stash.get(SESSION_PLUGIN, None)
    if plugin is not None:
        needs.skip_what_is_lacking(items, plugin.session.kernel)


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
def fact(testbed: Testbed) -> Callable[[str], int | str | tuple[str, ...]]:
    """``fact(name)``: something in which base kernels differ, for the one that is tested (``facts`` in kernel.toml)."""

    def value(name: str) -> int | str | tuple[str, ...]:
        known = testbed.spec.facts
        if name not in known:
            raise pytest.UsageError(
                f"no fact {name!r}; kernel/{testbed.spec.name}/kernel.toml has {', '.join(known) or 'none'}"
            )
        return known[name].value

    return value


@pytest.fixture(scope="session")
def campaign(testbed: Testbed, pytestconfig: pytest.Config) -> Campaign:
    """The runs of all selected scenarios."""
    return pytestconfig.stash[SESSION_PLUGIN].started_campaign()


@pytest.fixture(scope="session")
def guests(testbed: Testbed, harness_session: Session, request: pytest.FixtureRequest) -> Iterator[Guests]:
    """Who boots the guests, and keeps the shared one."""
    from harness import progress
    from harness.guests import Guests

    items = {item.nodeid: item for item in request.session.items}
    plugin = request.config.stash[SESSION_PLUGIN]

    def leaked(nodeid: str, what: str) -> None:
        # Of the time before the first test: the last one that ran speaks for the kernel itself.
        plugin.late(items[nodeid] if nodeid else request.session.items[-1], what)

    with Guests(testbed, harness_session.recorder, progress.default(), leaked) as made:
        yield made


@pytest.fixture(scope="session")
def flavour(request: pytest.FixtureRequest) -> str:
    """The flavour of the kernel that a test runs on; the marker `flavours` makes one test of each."""
    return str(getattr(request, "param", _DEFAULT_FLAVOUR))


@pytest.fixture
def guest(guests: Guests, flavour: str, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The guest that tests share: on the real clock, with one throttled disk, /dev/vda, of 64 MiB and 1000 IOPS.

    The marker `machine` says what it is made of where that is not enough. After the test it must be as before:
    what is left behind, or the kernel's complaints (but those that the marker `expects` names), are an error of the
    test, and the next one gets a new guest.
    """
    yield guests.shared(_shape(request.node, flavour))
    guests.check(request.node.nodeid, _expected(request.node))


@pytest.fixture
def boot_guest(
    guests: Guests, flavour: str, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Guest]]:
    """``boot_guest(flavour=, cpus=, memory_mb=, append=, disks=)``: another guest of one's own, up to the test's end.

    What is not said is as `guest` has it, and so is the check at the end.
    """
    with contextlib.ExitStack() as stack:

        def boot(**changes: Any) -> Guest:
            shape = dataclasses.replace(_shape(request.node, flavour), **changes)
            return stack.enter_context(guests.own(shape, request.node.nodeid, _expected(request.node)))

        yield boot


@pytest.fixture
def fresh_guest(guests: Guests, flavour: str, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A guest of one's own, for tests that leave it broken: nobody looks at it afterwards. Otherwise as `guest`."""
    with guests.boot(_shape(request.node, flavour)) as connected:
        yield connected


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each flavour that the marker names."""
    marker = metafunc.definition.get_closest_marker("flavours")
    if marker is not None and "flavour" in metafunc.fixturenames:
        metafunc.parametrize("flavour", marker.args, indirect=True, scope="session")


def alone(item: pytest.Item) -> bool:
    """Whether it takes all cores of the host: scenarios do, and guests of several CPUs."""
    machine = item.get_closest_marker("machine")
    several = machine is not None and machine.kwargs.get("cpus", 1) > 1
    return several or item.get_closest_marker("scenario") is not None


def kind(item: pytest.Item) -> tuple[str, str]:
    """What tests are ordered by; empty for those that need no guest, or the default one."""
    if "guest" not in getattr(item, "fixturenames", ()):
        return ("", "")
    callspec = getattr(item, "callspec", None)
    flavour = callspec.params.get("flavour", _DEFAULT_FLAVOUR) if callspec else _DEFAULT_FLAVOUR
    machine = item.get_closest_marker("machine")
    return ("" if flavour == _DEFAULT_FLAVOUR else flavour, str(machine.kwargs) if machine else "")


def _shape(node: pytest.Item, flavour: str) -> Shape:
    from harness.guests import Shape

    marker = node.get_closest_marker("machine")
    return Shape(flavour=flavour, **(marker.kwargs if marker else {}))


def _expected(node: pytest.Item) -> frozenset[Sign]:
    from harness.oops import Sign

    marker = node.get_closest_marker("expects")
    return frozenset(Sign(name) for name in marker.args) if marker else frozenset()


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """``seen(text)``: what the test saw, for the report's conformance table; several calls, several facts."""

    def note(text: str) -> None:
        request.node.user_properties.append(("seen", text))

    return note
