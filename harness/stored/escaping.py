"""Text from outside on its way to a terminal: what would steer the terminal is spelled out instead.

A file of a stranger may name a case so that a terminal moves its cursor, hides a line or turns text around. The
characters are those of ISO 6429 (C0, DEL and C1) and Unicode's marks of direction; line ends and tabs stay.
"""

from __future__ import annotations

import re

_STEERING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069"
_STEERS = re.compile(f"[{_STEERING}]")
_UNSHOWN = re.compile(f"[{_STEERING}\ud800-\udfff]")
"""Halves of surrogate pairs too, which stand for bytes in names of files and which no terminal's encoding holds."""


def steers(text: str) -> bool:
    """Return whether a text holds what a terminal would obey and not show."""
    return _STEERS.search(text) is not None


def escaped(text: str) -> str:
    """Return the text with what a terminal cannot show spelled as Python does, an escape as `x1b` after a backslash."""
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
