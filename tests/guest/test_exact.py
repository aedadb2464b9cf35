"""The virtual clock's promise: one build, one scenario, one seed, one outcome, whatever the host does meanwhile."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

from harness import project, scenario
from harness.campaign import Campaign
from harness.record import Recorder

pytestmark = pytest.mark.guest


@contextlib.contextmanager
def busy_host():
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", "while True: pass"]
    burners = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


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
