"""`accuracy`: the share of validation images whose class is predicted right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.metrics._validation import check_each_once, last_score
from harness.plugins import InputKind, Limit, Metric


def _score(predictions: Sequence[tuple[int, int, int]], dataset: Any) -> dict[str, float]:
    """Return the accuracy of (index, predicted class, true class) triples, one for each image of the dataset.

    Divided here, because torchmetrics' own accuracy is rounded to FP32.

    Raises:
        DataError: an image is doubled, missing or unknown.
    """
    import torch
    from torchmetrics.functional.classification import multiclass_stat_scores

    check_each_once((index for index, _, _ in predictions), len(dataset))
    predicted, true = torch.tensor([classes for _, *classes in predictions]).T
    # It wants two classes at least; how many there are does not change what is right.
    classes = max(2, 1 + int(torch.max(predicted.max(), true.max())))
    right, *_, images = multiclass_stat_scores(predicted, true, num_classes=classes, average="micro").tolist()
    return {"accuracy": right / images}


def _confusion(predictions: Sequence[tuple[int, int, int]], classes: int) -> list[list[int]]:
    """Return the confusion matrix of (index, predicted class, true class) triples: rows true, columns predicted."""
    import torch
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    predicted, true = torch.tensor([of_image for _, *of_image in predictions]).T
    counts: list[list[int]] = multiclass_confusion_matrix(predicted, true, num_classes=classes).tolist()
    return counts


ACCURACY = Metric(
    name="accuracy",
    title="accuracy",
    unit="share",
    better="higher",
    across="one",
    value=lambda result, reference: last_score(result, "accuracy"),
    show=lambda share: f"{100 * share:.1f} %",
    order=80,
    layer="accuracy",
    limit=Limit(absolute=0.02),
    scores=InputKind.IMAGES,
    score=_score,
    confusion=_confusion,
)
