"""What the scores of a validation have in common: every image counts once, and the last epoch's figure is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from harness.errors import DataError
from harness.results import Result


def check_each_once(indices: Iterable[int], count: int) -> None:
    """Check that the predictions are of images 0 to `count - 1`, each exactly once.

    Raises:
        DataError: some are doubled, missing or beyond the data; the message counts them and names the first.
    """
    seen = Counter(indices)
    faults = {
        "doubled": [index for index, times in seen.items() if times > 1],
        "missing": [index for index in range(count) if index not in seen],
        "unknown": [index for index in seen if not 0 <= index < count],
    }
    if found := [f"{len(ones)} {fault} (first {min(ones)})" for fault, ones in faults.items() if ones]:
        raise DataError(
            f"validation must score each of {count} images once, but {', '.join(found)}; "
            "the sampler that deals images to the ranks is at fault"
        )


def last_score(result: Result, name: str) -> float | None:
    """Return a score of the last epoch; None where it was not validated, or by other scores."""
    return result.last_scores(name)[0]
