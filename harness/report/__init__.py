"""Reports: each a function of the record, so that they can be made again at any time."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from harness import record


class Written(NamedTuple):
    """The report files of a run."""

    html: Path
    junit: Path


def write_all(folder: Path) -> Written:
    """Make report.html and junit.xml in a run's folder from its run.json. Raises UserError if that cannot
    be read.
    """
    from harness.report import beside, html, junit  # matplotlib and jinja2 have no place in start-up

    run = record.load(folder)
    written = Written(html=folder / "report.html", junit=folder / "junit.xml")
    _replace(written.html, html.render(run, folder, beside.find(run, folder)))
    _replace(written.junit, junit.render(run))
    return written


def _replace(path: Path, text: str) -> None:
    """Write whole or not at all, as the record is."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
