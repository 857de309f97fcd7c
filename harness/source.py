"""The text that something was written in, for digests of what a kept result depends on."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
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


def digest_of_suite(plugins: Iterable[str]) -> str:
    """Return a digest of the text of this whole suite and of modules that were named beside it."""
    digest = hashlib.sha256()
    own = sorted(Path(__file__).parent.rglob("*.py"))
    for file in [*own, *(file for name in plugins if (file := file_of(name)) is not None)]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
