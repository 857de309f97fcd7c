"""The text that something was written in, for digests of what a kept result depends on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def source_of(function: Callable[..., Any]) -> bytes:
    """Return the text of the module that a function, or whatever is called in its place, was written in."""
    while isinstance(function, partial):
        function = function.func
    file = file_of(getattr(function, "__module__", type(function).__module__))
    return file.read_bytes() if file else b""


def file_of(module: str) -> Path | None:
    """Return the file of an imported module; None where it has none."""
    file = getattr(sys.modules[module], "__file__", None)
    return Path(file) if file else None
