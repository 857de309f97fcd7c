"""`map` and `mask_map`: COCO's mean average precision of the boxes and of the masks found on the validation images.

Each has its eleven companions. pycocotools is called itself: torchmetrics' wrapper rounds boxes, scores, figures and
COCO's recall thresholds to FP32, and then counts a recall of 3 boxes in 10 as less than .3.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

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

Predictions = Sequence[tuple[int, Mapping[str, Any]]]
"""Of each image of a dataset its index, and its boxes [[x1, y1, x2, y2], ...], scores and labels, and the masks of a
model that finds such, as compressed run-length codes."""


def _of_boxes(predictions: Predictions, dataset: Any) -> dict[str, float]:
    """Return COCO's twelve figures of the boxes, less those that the ground truth has no box for.

    Args:
        predictions: of every image.
        dataset: has the ground truth in COCO's format, as `ground_truth()`, its images in the order of the indices.

    Raises:
        DataError: an image is doubled, missing or unknown.
    """
    check_each_once((index for index, _ in predictions), len(dataset))
    return dict(_figures(predictions, dataset.ground_truth(), "bbox"))


def _of_masks(predictions: Predictions, dataset: Any) -> dict[str, float]:
    """Return the same of the masks, each name behind `mask_`; of a model without masks nothing.

    Sizes are those of the ground truth's `area`, and of a mask that was found its pixels.

    Raises:
        DataError: an image is doubled, missing or unknown.
    """
    if not any("masks" in found for _, found in predictions):
        return {}
    check_each_once((index for index, _ in predictions), len(dataset))
    return {f"mask_{name}": value for name, value in _figures(predictions, dataset.ground_truth(), "segm")}


def _figures(
    predictions: Predictions, truth: dict[str, Any], kind: Literal["bbox", "segm"]
) -> Iterator[tuple[str, float]]:
    from pycocotools import mask
    from pycocotools.cocoeval import COCOeval

    found: list[dict[str, Any]] = []
    for index, detected in predictions:
        masks = detected["masks"] if kind == "segm" else [None] * len(detected["boxes"])
        columns = (detected["boxes"], detected["scores"], detected["labels"], masks)
        for box, score, label, code in zip(*columns, strict=True):
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
                    "area": (x2 - x1) * (y2 - y1) if code is None else int(mask.area(code)),
                    "iscrowd": 0,
                    "score": score,
                    "segmentation": code,
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_indexed(truth), _indexed({**truth, "annotations": found}), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    for name, value in zip(_NAMES, evaluation.stats, strict=True):
        # pycocotools says -1 where there is nothing to find.
        if value >= 0:
            yield name, float(value)


def _indexed(content: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _metric(name: str, title: str, order: int, score: Callable[[Predictions, Any], dict[str, float]]) -> Metric:
    return Metric(
        name=name,
        title=title,
        unit="",
        better="higher",
        across="one",
        value=lambda result, reference: last_score(result, name),
        show=lambda share: f"{share:.3f}".lstrip("0"),
        order=order,
        layer="accuracy",
        limit=Limit(absolute=0.03),
        scores=InputKind.DETECTION,
        score=score,
    )


MEAN_AVERAGE_PRECISION = _metric("map", "mAP", 80, _of_boxes)
MASK_MEAN_AVERAGE_PRECISION = _metric("mask_map", "mask mAP", 81, _of_masks)
