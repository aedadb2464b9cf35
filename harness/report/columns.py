"""Tables for a terminal or a log, of which nothing is ever cut: one column folds where the line is too long."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_GAP = "  "
# A column that folds gets no narrower; then the lines are longer than the terminal, which breaks them itself.
_LEAST = 18


def show(
    out: Console, rows: Sequence[Sequence[Text] | Text], *, fold: int = 0, right: Collection[int] = ()
) -> None:
    """Print rows: cells, which stand in columns, or a line that goes across all of these.

    fold: the column whose cells are broken into several lines on a terminal that is too narrow. Where the output is
    no terminal, it has no width. right: columns that are aligned there.
    """
    for line in _lines(out, rows, fold, right):
        line.rstrip()
        out.print(line, soft_wrap=True)


def _lines(
    out: Console, rows: Sequence[Sequence[Text] | Text], fold: int, right: Collection[int]
) -> Iterator[Text]:
    from rich.text import Text

    cells = [row for row in rows if not isinstance(row, Text)]
    widths = [max(_width(cell) for cell in column) for column in zip(*cells, strict=True)]
    if widths and out.is_terminal:
        others = sum(widths) - widths[fold] + len(_GAP) * (len(widths) - 1)
        widths[fold] = min(widths[fold], max(_LEAST, out.width - others))
    for row in rows:
        if isinstance(row, Text):
            yield row
            continue
        folded = _folded(out, row[fold], widths[fold])
        for number, part in enumerate(folded):
            line = Text()
            for column, cell in enumerate(row):
                text = part if column == fold else cell if number == 0 else Text()
                text = text.copy()
                text.rstrip()
                text.align("right" if column in right else "left", widths[column])
                line.append(_GAP if column else "").append_text(text)
            yield line


def _folded(out: Console, cell: Text, width: int) -> list[Text]:
    """What a cell is broken into; its indentation is kept."""
    from rich.text import Text

    indent = " " * (len(cell.plain) - len(cell.plain.lstrip(" ")))
    parts = cell[len(indent) :].wrap(out, max(1, width - len(indent)))
    return [Text(indent).append_text(part) for part in parts] or [Text()]


def _width(cell: Text) -> int:
    return max((line.cell_len for line in cell.split()), default=0)
