"""Every scenario of tests/scenarios: its shares, and its negative controls."""

import pytest

from harness import project, scenario
from harness.shares import Verdict

# Those of the real clock last: they have the host to themselves then.
SCENARIOS = sorted(scenario.load_all(project.scenarios_dir()), key=lambda s: (s.clock == "real", s.name))
CASES = [pytest.param(s, marks=pytest.mark.contract(*s.contract), id=s.name) for s in SCENARIOS]


@pytest.mark.guest
@pytest.mark.scenario
@pytest.mark.parametrize("scenario", CASES)
def test_shares(scenario, campaign, seen):
    entry = campaign.verdict(scenario)
    for share in entry.judged.shares if entry.judged else ():
        seen(f"{scenario.name}: {share.group} {100 * share.mean:.1f} % of {100 * share.target:.1f}")
    assert entry.verdict is Verdict.PASS, "\n".join(entry.reasons)
