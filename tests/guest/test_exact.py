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


@pytest.mark.parametrize("name", ["cgroup-80-20", "buffered-80-20"])
def test_what_is_remembered_comes_out_again(testbed, tmp_path, name):
    """The runs without the series are booted once, and looked up from then on."""
    chosen = scenario.load(project.scenarios_dir() / f"{name}.toml")
    compat = next(control for control in chosen.control if control.kind == "compat")
    found = []
    for folder, again in (("known", False), ("known as well", False), ("booted", True)):
        recorder = Recorder.start(tmp_path / folder, [])
        with Campaign(testbed, recorder, lambda s: s.name, again=again) as campaign:
            found.append((campaign.counters(chosen, compat, seed=1), recorder.run))
    (first, _), (known, without), (booted, with_machine) = found
    assert len(without.remembered) == 1 and not without.machines
    assert len(with_machine.machines) == 1 and not with_machine.remembered
    assert first == known == booted


@pytest.mark.parametrize("name", ["cgroup-80-20", "published-40-20-10"])
def test_the_disk_is_as_fast_as_the_scenario_says(testbed, tmp_path, name):
    """16 I/Os at a time, each of them so long: 3 %, as the CPU has its part in it."""
    chosen = scenario.load(project.scenarios_dir() / f"{name}.toml")
    compat = next(control for control in chosen.control if control.kind == "compat")
    with Campaign(testbed, Recorder.start(tmp_path / "run", []), lambda s: s.name) as campaign:
        sample = campaign.contest(chosen, compat).samples[0]
    assert sum(sample.ios.values()) / sample.seconds == pytest.approx(chosen.disk.most_iops, rel=0.03)


def test_other_seed_other_counters(testbed, tmp_path):
    assert (
        _run(testbed, tmp_path / "1", seed=1).fingerprint != _run(testbed, tmp_path / "2", seed=2).fingerprint
    )
