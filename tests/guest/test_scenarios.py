"""Every scenario of tests/scenarios: its shares, and its negative controls."""

import pytest

from harness import project, scenario
from harness.shares import Verdict, bounds_text, number

# Those of the real clock last: they have the host to themselves then.
SCENARIOS = sorted(scenario.load_all(project.scenarios_dir()), key=lambda s: (s.clock == "real", s.name))


def _marks(chosen):
    marks = [pytest.mark.contract(*chosen.contract)]
    marks += [pytest.mark.core] if chosen.core else []
    marks += [pytest.mark.needs(*chosen.needs)] if chosen.needs else []
    return [*marks, pytest.mark.exact] if chosen.clock == "virtual" else marks


CASES = [pytest.param(s, marks=_marks(s), id=s.name) for s in SCENARIOS]


@pytest.mark.guest
@pytest.mark.scenario
@pytest.mark.parametrize("scenario", CASES)
def test_shares(scenario, campaign, seen):
    entry = campaign.verdict(scenario)
    for share in entry.judged.shares if entry.judged else ():
        seen(f"{scenario.name}: {share.group} {100 * share.mean:.1f} % of {100 * share.target:.1f}")
    for figure in entry.judged.figures if entry.judged else ():
        if figure.unit != "%" and (figure.at_least is not None or figure.at_most is not None):
            seen(
                f"{scenario.name}: {figure.label}: {number(figure.mean)} {figure.unit}, {bounds_text(figure)}"
            )
    if scenario.expected_failure:
        seen(f"{scenario.name}: an expected failure, {scenario.expected_failure}")
    assert entry.verdict is Verdict.PASS, "\n".join(entry.reasons)
