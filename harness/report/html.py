"""The HTML report: one file that needs nothing else, from run.json and the logs beside it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from harness.record import MachineRecord, Run
from harness.report import comparison, conformance, plots, summary
from harness.report.beside import Beside
from harness.shares import LOOKS, number

_FULL_LOG = 600
_SHORT_LOG = 60


class Log(NamedTuple):
    """A log, or its end. omitted: lines left out at its start. missing: why there is no text."""

    path: str
    text: str
    omitted: int
    missing: str | None = None


def render(run: Run, folder: Path, beside: Beside | None = None) -> str:
    """The report as HTML text. folder: the run's, where the paths in the record start from. Missing logs
    are named as missing. beside: what other runs found.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    def harmless(value: Any) -> Any:
        """Every value that the template prints goes through here, then through autoescape."""
        return summary.shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def drawing(svg: str | None) -> Markup | None:
        return Markup(svg) if svg else None  # noqa: S704 - made by plots.py, whose texts matplotlib escapes

    def code(text: str) -> Markup:
        """What stands between backticks, as code."""
        return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(summary.shown(text)))))  # noqa: S704 - escaped

    environment = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        finalize=harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=summary.count,
        percent=summary.percent,
        points=summary.points,
        duration=summary.duration,
        ratio=summary.ratio,
        rate=summary.rate,
        number=number,
        bounds=summary.bounds,
        label=summary.label,
        code=code,
        command=shlex.join,
        moment=_moment,
        complaints=summary.complaints,
        covered=summary.covered,
        not_executed=summary.not_executed,
        part=summary.part,
        telling=summary.telling,
        results=comparison.results,
        contender_label=comparison.label,
        times=comparison.times,
        why=comparison.why,
        left_out=comparison.left_out,
        guest_test=lambda nodeid: nodeid.removeprefix("tests/guest/"),
    )
    word, sentence = summary.headline(run)
    shown = beside or Beside()
    contract = conformance.table(run, shown.kernels)
    return environment.get_template("report.html.j2").render(
        run=run,
        beside=shown,
        word=word.value,
        sentence=sentence,
        symbols=summary.SYMBOLS,
        words=summary.WORDS,
        shares_plot=drawing(plots.shares(run.scenarios)),
        bandwidth_plots={s.name: drawing(plots.bandwidth(s)) for s in run.scenarios},
        controls=summary.controls(run),
        deviation=summary.largest_deviation(run),
        contract=contract,
        contract_sentence=conformance.sentence(contract),
        failed_tests=summary.failed_tests(run),
        logs={m.id: _console(m, folder, full) for m, full in _with_length(run)},
        machines=_by_scenario(run),
        dead={d.machine for d in run.deaths},
        configs={b.key: _config(folder / b.config) for b in run.builds if b.config},
        seconds=(run.finished - run.started).total_seconds() if run.finished else None,
        looks=LOOKS,
        sample_share=summary.sample_share,
    )


def _by_scenario(run: Run) -> dict[str, list[MachineRecord]]:
    """Machines by what they were booted for, in the order of their first."""
    groups: dict[str, list[MachineRecord]] = {}
    for machine in run.machines:
        groups.setdefault(machine.scenario or machine.role, []).append(machine)
    return groups


def _with_length(run: Run) -> list[tuple[MachineRecord, bool]]:
    """Each machine, and whether its console log is worth showing at length: it died, or it is the first of
    its build.
    """
    dead = {d.machine for d in run.deaths}
    seen: set[str | None] = set()
    chosen = []
    for machine in run.machines:
        chosen.append((machine, machine.id in dead or machine.build not in seen))
        seen.add(machine.build)
    return chosen


def _console(machine: MachineRecord, folder: Path, full: bool) -> Log | None:
    if machine.console is None:
        return None
    return _log(folder / machine.console, str(machine.console), _FULL_LOG if full else _SHORT_LOG)


def _log(path: Path, name: str, limit: int) -> Log:
    """The last ``limit`` lines."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as e:
        return Log(name, "", 0, missing=e.strerror or type(e).__name__)
    return Log(name, "\n".join(lines[-limit:]), max(0, len(lines) - limit))


def _config(path: Path) -> Log:
    """The symbols that are set; what is unset is the rest."""
    log = _log(path, str(path), limit=1_000_000)
    symbols: Sequence[str] = [line for line in log.text.splitlines() if line.startswith("CONFIG_")]
    return log._replace(text="\n".join(symbols))


def _moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")
