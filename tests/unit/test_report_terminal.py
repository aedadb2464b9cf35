from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import run_builder
from rich.console import Console

from harness.figure import Figure
from harness.record import ErrorRecord, Run
from harness.report import terminal
from harness.shares import FigureVerdict, Verdict

ROOT = Path(__file__).parents[2]


def screen(width: int = 80, *, log: bool = False, **options: Any) -> tuple[Console, io.StringIO]:
    """A terminal without colour, or a log, and what it shows."""
    out = io.StringIO()
    kind: dict[str, Any] = {} if log else {"force_terminal": True, "color_system": None}
    return Console(file=out, width=width, highlight=False, **(kind | options)), out


def printed(run: Run, folder: Path, width: int = 80, **options: Any) -> str:
    console, out = screen(width, **options)
    terminal.summary(run, folder, console)
    return out.getvalue()


def with_figures(folder: Path) -> Run:
    """A long name, a long verdict, and figures with and without bounds."""
    made = run_builder.recorder(folder)
    s = run_builder.scenario("low-depth-against-deep", {"a": 80, "b": 20}, {"a": 0.5, "b": 0.5})
    figures = [
        FigureVerdict(
            label=label,
            unit=unit,
            at_least=low,
            at_most=high,
            mean=1.01,
            low=1.0,
            high=1.02,
            verdict=Verdict.PASS,
        )
        for label, unit, low, high in (
            ("throughput of a, both again", "of the disk's most", 0.95, None),
            ("mean rate of a, all", "KB/s", 1350, 1650),
            ("surplus of b, x", "I/Os", None, 330),
            ("only reported", "s", None, None),
        )
    ]
    assert s.judged is not None
    s.judged = s.judged.model_copy(update={"figures": tuple(figures)})
    s.expected_failure, s.verdict = "as documented", Verdict.PASS
    with made.change() as run:
        run.scenarios = [*run.scenarios, s]
    return run_builder.finished(made)


def test_without_colour_every_verdict_is_a_word(tmp_path: Path) -> None:
    text = printed(run_builder.failing(tmp_path), tmp_path)
    assert "\x1b" not in text
    for word in ("FAIL", "INCONCLUSIVE", "OUTSIDE", "undecided", "inside"):
        assert word in text


def test_shares_have_target_mean_and_interval_on_one_line(tmp_path: Path) -> None:
    run = run_builder.passing(tmp_path)
    assert run.scenarios[0].judged is not None
    share = run.scenarios[0].judged.shares[0]
    interval = f"{100 * share.low:.1f}..{100 * share.high:.1f}"
    line = next(x for x in printed(run, tmp_path).splitlines() if x.startswith("  a "))
    assert line.split() == [
        "a", "80.0", f"{100 * share.mean:.1f}", interval, "+0.2", "inside",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [40, 80, 100, 160])
def test_no_width_cuts_a_cell(tmp_path: Path, width: int) -> None:
    text = printed(with_figures(tmp_path), tmp_path, width=width)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    lines = [line.split() for line in text.splitlines()]
    assert [
        "low-depth-against-deep", "EXPECTED", "FAILURE", "n=3,", "1000", "IOPS",
    ] in lines  # fmt: skip
    assert sum(line[-1] == "OUTSIDE" and line[0] in "ab" and len(line) == 6 for line in lines if line) == 2
    cells = [line[-4:] for line in lines]
    for bound in (">= 0.95", "<= 330", "1350..1650"):
        assert [*bound.split()[-1:], "1.01", "1..1.02", "inside"] in cells, bound
    assert "only reported" not in text


def test_a_log_has_no_width(tmp_path: Path) -> None:
    run = run_builder.failing(tmp_path)
    long = f"assert {'word ' * 40}end"
    run.tests[-1].message = f"self = <object>\n\nE       AssertionError: {long}\nE        + more"
    lines = [line.strip() for line in printed(run, tmp_path, log=True).splitlines()]
    assert f"tests/guest/test_dm.py::test_status: {long}" in lines
    assert any("FAIL" in line and "1 of 4 tests failed" in line for line in lines)
    narrow = with_figures(tmp_path / "figures")
    assert "  throughput of a, both again (of the disk's most)  " in printed(
        narrow, tmp_path, width=40, log=True
    )


@pytest.mark.parametrize("log", [True, False])
def test_figures_have_goals_and_how_they_were_taken(log: bool) -> None:
    figures = [
        Figure(
            about="The driver",
            what="I/Os per second",
            value=98.7,
            unit="%",
            goal=97,
            least=True,
            how="by " * 40,
        ),
        Figure(about="The driver", what="latency", value=4.7, unit="%", goal=2, how="reads"),
        Figure(about="The harness", what="boot", value=0.3, unit="s", goal=None, how="median"),
    ]
    console, out = screen(log=log)
    terminal.figures(figures, console)
    text = out.getvalue()
    one = text.splitlines()[1]
    assert one.split()[:8] == ["I/Os", "per", "second", "98.7", "%", "at", "least", "97"]
    assert ("by by" in one) == log
    assert "MISSED" in text and "median" in text and text.index("The driver") < text.index("The harness")


@pytest.mark.parametrize("kind", ["passing", "failing", "dying"])
def test_80_columns_hold_all_but_what_is_there_to_be_copied(tmp_path: Path, kind: str) -> None:
    text = printed(getattr(run_builder, kind)(tmp_path), tmp_path)
    places = ("report", "record", "next", "console", "log")
    assert [x for x in text.splitlines() if len(x.rstrip()) > 80 and not x.startswith(places)] == []


def test_paths_and_commands_are_not_broken(tmp_path: Path) -> None:
    text = printed(run_builder.failing(tmp_path), tmp_path, width=40)
    assert f"report   {tmp_path / 'report.html'}\n" in text
    assert "next     repeat it alone: harness test tests/guest/test_scenarios.py -k cgroup-80-20\n" in text


def test_reasons_and_failed_tests_are_listed(tmp_path: Path) -> None:
    text = printed(run_builder.failing(tmp_path), tmp_path, width=200)
    assert "cgroup-80-20: a got 50.2 %" in text
    assert "negative control compat reaches the target too" in text
    assert "tests/guest/test_dm.py::test_status: assert 5 == 6" in text
    assert "skipped: kernel 6.1: its source is not at hand" in text


def test_a_death_shows_its_trace_and_where_the_console_log_is(tmp_path: Path) -> None:
    text = printed(run_builder.dying(tmp_path), tmp_path)
    assert "drivers/md/dm-ioband-ctl.c:812" in text
    assert str(tmp_path / "machines" / "m02" / "console.log") in text


def test_the_guest_cannot_drive_the_terminal_nor_rich(tmp_path: Path) -> None:
    made = run_builder.recorder(tmp_path)
    made.update(
        error=ErrorRecord(kind="x", message="\x1b[2J[bold red]boo[/]", hint="[/nothing]", exit_code=3)
    )
    text = printed(run_builder.finished(made), tmp_path)
    assert "\x1b" not in text
    assert "␛[2J[bold red]boo[/]" in text
    assert "[/nothing]" in text


def test_colour_where_it_is_wanted_and_not_with_no_color(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_builder.passing(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in printed(run, tmp_path, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "32m" not in printed(run, tmp_path, force_terminal=True)


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_a_terminal_that_cannot_show_a_check_mark_is_no_traceback(tmp_path: Path, encoding: str) -> None:
    run_builder.passing(tmp_path)
    program = (
        "import sys; from pathlib import Path; from harness import record\n"
        "from harness.report import terminal\n"
        "folder = Path(sys.argv[1]); terminal.summary(record.load(folder), folder)"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(  # noqa: PLW1510 - the exit code is what is tested
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, env=environment
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"? PASS" in done.stdout


def test_checks_say_what_is_missing_and_what_to_do() -> None:
    out = io.StringIO()
    found: Any = [
        SimpleNamespace(name="make", ok=True, detail="GNU Make 4.3", hint="unused"),
        SimpleNamespace(name="qemu", ok=False, detail="not found", hint="install qemu-system-x86"),
        SimpleNamespace(name="kvm", ok=None, detail="not tried", hint=None),
    ]
    terminal.checks(found, Console(file=out, width=80))
    text = out.getvalue()
    assert "unused" not in text
    assert "MISSING  qemu" in text
    assert "install qemu-system-x86" in text


def test_the_cache_lists_the_last_used_first_and_the_sum(tmp_path: Path) -> None:
    out = io.StringIO()
    now = time.time()
    entries: Any = [
        SimpleNamespace(kind="kernel", what="2.6.31.3 perf", key="a" * 64, size=5_000_000, used=now - 7300),
        SimpleNamespace(kind="image", what="guest programs", key="b" * 64, size=1_750_000, used=now - 5),
    ]
    terminal.cache(tmp_path, entries, Console(file=out, width=100))
    lines = out.getvalue().splitlines()
    assert lines[1].startswith("image")
    assert "2 h 0" in lines[2]
    assert lines[3] == f"2 entries, 7 MB in {tmp_path}"


def test_validation_has_a_line_for_each_patch_and_says_what_to_mend() -> None:
    out, text = screen(log=True)
    terminal.validation(run_builder.validation(good=False), out)
    lines = text.getvalue().splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["ok", "FAIL", "FAIL"]
    assert "0002-b.patch: a.c:7: <x> is not used [-Wunused]" in lines


def test_patch_coverage_says_where_the_rest_is(tmp_path: Path) -> None:
    made = run_builder.recorder(tmp_path)
    made.update(coverage=run_builder.covered(7))
    text = printed(run_builder.finished(made), tmp_path, log=True)
    assert "patch coverage: 35.0 % of 20 added lines with code were executed (goal 95 %: missed)\n" in text
    assert "  not executed: 13 lines in 1 file; the report shows them\n" in text
    assert "  not compiled: mm/b.c\n" in text
    assert "  of 3 machines, 1 left no counters\n" in text


def test_patch_coverage_that_meets_its_goal(tmp_path: Path) -> None:
    made = run_builder.recorder(tmp_path)
    made.update(coverage=run_builder.covered(20))
    text = printed(run_builder.finished(made), tmp_path, log=True)
    assert "100.0 % of 20 added lines with code were executed (goal 95 %: met)\n" in text
    assert "not executed" not in text


def test_a_comparison_has_a_line_per_contender(tmp_path: Path) -> None:
    run = run_builder.compared(tmp_path / "run")
    text = printed(run, tmp_path / "run", log=True)
    lines = {line.split("  ")[1]: line for line in text.splitlines() if line.startswith("  ")}
    assert "PASS" in lines["<fair>"] and "a 80.1 %" in lines["<fair>"]
    assert "FAIL" in lines["<unfair>"] and "20.5 / 16.2 / 40" in lines["<unfair>"]
    assert "<caps>" not in lines and "41234" in lines["the series"]
    assert " PASS " in text.splitlines()[1]
