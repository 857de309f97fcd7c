"""A figure as a value: its SVG, its PNG and all its numbers, and how figures become files."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.stored.writing import whole

MISSING = "n/a"
"""What a table says where a number is not known."""

Value = float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a figure."""

    label: str
    x: tuple[float, ...]
    y: tuple[Value, ...]
    """None leaves a gap."""
    strategy: str = ""
    """Whose look it has; empty takes one by its place."""
    published: bool = False
    """Whether others measured it: dashed, greyer, and told so in the legend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of a figure."""

    label: str
    x: Value
    y: Value
    strategy: str = ""
    published: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure and its numbers."""

    name: str
    """Of its files, without an ending."""
    title: str
    svg: str = field(repr=False)
    """From `<svg` on, with text as text, so that it can stand in a page as it is."""
    head: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...] = field(repr=False)
    """What is drawn, in full; None is not known."""
    picture: Callable[[], bytes] = field(repr=False, compare=False)
    """Draws the PNG, which takes as long as the SVG and which a page of figures has no use for."""

    @property
    def png(self) -> bytes:
        """The same as pixels."""
        return self.picture()

    def _repr_svg_(self) -> str:
        """As a notebook shows it."""
        return self.svg

    @property
    def csv(self) -> str:
        """The table as comma-separated text."""
        text = io.StringIO()
        cells = ([MISSING if cell is None else cell for cell in row] for row in self.rows)
        csv.writer(text, lineterminator="\n").writerows([self.head, *cells])
        return text.getvalue()


def told(one: Series | Point) -> str:
    """Return what the legend and the table call it."""
    return as_published(one.label) if one.published else one.label


def as_published(label: str) -> str:
    """Return what is called so with the word that others measured it."""
    return label if "published" in label else f"{label}, published"


def check(name: str, label: str, values: Iterable[Value]) -> None:
    """Look at the numbers of a figure.

    Raises:
        ValueError: one is NaN or infinite, which no measurement is.
    """
    for place, value in enumerate(values):
        if value is not None and not math.isfinite(value):
            raise ValueError(f"figure {name}: {label} is {value} at place {place}; None says that it is not known")


def write(figures: Iterable[Figure], folder: Path) -> list[Path]:
    """Write each figure as `<name>.svg`, `<name>.png` and `<name>.csv`, each file whole or not at all; return them.

    Raises:
        StoreError: the folder cannot be written.
        ValueError: two figures have one name; nothing is written.
    """
    figures = list(figures)
    if double := [name for name, count in Counter(figure.name for figure in figures).items() if count > 1]:
        raise ValueError(f"two figures are named {double[0]}, and one file would hold one of them")
    files = {
        folder / f"{figure.name}.{ending}": content
        for figure in figures
        for ending, content in (("svg", figure.svg.encode()), ("png", figure.png), ("csv", figure.csv.encode()))
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            whole(file, content)
    except OSError as error:
        raise StoreError(
            f"figures cannot be written to {folder}: {error.strerror}; free or change the folder"
        ) from error
    return list(files)
