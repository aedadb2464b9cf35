"""Every scenario of tests/scenarios: its shares, and its negative controls."""

import pytest

from harness import project, scenario
from harness.shares import Verdict

# Those of the real clock last: they have the host to themselves then.
SCENARIOS = sorted(scenario.load_all(project.scenarios_dir()), key=lambda s: (s.clock == "real", s.name))


@pytest.mark.guest
@pytest.mark.scenario
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_shares(scenario, campaign):
    entry = campaign.verdict(scenario)
    assert entry.verdict is Verdict.PASS, "\n".join(entry.reasons)
