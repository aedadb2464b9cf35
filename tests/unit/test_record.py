from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
import run_builder
from pydantic import ValidationError

from harness import record
from harness.errors import InfrastructureError, KernelPanic, MeasurementError, UserError
from harness.figure import Figure
from harness.record import (
    DeathRecord,
    ErrorRecord,
    MachineRecord,
    Recorder,
    RunVerdict,
    SkipRecord,
    TestRecord,
    exit_code,
    load,
    newest,
    verdict,
)
from harness.shares import Verdict


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run = run_builder.failing(tmp_path / "r1")
    back = load(tmp_path / "r1")
    assert back.scenarios == run.scenarios
    assert back.tests == run.tests
    assert (back.id, back.exit_code, back.verdict) == ("r1", 1, RunVerdict.FAIL)


def test_the_record_is_there_from_the_start(tmp_path: Path) -> None:
    Recorder.start(tmp_path / "r1", ["harness", "test"])
    run = load(tmp_path / "r1")
    assert run.argv == ["harness", "test"]
    assert run.finished is None
    assert verdict(run) is RunVerdict.INTERRUPTED


def test_every_change_is_in_the_file_at_once(tmp_path: Path) -> None:
    recorder = Recorder.start(tmp_path, [])
    recorder.update(choice="because")
    assert load(tmp_path).choice == "because"
    with recorder.change() as run:
        run.skipped.append(SkipRecord(what="6.1", reason="no source"))
    assert load(tmp_path).skipped[0].what == "6.1"


def test_a_change_that_is_interrupted_is_kept(tmp_path: Path) -> None:
    recorder = Recorder.start(tmp_path, [])
    with pytest.raises(KeyboardInterrupt), recorder.change() as run:
        run.choice = "half way"
        raise KeyboardInterrupt
    assert load(tmp_path).choice == "half way"


@pytest.mark.parametrize("fields", [{"choise": "typo"}, {"exit_code": "0"}, {"started": "yesterday"}])
def test_update_refuses_what_the_schema_does_not_have(tmp_path: Path, fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Recorder.start(tmp_path, []).update(**fields)


def test_paths_below_the_run_are_relative_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "r1"
    recorder = run_builder.recorder(folder)
    with recorder.change() as run:
        run.builds[0].log = Path("/elsewhere/build.log")
    text = json.loads((folder / "run.json").read_text())
    assert text["machines"][0]["console"] == "machines/m01/console.log"
    assert text["builds"][0]["log"] == "/elsewhere/build.log"
    (tmp_path / "runs").rename(tmp_path / "archive")
    back = load(tmp_path / "archive" / "r1")
    console = back.machines[0].console
    assert console is not None
    assert (tmp_path / "archive" / "r1" / console).read_text().startswith("Linux version")


def test_many_threads_lose_nothing_and_the_file_is_whole_at_any_moment(tmp_path: Path) -> None:
    recorder = Recorder.start(tmp_path, [])
    stop = threading.Event()
    torn: list[UserError] = []

    def read() -> None:
        while not stop.is_set():
            try:
                load(tmp_path)
            except UserError as e:
                torn.append(e)

    def write(number: int) -> None:
        for i in range(20):
            with recorder.change() as run:
                run.skipped.append(SkipRecord(what=f"{number}-{i}", reason="x" * 2000))

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    reader.start()
    for w in writers:
        w.start()
    for w in writers:
        w.join()
    stop.set()
    reader.join()
    assert not torn
    assert len({s.what for s in load(tmp_path).skipped}) == 80


def test_a_killed_run_still_has_its_record(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from harness.record import Recorder, SkipRecord\n"
        "r = Recorder.start(Path(sys.argv[1]), ['harness'])\n"
        "n = 0\n"
        "while True:\n"
        "    with r.change() as run: run.skipped.append(SkipRecord(what=str(n), reason='x' * 5000))\n"
        "    n += 1\n"
        "    if n == 10: print('going', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    run = load(tmp_path)
    assert len(run.skipped) >= 10
    assert exit_code(run) == 130


# --- exit codes

DEATH = DeathRecord(machine="m01", kind="panic", message="p", trace="", raw="", when=datetime.now(UTC))


def finished(tmp_path: Path, **changes: object) -> record.Run:
    recorder = run_builder.recorder(tmp_path / "run")
    recorder.update(finished=datetime.now(UTC), **changes)
    return recorder.run


def error(code: int) -> ErrorRecord:
    return ErrorRecord(kind="E", message="m", exit_code=code)


def test_all_passed_is_0(tmp_path: Path) -> None:
    run = finished(tmp_path)
    assert (exit_code(run), verdict(run)) == (0, RunVerdict.PASS)


@pytest.mark.parametrize("outcome", ["failed", "error"])
def test_a_failed_test_is_1(tmp_path: Path, outcome: str) -> None:
    run = finished(tmp_path)
    run.tests.append(TestRecord(nodeid="t", outcome=outcome, seconds=0.1))  # type: ignore[arg-type]
    assert exit_code(run) == 1


@pytest.mark.parametrize(("result", "code"), [(Verdict.FAIL, 1), (Verdict.INCONCLUSIVE, 4), (None, 4)])
def test_a_scenario_that_is_no_pass(tmp_path: Path, result: Verdict | None, code: int) -> None:
    run = finished(tmp_path)
    run.scenarios[1].verdict = result
    assert exit_code(run) == code


def test_fail_goes_before_inconclusive(tmp_path: Path) -> None:
    run = finished(tmp_path)
    run.scenarios[0].verdict, run.scenarios[1].verdict = Verdict.INCONCLUSIVE, Verdict.FAIL
    assert exit_code(run) == 1


@pytest.mark.parametrize(
    ("code", "expected", "word"),
    [(2, 2, "error"), (3, 3, "error"), (1, 1, "fail"), (5, 5, "died"), (130, 130, "interrupted")],
)
def test_an_error_that_ended_the_run(tmp_path: Path, code: int, expected: int, word: str) -> None:
    run = finished(tmp_path, error=error(code))
    run.scenarios[0].verdict = Verdict.INCONCLUSIVE
    assert (exit_code(run), verdict(run)) == (expected, word)


def test_a_death_goes_before_a_failure_and_an_environment_error(tmp_path: Path) -> None:
    run = finished(tmp_path, deaths=[DEATH], error=error(3))
    run.scenarios[0].verdict = Verdict.FAIL
    assert exit_code(run) == 5


def test_an_interrupt_goes_before_a_death(tmp_path: Path) -> None:
    assert exit_code(finished(tmp_path, deaths=[DEATH], error=error(130))) == 130


def test_nothing_judged_is_no_pass(tmp_path: Path) -> None:
    assert exit_code(finished(tmp_path, scenarios=[], tests=[])) == 4


def test_tests_alone_can_pass(tmp_path: Path) -> None:
    assert exit_code(finished(tmp_path, scenarios=[])) == 0


def test_finish_records_code_and_verdict(tmp_path: Path) -> None:
    assert run_builder.recorder(tmp_path).finish() == 0
    run = load(tmp_path)
    assert (run.exit_code, run.verdict) == (0, RunVerdict.PASS)
    assert run.finished is not None


# --- errors


@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (InfrastructureError("no QEMU", hint="install it", log=Path("/var/log/x")), "InfrastructureError", 3),
        (MeasurementError("counters disagree"), "MeasurementError", 1),
        (KernelPanic("Kernel panic"), "panic", 5),
        (KeyboardInterrupt(), "Interrupted", 130),
    ],
)
def test_what_stopped_a_run_is_recorded(
    tmp_path: Path, raised: InfrastructureError | KeyboardInterrupt, kind: str, code: int
) -> None:
    recorder = Recorder.start(tmp_path, [])
    recorder.stopped(raised)
    assert recorder.finish() == code
    run = load(tmp_path)
    assert run.error is not None
    assert run.error.kind == kind


def test_a_death_keeps_its_trace(tmp_path: Path) -> None:
    recorder = Recorder.start(tmp_path, [])
    recorder.died("m01", KernelPanic("Kernel panic", trace="f file.c:1", raw="f+0x1/0x2"))
    death = load(tmp_path).deaths[0]
    assert (death.machine, death.kind, death.trace, death.raw) == ("m01", "panic", "f file.c:1", "f+0x1/0x2")


# --- reading


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSON"),
        ('{"schema_version": 2}', "schema version 2"),
        ('{"schema_version": 1, "id": 5}', "id: Input should be a valid string"),
        ("[]", "file: Input should be"),
    ],
)
def test_a_record_that_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=said) as e:
        load(tmp_path)
    assert str(tmp_path / "run.json") in e.value.message
    assert e.value.hint


def test_a_record_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load(tmp_path)
    (tmp_path / "run.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        load(tmp_path / "run.json")


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    run_builder.passing(tmp_path)
    data = json.loads((tmp_path / "run.json").read_text())
    data["machines"][0]["speed"] = 1
    (tmp_path / "run.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"machines\.0\.speed"):
        load(tmp_path)


def test_the_newest_run_is_the_one_written_last(tmp_path: Path) -> None:
    for age, name in ((50, "b"), (10, "a"), (90, "c")):
        Recorder.start(tmp_path / name, [])
        os.utime(tmp_path / name / "run.json", (1e9 - age, 1e9 - age))
    (tmp_path / "no-run").mkdir()
    (tmp_path / "latest").symlink_to("a")
    assert newest(tmp_path) == tmp_path / "a"


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run in"):
        newest(tmp_path)


def test_a_naive_mistake_in_a_machine_is_refused() -> None:
    with pytest.raises(ValidationError):
        MachineRecord(
            id="m", role="r", argv="qemu -x", accel="tcg", clock="virtual", started=datetime.now(UTC)
        )  # type: ignore[arg-type]


@pytest.mark.parametrize(("good", "code"), [(True, 0), (False, 1)])
def test_what_validating_found_decides(tmp_path: Path, good: bool, code: int) -> None:
    assert exit_code(run_builder.validated(tmp_path / "run", good=good)) == code


def test_figures_alone_are_something(tmp_path: Path) -> None:
    figure = Figure(about="a", what="b", value=1.0, unit="s", goal=2.0, how="once")
    assert exit_code(finished(tmp_path, scenarios=[], tests=[], figures=[figure])) == 0


@pytest.mark.parametrize(("result", "code"), [(Verdict.PASS, 0), (Verdict.FAIL, 1), (Verdict.INCONCLUSIVE, 4)])
def test_of_a_comparison_only_the_series_decides(tmp_path: Path, result: Verdict, code: int) -> None:
    run = run_builder.compared(tmp_path / "run", verdict=result)
    others = {c.name: c.verdict for c in run.comparisons[0].contenders}
    assert others["unfair"] is Verdict.FAIL and others["none"] is Verdict.FAIL
    assert exit_code(run) == code


def test_counters_of_a_contender_that_disagree_are_a_failure(tmp_path: Path) -> None:
    run = run_builder.compared(tmp_path / "run")
    run.comparisons[0].contenders[3].error = "the kernel counted 1, fio 2"
    assert exit_code(run) == 1


def test_a_comparison_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run = run_builder.compared(tmp_path / "run")
    assert record.load(tmp_path / "run").comparisons == run.comparisons


def test_a_series_that_does_not_suit_decides_nothing(tmp_path: Path) -> None:
    run = run_builder.compared(tmp_path / "run", verdict=None, judged=None, unsuited="the kernel has no such thing")
    assert exit_code(run) == 0
