"""`accuracy`: the share of validation images whose class is predicted right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.metrics._validation import check_each_once, last_score
from harness.plugins import InputKind, Limit, Metric


def _score(predictions: Sequence[tuple[int, int, int]], dataset: Any) -> dict[str, float]:
    """Return the accuracy of (index, predicted class, true class) triples, one for each image of the dataset.

    Raises:
        DataError: an image is doubled, missing or unknown.
    """
    check_each_once((index for index, _, _ in predictions), len(dataset))
    return {"accuracy": sum(predicted == true for _, predicted, true in predictions) / len(predictions)}


ACCURACY = Metric(
    name="accuracy",
    title="accuracy",
    unit="share",
    better="higher",
    across="one",
    value=lambda result, reference: last_score(result, "accuracy"),
    show=lambda share: f"{100 * share:.1f} %",
    order=80,
    limit=Limit(absolute=0.02),
    scores=InputKind.IMAGES,
    score=_score,
)
