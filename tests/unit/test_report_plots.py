from __future__ import annotations

import re
from xml.etree import ElementTree

import run_builder

from harness.report import plots

EIGHTY = run_builder.scenario("cgroup-80-20", {"a": 80, "b": 20})
OFF = run_builder.scenario("off", {"a": 80, "b": 20}, {"a": 0.5, "b": 0.5})


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}text")]


def test_shares_name_every_group_and_scenario() -> None:
    svg = plots.shares([EIGHTY, OFF])
    assert svg is not None
    assert {"cgroup-80-20", "off", "a · 80.0 %", "b · 20.0 %"} <= set(texts(svg))


def test_a_share_off_the_scale_has_its_number() -> None:
    svg = plots.shares([OFF])
    assert svg is not None
    assert any(t.startswith("\N{MINUS SIGN}29.") or t.startswith("\N{MINUS SIGN}30.") for t in texts(svg))


def test_every_colour_comes_from_the_page() -> None:
    for svg in (plots.shares([EIGHTY, OFF]), plots.bandwidth(EIGHTY)):
        assert svg is not None
        assert not re.findall(r"#[0-9a-f]{6}", svg)
        assert set(re.findall(r"var\(--([a-z0-9]+)\)", svg)) >= {"muted", "grid"}


def test_two_plots_share_no_id() -> None:
    svgs = [plots.bandwidth(EIGHTY), plots.bandwidth(OFF), plots.shares([EIGHTY])]
    ids = [set(re.findall(r'\bid="([^"]*)"', svg or "")) for svg in svgs]
    assert all(ids)
    assert not ids[0] & ids[1] | ids[0] & ids[2] | ids[1] & ids[2]


def test_references_within_a_plot_hold() -> None:
    svg = plots.bandwidth(EIGHTY)
    assert svg is not None
    ids = set(re.findall(r'\bid="([^"]*)"', svg))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]*)', svg)) <= ids


def test_the_same_data_gives_the_same_bytes() -> None:
    assert plots.shares([EIGHTY, OFF]) == plots.shares([EIGHTY, OFF])
    assert plots.bandwidth(EIGHTY) == plots.bandwidth(EIGHTY)


def test_names_with_markup_are_text() -> None:
    odd = run_builder.scenario("<x>&$y$", {"<a>": 50, "b_1": 50})
    shares, bandwidth = plots.shares([odd]), plots.bandwidth(odd)
    assert shares is not None and bandwidth is not None
    assert "<x>&$y$" in texts(shares)
    assert {"<a>", "b_1"} <= set(texts(bandwidth))


def test_no_data_no_plot() -> None:
    bare = EIGHTY.model_copy(update={"bandwidth": {}, "judged": None})
    assert plots.bandwidth(bare) is None
    assert plots.shares([bare]) is None
    assert plots.shares([]) is None


def test_labels_of_equal_lines_do_not_overlap() -> None:
    svg = plots.bandwidth(run_builder.scenario("fifty", {"a": 50, "b": 50}))
    root = ElementTree.fromstring(svg or "")
    labels = [t for t in root.iter("{http://www.w3.org/2000/svg}text") if t.text in ("a", "b")]
    heights = sorted(
        float(re.search(r"translate\(\S+ ([\d.]+)\)|$", t.get("transform", ""))[1] or t.get("y", "0"))
        for t in labels
    )  # type: ignore[index]
    assert len(heights) == 2
    assert heights[1] - heights[0] > 9


def test_no_date_and_no_version_of_the_drawing_program() -> None:
    svg = plots.bandwidth(EIGHTY)
    assert svg is not None
    assert "metadata" not in svg
    assert not re.search(r"\d{4}-\d{2}-\d{2}", svg)
