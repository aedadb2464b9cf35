"""Plots as SVG text for the HTML report, drawn by matplotlib.

They are put inline, so they take their colours from the page: each role (ink, grid, pass ...) is drawn in a
placeholder colour that is then replaced by the page's CSS variable, which knows light and dark. Text stays
text, in the page's font. The same record gives the same bytes: fixed salt for the ids, no date.
"""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

from harness.record import ScenarioRecord
from harness.report.summary import percent
from harness.shares import GroupShare, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

GROUP_COLOURS = 6
_ROLES = ["ink", "muted", "grid", "band", "pass", "fail", "inconclusive", "control", "page"] + [
    f"group{i}" for i in range(GROUP_COLOURS)
]
_COLOUR = {role: f"#0000{i:02x}" for i, role in enumerate(_ROLES, start=1)}
_MARKER = {Verdict.PASS: "o", Verdict.FAIL: "X", Verdict.INCONCLUSIVE: "^"}
_DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 3)), (0, (8, 3))]


def _styled(draw: Callable[P, str | None]) -> Callable[P, str | None]:
    """Draw with matplotlib's own defaults, not the user's matplotlibrc; and no name is a formula."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> str | None:
        import matplotlib  # half a second that a run without reports does not have

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update({"text.parse_math": False, "svg.fonttype": "none"})
            return draw(*args, **kwargs)

    return styled


@_styled
def shares(scenarios: Sequence[ScenarioRecord]) -> str | None:
    """Every judged share: on the left where it lies among 0..100 % with target and controls, on the right
    how far off target it is, in points, with its interval and the tolerance. None if nothing was judged.
    """
    judged = [s for s in scenarios if s.judged and s.judged.shares]
    if not judged:
        return None
    rows = sum(1 + len(s.groups) for s in judged)
    figure = _figure(9.6, 0.95 + 0.27 * rows)
    where, off = figure.subplots(1, 2, sharey=True, width_ratios=[5, 4])
    limit = 200 * max(s.tolerance for s in judged)
    y = 0.0
    ticks: list[tuple[float, str]] = []
    for scenario in judged:
        assert scenario.judged is not None
        name = scenario.name + (" (expected failure)" if scenario.expected_failure else "")
        where.text(0, y, name, va="center", fontsize=9.5, fontweight="bold", color=_COLOUR["ink"])
        for share in scenario.judged.shares:
            y += 1
            ticks.append((y, f"{share.group} \N{MIDDLE DOT} {percent(share.target)} %"))
            _draw_place(where, y, share, scenario)
            _draw_deviation(off, y, share, scenario.tolerance, limit)
        y += 1.25
    _finish_shares(where, off, ticks, limit, bottom=y - 0.6)
    _legend(figure)
    inch = 1 / figure.get_figheight()
    figure.subplots_adjust(left=0.135, right=0.99, wspace=0.08, top=1 - 0.5 * inch, bottom=0.45 * inch)
    return _svg(figure, "shares", "Measured shares against their targets; the table below has the numbers.")


@_styled
def bandwidth(scenario: ScenarioRecord) -> str | None:
    """I/Os (or KB) per second over time, a line per group, and the level of its target as a thin line. None without
    data.
    """
    lines = [(g, scenario.bandwidth.get(g.name, [])) for g in scenario.groups]
    if not any(values for _, values in lines):
        return None
    figure = _figure(5.2, 2.1)
    axes = figure.subplots()
    scale = 0.5 if scenario.metric == "sectors" else 1.0  # KB are read more easily than sectors
    total = None if scenario.phases or scenario.total_rate is None else scale * scenario.total_rate
    ends: list[tuple[float, str, str]] = []
    for i, (group, values) in enumerate(lines):
        if not values:
            continue
        colour = _COLOUR[f"group{i % GROUP_COLOURS}"]
        seconds, rates = [s for s, _ in values], [scale * r for _, r in values]
        axes.plot(seconds, rates, color=colour, linestyle=_DASHES[i % len(_DASHES)], linewidth=1.8)
        if total is not None and group.target is not None:
            axes.axhline(group.target * total, color=colour, linewidth=0.8, alpha=0.45)
        last = rates[-max(1, len(rates) // 5) :]
        ends.append((sum(last) / len(last), group.name, colour))
    highest = max(scale * r for _, values in lines for _, r in values)
    levels = [(g.target or 0.0) * (total or 0.0) for g in scenario.groups]
    axes.set_ylim(0, 1.12 * max(highest, *levels, 1))
    for name, begin in scenario.phases:
        axes.axvline(begin, color=_COLOUR["grid"], linewidth=1)
        axes.text(begin, axes.get_ylim()[1], f" {name}", fontsize=8, va="top", color=_COLOUR["muted"])
    axes.margins(x=0.01)
    _label_ends(axes, ends)
    axes.set_xlabel("seconds in the common window")
    axes.set_ylabel("KB per second" if scenario.metric == "sectors" else "I/Os per second")
    _plain(axes)
    axes.grid(axis="y", color=_COLOUR["grid"], linewidth=0.7)
    figure.subplots_adjust(left=0.14, right=0.87, top=0.96, bottom=0.21)
    names = ", ".join(g.name for g in scenario.groups)
    return _svg(figure, f"bw-{scenario.name}", f"I/Os per second over time of the groups {names}.")


def _draw_place(axes: Axes, y: float, share: GroupShare, scenario: ScenarioRecord) -> None:
    low, high = 100 * (share.target - scenario.tolerance), 100 * (share.target + scenario.tolerance)
    axes.plot([0, 100], [y, y], color=_COLOUR["grid"], linewidth=0.8, zorder=1)
    axes.barh(y, high - low, left=low, height=0.62, color=_COLOUR["band"], zorder=2)
    axes.plot([100 * share.target] * 2, [y - 0.31, y + 0.31], color=_COLOUR["muted"], linewidth=1.2, zorder=3)
    for control in scenario.controls:
        for other in control.judged.shares if control.judged else ():
            if other.group == share.group:
                _mark(axes, 100 * other.mean, y, "D", "control", hollow=True)
    interval = [100 * share.low, 100 * share.high]
    axes.plot(interval, [y, y], color=_COLOUR[share.verdict.value], linewidth=2, zorder=5)
    _mark(axes, 100 * share.mean, y, _MARKER[share.verdict], share.verdict.value)


def _draw_deviation(axes: Axes, y: float, share: GroupShare, tolerance: float, limit: float) -> None:
    colour = _COLOUR[share.verdict.value]
    mean, low, high = (100 * (v - share.target) for v in (share.mean, share.low, share.high))
    axes.barh(y, 200 * tolerance, left=-100 * tolerance, height=0.62, color=_COLOUR["band"], zorder=2)
    if abs(mean) < limit:
        axes.plot([max(low, -limit), min(high, limit)], [y, y], color=colour, linewidth=2, zorder=5)
        _mark(axes, mean, y, _MARKER[share.verdict], share.verdict.value)
        return
    side = 1 if mean > 0 else -1
    _mark(axes, side * 0.955 * limit, y, ">" if side > 0 else "<", share.verdict.value)
    text = f"{mean:+.1f}".replace("-", "\N{MINUS SIGN}")
    align = "right" if side > 0 else "left"
    axes.text(side * 0.9 * limit, y, text, va="center", ha=align, fontsize=9, color=colour)


def _mark(axes: Axes, x: float, y: float, marker: str, role: str, *, hollow: bool = False) -> None:
    axes.plot(
        [x],
        [y],
        marker=marker,
        markersize=6 if hollow else 7.5,
        markerfacecolor="none" if hollow else _COLOUR[role],
        markeredgecolor=_COLOUR[role] if hollow else _COLOUR["page"],
        markeredgewidth=1.3 if hollow else 0.8,
        linestyle="none",
        zorder=4 if hollow else 6,
        clip_on=False,
    )


def _finish_shares(
    where: Axes, off: Axes, ticks: list[tuple[float, str]], limit: float, bottom: float
) -> None:
    where.set_ylim(bottom, -0.6)
    where.set_yticks([y for y, _ in ticks], [label for _, label in ticks])
    where.set_xlim(-1, 101)
    where.set_xticks(range(0, 101, 20))
    where.set_xlabel("share of all I/Os, %")
    off.set_xlim(-limit, limit)
    off.axvline(0, color=_COLOUR["muted"], linewidth=1.2, zorder=3)
    off.set_xlabel("measured \N{MINUS SIGN} target, points")
    for axes in (where, off):
        _plain(axes)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelcolor=_COLOUR["ink"])


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def line(marker: str, role: str, label: str, *, hollow: bool = False) -> Line2D:
        face = "none" if hollow else _COLOUR[role]
        shown = Line2D([], [], marker=marker, linestyle="none", label=label)
        shown.set(color=_COLOUR[role], markerfacecolor=face)
        return shown

    figure.legend(
        handles=[
            Patch(facecolor=_COLOUR["band"], label="target \N{PLUS-MINUS SIGN} tolerance"),
            line("o", "pass", "inside"),
            line("X", "fail", "outside"),
            line("^", "inconclusive", "undecided"),
            line("D", "control", "negative control", hollow=True),
        ],
        loc="upper left",
        bbox_to_anchor=(0.125, 1.0),
        ncols=5,
        frameon=False,
        fontsize=9,
        labelcolor=_COLOUR["ink"],
        handletextpad=0.3,
        columnspacing=1.4,
        borderaxespad=0.2,
    )


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """The groups' names right of their lines, pushed apart where they would overlap."""
    gap = 0.11 * axes.get_ylim()[1]
    lowest = float("-inf")
    for y, name, colour in sorted(ends):
        lowest = max(y, lowest + gap)
        axes.annotate(
            name,
            (1.015, lowest),
            xycoords=("axes fraction", "data"),
            va="center",
            color=colour,
            fontweight="bold",
            annotation_clip=False,
        )


def _plain(axes: Axes) -> None:
    """No frame, quiet axes, the page shines through."""
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_COLOUR["grid"])
    axes.tick_params(colors=_COLOUR["muted"], labelsize=9, length=3)
    axes.xaxis.label.set(color=_COLOUR["muted"], fontsize=9)
    axes.yaxis.label.set(color=_COLOUR["muted"], fontsize=9)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that belongs to no window system."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="none")


def _svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an <svg> element. name: makes its ids differ from those of other plots on the page."""
    from matplotlib import rcParams
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.StringIO()
    rcParams["svg.hashsalt"] = name
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(out)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)  # date, version, links
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"#0000([01][0-9a-f])", lambda m: f"var(--{_ROLES[int(m[1], 16) - 1]})", svg)
    svg = re.sub(r"(font(?:-family)?: [^;\"]*?)\s*'DejaVu Sans'[^;\"]*", r"\g<1> var(--sans)", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    opening = f'<svg class="plot" {box[0]} role="img" aria-label="{html.escape(description)}" {namespaces}>'
    return opening + svg[svg.index(">") + 1 :].strip()
