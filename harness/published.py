"""What other studies published, as data with its source, and which of it cannot be right.

`baselines/published/<study>.json` holds every figure once, as it was printed. What a study derived from its own figures
(a ratio of two, a part of a whole, the same run told twice) says from which, so that reading it is recomputing it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from harness.errors import StoreError
from harness.stored import reading

FOLDER = Path(__file__).parents[1] / "baselines" / "published"
MOST_APART = 1.1
"""Two printed figures of one run may be apart by this factor before that is shown."""

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Axis = str | int
Axes = dict[str, Axis]


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Place:
    """Names a figure."""

    name: str
    axes: Axes


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Ratio:
    """What a figure was computed from: the medians of two others, and a number."""

    above: Place
    below: Place
    times: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class PublishedFigure:
    """One printed figure, or a row of them."""

    name: str
    unit: str
    axes: Axes
    values: Annotated[tuple[float, ...], Field(min_length=1)]
    by: str = ""
    """What the values of a row follow, such as `epoch`; empty for one value."""
    decimals: int | None = None
    """Of a derived figure: to so many places it was rounded."""
    ratio: Ratio | None = None
    part_of: Place | None = None
    """The whole that this cannot exceed, alone or together with `beside`."""
    beside: tuple[Place, ...] = ()
    same_as: Place | None = None
    """Another figure of what seems to be the same run."""

    def __post_init__(self) -> None:
        if len(self.values) > 1 and not self.by:
            raise ValueError("several values must say what they follow, in `by`")
        if (self.ratio is None) != (self.decimals is None):
            raise ValueError("a ratio needs the decimals it was printed with, and nothing else has them")

    @property
    def words(self) -> str:
        """The figure's name and axes."""
        axes = ", ".join(_spelled(axis, value) for axis, value in self.axes.items())
        return f"{self.name.replace('_', ' ')} ({axes})" if axes else self.name.replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Mistake:
    """A printed figure that its own study's other figures speak against."""

    what: str
    printed: float
    recomputed: float
    why: str
    """A sentence with the numbers."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Published:
    """What one study published."""

    schema_version: Literal[1]
    study: str
    title: str
    source: str
    hardware: str
    setup: dict[str, str | int | float] = field(default_factory=dict)
    figures: tuple[PublishedFigure, ...] = ()

    def row(self, name: str, **axes: Axis) -> tuple[float, ...]:
        """Return the values of a figure; nothing where none was published for these axes.

        Raises:
            StoreError: the study has no figure of that name at all.
        """
        found = [one for one in self.figures if one.name == name and one.axes == axes]
        if not found and name not in {one.name for one in self.figures}:
            raise StoreError(f"published figures of {self.study} have no {name!r}")
        return found[0].values if found else ()

    def value(self, name: str, **axes: Axis) -> float | None:
        """Return a figure, of a row its median; None where none was published for these axes.

        Raises:
            StoreError: the study has no figure of that name at all.
        """
        values = self.row(name, **axes)
        return median(values) if values else None

    def right(self, name: str, **axes: Axis) -> float | None:
        """Return a figure as it should have been printed: a ratio whose arithmetic is wrong, recomputed.

        Raises:
            StoreError: the study has no figure of that name at all.
        """
        for one in self.figures:
            if one.name == name and one.axes == axes and (wrong := self._wrong_ratio(one)) is not None:
                return wrong.recomputed
        return self.value(name, **axes)

    def mistakes(self) -> tuple[Mistake, ...]:
        """Return what cannot be right: every derived figure is computed again from what it was derived from."""
        return tuple(self._mistakes())

    def _mistakes(self) -> Iterator[Mistake]:
        for one in self.figures:
            for found in (self._wrong_ratio(one), self._more_than_whole(one), self._told_twice(one)):
                if found is not None:
                    yield found

    def _wrong_ratio(self, one: PublishedFigure) -> Mistake | None:
        if one.ratio is None or one.decimals is None:
            return None
        above, below = self._at(one.ratio.above), self._at(one.ratio.below)
        right, printed = above / below * one.ratio.times, one.values[0]
        # Half a unit of the last place printed, and what binary fractions add.
        if abs(right - printed) <= 0.5 * 10**-one.decimals * (1 + 1e-9):
            return None
        factor = "" if one.ratio.times == 1 else f" x {one.ratio.times:g}"
        why = f"printed {printed:g}, but {above:g} / {below:g}{factor} is {right:.{one.decimals}f}"
        return Mistake(what=one.words, printed=printed, recomputed=right, why=why)

    def _more_than_whole(self, one: PublishedFigure) -> Mistake | None:
        if one.part_of is None:
            return None
        whole = self._at(one.part_of)
        parts = [one.values[0], *map(self._at, one.beside)]
        if sum(parts) <= whole:
            return None
        sums = f"{' + '.join(f'{part:g}' for part in parts)} = {sum(parts):g}"
        alone = f"; {parts[0]:g} alone exceeds it" if parts[0] > whole else ""
        why = f"with {_names(one.beside)} {sums}{one.unit and ' ' + one.unit} of a whole of {whole:g}{alone}"
        return Mistake(what=one.words, printed=one.values[0], recomputed=whole, why=why)

    def _told_twice(self, one: PublishedFigure) -> Mistake | None:
        if one.same_as is None:
            return None
        here, there = one.values[0], self._at(one.same_as)
        if max(here, there) <= MOST_APART * min(here, there):
            return None
        other = one.same_as.name.replace("_", " ")
        why = f"printed {here:g}, and {there:g} as {other}: {max(here, there) / min(here, there):.1f} times apart"
        return Mistake(what=one.words, printed=here, recomputed=there, why=why)

    def _at(self, place: Place) -> float:
        value = self.value(place.name, **place.axes)
        if not value:
            raise StoreError(
                f"published figures of {self.study}: {place.name} {place.axes} is named and not there, or 0"
            )
        return value


def _spelled(axis: str, value: Axis) -> str:
    return f"{value} GPU{'s' * (value != 1)}" if axis == "gpus" else f"{axis} {value}"


def _names(places: Sequence[Place]) -> str:
    return ", ".join(place.name.replace("_", " ") for place in places) or "nothing"


_PUBLISHED: TypeAdapter[Published] = TypeAdapter(Published)


def load(file: Path) -> Published:
    """Return what a file of published figures holds.

    Raises:
        StoreError: there is no such file, it is damaged, of another schema, or lacks a figure that it names.
    """
    try:
        plain = reading.read(file, kind="published study", mend="restore the file")
        found = _PUBLISHED.validate_python(plain)
    except OSError as error:
        raise StoreError(f"published figures {file} cannot be read: {error.strerror}; restore the file") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "top level"
        raise StoreError(
            f"published figures {file}: {place}: {first['msg']}; this suite reads schema 1: restore the file"
        ) from error
    names = [(one.name, sorted(one.axes.items(), key=str)) for one in found.figures]
    if twice := [name for place, (name, axes) in enumerate(names) if (name, axes) in names[:place]]:
        raise StoreError(f"published figures {file} have {twice[0]!r} twice for the same axes; leave one out")
    found.mistakes()  # whatever is named must be there
    return found
