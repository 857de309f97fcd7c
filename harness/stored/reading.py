"""JSON that somebody else may have written: read whole and strictly, or refused in one sentence.

Nothing in it is run, looked up or opened. What is refused beside broken JSON is what no record of this suite holds and
what harms a reader: numbers that are none or are too large to calculate with, nesting that ends Python's stack, and
text that steers a terminal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import StoreError
from harness.stored.escaping import steers

MOST_BYTES = 512 * 2**20
"""A run of 72 cases has 5 MB, with traces ten times that; a larger file would be parsed into many times its size."""
MOST_DEEP = 64
"""Records of this suite are nested 13 deep."""
MOST_NAMED = 300
"""Characters of a name, which messages repeat; the longest is that of a test."""
MOST_TEXT = 20_000
"""Characters of what is no name; a message may repeat it."""
MOST_DIGITS = 2.0**64
"""The largest whole number that a record holds is a digest of so many values."""


class _NoNumber(ValueError):
    """JSON as Python writes it may hold NaN and infinite numbers."""


def read(file: Path, *, kind: str, mend: str) -> Any:
    """Return what a JSON file holds.

    Args:
        file: to be read.
        kind: what it is to be, such as `stored run`.
        mend: what to do where it is not.

    Raises:
        OSError: it cannot be opened or read.
        StoreError: it is too large, no JSON, or JSON that no program of this suite writes.
    """
    with file.open("rb") as opened:
        content = opened.read(MOST_BYTES + 1)
    return parsed(content, where=str(file), kind=kind, mend=mend)


def parsed(content: bytes, *, where: str, kind: str, mend: str) -> Any:
    """Return what JSON holds.

    Args:
        content: of a file, whole.
        where: the file, as messages name it.
        kind: what it is to be, such as `stored run`.
        mend: what to do where it is not.

    Raises:
        StoreError: it is too large, no JSON, or JSON that no program of this suite writes.
    """
    if len(content) > MOST_BYTES:
        raise StoreError(f"{where} is no {kind}: it is larger than {MOST_BYTES:,} bytes; {mend}")
    try:
        plain = json.loads(
            content.decode(), parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_each_once
        )
        _refuse_odd(plain)
    except _NoNumber as error:
        raise StoreError(f"{where} holds {error}, which no measurement is; {mend}") from error
    except json.JSONDecodeError as error:
        if _is_cut(error):
            size = len(content)
            raise StoreError(f"{where} is truncated: it ends within its JSON, after {size:,} bytes; {mend}") from error
        raise StoreError(f"{where} is no JSON ({error}); {mend}") from error
    except RecursionError as error:
        raise StoreError(f"{where} is no {kind}: its JSON is nested too deeply to be one; {mend}") from error
    except ValueError as error:  # no UTF-8, or a number of thousands of digits
        raise StoreError(f"{where} is no {kind} ({error}); {mend}") from error
    return plain


def refuse_unreadable(content: Any) -> None:
    """Look whether plain JSON values would be read again, before they are written.

    Raises:
        ValueError: they would be refused; the message has the reason.
        RecursionError: they are nested too deeply.
    """
    _refuse_odd(content)


def _refuse_constant(name: str) -> NoReturn:
    raise _NoNumber(name)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _NoNumber(f"{text[:20]}, a number beyond all that can be calculated with")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):  # of two values one reader takes the first and another the last
        names = [name for name, _ in pairs]
        raise ValueError(f"a name in it stands twice: {max(names, key=names.count)[:60]!a}")
    return table


def _is_cut(error: json.JSONDecodeError) -> bool:
    """Return whether a text that is no JSON begins as a record does and lacks its end."""
    text = error.doc.strip()
    return not text or (text.startswith("{") and (not text.endswith("}") or error.pos >= len(error.doc.rstrip())))


def _refuse_odd(plain: Any) -> None:
    """Raise for what is JSON and no record; without recursion, so that nothing in it can end the stack."""
    left: list[tuple[Any, int]] = [((plain,), 0)]
    while left:
        holder, depth = left.pop()
        if depth > MOST_DEEP:
            raise RecursionError
        inside = holder
        if isinstance(holder, dict):
            inside = holder.values()
            for name in holder:
                if len(name) > MOST_NAMED:
                    raise ValueError(f"a name in it has {len(name):,} characters")
                _refuse_steering(name)
        for value in inside:
            kind = type(value)
            if kind is float:
                continue
            if kind is int:
                if not -MOST_DIGITS <= value <= MOST_DIGITS:
                    raise ValueError("a whole number in it is larger than any that is counted")
            elif kind is str:
                if len(value) > MOST_TEXT:
                    raise ValueError(f"a text in it has {len(value):,} characters")
                _refuse_steering(value)
            elif kind is dict or kind is list:
                left.append((value, depth + 1))


def _refuse_steering(text: str) -> None:
    if steers(text):
        raise ValueError(f"a text in it holds control characters: {text[:60]!a}")
