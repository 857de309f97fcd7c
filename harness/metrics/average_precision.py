"""`map`: COCO's mean average precision of the boxes found on the validation images, with its eleven companions.

pycocotools is called itself: torchmetrics' wrapper rounds boxes, scores, figures and COCO's recall thresholds to FP32,
and then counts a recall of 3 boxes in 10 as less than .3.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.metrics._validation import check_each_once, last_score
from harness.plugins import InputKind, Limit, Metric

_NAMES = (
    "map",
    "map_50",
    "map_75",
    "map_small",
    "map_medium",
    "map_large",
    "mar_1",
    "mar_10",
    "mar_100",
    "mar_small",
    "mar_medium",
    "mar_large",
)
"""In the order of pycocotools' `COCOeval.stats`."""


def _score(predictions: Sequence[tuple[int, Mapping[str, Any]]], dataset: Any) -> dict[str, float]:
    """Return COCO's twelve figures, less those that the ground truth has no box for.

    Args:
        predictions: of each image of the dataset its index, and its boxes [[x1, y1, x2, y2], ...], scores and labels.
        dataset: has the ground truth in COCO's format, as `ground_truth()`, its images in the order of the indices.

    Raises:
        DataError: an image is doubled, missing or unknown.
    """
    from pycocotools.cocoeval import COCOeval

    check_each_once((index for index, _ in predictions), len(dataset))
    truth = dataset.ground_truth()
    found: list[dict[str, Any]] = []
    for index, detected in predictions:
        for box, score, label in zip(detected["boxes"], detected["scores"], detected["labels"], strict=True):
            # pycocotools takes an overlap of NaN for a match.
            if not all(map(math.isfinite, (*box, score))):
                continue
            x1, y1, x2, y2 = box
            found.append(
                {
                    "id": len(found) + 1,
                    "image_id": truth["images"][index]["id"],
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": score,
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_indexed(truth), _indexed({**truth, "annotations": found}), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools says -1 where there is nothing to find.
    return {name: float(value) for name, value in zip(_NAMES, evaluation.stats, strict=True) if value >= 0}


def _indexed(content: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


MEAN_AVERAGE_PRECISION = Metric(
    name="map",
    title="mAP",
    unit="",
    better="higher",
    across="one",
    value=lambda result, reference: last_score(result, "map"),
    show=lambda share: f"{share:.3f}".lstrip("0"),
    order=80,
    layer="accuracy",
    limit=Limit(absolute=0.03),
    scores=InputKind.DETECTION,
    score=_score,
)
