from __future__ import annotations

import re
import subprocess

import pytest

from harness import project, scenario, script
from harness.errors import UserError
from harness.source import KernelSpec, Schedulers

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
KERNELS = [KernelSpec.load(file.parent) for file in sorted(project.kernel_dir("").glob("*/kernel.toml"))]
OLD = next(kernel for kernel in KERNELS if kernel.name == "2.6.31")


def disk_of(chosen, kernel=OLD):
    return script.guest_disk(chosen, kernel)


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
        (f"hierarchy = 2{GOOD}", "cgroup2"),
        (f'hierarchy = 2\nby = "uid"\nneeds = ["cgroup2"]{GOOD}', "cgroup2"),
        (f'[load]\nbs = "4k/8k"{GOOD.replace("title", "# title")}', "bs"),
        (f"{GOOD}[timing]\nstep = 3.0\n", "window"),
        (f"{GOOD}[load]\ndepth = 24\n", "depth"),
        (
            GOOD.replace('name = "b"', 'name = "b"\nshare = "y"')
            + "[disk]\none_at_a_time = true\nvirtual_gb = 4\n",
            "partitions",
        ),
        (GOOD.replace('name = "b"', 'name = "b"\npublished = 20.0'), "published"),
        (f"{GOOD}[disk]\none_at_a_time = true\nvirtual_gb = 4\n", "reads"),
        (f'{GOOD}[disk]\none_at_a_time = true\n[load]\nrw = "read"\n', "larger than memory"),
        (f'{GOOD}[load]\nrw = "write"\ndepth = 1\nbuffered = true\nregion = "1m"\n', "dirty"),
        (f"{GOOD}[load]\nbuffered = true\n", "region"),
        (f'{GOOD}[[phase]]\nname = "one"\nseconds = 3.0\nidle = ["z"]\n', "no group z"),
        (f'{GOOD}[[figure]]\nkind = "throughput"\nphase = "none"\n', "no such phase"),
        (f'{GOOD}[[figure]]\nkind = "surplus"\nphase = "none"\n', "groups"),
        (f'{GOOD}[[figure]]\nkind = "throughput"\nphase = "p"\nat_least = 0.9\n', "why"),
        (f'{GOOD}[[control]]\nkind = "ioband"\n', "ioband"),
        (f'expected_failure = "f"{GOOD}', "doing nothing would pass"),
        (f'beside = "y"{GOOD}', "beside"),
        (f'{GOOD}[[phase]]\nname = "one"\nseconds = 3.0\nreaches = true\n', "reaches"),
        (
            f'expected_failure = "f"{GOOD}[[phase]]\nname = "one"\nseconds = 3.0\nreaches = true\n',
            "no phase misses",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, text, said):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert "x.toml" in caught.value.message and said in caught.value.message


def test_no_scenario_at_all(tmp_path):
    with pytest.raises(UserError, match="no scenario"):
        scenario.load_all(tmp_path)


def test_a_scenario_beside_must_be_there_and_reach(tmp_path):
    load(tmp_path, f'expected_failure = "f"\nbeside = "y"{GOOD}')
    with pytest.raises(UserError, match="no scenario y"):
        scenario.load_all(tmp_path)
    load(tmp_path, GOOD, "y")
    assert len(scenario.load_all(tmp_path)) == 2


CASES = [(s, c) for s in ALL for c in (None, *s.control)]


@pytest.mark.parametrize(
    ("chosen", "control"), CASES, ids=[f"{s.name}-{c.name if c else 'series'}" for s, c in CASES]
)
def test_scripts_are_shell(chosen, control):
    files = script.compile_scenario(chosen, control, 1, disk_of(chosen))
    subprocess.run(["sh", "-n"], input=files[script.SCRIPT], check=True)
    jobs = {
        f"{script.JOBS}/{name[4:-5]}.fio" for g in chosen.group for name in script.fio_outputs(chosen, g.name)
    }
    assert jobs == files.keys() - {script.SCRIPT}
    assert (" ioband /dev/" in files[script.SCRIPT].decode()) == (control is None or control.kind != "compat")


def named(name):
    return next(s for s in ALL if s.name == name)


def text_of(chosen, control=None):
    return script.compile_scenario(chosen, control, 1, disk_of(chosen))[script.SCRIPT].decode()


def test_a_seed_decides_everything_that_varies():
    chosen = named("cgroup-40-20-10")
    compiled = [script.compile_scenario(chosen, None, seed, disk_of(chosen)) for seed in (1, 1, 2)]
    assert compiled[0] == compiled[1] != compiled[2]
    assert len({script.vary(chosen, seed).order for seed in range(20)}) > 1


def test_control_weights_reach_the_guest():
    chosen = named("cgroup-80-20")
    control = next(c for c in chosen.control if c.kind == "weights")
    text = text_of(chosen, control)
    assert text.count('echo "disk 50"') == 2 and 'echo "disk 80"' not in text


def test_control_parameters_reach_the_guest():
    chosen = named("idle-and-back")
    control = next(c for c in chosen.control if c.kind == "ioband")
    assert control.name == "carryover-16"
    assert "dmsetup message disk 0 carryover 16" in text_of(chosen, control)
    assert "carryover" not in text_of(chosen)


def test_shares_and_one_share():
    chosen = named("two-shares")
    control = next(c for c in chosen.control if c.kind == "one-share")
    apart, together = text_of(chosen), text_of(chosen, control)
    assert "ioband /dev/sda1 x 0 0 cgroup" in apart and "ioband /dev/sda2 y 0 0 cgroup" in apart
    assert "ioband /dev/sda1 x 0 0 cgroup" in together and "ioband /dev/sda2 x 0 0 cgroup" in together
    assert chosen.targets == pytest.approx({"a": 0.8, "b": 0.2, "c": 0.7, "d": 0.3})
    assert chosen.targets_in(chosen.phase[1]) == pytest.approx({"a": 0.2, "b": 0.8, "c": 0.7, "d": 0.3})


def test_groups_on_one_device_have_regions_of_their_own():
    def offsets(name):
        files = script.compile_scenario(named(name), None, 1, disk_of(named(name)))
        return [
            files[f"{script.JOBS}/{group}.fio"].decode().partition("\noffset=")[2].split("\n")[0]
            for group in "ab"
        ]

    assert offsets("buffered-one-device") == ["", "40m"]
    assert offsets("buffered-80-20") == ["", ""]


def test_bandwidths_reach_the_guest():
    text = text_of(named("range-max"))
    assert 'cgroup range-bw 0 :0:0"' in text and 'echo "disk 0:500" > /cgroup/a/blkio.settings' in text


def test_who_rests_has_no_target_and_is_stopped():
    chosen = named("idle-and-back")
    assert chosen.targets_in(chosen.phase[1]) == {"a": 1.0}
    text = text_of(chosen)
    assert text.index("kill -STOP $pids_b") < text.index("kill -CONT $pids_b")


def test_partitions_on_the_real_clock_are_refused(tmp_path):
    with pytest.raises(UserError, match="virtual clock"):
        load(tmp_path, f'clock = "real"\nby = "partition"\n{GOOD}')


def test_a_saturation_run_of_a_loop_device_reads_nothing_twice():
    chosen = named("low-depth-throttle-4")
    files = script.compile_saturation(chosen, chosen.load, disk_of(chosen))
    offsets = [
        line for text in files.values() for line in text.decode().splitlines() if line.startswith("offset=")
    ]
    assert len(set(offsets)) == len(script.DEPTHS) and b"losetup" in files[script.SCRIPT]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
@pytest.mark.parametrize("chosen", ALL, ids=lambda s: s.name)
def test_every_scenario_can_be_given_its_disk_on_every_kernel(chosen, kernel):
    disk = disk_of(chosen, kernel)
    words = kernel.virtual_disk.command_line(script.virtual_disk(chosen, kernel))
    assert "{" not in words
    delay = chosen.disk.delay_ms
    assert f"delay={delay} " in words or f"ndelay={delay - 1 or ''}500000 " in words
    for value in (chosen.disk.size_mb, chosen.disk.partitions):
        assert f"={value} " in words
    text = script.compile_scenario(chosen, None, 1, disk)[script.SCRIPT].decode()
    assert f"echo {disk.scheduler} > /sys/block/{disk.device.removeprefix('/dev/')}/queue/scheduler" in text


def test_one_io_at_a_time_with_a_disk_that_can_be_told(tmp_path):
    """Else a loop device in front does it."""
    chosen = named("low-depth-throttle-1")
    told = OLD.virtual_disk.model_copy(update={"parameters": {**OLD.virtual_disk.parameters, "depth": 16}})
    kernel = OLD.model_copy(update={"virtual_disk": told})
    assert disk_of(chosen).path == "/dev/loop0"
    assert "depth" not in script.virtual_disk(chosen, OLD)
    assert disk_of(chosen, kernel).path == OLD.virtual_disk.device
    assert script.virtual_disk(chosen, kernel)["depth"] == 1
    assert "depth" not in script.virtual_disk(named("cgroup-80-20"), kernel)


def test_schedulers_by_the_kernels_names():
    names = Schedulers(
        noop="none", deadline="mq-deadline", queueing="mq-deadline", queueing_settings={"fifo_batch": 1}
    )
    kernel = OLD.model_copy(update={"schedulers": names})
    plain = named("cgroup-80-20")
    assert disk_of(plain).scheduler == "noop"
    assert disk_of(plain, kernel).scheduler == "none"
    assert disk_of(plain.model_copy(update={"scheduler": "deadline"}), kernel).scheduler == "mq-deadline"
    assert disk_of(named("buffered-80-20"), kernel).scheduler == "mq-deadline"
    assert disk_of(named("buffered-80-20")).scheduler == "noop"
    chosen = named("buffered-80-20")
    text = script.compile_scenario(chosen, None, 1, disk_of(chosen, kernel))[script.SCRIPT].decode()
    assert (
        "echo mq-deadline > /sys/block/sda/queue/scheduler\necho 1 > /sys/block/sda/queue/iosched/fifo_batch\n"
        in text
    )
    assert disk_of(plain.model_copy(update={"scheduler": "deadline"}), kernel).settings == ()


def test_groups_of_either_hierarchy():
    chosen = named("buffered-80-20-v2")
    text = script.compile_scenario(chosen, None, 1, disk_of(chosen))[script.SCRIPT].decode()
    assert "mount -t cgroup2 none /cgroup" in text and "/cgroup/a/io.settings" in text
    assert "/cgroup/a/cgroup.procs" in text and "blkio" not in text.replace("$R/blkio.devices", "")
    text = script.compile_scenario(named("buffered-80-20"), None, 1, disk_of(chosen))[script.SCRIPT].decode()
    assert "mount -t cgroup -o blkio none /cgroup" in text and "/cgroup/a/blkio.settings" in text
    assert "/cgroup/a/tasks" in text and "/io." not in text


def test_partitions_of_a_disk_whose_name_ends_in_a_number():
    assert script.GuestDisk("/dev/sda").partition(2) == "/dev/sda2"
    assert script.GuestDisk("/dev/nullb0").partition(2) == "/dev/nullb0p2"


@pytest.mark.parametrize("chosen", [s for s in ALL if s.phase], ids=lambda s: s.name)
def test_the_first_job_outlasts_the_last_phase(chosen):
    """Else shares of that phase would be counted without it; the script looks, too."""
    disk = disk_of(chosen)
    files = script.compile_scenario(chosen, None, 1, disk)
    least = chosen.timing.ramp + sum(p.seconds for p in chosen.phase) + sum(script.vary(chosen, 1).delay.values())
    for group in chosen.group:
        text = files[f"{script.JOBS}/{group.name}.fio"].decode()
        found = re.search(r"^runtime=(\d+)", text, re.MULTILINE)
        assert found and int(found[1]) > least
        looked_at = f"fio of group {group.name} had ended" in files[script.SCRIPT].decode()
        assert looked_at == (group.name not in chosen.phase[-1].idle)
