from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
import run_builder
from junitparser import JUnitXml

from harness import report
from harness.errors import UserError
from harness.record import Recorder, Run, load
from harness.report import html
from harness.shares import FigureVerdict, Verdict

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks nesting; keeps ids, attributes and text outside <style>."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("href", "src", "xlink:href"):
                self.links.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@dataclass
class Made:
    """A run as it is read back, and its page."""

    run: Run
    folder: Path
    html: str
    page: Page


def make(build: Callable[[Path], Run], folder: Path) -> Made:
    build(folder)
    run = load(folder)
    text = report.write_all(folder).html.read_text()
    return Made(run, folder, text, Page(text))


@pytest.fixture(scope="module")
def passing(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(run_builder.passing, tmp_path_factory.mktemp("passing"))


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(run_builder.failing, tmp_path_factory.mktemp("failing"))


@pytest.fixture(scope="module")
def dying(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(run_builder.dying, tmp_path_factory.mktemp("dying"))


@pytest.fixture(params=["passing", "failing", "dying"])
def made(request: pytest.FixtureRequest) -> Made:
    return request.getfixturevalue(request.param)


def test_the_page_is_well_formed_with_unique_ids_and_no_dead_anchor(made: Made) -> None:
    assert [i for i, n in made.page.ids.items() if n > 1] == []
    assert [x for x in made.page.links if x[1:] not in made.page.ids] == []


def test_the_page_needs_nothing_from_outside(made: Made) -> None:
    assert all(link.startswith("#") for link in made.page.links)
    assert not made.page.tags.keys() & {"script", "link", "img", "iframe", "object"}
    assert "@import" not in made.html
    assert "url(" not in made.html.replace("url(#", "")


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, failing: Made) -> None:
    shutil.copytree(failing.folder, tmp_path / "copy" / failing.folder.name)
    again = report.write_all(tmp_path / "copy" / failing.folder.name)
    assert again.html.read_text() == failing.html


def test_a_live_run_and_its_record_give_the_same_page(tmp_path: Path) -> None:
    run = run_builder.passing(tmp_path)
    from_memory = html.render(run, tmp_path).replace(f"{tmp_path}/", "")
    assert from_memory == html.render(load(tmp_path), tmp_path)


def test_the_verdict_comes_first_as_a_word(made: Made) -> None:
    word = {"pass": "PASS", "fail": "FAIL", "died": "KERNEL DIED"}[made.run.verdict or ""]
    assert made.page.text.index(word) < made.page.text.index("Shares against")


def test_each_scenario_has_its_numbers_its_plot_and_its_command(passing: Made) -> None:
    for scenario in passing.run.scenarios:
        assert scenario.command in passing.page.text
        assert scenario.judged is not None
        for share in scenario.judged.shares:
            assert f"{100 * share.low:.1f} to {100 * share.high:.1f}" in passing.page.text
    assert passing.page.tags["svg"] == 1 + len(passing.run.scenarios)
    assert "missed, as it must" in passing.page.text


def test_what_differs_on_the_kernel_has_its_reason(passing: Made) -> None:
    words = " ".join(" ".join(passing.page.words).split())
    assert "no cgroup2: it came with 4.5" in words
    assert "words: a, b : two words" in words
    assert "limit: 4096 : a page" in words


def test_a_run_that_passed_has_no_list_of_what_did_not(passing: Made) -> None:
    assert "What did not pass" not in passing.page.text


def test_a_control_that_reaches_the_target_is_said_to(failing: Made) -> None:
    assert "reached the target" in failing.page.text


def test_what_the_guest_wrote_is_shown_and_harmless(dying: Made) -> None:
    assert "<script>alert" not in dying.html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in dying.html
    assert not set(dying.html) & {"\x00", "\x1b", "\u202e"}
    assert "\N{SYMBOL FOR ESCAPE}[31m" in dying.html
    assert "&lt;U+202E&gt;" in dying.html


def test_names_are_escaped_too(tmp_path: Path) -> None:
    made = run_builder.recorder(tmp_path)
    with made.change() as run:
        run.scenarios[0] = run_builder.scenario("a<b>&\"c'", {"<g>": 50, "h&": 50})
        run.host["cpu"] = "<img src=x onerror=alert(1)>"
    page = Page(html.render(run_builder.finished(made), tmp_path))
    assert page.tags["img"] == page.tags["g>"] == 0
    assert "a<b>&\"c'" in page.text


def test_a_death_shows_its_decoded_trace_before_the_shares(dying: Made) -> None:
    text = dying.page.text
    assert text.index("drivers/md/dm-ioband-ctl.c:812") < text.index("Shares against")


def test_a_long_console_log_is_cut_with_a_note_of_the_whole(dying: Made) -> None:
    assert re.search(r"10\d earlier lines left out. The whole: machines/m02/console.log", dying.page.text)
    assert dying.page.text.count("<script>alert(1)</script>") == 2, (
        "in the death's raw text and at the log's end"
    )


def test_only_the_group_of_a_dead_machine_is_open(dying: Made, passing: Made) -> None:
    assert re.findall(r"<details open><summary>(\S+):", dying.html) == ["cgroup-40-20-10"]
    assert "<details open><summary>" not in passing.html


def test_a_missing_log_is_named_as_missing(tmp_path: Path) -> None:
    run_builder.passing(tmp_path)
    (tmp_path / "machines" / "m01" / "console.log").unlink()
    page = Page(html.render(load(tmp_path), tmp_path))
    assert "machines/m01/console.log cannot be shown: No such file" in page.text


def test_the_config_shows_what_is_set(passing: Made) -> None:
    assert "CONFIG_DM_IOBAND=y CONFIG_CGROUP_BLKIO=y" in passing.page.text
    assert "CONFIG_MODULES is not set" not in passing.page.text


def test_a_run_that_has_barely_begun_has_a_page(tmp_path: Path) -> None:
    Recorder.start(tmp_path, ["harness", "test"])
    written = report.write_all(tmp_path)
    page = Page(written.html.read_text())
    assert "INTERRUPTED" in page.text
    assert "still going on, or was killed" in page.text
    assert JUnitXml.fromstring(written.junit.read_bytes()).tests == 0


def test_the_reports_of_no_run_are_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        report.write_all(tmp_path)


def test_a_precondition_that_was_not_met_is_beside_its_sample(tmp_path: Path) -> None:
    made = run_builder.recorder(tmp_path)
    with made.change() as run:
        first = run.scenarios[0]
        bad = {"backlogged": {"a": True, "b": False}, "saturated": False, "drifted": ("the clock slowed",)}
        first.samples = [s.model_copy(update=bad) for s in first.samples]
    text = Page(html.render(run_builder.finished(made), tmp_path)).text
    for said in ("not backlogged: b", "disk not saturated", "the clock slowed"):
        assert said in text


def test_each_row_of_the_contract_has_what_was_seen_and_a_verdict_per_flavour(failing: Made) -> None:
    text = failing.page.text
    assert "What msg-weight-01 promises & does. EINVAL \N{BALLOT X} 1 of 2 failed \N{BALLOT X} failed" in text
    assert "not testable: nothing outside the kernel shows it" in text
    assert "What <code>msg-weight-01</code> promises &amp; does." in failing.html
    assert "6 more facts" in text
    assert "fact <8>" in text


def test_failing_rows_are_named_before_the_table(failing: Made, passing: Made) -> None:
    assert '<a class="mark fail" href="#c-msg-weight-01">' in failing.html
    assert 'href="#c-' not in passing.html


def test_a_failed_test_first_says_the_line_that_tells(tmp_path: Path) -> None:
    run = run_builder.failing(tmp_path)
    run.tests[-1].message = "self = <object>\n\n>       assert a == b\nE       assert 5 == 6"
    text = html.render(run, tmp_path)
    assert '<p class="telling">assert 5 == 6</p>' in text
    assert Page(text).text.index("assert 5 == 6") < Page(text).text.index("self = <object>")
    top = Page(text).text.partition("Shares against")[0]
    assert "ERROR" not in top and "FAILED tests/guest/test_dm.py::test_status assert 5 == 6" in top
    assert "cgroup-80-20 a got 50.2 %" in top and "negative control compat reaches the target too" in top


def test_figures_that_a_control_misses_stand_below_its_groups(tmp_path: Path) -> None:
    run = run_builder.passing(tmp_path)
    scenario = run.scenarios[0]
    control = scenario.controls[0]
    assert scenario.judged is not None and control.judged is not None
    missed = FigureVerdict(
        label="settled after, x", unit="s", at_least=0.1, at_most=0.26, mean=3.9, low=3.8, high=4.0,
        verdict=Verdict.FAIL,
    )  # fmt: skip
    kept = missed.model_copy(
        update={"label": "another figure", "verdict": Verdict.PASS, "why": "as documented"}
    )
    scenario.judged = scenario.judged.model_copy(update={"figures": (kept,)})
    control.judged = control.judged.model_copy(update={"figures": (missed, kept)})
    text = Page(html.render(run, tmp_path)).text
    begin = text.index("The same load without what is tested")
    controls = text[begin : text.index("rows: ", begin)]
    assert "settled after, x 0.1 to 0.26 3.9 s 3.8 to 4" in controls and "another figure" not in controls
    assert "another figure 3.9 s 3.8 to 4 0.1 to 0.26" in text[:begin] and "as documented" in text[:begin]


def test_scenarios_that_did_not_begin_are_named_and_no_more(tmp_path: Path) -> None:
    run = run_builder.dying(tmp_path)
    assert run.scenarios[1].verdict is None
    run.scenarios[1].samples, run.scenarios[1].reasons = [], []
    page = Page(html.render(run, tmp_path))
    assert f"Not judged: {run.scenarios[1].name} ." in page.text
    assert run.scenarios[1].command not in page.text and run.scenarios[2].command in page.text
    assert [x for x in page.links if x[1:] not in page.ids] == []


def test_patches_with_what_is_to_be_mended_and_what_is_accepted(tmp_path: Path) -> None:
    made = make(lambda folder: run_builder.validated(folder, good=False), tmp_path / "run")
    assert "FAIL" in made.page.text
    assert (
        "2 of 3 patches and configurations are not as they should be: 0002-b.patch, module." in made.page.text
    )
    assert "a.c:7: <x> is not used [-Wunused]" in made.page.text
    assert "checkpatch: line 3: ERROR: Macros (accepted: it becomes a string)" in made.page.text
    assert "it does not compile" in made.page.text


def test_an_interrupted_validation_says_how_far_it_came(tmp_path: Path) -> None:
    made = run_builder.recorder(tmp_path / "run")
    with made.change() as run:
        run.scenarios, run.validation = [], run_builder.validation(good=True)
    made.stopped(KeyboardInterrupt())
    made.finish()
    page = Page(report.write_all(tmp_path / "run").html.read_text())
    assert "The run was interrupted; 3 of the patches and configurations had been decided." in page.text


def test_the_lines_of_a_patch_that_were_not_executed(tmp_path: Path) -> None:
    def build(folder: Path) -> Run:
        made = run_builder.recorder(folder)
        made.update(coverage=run_builder.covered(18))
        return run_builder.finished(made)

    made = make(build, tmp_path / "run")
    assert "90.0 % of 20 added lines with code were executed (goal 95 %: missed)" in made.page.text
    assert "by 2 machines; 1 other machine left no counters" in made.page.text
    assert "guest-2-debug: its kernel died" in made.page.text
    assert "2. md: add b: 2 of 10 lines with code" in made.page.text
    assert "1. md: add a: " not in made.page.text
    assert "drivers/md/a.c:19-20" in made.page.text and "if (a < 20) // line 20" in made.page.text
    assert "mm/b.c not compiled in any of these kernels" in made.page.text
    assert [i for i, n in made.page.ids.items() if n > 1] == []
    assert [x for x in made.page.links if x[1:] not in made.page.ids] == []
    assert made.run.exit_code == 0, "it decides nothing"


def test_a_comparison_shows_each_contender_and_why_some_were_not_run(tmp_path: Path) -> None:
    made = make(run_builder.compared, tmp_path / "run")
    text = made.page.text
    assert "Compared with other controllers" in text
    for said in ("no controller", "the series", "<fair>", "<unfair>", "20.5 / 16.2 / 40", "41234"):
        assert said in text
    assert "cgroup-80-20 , <caps>: it has maxima." in text and "promises & keeps." in text
    assert "1 scenario compared under the series and 2 controllers." in text
    assert made.run.exit_code == 0 and not made.page.ids["failed"]


def test_a_contender_without_a_verdict_says_why(tmp_path: Path) -> None:
    run_builder.compared(tmp_path / "run")
    run = load(tmp_path / "run")
    broken = run.comparisons[0].contenders[3]
    broken.error, broken.judged, broken.verdict = "counters <disagree>", None, None
    page = Page(html.render(run, tmp_path / "run"))
    assert "ERROR" in page.text and "counters <disagree>" in page.text


def test_the_newest_comparison_of_the_same_series_stands_in_other_reports(tmp_path: Path) -> None:
    run_builder.compared(tmp_path / "other")
    made = make(run_builder.passing, tmp_path / "mine")
    assert made.page.ids["comparison"] == 1 and "Not of this run: of run other" in made.page.text
