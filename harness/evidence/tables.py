"""A table of a study: its numbers in full, for a file, and in few digits, for a terminal of 80 columns."""

from __future__ import annotations

from dataclasses import dataclass

Cell = str | int | float | None
"""None could not be measured, or was not published."""

HERE, PUBLISHED = "here", "published"
"""Whose figures a row or a column holds."""
MISSING = "n/a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of figures."""

    name: str
    """Of its file, without an ending."""
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    """What a reader has to know of single figures, a sentence each."""
    shown: int | None = None
    """Of a long table the rows from each end that a terminal shows; None shows all."""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.head) for row in self.rows):
            raise ValueError(f"table {self.name}: a row has not as many cells as the head's {len(self.head)}")


def shown(cell: Cell) -> str:
    """Return a cell as a terminal shows it: four digits of a fraction."""
    if cell is None:
        return MISSING
    if isinstance(cell, float):
        return f"{cell:,.0f}".replace(",", "") if abs(cell) >= 10_000 else f"{cell:.4g}"
    return str(cell)
