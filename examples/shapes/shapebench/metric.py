"""`worst_class`: the accuracy of the class that is recognised worst, which a mean over classes hides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from harness.plugins import InputKind, Limit, Metric


def _score(predictions: Sequence[tuple[int, int, int]], dataset: Any) -> dict[str, float]:
    """Return the figure of (index, predicted class, true class) triples, one for each image of the dataset."""
    images = Counter(true for _, _, true in predictions)
    right = Counter(true for _, predicted, true in predictions if predicted == true)
    return {"worst_class": min(right[label] / count for label, count in images.items())}


WORST_CLASS = Metric(
    name="worst_class",
    title="worst class",
    unit="share",
    better="higher",
    across="one",  # rank 0 holds the figure of all
    value=lambda result, reference: result.last_scores("worst_class")[0],
    show=lambda share: f"{100 * share:.0f} %",
    order=81,  # right of the accuracy, which stays what the best epoch is chosen by
    layer="accuracy",
    limit=Limit(absolute=0.05),
    scores=InputKind.IMAGES,
    score=_score,
)
