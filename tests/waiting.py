"""Waiting for what must come to be, however slow the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def soon(condition: Callable[[], Any], seconds: float = 20.0) -> bool:
    """Return whether it came to be within a time far beyond what it takes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())
