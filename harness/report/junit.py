"""JUnit XML: scenarios, their negative controls, tests and deaths as cases, for CI systems to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from junitparser import Error, Failure, JUnitXml, Skipped
from junitparser.xunit2 import TestCase, TestSuite

from harness.comparison import SERIES, Comparison, Contender
from harness.mutant import MutantRecord
from harness.record import ControlRecord, Run, ScenarioRecord, TestRecord
from harness.report import comparison, conformance
from harness.report.summary import complaints, headline, percent, shown
from harness.shares import ShareVerdict, Verdict, bounds_text, number
from harness.validation import Result


def render(run: Run) -> str:
    """The run as JUnit XML text.

    An undecided case is an error of type "inconclusive", so that no CI system takes it for a pass.
    """
    xml: Any = JUnitXml("harness")
    scenarios = _suite(run, "scenarios")
    word, sentence = headline(run)
    about = {"run": run.id, "verdict": word.value, "why": sentence}
    if run.kernel:
        about["kernel"] = f"{run.kernel.name} ({run.kernel.version})"
    if run.series:
        about["series"] = f"{run.series.name} {run.series.digest}"
    for name, value in about.items():
        scenarios.add_property(name, shown(value))
    for scenario in run.scenarios:
        scenarios.add_testcase(_scenario_case(run, scenario))
        for control in scenario.controls:
            scenarios.add_testcase(_control_case(scenario, control))
    xml.add_testsuite(scenarios)
    rows = conformance.by_test(run)
    others = {
        "tests": [_test_case(t, *rows.get(t.nodeid, ([], []))) for t in run.tests],
        "mutants": [_mutant_case(m) for m in run.mutants],
        "patches": [_patch_case(r) for r in (run.validation.results if run.validation else ())],
        "comparisons": [_contender_case(made, c) for made in run.comparisons for c in made.ran],
    }
    for name, cases in others.items():
        if cases:
            suite = _suite(run, name)
            for case in cases:
                suite.add_testcase(case)
            xml.add_testsuite(suite)
    if run.deaths or run.error:
        xml.add_testsuite(_trouble(run))
    xml.update_statistics()
    text: bytes = xml.tostring()
    return text.decode("utf-8")


def _suite(run: Run, name: str) -> Any:
    suite: Any = TestSuite(name)  # type: ignore[no-untyped-call]
    suite.timestamp = run.started.isoformat()
    return suite


def _scenario_case(run: Run, scenario: ScenarioRecord) -> Any:
    seconds = sum(m.wall_seconds or 0 for m in run.machines if m.scenario == scenario.name)
    case = TestCase(scenario.name, "scenarios", seconds)
    _share_properties(case, scenario.judged)
    case.add_property("clock", scenario.clock)
    case.add_property("command", scenario.command)
    if scenario.expected_failure:
        case.add_property("expected failure", shown(scenario.expected_failure))
    if scenario.conservation:
        case.add_property("work conservation, %", percent(scenario.conservation.ratio, 2))
    why = "; ".join(scenario.reasons)
    if scenario.verdict is Verdict.FAIL:
        case.result = [Failure(shown(why), "shares")]
    elif scenario.verdict is not Verdict.PASS:
        case.result = [Error(shown(why or "not judged"), "inconclusive")]
    return case


def _control_case(scenario: ScenarioRecord, control: ControlRecord) -> Any:
    """A control passes by missing the target, or by reaching it if it must."""
    case = TestCase(control.name, f"scenarios.{scenario.name}.controls", 0.0)
    _share_properties(case, control.judged)
    if control.verdict is Verdict.FAIL:
        why = f"reaches the target without what is tested: {control.description}"
        if control.reaches:
            why = f"misses the target, which it must reach: {control.description}"
        case.result = [Failure(shown(why), "control")]
    elif control.verdict is not Verdict.PASS:
        why = "; ".join(control.judged.reasons) if control.judged else "not judged"
        case.result = [Error(shown(why), "inconclusive")]
    return case


def _share_properties(case: Any, judged: ShareVerdict | None) -> None:
    for share in judged.shares if judged else ():
        value = f"{percent(share.mean, 2)} ({percent(share.low, 2)} to {percent(share.high, 2)})"
        case.add_property(f"share of {share.group}, %", value)
        case.add_property(f"target of {share.group}, %", percent(share.target, 2))
    for figure in judged.figures if judged else ():
        text = f"{number(figure.mean)} ({number(figure.low)} to {number(figure.high)}) {figure.unit}"
        case.add_property(figure.label, shown(text))
        case.add_property(f"bounds of {figure.label}", bounds_text(figure))


def _test_case(test: TestRecord, rows: Sequence[str], seen: Sequence[str]) -> Any:
    """With the rows of the contract that it serves, and what it saw, as properties."""
    file, _, name = test.nodeid.partition("::")
    case = TestCase(name or file, file.removesuffix(".py").replace("/", "."), test.seconds)
    if rows:
        case.add_property("contract", " ".join(rows))
    if seen:
        case.add_property("seen", shown("; ".join(seen)))
    kinds = {"failed": Failure, "error": Error, "skipped": Skipped, "xfailed": Skipped}
    if test.outcome in kinds:
        result = kinds[test.outcome](shown(test.message.partition("\n")[0]), test.outcome)
        result.text = shown(test.message)
        case.result = [result]
    return case


def _mutant_case(mutant: MutantRecord) -> Any:
    """A mutant passes by being killed."""
    case = TestCase(mutant.name, "mutants", mutant.seconds)
    case.add_property("mistake", shown(mutant.mistake))
    if mutant.killed_by:
        case.add_property("killed by", mutant.killed_by)
    if not mutant.killed:
        case.result = [
            Failure(shown(f"{mutant.mistake}: {mutant.outcome} {mutant.how}".rstrip()), mutant.outcome)
        ]
    return case


def _patch_case(result: Result) -> Any:
    """A patch, or a configuration, passes when there is nothing to mend."""
    case = TestCase(result.name, "patches", result.seconds)
    if not result.ok:
        failure = Failure(shown(next(iter(complaints(result)), "")).partition("\n")[0], "mend")
        failure.text = shown("\n".join(complaints(result)))
        case.result = [failure]
    return case


def _contender_case(made: Comparison, contender: Contender) -> Any:
    """The series must pass. What others come to is a property of a case that passes, if their counters agree."""
    case = TestCase(contender.name, f"comparisons.{made.scenario}", 0.0)
    case.add_property("verdict", comparison.label(contender, made))
    _share_properties(case, contender.judged)
    why = shown(contender.error or "; ".join(contender.reasons) or "not judged")
    if contender.error is not None:
        case.result = [Error(why, "counters")]
    elif contender.name == SERIES and contender.verdict is Verdict.FAIL:
        case.result = [Failure(why, "shares")]
    elif contender.name == SERIES and contender.verdict is not Verdict.PASS:
        case.result = [Error(why, "inconclusive")]
    return case


def _trouble(run: Run) -> Any:
    """Deaths of guest kernels, and the error that ended the run early."""
    suite = _suite(run, "kernel and run")
    for death in run.deaths:
        case = TestCase(f"guest kernel of {death.machine} lives", "kernel", 0.0)
        result = Error(shown(death.message), death.kind)
        result.text = shown(death.trace or death.raw)
        case.result = [result]
        suite.add_testcase(case)
    if run.error:
        case = TestCase("run finishes", "run", 0.0)
        case.result = [Error(shown(run.error.message), run.error.kind)]
        suite.add_testcase(case)
    return suite
