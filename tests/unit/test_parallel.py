"""Several test processes at a time: what they share, and that nothing is lost between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from harness import parallel, record
from harness.record import BuildRecord, DeathRecord, ErrorRecord, MachineRecord, Recorder
from harness.recording import ControllerPlugin
from harness.session import Session

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def build(key: str) -> BuildRecord:
    return BuildRecord(key=key, role="series", flavour="perf", compiler="cc", seconds=1.0, cached=False)


@pytest.fixture
def recorder(tmp_path) -> Recorder:
    made = Recorder.start(tmp_path / "run", ["harness", "test"])
    made.update(builds=[build("a")])
    return made


@pytest.fixture
def part(recorder) -> Recorder:
    """What a worker recorded."""
    made = Recorder.start(recorder.folder / "gw0", [])
    console = made.folder / "guest-1-perf" / "console.log"
    with made.change() as run:
        run.builds += [build("a"), build("b")]
        run.machines.append(
            MachineRecord(
                id="guest-1-perf", role="", argv=[], accel="tcg", clock="real", started=NOW, console=console
            )
        )
    return made


class TestAbsorb:
    def test_machines_and_builds_once(self, recorder, part):
        parallel.absorb(recorder, part.folder)
        assert [b.key for b in recorder.run.builds] == ["a", "b"]
        assert [m.id for m in recorder.run.machines] == ["gw0/guest-1-perf"]
        saved = json.loads((recorder.folder / record.RUN_JSON).read_text())
        assert saved["machines"][0]["console"] == "gw0/guest-1-perf/console.log"

    def test_counters_stay_with_their_machine(self, recorder, part):
        with part.change() as run:
            run.machines[0].coverage = part.folder / "guest-1-perf" / "gcda"
        parallel.absorb(recorder, part.folder)
        saved = json.loads((recorder.folder / record.RUN_JSON).read_text())
        assert saved["machines"][0]["coverage"] == "gw0/guest-1-perf/gcda"
        assert recorder.run.machines[0].coverage == part.folder / "guest-1-perf" / "gcda"

    def test_the_part_is_no_run_of_its_own_any_more(self, recorder, part):
        parallel.absorb(recorder, part.folder)
        assert not (part.folder / record.RUN_JSON).exists()

    def test_a_death_decides_the_exit_code(self, recorder, part):
        with part.change() as run:
            run.deaths.append(DeathRecord(machine="m", kind="panic", message="", trace="", raw="", when=NOW))
        parallel.absorb(recorder, part.folder)
        assert recorder.finish() == 5

    def test_the_first_error_stays(self, recorder, part):
        with part.change() as run:
            run.error = ErrorRecord(kind="x", message="of the part", log=part.folder / "log", exit_code=3)
        parallel.absorb(recorder, part.folder)
        assert recorder.run.error is not None
        assert (recorder.run.error.message, recorder.run.error.log) == ("of the part", part.folder / "log")
        part.update(error=ErrorRecord(kind="x", message="second", exit_code=2))
        parallel.absorb(recorder, part.folder)
        assert recorder.run.error.message == "of the part"


class TestLate:
    """What a test left behind is found when another one runs, and told with that one's reports."""

    def test_each_is_told_once_of_the_test_it_is_about(self, recorder, pytestconfig):
        plugin = ControllerPlugin(Session(recorder, "2.6.31", None), None)
        manager = pytest.PytestPluginManager()
        manager.register(plugin)

        class Config:
            stash = pytest.Stash()
            hook = manager.hook

        plugin.pytest_configure(Config())  # type: ignore[arg-type]

        def report(nodeid: str, when: str, properties: list[tuple[str, str]]) -> pytest.TestReport:
            return pytest.TestReport(
                nodeid, ("f", 1, "d"), {}, "passed", None, when, user_properties=properties, duration=1.0
            )  # type: ignore[arg-type]

        manager.hook.pytest_runtest_logreport(report=report("f::one", "call", []))
        told = [("late", json.dumps(["f::one", ["f", 1, "one"], "2 objects leaked"]))]
        for when in ("setup", "call", "teardown"):
            manager.hook.pytest_runtest_logreport(report=report("f::two", when, told))
        outcomes = [(t.nodeid, t.outcome, t.message) for t in recorder.run.tests]
        assert outcomes == [("f::one", "error", "2 objects leaked"), ("f::two", "passed", "")]


SUITE = {
    "test_a.py": "import os\ndef test_pid(): print(os.getpid())\ndef test_bad(): assert 1 == 2\n",
    "test_b.py": "def test_good(): pass\n",
}


class TestProcesses:
    """The whole of it, without a kernel at hand."""

    @pytest.fixture
    def harness_test(self, tmp_path):
        for name, text in SUITE.items():
            (tmp_path / name).write_text(text)

        def run(*words: str) -> tuple[subprocess.CompletedProcess[str], record.Run]:
            environment = {
                **os.environ,
                "XDG_CACHE_HOME": str(tmp_path / "cache"),
                "HARNESS_RUNS": str(tmp_path / "runs"),
            }
            command = [sys.executable, "-m", "harness", "test", "--at-hand", "-p", "no:cacheprovider"]
            command += [f"--rootdir={tmp_path}", *words]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            return done, record.load((tmp_path / "runs" / "latest").resolve())

        return run

    def test_outcomes_of_all_processes_are_one_record(self, harness_test, tmp_path):
        done, run = harness_test("--workers", "2", str(tmp_path / "test_a.py"), str(tmp_path / "test_b.py"))
        assert done.returncode == 1, done.stdout + done.stderr
        outcomes = {t.nodeid: t.outcome for t in run.tests}
        assert outcomes == {
            "test_a.py::test_pid": "passed",
            "test_a.py::test_bad": "failed",
            "test_b.py::test_good": "passed",
        }
        assert done.stdout.splitlines()[-1] == "2 passed, 1 failed"
        assert "2 workers" in done.stdout

    def test_a_file_that_cannot_be_read(self, harness_test, tmp_path):
        (tmp_path / "test_c.py").write_text("import nothing_of_this_name\n")
        done, run = harness_test("--workers", "2", str(tmp_path / "test_c.py"))
        assert done.returncode == 1
        assert [t.outcome for t in run.tests] == ["error"]
        assert "nothing_of_this_name" in run.tests[0].message

    def test_a_process_that_dies_fails_its_test(self, harness_test, tmp_path):
        (tmp_path / "test_c.py").write_text("import os\ndef test_dies(): os._exit(1)\n")
        done, run = harness_test("--workers", "2", str(tmp_path / "test_c.py"), str(tmp_path / "test_b.py"))
        assert done.returncode == 1
        outcomes = {t.nodeid: t.outcome for t in run.tests}
        assert outcomes == {"test_c.py::test_dies": "error", "test_b.py::test_good": "passed"}
