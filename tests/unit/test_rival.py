"""Scenarios under controllers that a kernel brings: what suits, and what the guest writes where."""

from __future__ import annotations

import subprocess

import pytest

from harness import project, rival, scenario, script
from harness.controller import Controller
from harness.errors import UserError
from harness.source import KernelSpec

ALL = {s.name: s for s in scenario.load_all(project.scenarios_dir())}
KERNELS = [KernelSpec.load(file.parent) for file in sorted(project.kernel_dir("").glob("*/kernel.toml"))]
NEW = next(kernel for kernel in KERNELS if kernel.controllers)
PAIRS = [
    (chosen, controller)
    for chosen in ALL.values()
    for controller in NEW.controllers.values()
    if rival.unsuited(chosen, controller) is None
]


def controller(**changes):
    given = {"name": "x", "title": "X", "promises": "weights", "documented": "d", **changes}
    return Controller.model_validate(given)


def text_of(chosen, under, **changes):
    disk = script.guest_disk(ALL[chosen], NEW)
    return script.compile_scenario(ALL[chosen], under, 1, disk, **changes)[script.SCRIPT].decode()


@pytest.mark.parametrize(("chosen", "under"), PAIRS, ids=[f"{s.name}-{c.name}" for s, c in PAIRS])
def test_scripts_are_shell(chosen, under):
    files = script.compile_scenario(chosen, under, 1, script.guest_disk(chosen, NEW), closely=True)
    subprocess.run(["sh", "-n"], input=files[script.SCRIPT], check=True)
    text = files[script.SCRIPT].decode()
    assert " ioband /dev/" not in text and text.count(" linear ") == len(chosen.group)
    assert text.count("/cgroup.procs") == len(chosen.group) + sum(len(p.more) for p in chosen.phase)


def test_every_controller_suits_something():
    assert {c.name for _, c in PAIRS} == NEW.controllers.keys()


def test_load_and_disk_are_those_of_the_negative_control():
    """But for the scheduler, if the controller is one: the same jobs, on the same devices."""
    chosen = ALL["cgroup-80-20"]
    disk = script.guest_disk(chosen, NEW)
    free = script.compile_scenario(chosen, chosen.control[0], 1, disk)
    for under in NEW.controllers.values():
        files = script.compile_scenario(chosen, under, 1, disk)
        jobs = files.keys() - {script.SCRIPT}
        assert {name: files[name] for name in jobs} == {name: free[name] for name in jobs}
        missing = set(free[script.SCRIPT].decode().splitlines()) - set(files[script.SCRIPT].decode().splitlines())
        assert all("fio" in line or "scheduler" in line or line.startswith("# Scenario") for line in missing)


def test_weights_reach_their_files():
    text = text_of("cgroup-80-20", NEW.controllers["bfq"])
    assert 'echo "80" > /cgroup/a/io.bfq.weight' in text and 'echo "20" > /cgroup/b/io.bfq.weight' in text
    assert "echo bfq > /sys/block/sda/queue/scheduler" in text


def test_weights_change_when_a_phase_says_so():
    text = text_of("weights-changed", NEW.controllers["io-cost"])
    begun = text.index("until_hundredths $end")
    assert text.index('echo "20" > /cgroup/a/io.weight') > begun
    assert text.index('echo "80" > /cgroup/a/io.weight') < begun


def test_a_maximum_of_reads_and_writes_is_half_of_each():
    """io.max limits the directions each by itself, and half of what this load does are reads."""
    text = text_of("range-max", NEW.controllers["io-max"])
    assert 'echo "$device rbps=256000 wbps=256000" > /cgroup/a/io.max' in text
    assert 'echo "$device rbps=max wbps=max" > /cgroup/c/io.max' in text


def test_a_maximum_of_reads_alone_is_all_of_it():
    chosen = ALL["range-max"].model_copy(update={"load": scenario.Load(rw="randread")})
    settings = rival.settings(chosen, NEW.controllers["io-max"])
    assert settings.groups["b"] == (("io.max", "$device rbps=1536000 wbps=1536000"),)


def test_a_latency_is_promised_to_one_group():
    settings = rival.settings(ALL["groups-8"], NEW.controllers["io-latency"])
    # 8 ms, and a turn of half a millisecond that the I/O after it has to wait for
    assert settings.groups["a"] == (("io.latency", "$device target=9775"),)
    assert all(files == () for name, files in settings.groups.items() if name != "a")


def test_the_model_of_the_disk_is_the_disk():
    assert "rrandiops=2000" in text_of("cgroup-80-20", NEW.controllers["io-cost"])
    assert "rlat=10000" in text_of("cgroup-80-20", NEW.controllers["io-cost"])
    assert "rrandiops=1000" in text_of("low-depth-against-deep", NEW.controllers["io-cost"])
    assert "rlat=1250" in text_of("low-depth-against-deep", NEW.controllers["io-cost"])


def test_weights_that_are_too_great_are_told_in_least_terms():
    chosen = ALL["iosize-bytes"]
    assert [g.weight for g in chosen.group] == [5000, 5000]
    assert rival.settings(chosen, NEW.controllers["bfq"]).groups["big"] == (("io.bfq.weight", "1"),)
    groups = (chosen.group[0], chosen.group[1].model_copy(update={"weight": 5001}))
    odd = chosen.model_copy(update={"group": groups})
    assert rival.unsuited(odd, NEW.controllers["bfq"]) == "its weights are 1 to 1000"


@pytest.mark.parametrize(
    ("chosen", "under", "why"),
    [
        ("uid-80-20", "bfq", "by uid"),
        ("partition-80-20", "bfq", "by partition"),
        ("cgroup-80-20-real", "bfq", "virtual clock"),
        ("buffered-one-device", "bfq", "delayed writes to one device"),
        ("two-shares", "bfq", "domains"),
        ("range-max", "bfq", "bounds of bandwidth"),
        ("iosize-bytes", "io-cost", "divides I/Os"),
        ("iosize-counts", "bfq", "divides sectors"),
        ("cgroup-80-20", "io-max", "weights"),
        ("range-min", "io-max", "no minimum"),
        ("range-max", "io-latency", "no group"),
        ("cgroup-50-50", "io-latency", "no group"),
        ("idle-and-back", "io-latency", "phases"),
        ("cgroup-80-20", "io-latency", "kept without it"),
    ],
)
def test_what_does_not_suit(chosen, under, why):
    found = rival.unsuited(ALL[chosen], NEW.controllers[under])
    assert found is not None and why in found


def test_what_is_looked_at_closely():
    plain, close = (text_of("cgroup-80-20", None, closely=closely) for closely in (False, True))
    assert 'echo "I $idle"' not in plain and 'echo "I $idle"' in close
    assert "--output-format=json " in plain and "--output-format=json+ " in close
    files = script.compile_scenario(ALL["cgroup-80-20"], None, 1, script.GuestDisk("/dev/sda"), closely=True)
    assert b"lat_percentiles=1" in files[f"{script.JOBS}/a.fio"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"group": {"io.weight": "{wieght}"}}, "no field wieght"),
        ({"root": {"io.x": "{weight}"}}, "no field weight"),
        ({"group": {"io.weight": "$(reboot)"}}, "pattern"),
        ({"queue": {"../scheduler": "x"}}, "pattern"),
        ({"promises": "latency"}, "protected"),
        ({"protected": {"io.latency": "1"}}, "protected"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_mistakes_in_a_controller(changes, said):
    with pytest.raises(ValueError, match=said):
        controller(**changes)


def test_a_mistake_names_the_file(tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    text = (NEW.folder / "kernel.toml").read_text()
    (folder / "kernel.toml").write_text(text.replace('"io.bfq.weight" = "{weight}"', '"io.bfq.weight" = "{wight}"'))
    with pytest.raises(UserError, match="no field wight") as caught:
        KernelSpec.load(folder)
    assert "kernel.toml" in caught.value.message and "bfq" in caught.value.message


def test_a_kernel_may_bring_none():
    assert any(not kernel.controllers for kernel in KERNELS)
