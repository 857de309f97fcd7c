"""Lines and tables as wide as the terminal, and readable where it is narrow."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Collection, Iterator, Sequence

from tabulate import DataRow, TableFormat, tabulate

_WIDEST = 100
"""Longer sentences are hard to read, however wide a terminal is."""
_NARROWEST = 40


def columns() -> int:
    """Return the width of the terminal: what `COLUMNS` says, or what it has, or 80 where there is none."""
    return max(_NARROWEST, shutil.get_terminal_size((80, 24)).columns)


def width() -> int:
    """Return the width that sentences are broken to."""
    return min(_WIDEST, columns())


def wrapped(line: str) -> list[str]:
    """Return the line broken between words to what a terminal shows, what follows indented."""
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, width(), subsequent_indent=indent + "  ", break_on_hyphens=False)


def visible(text: str) -> int:
    """Return the places that a text takes on a terminal; what makes it bold or struck through takes none."""
    return len(re.sub(r"\x1b\[\d+m", "", text))


def table(
    head: Sequence[str], cells: Sequence[Sequence[str]], *, left: Collection[int] = (0,), optional: Sequence[int] = ()
) -> Iterator[str]:
    """Yield the lines of a table, and where some had to go the names of the columns that a wider terminal would show.

    Args:
        head: of each column.
        cells: row by row.
        left: columns of words, which stand to the left; the others are figures.
        optional: columns that may be left out where the terminal is too narrow, the first of them first.
    """
    widths = [max(map(visible, column)) for column in zip(head, *cells, strict=True)]
    kept = list(range(len(head)))
    for column in optional:
        if _total(widths, kept, 1) <= columns():
            break
        kept.remove(column)
    gap = 2 if _total(widths, kept, 2) <= columns() else 1
    # The rule is a row of its own: under a head of its own, tabulate makes every column two wider than it need be.
    rows = [[row[i] for i in kept] for row in (head, ["-" * width for width in widths], *cells)]
    plain = DataRow("", " " * gap, "")
    looks = TableFormat(None, None, None, None, plain, plain, 0, None)
    align = ["left" if i in left else "right" for i in kept]
    yield from tabulate(rows, tablefmt=looks, disable_numparse=True, colalign=align).splitlines()
    if len(kept) < len(head):
        names = ", ".join(head[i] for i in range(len(head)) if i not in kept)
        yield from wrapped(f"  no room for {names}: COLUMNS={_total(widths, range(len(head)), 2)} shows it")


def _total(widths: Sequence[int], kept: Collection[int], gap: int) -> int:
    return sum(widths[i] for i in kept) + gap * (len(kept) - 1)
