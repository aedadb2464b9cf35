from __future__ import annotations

import subprocess

import pytest

from harness import project, scenario, script
from harness.errors import UserError

GOOD = """
title = "t"
[[group]]
name = "a"
weight = 80
[[group]]
name = "b"
weight = 20
[[control]]
kind = "compat"
"""
ALL = scenario.load_all(project.scenarios_dir())


def load(tmp_path, text, name="x"):
    (tmp_path / f"{name}.toml").write_text(text)
    return scenario.load(tmp_path / f"{name}.toml")


def test_targets_follow_the_weights(tmp_path):
    assert load(tmp_path, GOOD).targets == {"a": 0.8, "b": 0.2}
    assert load(tmp_path, GOOD).name == "x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = ", "TOML"),
        (GOOD.replace("weight = 80", "weight = 0"), "weight"),
        (GOOD.replace('name = "b"', 'name = "a"'), "differ"),
        (GOOD.replace('name = "b"', 'name = "b; reboot"'), "name"),
        (GOOD.replace('kind = "compat"', 'kind = "weights"'), "weights"),
        (GOOD.replace('kind = "compat"', 'kind = "weights"\nweights = [1, 2]'), "compat"),
        (GOOD.replace('kind = "compat"', 'kind = "compat"\n[[control]]\nkind = "compat"'), "same"),
        (f'name = "../x"{GOOD}', "name"),
        (f'by = "planet"{GOOD}', "by"),
        (f'[load]\nbs = "4k/8k"{GOOD.replace("title", "# title")}', "bs"),
        (f"{GOOD}[timing]\nstep = 3.0\n", "window"),
        (f"{GOOD}[load]\ndepth = 24\n", "depth"),
    ],
)
def test_mistakes_are_named(tmp_path, text, said):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert "x.toml" in caught.value.message and said in caught.value.message


def test_no_scenario_at_all(tmp_path):
    with pytest.raises(UserError, match="no scenario"):
        scenario.load_all(tmp_path)


@pytest.mark.parametrize("chosen", ALL, ids=lambda s: s.name)
@pytest.mark.parametrize("role", ["series", "compat"])
def test_scripts_are_shell(chosen, role):
    files = script.compile_scenario(chosen, role, 1, "/dev/vda" if chosen.clock == "real" else "/dev/sda")
    subprocess.run(["sh", "-n"], input=files[script.SCRIPT], check=True)
    assert {f"{script.JOBS}/{g.name}.fio" for g in chosen.group} == files.keys() - {script.SCRIPT}
    assert ("ioband" in files[script.SCRIPT].decode()) == (role == "series")


def test_a_seed_decides_everything_that_varies():
    chosen = next(s for s in ALL if s.name == "cgroup-40-20-10")
    compiled = [script.compile_scenario(chosen, "series", seed, "/dev/sda") for seed in (1, 1, 2)]
    assert compiled[0] == compiled[1] != compiled[2]
    assert len({script.vary(chosen, seed).order for seed in range(20)}) > 1


def test_control_weights_reach_the_guest():
    chosen = next(s for s in ALL if s.name == "cgroup-80-20")
    text = script.compile_scenario(chosen, "weights", 1, "/dev/sda", (50, 50))[script.SCRIPT].decode()
    assert text.count('echo "disk 50"') == 2 and 'echo "disk 80"' not in text


def test_partitions_on_the_real_clock_are_refused():
    chosen = next(s for s in ALL if s.by == "partition").model_copy(update={"clock": "real"})
    with pytest.raises(UserError, match="virtual clock"):
        script.compile_scenario(chosen, "series", 1, "/dev/vda")
