"""What an audit looked at, and what it found wrong, by file, case and field."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

_MOST_SHOWN = 60
"""Characters of a value in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong."""

    where: str
    """The file."""
    case: str
    """Empty where it is of the whole file."""
    field: str
    said: str
    """What is wrong with it, completing "<field>: ...": for a figure what is stored, and what is right."""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.case, self.field, self.said)))


@dataclass(slots=True)
class Findings:
    """Of one audit."""

    figures: int = 0
    """That were computed again."""
    records: dict[str, int] = field(default_factory=dict)
    """How many of each kind were looked at, such as `case`."""
    faults: list[Fault] = field(default_factory=list)

    def count(self, kind: str, number: int = 1) -> None:
        """Take note that so many records of a kind are looked at."""
        self.records[kind] = self.records.get(kind, 0) + number


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the files the audit is."""

    found: Findings
    where: str
    case: str = ""
    inside: str = ""
    """What the fields named here are part of."""

    def at(self, inside: str) -> Place:
        """Return the place of a field's own fields."""
        return replace(self, inside=self._name(inside))

    def of(self, case: str) -> Place:
        """Return the place of a case."""
        return replace(self, case=case)

    def equal(self, name: str, stored: Any, right: Any, *, by: str) -> None:
        """Hold a stored value to what it must be.

        Args:
            name: of the field.
            stored: what it holds.
            right: what was computed.
            by: what that was computed from, in words.
        """
        self.found.figures += 1
        if not same(stored, right):
            self._fault(name, f"stored {_shown(stored)}, recomputed {_shown(right)} from {by}")

    def holds(self, name: str, is_so: bool, said: str) -> None:
        """Take note of a fault where something is not so."""
        self.found.figures += 1
        if not is_so:
            self._fault(name, said)

    def wrong(self, name: str, said: str) -> None:
        """Take note of a fault."""
        self._fault(name, said)

    def _fault(self, name: str, said: str) -> None:
        self.found.faults.append(Fault(where=self.where, case=self.case, field=self._name(name), said=said))

    def _name(self, name: str) -> str:
        return ".".join(filter(None, (self.inside, name)))


def same(stored: Any, right: Any) -> bool:
    """Return whether two values are equal; numbers but for the last digits, which depend on the version of Python."""
    if isinstance(stored, bool) or isinstance(right, bool):
        return stored is right
    if isinstance(stored, int | float) and isinstance(right, int | float):
        return math.isclose(stored, right, rel_tol=1e-9, abs_tol=1e-12)
    return type(stored) is type(right) and bool(stored == right)


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
