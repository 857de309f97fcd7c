"""Scores count each validation image once and are what plain arithmetic and plain pycocotools say.

`test_average_precision` holds them to a stored case.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.datasets._coco_format import CocoImages
from harness.errors import DataError
from harness.metrics.accuracy import ACCURACY
from harness.metrics.average_precision import MEAN_AVERAGE_PRECISION
from harness.plugins import DataSpec, Metric
from harness.results import EpochReport, RankReport, Result

NAMES = ["map", "map_50", "map_75", "map_small", "map_medium", "map_large"]
NAMES += ["mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"]
NOTHING: dict[str, Any] = {"boxes": [], "scores": [], "labels": []}


def scored(metric: Metric, predictions: list[Any], dataset: Any) -> dict[str, float]:
    assert metric.score is not None
    return metric.score(predictions, dataset)


@pytest.fixture
def truth_file(tmp_path: Path) -> Path:
    """Boxes of all three COCO sizes on 12 images of 200x160 pixels, with a crowd and an image that has none."""
    import numpy as np

    rng = np.random.RandomState(7)
    annotations = []
    for image in range(1, 12):
        for _ in range(rng.randint(1, 6)):
            width, height = rng.choice([12, 40, 110], 2)
            box = [int(rng.randint(0, 200 - width)), int(rng.randint(0, 160 - height)), int(width), int(height)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 * image,
                    "category_id": int(rng.randint(1, 4)),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    annotations[3]["iscrowd"] = 1
    content = {
        "images": [{"id": 10 * i, "file_name": f"{i}.jpg", "width": 200, "height": 160} for i in range(1, 13)],
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in (1, 2, 3)],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    return path


def opened(truth_file: Path, image_size: int = 0, val_images: int | None = None) -> CocoImages:
    spec = DataSpec(root=truth_file.parent, image_size=image_size, val_images=val_images)
    return CocoImages(truth_file.parent, truth_file, spec=spec, split="val", classes=3, name="boxes", mend="mend it")


def perfect(truth_file: Path, dataset: CocoImages, image_size: int = 0) -> list[tuple[int, dict[str, Any]]]:
    """The boxes of the file, in the frame of `image_size`."""
    annotations = json.loads(truth_file.read_text())["annotations"]
    across, down = (image_size / 200, image_size / 160) if image_size else (1, 1)
    found = []
    for index, image in enumerate(dataset.ground_truth()["images"]):
        own = [a for a in annotations if a["image_id"] == image["id"] and not a["iscrowd"]]
        boxes = [[x * across, y * down, (x + w) * across, (y + h) * down] for x, y, w, h in (a["bbox"] for a in own)]
        found.append((index, {"boxes": boxes, "scores": [0.9] * len(own), "labels": [a["category_id"] for a in own]}))
    return found


def imperfect(truth_file: Path, dataset: CocoImages) -> list[tuple[int, dict[str, Any]]]:
    """Shifted boxes, some wrong classes, some misses, some inventions, in shuffled order of images."""
    import numpy as np

    rng = np.random.RandomState(3)
    found = perfect(truth_file, dataset)
    for _, detected in found:
        kept = [i for i in range(len(detected["boxes"])) if rng.rand() < 0.85]
        boxes = [[v + float(rng.normal(0, 3)) for v in detected["boxes"][i]] for i in kept]
        labels = [detected["labels"][i] if rng.rand() < 0.8 else 1 for i in kept]
        boxes.append([5.0, 5.0, 60.0, 50.0])
        labels.append(2)
        detected.update(boxes=boxes, labels=labels, scores=rng.rand(len(boxes)).tolist())
    return [found[i] for i in rng.permutation(len(found))]


# ----------------------------------------------------------------------------------------------------- accuracy


def test_accuracy_is_the_share_of_right_classes() -> None:
    predictions = [(2, 5, 5), (0, 1, 1), (3, 4, 0), (1, 0, 0)]
    assert scored(ACCURACY, predictions, range(4)) == {"accuracy": 0.75}
    assert scored(ACCURACY, [(0, 0, 0), (1, 0, 1), (2, 1, 0)], range(3)) == {"accuracy": 1 / 3}  # in FP64
    assert scored(ACCURACY, [(0, 3, 3)], range(1)) == {"accuracy": 1.0}
    assert scored(ACCURACY, [(0, 3, 4)], range(1)) == {"accuracy": 0.0}


@pytest.mark.parametrize(
    ("indices", "says"),
    [
        ([0, 1, 2, 2, 1], r"each of 4 images once, but 2 doubled \(first 1\), 1 missing \(first 3\)"),
        ([0, 3], r"2 missing \(first 1\)"),
        ([0, 1, 2, 3, 4], r"1 unknown \(first 4\)"),
        ([], r"4 missing \(first 0\)"),
    ],
)
def test_images_counted_twice_or_never_are_refused(indices: list[int], says: str) -> None:
    class Four:
        def __len__(self) -> int:
            return 4

    with pytest.raises(DataError, match=says):
        scored(ACCURACY, [(index, 0, 0) for index in indices], Four())
    with pytest.raises(DataError, match=says):
        scored(MEAN_AVERAGE_PRECISION, [(index, NOTHING) for index in indices], Four())


# -------------------------------------------------------------------------------------------- average precision


@pytest.mark.parametrize("image_size", [0, 96])
def test_perfect_boxes_have_a_map_of_one_in_the_frame_the_model_sees(image_size: int, truth_file: Path) -> None:
    dataset = opened(truth_file, image_size)
    scores = scored(MEAN_AVERAGE_PRECISION, perfect(truth_file, dataset, image_size), dataset)
    assert scores["map"] == scores["map_50"] == scores["mar_100"] == 1.0


def test_all_twelve_figures_equal_plain_pycocotools(truth_file: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    dataset = opened(truth_file)
    predictions = imperfect(truth_file, dataset)
    scores = scored(MEAN_AVERAGE_PRECISION, predictions, dataset)

    detections = [
        {"image_id": 10 * (index + 1), "bbox": [x, y, u - x, v - y], "score": score, "category_id": label}
        for index, found in predictions
        for (x, y, u, v), score, label in zip(found["boxes"], found["scores"], found["labels"], strict=True)
    ]
    (tmp_path / "detections.json").write_text(json.dumps(detections))
    truth = COCO(str(truth_file))
    plain = COCOeval(truth, truth.loadRes(str(tmp_path / "detections.json")), "bbox")
    plain.evaluate()
    plain.accumulate()
    plain.summarize()
    assert list(scores) == NAMES
    assert list(scores.values()) == plain.stats.tolist()
    assert 0.05 < scores["map"] < 0.9


def test_a_subset_is_scored_on_its_own_images_alone(truth_file: Path) -> None:
    dataset = opened(truth_file, val_images=5)
    assert scored(MEAN_AVERAGE_PRECISION, perfect(truth_file, dataset), dataset)["map"] == 1.0
    halved = [(index, found if index else NOTHING) for index, found in perfect(truth_file, dataset)]
    assert scored(MEAN_AVERAGE_PRECISION, halved, dataset)["map"] < 1.0


def test_no_detection_at_all_scores_zero(truth_file: Path) -> None:
    dataset = opened(truth_file)
    scores = scored(MEAN_AVERAGE_PRECISION, [(index, NOTHING) for index in range(len(dataset))], dataset)
    assert scores == dict.fromkeys(NAMES, 0.0)


def test_figures_with_nothing_to_find_are_left_out(truth_file: Path) -> None:
    content = json.loads(truth_file.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["area"] < 96**2]
    truth_file.write_text(json.dumps(content))
    dataset = opened(truth_file)
    scores = scored(MEAN_AVERAGE_PRECISION, perfect(truth_file, dataset), dataset)
    assert [name for name in NAMES if name not in scores] == ["map_large", "mar_large"]
    content["annotations"] = []
    truth_file.write_text(json.dumps(content))
    assert scored(MEAN_AVERAGE_PRECISION, perfect(truth_file, opened(truth_file)), opened(truth_file)) == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_boxes_that_are_no_numbers_find_nothing(value: float, truth_file: Path) -> None:
    dataset = opened(truth_file)
    diverged = [
        (index, {**found, "boxes": [[value] * 4 for _ in found["boxes"]]})
        for index, found in perfect(truth_file, dataset)
    ]
    assert scored(MEAN_AVERAGE_PRECISION, diverged, dataset)["map"] == 0.0


def test_scoring_prints_nothing(truth_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dataset = opened(truth_file)
    scored(MEAN_AVERAGE_PRECISION, imperfect(truth_file, dataset), dataset)
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------ in the table


def result(*scores: dict[str, float] | None) -> Result:
    epochs = tuple(EpochReport(seconds=1.0, steps=2, scores=one) for one in scores)
    return Result(
        case_id="m-s-1gpu-bs1",
        profile="smoke",
        identity="x",
        dataset="digits",
        settings={},
        host="h",
        launcher="warm",
        versions={},
        oversubscribed=False,
        wall_s=1.0,
        started_unix_s=0.0,
        ranks=(
            RankReport(
                rank=0, world_size=1, device="cpu", device_name="cpu", epochs=epochs, loss=(0.5,) * 2 * len(scores)
            ),
        ),
    )


def test_the_value_is_the_last_epochs_score_or_absent() -> None:
    for metric in (ACCURACY, MEAN_AVERAGE_PRECISION):
        assert metric.value(result({metric.name: 0.25}, {metric.name: 0.5}), None) == 0.5
        assert metric.value(result({metric.name: 0.0}), None) == 0.0
        assert metric.value(result({"another": 0.5}), None) is None
        assert metric.value(result({metric.name: 0.5}, None), None) is None
        assert metric.value(result(), None) is None


def test_scores_are_shown_as_the_field_writes_them() -> None:
    assert ACCURACY.show(0.9312) == "93.1 %"
    assert [MEAN_AVERAGE_PRECISION.show(share) for share in (0.4123, 0.0, 1.0)] == [".412", ".000", "1.000"]
