"""Average precision is what plain pycocotools says of a stored case with every trap of COCO's evaluation.

The case is written by `python -m tests.test_average_precision`: by `recipe`, and plain pycocotools' figures of it.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from harness.datasets._coco_format import CocoImages
from harness.metrics.average_precision import MEAN_AVERAGE_PRECISION
from harness.plugins import DataSpec

CASE = Path(__file__).parent / "data" / "coco_case.json"
NAMES = ["map", "map_50", "map_75", "map_small", "map_medium", "map_large"]
NAMES += ["mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"]
IMAGES = 12
CLASSES = 4


def recipe() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth and detections in COCO's format; all coordinates are quarters, so arithmetic is exact.

    Boxes of the three sizes; scores in tenths, so that most are ties, within images and between them; crowds, one of
    them found three times; areas that are not width x height; image 3 without a box, where boxes are found; image 5
    where none is found; image 7 with 126 boxes of one class found, more than the 100 that count; image 8 with 13 boxes
    of one class, more than the 10 of `mar_10`; class 4 without a box, but found; boxes found twice; numbers of images
    neither dense nor in order.
    """
    rng = random.Random(2017)

    def whole(low: int, high: int) -> int:
        return low + int(rng.random() * (high - low))

    def near(box: list[float], spread: int) -> list[float]:
        return [side + whole(-spread, spread + 1) / 4 for side in box]

    numbers = [(7 * i) % IMAGES * 10 + 3 for i in range(IMAGES)]
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []

    def find(number: int, box: list[float], category: int, score: float) -> None:
        detections.append({"image_id": number, "category_id": category, "bbox": box, "score": score})

    for place, number in enumerate(numbers):
        for _ in range(0 if place == 3 else 13 if place == 8 else whole(2, 7)):
            side = (whole(10, 31), whole(33, 95), whole(100, 200))[whole(0, 3)]
            box = [float(whole(0, 400)), float(whole(0, 250)), float(side), side * whole(3, 6) / 4]
            crowd = int(rng.random() < 0.12)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1 if place == 8 else whole(1, CLASSES),
                    "bbox": box,
                    "area": box[2] * box[3] * (1, 0.75)[whole(0, 2)],
                    "iscrowd": crowd,
                }
            )
            found = 0 if place == 5 else 3 if crowd else (0, 1, 1, 1, 1, 2)[whole(0, 6)]
            for _ in range(found):
                category = annotations[-1]["category_id"] if rng.random() < 0.85 else whole(1, CLASSES + 1)
                find(number, near(box, max(2, side // 2)), category, whole(1, 10) / 10)
        for _ in range(0 if place == 5 else 126 if place == 7 else 2):
            box = [float(whole(0, 400)), float(whole(0, 250)), float(whole(8, 150)), float(whole(8, 150))]
            find(number, box, 2 if place == 7 else whole(1, CLASSES + 1), whole(0, 6) / 10)
    truth = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 640, "height": 480} for n in numbers],
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in range(1, CLASSES + 1)],
    }
    return truth, detections


def plain_pycocotools(truth: dict[str, Any], detections: list[dict[str, Any]]) -> list[float]:
    """Return pycocotools' twelve figures, by its own documented way."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = copy.deepcopy(truth)
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(copy.deepcopy(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def write() -> None:
    truth, detections = recipe()
    content = {"truth": truth, "detections": detections, "figures": plain_pycocotools(truth, detections)}
    rows = (f'"{key}": {json.dumps(value)}' for key, value in content.items())
    CASE.parent.mkdir(exist_ok=True)
    CASE.write_text("{" + ",\n".join(rows) + "}\n", encoding="ascii")


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return json.loads(CASE.read_text(encoding="ascii"))


def scores_of(stored: dict[str, Any], folder: Path) -> dict[str, float]:
    """What the suite's metric says, through the dataset class that detection is trained with."""
    (folder / "truth.json").write_text(json.dumps(stored["truth"]))
    spec = DataSpec(root=folder, image_size=0)
    dataset = CocoImages(
        folder, folder / "truth.json", spec=spec, split="val", classes=CLASSES, name="case", mend="mend it"
    )
    predictions = []
    for index, image in enumerate(dataset.ground_truth()["images"]):
        own = [found for found in stored["detections"] if found["image_id"] == image["id"]]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (found["bbox"] for found in own)]
        labels = [found["category_id"] for found in own]
        predictions.append((index, {"boxes": boxes, "scores": [found["score"] for found in own], "labels": labels}))
    assert MEAN_AVERAGE_PRECISION.score is not None
    return MEAN_AVERAGE_PRECISION.score(predictions, dataset)


def test_the_stored_case_is_the_recipes(stored: dict[str, Any]) -> None:
    truth, detections = recipe()
    assert (stored["truth"], stored["detections"]) == (truth, detections)


def test_the_stored_case_holds_every_trap(stored: dict[str, Any]) -> None:
    truth, detections = stored["truth"], stored["detections"]
    numbers = [image["id"] for image in truth["images"]]
    assert numbers != sorted(numbers)
    areas = [a["area"] for a in truth["annotations"]]
    assert min(areas) < 32**2 < sorted(areas)[len(areas) // 2] < 96**2 < max(areas)
    assert any(a["area"] != a["bbox"][2] * a["bbox"][3] for a in truth["annotations"])
    assert sum(a["iscrowd"] for a in truth["annotations"]) >= 3
    found_in = [found["image_id"] for found in detections]
    with_boxes = {a["image_id"] for a in truth["annotations"]}
    assert numbers[3] not in with_boxes and numbers[3] in found_in
    assert numbers[5] in with_boxes and numbers[5] not in found_in
    assert sum(f["image_id"] == numbers[7] and f["category_id"] == 2 for f in detections) > 100
    assert {found["category_id"] for found in detections} - {a["category_id"] for a in truth["annotations"]} == {4}
    assert len({found["score"] for found in detections}) <= 10


def test_the_stored_figures_are_plain_pycocotools_and_the_suites(stored: dict[str, Any], tmp_path: Path) -> None:
    plain = plain_pycocotools(stored["truth"], stored["detections"])
    assert plain == pytest.approx(stored["figures"], abs=1e-12)
    assert scores_of(stored, tmp_path) == dict(zip(NAMES, plain, strict=True))
    assert len(set(plain)) == 12  # no two figures agree by chance, so none can stand in another's place


def test_torchmetrics_says_the_same_to_the_fp32_it_rounds_to(stored: dict[str, Any]) -> None:
    import torch
    from pycocotools.cocoeval import Params
    from torchmetrics.detection import MeanAveragePrecision

    def of_image(entries: list[dict[str, Any]], number: int, **keys: str) -> dict[str, torch.Tensor]:
        own = [entry for entry in entries if entry["image_id"] == number]
        tensors = {name: torch.tensor([entry[key] for entry in own]) for name, key in keys.items()}
        tensors["boxes"] = torch.tensor([entry["bbox"] for entry in own]).reshape(-1, 4)
        tensors["labels"] = torch.tensor([entry["category_id"] for entry in own], dtype=torch.long)
        return tensors

    # Its own thresholds are rounded to FP32, so that a recall of 3 boxes in 10 is below that of .3.
    exact = {"iou_thresholds": Params("bbox").iouThrs.tolist(), "rec_thresholds": Params("bbox").recThrs.tolist()}
    metric = MeanAveragePrecision(box_format="xywh", **exact)
    metric.warn_on_many_detections = False
    # It numbers images by the order they come in, and the order decides between ties.
    for number in sorted(image["id"] for image in stored["truth"]["images"]):
        found = of_image(stored["detections"], number, scores="score")
        metric.update([found], [of_image(stored["truth"]["annotations"], number, area="area", iscrowd="iscrowd")])
    figures = metric.compute()
    assert {name: figures[name].item() for name in NAMES} == pytest.approx(
        dict(zip(NAMES, stored["figures"], strict=True)), abs=1e-6
    )


if __name__ == "__main__":
    write()
