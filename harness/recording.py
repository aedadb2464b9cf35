"""What ``harness test`` adds to pytest: scenarios start when the tests are collected, and every outcome is recorded."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from harness.campaign import Campaign
    from harness.conformance import Conformance
    from harness.record import ScenarioRecord, TestRecord
    from harness.scenario import Scenario
    from harness.session import Session

LATE = "late"
"""User property of a test: what is said of another, see `WorkerPlugin`."""
_LONGEST = 4000  # characters of a message
# Python's own words.
_AND_THEN = "\n\nDuring handling of the above exception, another exception occurred:\n\n"
SESSION_PLUGIN: pytest.StashKey[SessionPlugin] = pytest.StashKey()


class SessionPlugin:
    """Starts the campaign once the tests are collected, and records outcomes.

    conformance: of a larger selection, of which this run is a part; None: made of what is collected.
    only: "alone" (`plugin.alone`) or "others"; the rest of what is collected is not run.
    """

    def __init__(
        self,
        session: Session,
        *,
        conformance: Conformance | None = None,
        only: Literal["alone", "others"] | None = None,
    ) -> None:
        self.session = session
        self.campaign: Campaign | None = None
        self.conformance = conformance
        self.interrupted = False
        self._only = only
        self._waiting: list[Scenario] = []
        self._nodeids: dict[str, str] = {}
        self._deaths: set[Path | None] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[SESSION_PLUGIN] = self

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """With --flavour, of tests that there are of several flavours only those; with ``only``, only those."""
        from harness.conformance import flavour_of

        wanted = self.session.flavours
        left_out = [item for item in items if wanted and flavour_of(item) not in (*wanted, None)]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]
        if self._only is not None:
            from harness.plugin import alone

            items[:] = [item for item in items if alone(item) == (self._only == "alone")]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Boot the first machines now; if other tests are selected as well, when the first scenario's turn comes:
        tests that take the time do not want the host's cores busy.
        """
        if self.session.testbed is None or session.config.option.collectonly or session.testsfailed:
            return
        from harness.campaign import Campaign
        from harness.conformance import Conformance
        from harness.scenario import Scenario

        if self.conformance is None:
            self.conformance = Conformance(session.config, session.items)
        self.session.recorder.update(conformance=self.conformance.rows)
        scenarios: list[Scenario] = []
        for item in session.items:
            if item.get_closest_marker("skip"):
                continue  # the kernel lacks something
            if isinstance(item, pytest.Function) and item.get_closest_marker("scenario"):
                wanted = item.callspec.params["scenario"]
                assert isinstance(wanted, Scenario)
                scenarios.append(wanted)
                self._nodeids[wanted.name] = item.nodeid
        self.campaign = Campaign(
            self.session.testbed, self.session.recorder, self._repeat, again=self.session.again
        )
        self._waiting = scenarios
        if len(scenarios) == len(session.items):
            self.started_campaign()

    def started_campaign(self) -> Campaign:
        """The campaign, started if it was not yet."""
        assert self.campaign is not None, "pytest_collection_finish makes it whenever there is a testbed"
        self.campaign.start(self._waiting)
        self._waiting = []
        return self.campaign

    def _repeat(self, scenario: Scenario) -> str:
        from harness.campaign import repeat_command

        return repeat_command(self.session.kernel, self.session.series, self._nodeids[scenario.name])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        if self.campaign is not None:
            self.campaign.__exit__(None, None, None)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Ctrl-C. pytest ends in the same way after errors during collection, and xdist after --exitfirst; what they
        raise is derived from it.
        """
        self.interrupted = type(excinfo.value) is KeyboardInterrupt

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A test file that cannot be read is an error like a test's."""
        from harness.record import TestRecord

        if report.failed:
            message = _shortened(str(report.longrepr or ""))
            with self.session.recorder.change() as run:
                run.tests.append(
                    TestRecord(
                        nodeid=report.nodeid or str(report.fspath),
                        outcome="error",
                        seconds=0.0,
                        message=message,
                    )
                )

    def late(self, item: pytest.Item, what: str) -> None:
        """A test failed after all, though it is over."""
        item.ihook.pytest_runtest_logreport(report=_late(item.nodeid, item.location, what))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        from harness.record import TestRecord

        if report.when != "call" and report.outcome == "passed":
            return
        judged = self._judged(report) if report.when == "call" else None
        with self.session.recorder.change() as run:
            if self.conformance is not None and self.conformance.concerns(report.nodeid):
                seen = [text for name, text in report.user_properties if name == "seen"]
                undecided = judged is not None and judged.verdict == "inconclusive"
                self.conformance.ended(
                    report.nodeid,
                    "inconclusive" if undecided else _outcome(report),
                    [str(text) for text in seen],
                )
            if judged is not None:
                return  # the scenario's own record says more, and tells fail from inconclusive
            entry = TestRecord(
                nodeid=report.nodeid,
                outcome=_outcome(report),
                seconds=report.duration,
                message=_message(report),
            )
            earlier = next((t for t in run.tests if t.nodeid == entry.nodeid), None)
            if earlier is not None:
                run.tests.remove(earlier)
                _add_earlier(entry, earlier)
            run.tests.append(entry)

    def _judged(self, report: pytest.TestReport) -> ScenarioRecord | None:
        """The record of the scenario that the test is about, once it is decided."""
        entries = self.session.recorder.run.scenarios
        mine = (s for s in entries if self._nodeids.get(s.name) == report.nodeid)
        return next((s for s in mine if s.verdict is not None), None)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        outcome: Any = yield
        from harness.campaign import Stopped
        from harness.errors import GuestError, HarnessError, InfrastructureError, UserError

        error = _leading(call.excinfo.value) if call.excinfo else None
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            error = InfrastructureError(
                f"the disk is full: {error.filename or error}", hint="free some space, then run it again"
            )
        report = outcome.get_result()
        if isinstance(error, HarnessError):
            report.longrepr = _AND_THEN.join(f"{type(e).__name__}: {e}" for e in _in_order(error))
        if isinstance(error, Stopped):
            report.outcome = "skipped"
            report.longrepr = (str(item.path), 0, f"Skipped: {error}")
        recorder = self.session.recorder
        if isinstance(error, GuestError) and error.log not in self._deaths:
            self._deaths.add(error.log)
            if not any(d.message == error.message and d.raw == error.raw for d in recorder.run.deaths):
                recorder.died(item.nodeid, error)
        if isinstance(error, InfrastructureError | UserError) and recorder.run.error is None:
            recorder.stopped(error)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """One line per scenario, with what was measured, as soon as it is known."""
        if report.when != "call" or report.nodeid not in self._nodeids.values():
            return None
        entry = self._judged(report)
        if entry is None or entry.verdict is None:
            return None
        return (
            report.outcome,
            f"\n{entry.verdict.upper():12} {_line(entry)}",
            f"{entry.verdict.upper()} {_line(entry)}",
        )


class WorkerPlugin(SessionPlugin):
    """The same in one of several processes. Outcomes are recorded by the first process, to which xdist sends the
    reports of the test that runs, and no others: what is said of an earlier one goes with it.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session, only="others")
        self._runs: pytest.Item | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        self._runs = item

    def late(self, item: pytest.Item, what: str) -> None:
        assert self._runs is not None, "guests are booted by tests"
        self._runs.user_properties.append((LATE, json.dumps([item.nodeid, item.location, what])))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        pass


class ControllerPlugin(SessionPlugin):
    """The same in the first of several processes. conformance: of all that was collected."""

    def __init__(self, session: Session, conformance: Conformance | None) -> None:
        super().__init__(session, conformance=conformance)
        self._told: set[str] = set()
        self._config: pytest.Config | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        super().pytest_configure(config)
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        assert self._config is not None
        super().pytest_runtest_logreport(report)
        # The properties of a test come with each of its reports.
        for name, text in report.user_properties:
            if name == LATE and text not in self._told:
                self._told.add(str(text))
                nodeid, (file, line, domain), what = json.loads(str(text))
                self._config.hook.pytest_runtest_logreport(report=_late(nodeid, (file, line, domain), what))


def _late(nodeid: str, location: tuple[str, int | None, str], what: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=nodeid, location=location, keywords={}, outcome="failed", longrepr=what, when="teardown"
    )


def _line(entry: ScenarioRecord) -> str:
    from harness.shares import bounds_text, number

    shares = entry.judged.shares if entry.judged else ()
    parts = [
        f"{s.group} {100 * s.mean:.1f} % [{100 * s.low:.1f}, {100 * s.high:.1f}] of {100 * s.target:.1f}"
        for s in shares
    ]
    if not shares and entry.judged:
        parts += [
            f"{f.label} {number(f.mean)} {f.unit} ({bounds_text(f)})"
            for f in entry.judged.figures
            if f.at_least is not None or f.at_most is not None
        ]
    if entry.expected_failure:
        parts.append("(expected failure)")
    return f"{entry.name:22} {'   '.join(parts)}"


def _leading(error: BaseException) -> BaseException:
    """Of several errors, as of fixtures that end together, the one that tells why: the guest's death, if any."""
    from harness.errors import GuestError

    if not isinstance(error, BaseExceptionGroup):
        return error
    found = [_leading(e) for e in error.exceptions]
    return next((e for e in found if isinstance(e, GuestError)), found[0])


def _in_order(error: BaseException) -> list[BaseException]:
    """The error, and before it those that were being dealt with when it was raised, as in a test's cleaning up: the
    first one tells why. One that was raised from another says itself all that matters.
    """
    found = [error]
    while error.__cause__ is None and error.__context__ is not None and not error.__suppress_context__:
        error = _leading(error.__context__)
        found.append(error)
    return found[::-1]


def _add_earlier(entry: TestRecord, earlier: TestRecord) -> None:
    """What the same test did before: one that passed may turn out, by what it left behind, not to have; one that failed
    stays so.
    """
    entry.seconds += earlier.seconds
    if earlier.outcome not in ("passed", "skipped", "xfailed"):
        entry.outcome = earlier.outcome
        entry.message = f"{earlier.message}\n\nand after the test:\n\n{entry.message}"


def _outcome(report: pytest.TestReport) -> Any:
    if hasattr(report, "wasxfail"):
        return "xpassed" if report.passed else "xfailed"
    if report.failed and report.when != "call":
        return "error"
    return report.outcome


def _message(report: pytest.TestReport) -> str:
    if report.passed:
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return _shortened(str(report.longrepr or ""))


def _shortened(text: str) -> str:
    """Both ends of a long one: what it is about, and how it ended."""
    if len(text) <= _LONGEST:
        return text
    first = text[: _LONGEST // 4].rpartition("\n")[0] or text[: _LONGEST // 4]
    last = text[-_LONGEST * 3 // 4 :]
    return f"{first}\n...\n{last.partition(chr(10))[2] or last}"
