"""Series that must not pass, through the command that an author types: exit code, record and report."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from harness import project, record, scenario
from harness.errors import EXIT_FAILED, EXIT_GUEST_DIED, EXIT_USER
from harness.shares import Verdict

pytestmark = [pytest.mark.guest, pytest.mark.exact]

SCENARIOS = "tests/guest/test_scenarios.py"


@pytest.fixture
def broken(testbed):
    """``broken(name)``: the folder of a series for the kernel that is tested."""
    return lambda name: project.ROOT / "tests" / "broken" / testbed.spec.name / name


def _harness_test(testbed, runs, series, *selection):
    command = [
        sys.executable,
        "-m",
        "harness",
        "test",
        "--kernel",
        testbed.spec.name,
        "--series",
        str(series),
    ]
    done = subprocess.run(
        [*command, *selection],
        cwd=project.ROOT,
        env={**os.environ, "HARNESS_RUNS": str(runs)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    return done, runs / "latest"


def test_weights_ignored(testbed, broken, tmp_path):
    """Shares of I/Os are wrong, and so are those of sectors. Equal weights come out right, and then their control, with
    other weights, does as well: so the scenario is not decided.
    """
    wanted = {
        "cgroup-80-20": Verdict.FAIL,
        "cgroup-50-50": Verdict.INCONCLUSIVE,
        "buffered-80-20": Verdict.FAIL,
    }
    needs = {name: scenario.load(project.scenarios_dir() / f"{name}.toml").needs for name in wanted}
    wanted = {name: verdict for name, verdict in wanted.items() if not set(needs[name]) & set(testbed.spec.lacks)}
    selection = [f"{SCENARIOS}::test_shares[{name}]" for name in wanted]
    done, folder = _harness_test(testbed, tmp_path, broken("weights-ignored"), *selection)
    assert done.returncode == EXIT_FAILED, done.stdout + done.stderr
    assert {s.name: s.verdict for s in record.load(folder).scenarios} == wanted
    assert (folder / "report.html").is_file()


def test_panic_in_the_middle(testbed, broken, tmp_path):
    done, folder = _harness_test(testbed, tmp_path, broken("panics"), SCENARIOS, "-m", "core")
    assert done.returncode == EXIT_GUEST_DIED, done.stdout + done.stderr
    death = record.load(folder).deaths[0]
    assert death.kind == "panic"
    assert "dm-ioband: no more epochs" in death.message
    assert re.search(r"weight_restart.*dm-ioband-policy\.c:\d+", death.trace), death.trace
    report = (folder / "report.html").read_text()
    assert "dm-ioband-policy.c" in report and "no more epochs" in report


def test_leak_is_charged_to_the_test_that_caused_it(testbed, broken, tmp_path):
    """Every errno is right, and all tests pass; kmemleak tells, when the guest ends, whose memory is gone."""
    done, folder = _harness_test(testbed, tmp_path, broken("leaks"), "--flavour", "debug", "tests/guest/test_cgroup.py")
    assert done.returncode == EXIT_FAILED, done.stdout + done.stderr
    tests = {t.nodeid.rpartition("::")[2]: t for t in record.load(folder).tests}
    assert {name: t.outcome for name, t in tests.items()} == {
        "test_groups_come_and_go[debug]": "passed",
        "test_blkio[debug]": "error",
    }
    message = tests["test_blkio[debug]"].message
    assert message.startswith("kmemleak: an object leaked") and "ioband_attach" in message
    assert "kmemleak: an object leaked" in (folder / "report.html").read_text()


def test_series_that_does_not_apply(testbed, broken, tmp_path):
    patch = broken("panics").glob("*.patch")
    text = next(patch).read_text().replace("dp->g_epoch++;", "dp->g_epoch += 2;")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "0001-odd.patch").write_text(text)
    done, folder = _harness_test(testbed, tmp_path, tmp_path / "series", SCENARIOS)
    assert done.returncode == EXIT_USER, done.stdout + done.stderr
    assert "0001-odd.patch" in done.stderr and "Traceback" not in done.stderr
    assert record.load(folder).error is not None
