"""The virtual clock's promise: one build, one scenario, one seed, one outcome, whatever the host does meanwhile."""

from __future__ import annotations

import pytest

from harness import project, scenario
from harness.bench import busy_host
from harness.campaign import Campaign
from harness.record import Recorder

pytestmark = pytest.mark.guest


def _run(testbed, folder, seed):
    with Campaign(testbed, Recorder.start(folder, []), lambda s: s.name) as campaign:
        return campaign.counters(scenario.load(project.scenarios_dir() / "cgroup-80-20.toml"), seed=seed)


def test_same_seed_same_counters(testbed, tmp_path):
    first = _run(testbed, tmp_path / "1", seed=1)
    with busy_host():
        again = _run(testbed, tmp_path / "2", seed=1)
    assert first.reads == again.reads
    assert first.writes == again.writes
    assert first.times == again.times
    assert first.fingerprint == again.fingerprint


def test_other_seed_other_counters(testbed, tmp_path):
    assert (
        _run(testbed, tmp_path / "1", seed=1).fingerprint != _run(testbed, tmp_path / "2", seed=2).fingerprint
    )
