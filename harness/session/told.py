"""The seconds that a result is told with to pytest-benchmark, and so to everything that reads its files."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.gate.observations import same_work
from harness.results import Result


def told_seconds(result: Result) -> Sequence[float]:
    """Return the seconds that a result is recorded with: of its processes at one speed of the machine, or its steps."""
    plain_s = result.plain_s
    seen = [one for one in map(same_work, result.samples) if one is not None]
    return [math.exp(one.mean) * plain_s for one in seen] if plain_s and seen else result.step_s
