"""Masks are read however COCO writes them, resized with their image, predicted, and scored as officially."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.case import Case
from harness.datasets import scenes
from harness.datasets._masks import CocoRle, Codes, code_of, encoded, masks_of
from harness.datasets.coco import COCO2017
from harness.datasets.scenes import SCENES
from harness.errors import DataError
from harness.metrics.average_precision import MASK_MEAN_AVERAGE_PRECISION, MEAN_AVERAGE_PRECISION
from harness.plugins import DataSpec, InputKind, Model, World
from harness.registry import Registry
from harness.worker.evaluation import evaluate
from harness.worker.loading import ValidationData
from harness.worker.purposes import Context
from tests.made import made_result
from tests.test_average_precision import NAMES

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

ALONE = World(rank=0, local_rank=0, size=1, device="cpu", backend="gloo")
SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]
TRIANGLE = [1.5, 5.0, 7.25, 5.5, 4.0, 8.75]


def drawn(code: bytes, height: int = 10, width: int = 8) -> Any:
    """Return the one mask of a code as an array [H, W]."""
    return masks_of([code], height=height, width=width, image_size=0)[0].numpy()


# ------------------------------------------------------------------------------------------ ways of writing a mask


def test_a_polygon_of_whole_pixels_is_those_pixels() -> None:
    mask = drawn(code_of([SQUARE], height=10, width=8))
    assert mask[1:4, 2:6].all() and mask.sum() == 12


def test_the_parts_of_an_object_are_one_mask() -> None:
    wanted = ([SQUARE, TRIANGLE], [SQUARE], [TRIANGLE])
    both, one, other = (drawn(code_of(parts, height=10, width=8)) for parts in wanted)
    assert (both == (one | other)).all() and both.sum() == one.sum() + other.sum() > one.sum() > 0


def test_each_way_of_writing_a_mask_gives_the_same_one() -> None:
    code = code_of([SQUARE, TRIANGLE], height=10, width=8)
    flat = drawn(code).T.ravel().tolist()
    counts, inside = [0], 0
    for pixel in flat:
        if pixel != inside:
            counts.append(0)
            inside = pixel
        counts[-1] += 1
    for outline in (CocoRle(size=(10, 8), counts=counts), CocoRle(size=(10, 8), counts=code.decode())):
        assert (drawn(code_of(outline, height=10, width=8)) == drawn(code)).all()


def test_a_polygon_that_encloses_nothing_is_no_box() -> None:
    assert drawn(code_of([[1, 1, 5, 5]], height=10, width=8)).sum() == 0
    assert drawn(code_of([], height=10, width=8)).sum() == 0
    alone = drawn(code_of([SQUARE], height=10, width=8))
    assert (drawn(code_of([[1, 1, 5, 5], SQUARE], height=10, width=8)) == alone).all()


def test_a_polygon_ends_at_the_images_border() -> None:
    mask = drawn(code_of([[-4, -4, 3, -4, 3, 30, -4, 30]], height=10, width=8))
    assert mask[:, :3].all() and mask.sum() == 30


@pytest.mark.parametrize(
    ("outline", "says"),
    [
        (None, "no segmentation"),
        ([[1.0, 1.0, 5.0, 5.0, 3.0, 2.0, 7.0]], "odd count"),
        (CocoRle(size=(8, 10), counts=[80]), "mask is of 10x8 pixels"),
        (CocoRle(size=(10, 8), counts=[70, 5]), "counts 75 pixels"),
        (CocoRle(size=(10, 8), counts="not a code"), "RLE"),
        (CocoRle(size=(10, 8), counts="\u00e9"), "RLE"),
    ],
)
def test_what_is_no_mask_of_the_image_is_refused(outline: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        code_of(outline, height=10, width=8)


def test_codes_are_kept_apart_in_one_row() -> None:
    codes = Codes([b"ab", b"", b"cde", b"f"])
    assert codes[slice(0, 2)] == [b"ab", b""] and codes[slice(1, 4)] == [b"", b"cde", b"f"] and codes[slice(2, 2)] == []
    assert Codes([])[slice(0, 0)] == []


def test_masks_are_resized_by_the_nearest_pixel_and_coded_as_they_are() -> None:
    import torch
    from torch.nn import functional

    masks = torch.rand(3, 12, 9, generator=torch.Generator().manual_seed(0)).round().byte()
    codes = encoded(masks)
    assert torch.equal(masks_of(codes, height=12, width=9, image_size=0), masks)
    for size in (4, 12, 17, 36):
        expected = functional.interpolate(masks[None].float(), size=(size, size), mode="nearest-exact")[0].byte()
        assert torch.equal(masks_of(codes, height=12, width=9, image_size=size), expected)
    assert masks_of([], height=12, width=9, image_size=0).shape == (0, 12, 9)
    assert masks_of([], height=12, width=9, image_size=6).shape == (0, 6, 6) and encoded(masks[:0]) == []


# ------------------------------------------------------------------------------------------------------- scenes


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    SCENES.prepare(DataSpec(root=root, image_size=128))
    return root


def test_a_scenes_box_is_the_extent_of_its_mask(digits: Path) -> None:
    items = SCENES.open(DataSpec(root=digits, image_size=128, masks=True), "train")
    for index in range(60):
        _, target = items[index]
        assert target["masks"].shape == (len(target["boxes"]), 128, 128) and str(target["masks"].dtype) == "torch.uint8"
        for mask, box in zip(target["masks"], target["boxes"].tolist(), strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box
            assert mask.max() == 1


def test_a_scenes_masks_are_the_bright_pixels_of_its_digits_and_a_little_around_them() -> None:
    import numpy as np
    from PIL import Image, ImageFilter

    bar = np.zeros((1, 8, 8), dtype=np.uint8)
    bar[:, 1:7, 3:5] = 255
    rng = np.random.RandomState(0)
    for _ in range(20):
        picture, placed = scenes._compose(rng, bar, [0])
        bright = np.asarray(picture).min(axis=2) > 145
        masks = np.any([mask for _, _, mask in placed], axis=0)
        assert not (bright & ~masks).any()
        around = np.asarray(Image.fromarray(bright).convert("L").filter(ImageFilter.MaxFilter(13))) > 0
        assert not (masks & ~around).any()


def test_without_masks_scenes_and_their_ground_truth_are_as_they_were(digits: Path) -> None:
    with_masks, without = (
        SCENES.open(DataSpec(root=digits, image_size=96, masks=masks), "val") for masks in (True, False)
    )
    for index in range(5):
        (image, target), (plain, boxes) = with_masks[index], without[index]
        assert set(target) - set(boxes) == {"masks"} and (image == plain).all()
        assert all((target[key] == boxes[key]).all() for key in boxes)
        assert target["masks"].shape[1:] == (96, 96)
    truth, bare = with_masks.ground_truth()["annotations"], without.ground_truth()["annotations"]
    assert [{k: v for k, v in a.items() if k != "segmentation"} for a in truth] == bare
    assert all("segmentation" in annotation for annotation in truth)


# --------------------------------------------------------------------------------------------- COCO's own format


def runs(inside: list[tuple[int, int]], pixels: int) -> list[int]:
    """Return the counts of an uncompressed code with these spans inside, down the columns."""
    counts, at = [], 0
    for begin, end in inside:
        counts += [begin - at, end - begin]
        at = end
    return [*counts, pixels - at]


IMAGES = {
    42: ("RGB", 40, 30),
    7: ("L", 24, 24),
    13: ("CMYK", 20, 32),
    14: ("RGB", 16, 16),
    15: ("RGB", 16, 20),
    16: ("RGB", 16, 18),
}
"""How each is stored, its width and its height; 14 has no object."""
# Image, category, box, whether a crowd, outline. Crowds come first: what is left out must not shift what stays.
OBJECTS: list[tuple[int, int, list[float], int, Any]] = [
    (42, 90, [0, 0, 20, 30], 1, {"size": [30, 40], "counts": runs([(0, 600)], 1200)}),
    (42, 1, [22, 4, 8, 10], 0, [[22, 4, 30, 4, 30, 14, 22, 14]]),
    (42, 18, [5, 16, 30, 10], 0, [[5, 16, 12, 16, 12, 26, 5, 26], [28.5, 17, 35, 17.25, 30, 26]]),
    (7, 3, [5, 5, 0, 7], 0, [[5, 5, 5, 12, 5, 8]]),
    (7, 3, [2, 4, 6, 8], 0, {"size": [24, 24], "counts": runs([(52, 60), (76, 84)], 576)}),
    (13, 44, [-3, 4, 10, 40], 0, [[-3, 4, 7, 4, 7, 44, -3, 44]]),
    (15, 1, [2, 2, 9, 9], 1, {"size": [20, 16], "counts": runs([(42, 51)], 320)}),
    (16, 1, [16, 2, 4, 4], 0, [[16, 2, 20, 2, 20, 6, 16, 6]]),
]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A little COCO 2017 in the official layout, its masks written in every way and its categories with gaps."""
    from PIL import Image

    annotations = [
        {
            "id": 900 - number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3] / 2,
            "iscrowd": crowd,
            "segmentation": outline,
        }
        for number, (image, category, box, crowd, outline) in enumerate(OBJECTS)
    ]
    content = {
        "images": [
            {"id": id_, "file_name": f"{id_:012}.jpg", "width": width, "height": height}
            for id_, (_, width, height) in IMAGES.items()
        ],
        "annotations": annotations,
        "categories": [{"id": id_, "name": f"c{id_}"} for id_ in (1, 3, 18, 44, 90)],
    }
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").mkdir()
        for id_, (mode, width, height) in IMAGES.items():
            picture = Image.new("RGB", (width, height), (200, 100, 50)).convert(mode)
            picture.save(tmp_path / f"{split}2017" / f"{id_:012}.jpg")
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return tmp_path


def opened(coco: Path, split: Any = "val", image_size: int = 0) -> Any:
    return COCO2017.open(DataSpec(root=coco, image_size=image_size, masks=True), split)


def official(coco: Path) -> Any:
    """Return the validation annotations as pycocotools reads them."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(coco / "annotations" / "instances_val2017.json"))


def test_coco_masks_are_pycocotools_own(coco: Path) -> None:
    plain, no_targets = official(coco), ([5, 5, 0, 7], [16, 2, 4, 4])
    for _, target in opened(coco):
        own = [a for a in plain.imgToAnns[target["image_id"].item()] if a["bbox"] not in no_targets]
        assert target["labels"].tolist() == [annotation["category_id"] for annotation in own]
        for annotation, mask in zip(own, target["masks"].numpy(), strict=True):
            expected = plain.annToMask(annotation)
            assert mask.shape == expected.shape and (mask == expected).all()


def test_training_masks_are_of_the_boxes_that_are_left(coco: Path) -> None:
    """Crowds, empty boxes and boxes beyond the border are left out, and no mask of theirs stays."""
    targets = {target["image_id"].item(): target for _, target in opened(coco, "train")}
    assert list(targets) == [42, 7, 13]
    assert targets[42]["labels"].tolist() == [1, 18]
    assert targets[42]["masks"][0].sum() == 80
    for target in targets.values():
        assert len(target["masks"]) == len(target["boxes"])
        for mask, (left, top, right, bottom) in zip(target["masks"], target["boxes"].tolist(), strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            assert left - 1 < columns.min() <= columns.max() < right + 1
            assert top - 1 < rows.min() <= rows.max() < bottom + 1


def test_coco_masks_are_resized_with_their_image(coco: Path) -> None:
    native, square = opened(coco), opened(coco, image_size=20)
    for index, (_, width, height) in enumerate(IMAGES.values()):
        (_, small), (image, large) = native[index], square[index]
        assert image.shape == (3, 20, 20) and large["masks"].shape == (len(large["boxes"]), 20, 20)
        rows, columns = ([int((i + 0.5) * side / 20) for i in range(20)] for side in (height, width))
        assert (large["masks"] == small["masks"][:, rows][:, :, columns]).all()
    assert {tuple(a["segmentation"]["size"]) for a in square.ground_truth()["annotations"]} == {(20, 20)}


NO_FORMAT = r"not in COCO's format: annotations.1.segmentation"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda entry: entry.pop("segmentation"), "object in image 42, 40x30 pixels: it has no segmentation"),
        (lambda entry: entry.update(segmentation=None), "it has no segmentation"),
        (lambda entry: entry.update(segmentation=[["a", 1, 2, 3, 4, 5]]), NO_FORMAT),
        (lambda entry: entry.update(segmentation=[[float("nan")] * 6]), NO_FORMAT),
        (lambda entry: entry.update(segmentation={"size": [30, 40]}), NO_FORMAT),
        (lambda entry: entry.update(segmentation={"size": [40, 30], "counts": [1200]}), "its mask is of 30x40 pixels"),
        (lambda entry: entry.update(segmentation={"size": [30, 40], "counts": [7]}), "its mask counts 7 pixels"),
        (lambda entry: entry.update(segmentation={"size": [30, 40], "counts": [-7, 1207]}), NO_FORMAT),
    ],
    ids=["missing", "null", "words", "nan", "no counts", "other size", "too few", "negative"],
)
def test_a_bad_segmentation_is_refused_by_name_where_masks_are_wanted(
    damage: Callable[[dict[str, Any]], Any], says: str, coco: Path
) -> None:
    victim = coco / "annotations" / "instances_train2017.json"
    content = json.loads(victim.read_text())
    damage(content["annotations"][1])
    victim.write_text(json.dumps(content))
    with pytest.raises(DataError, match=says) as caught:
        opened(coco, "train")
    assert str(victim) in str(caught.value) and "cocodataset.org" in str(caught.value)
    assert len(COCO2017.open(DataSpec(root=coco, image_size=0), "train")) == 3, "boxes alone need none"


# ------------------------------------------------------------------------------------------------------ mask mAP


def found_again(dataset: Any, move: int = 0) -> list[tuple[int, dict[str, Any]]]:
    """Return the ground truth as it would be found, its masks moved to the right by some pixels and its boxes not."""
    import torch

    predictions = []
    for index in range(len(dataset)):
        _, target = dataset[index]
        real = target["iscrowd"] == 0
        masks = torch.roll(target["masks"][real], move, dims=2)
        size = list(masks.shape[1:])
        predictions.append(
            (
                index,
                {
                    "boxes": target["boxes"][real].tolist(),
                    "scores": [0.9] * int(real.sum()),
                    "labels": target["labels"][real].tolist(),
                    "masks": [{"size": size, "counts": counts} for counts in encoded(masks)],
                },
            )
        )
    return predictions


def scores(predictions: Any, dataset: Any) -> dict[str, float]:
    assert MEAN_AVERAGE_PRECISION.score is not None and MASK_MEAN_AVERAGE_PRECISION.score is not None
    return MEAN_AVERAGE_PRECISION.score(predictions, dataset) | MASK_MEAN_AVERAGE_PRECISION.score(predictions, dataset)


def test_the_ground_truth_found_again_is_perfect_and_moved_masks_are_not(digits: Path) -> None:
    dataset = SCENES.open(DataSpec(root=digits, image_size=128, val_images=40, masks=True), "val")
    perfect, moved, away = (scores(found_again(dataset, move), dataset) for move in (0, 2, 64))
    assert perfect["map"] == perfect["mask_map"] == pytest.approx(1.0)
    assert moved["map"] == away["map"] == pytest.approx(1.0), "the boxes did not move"
    assert 0 < moved["mask_map"] < 0.7 and away["mask_map"] < 0.05


def test_masks_that_are_decoded_wrongly_score_lower(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: rows taken for columns, as where a code that runs down the columns is read along the rows."""
    dataset = SCENES.open(DataSpec(root=digits, image_size=128, val_images=40, masks=True), "val")
    sound = found_again(dataset)

    def wrong(*arguments: Any, **keywords: Any) -> Any:
        return masks_of(*arguments, **keywords).transpose(1, 2).contiguous()

    monkeypatch.setattr("harness.datasets._coco_format.masks_of", wrong)
    assert scores(sound, dataset)["mask_map"] < 0.2


def test_a_model_without_masks_has_no_mask_map(digits: Path) -> None:
    dataset = SCENES.open(DataSpec(root=digits, image_size=128, val_images=10, masks=True), "val")
    boxes_alone = found_again(dataset)
    for _, found in boxes_alone:
        del found["masks"]
    figures = scores(boxes_alone, dataset)
    assert figures["map"] == pytest.approx(1.0) and not [name for name in figures if name.startswith("mask_")]
    assert MASK_MEAN_AVERAGE_PRECISION.value(made_result(), None) is None


def test_mask_map_is_plain_pycocotools_on_the_official_file_with_crowds(coco: Path) -> None:
    import torch
    from pycocotools import mask as codes
    from pycocotools.cocoeval import COCOeval

    dataset, plain = opened(coco), official(coco)
    rng = torch.Generator().manual_seed(4)
    predictions, submitted = [], []
    for index, image in enumerate(dataset.ground_truth()["images"]):
        _, target = dataset[index]
        masks = [torch.roll(mask, int(torch.randint(3, (), generator=rng)), 0) for mask in target["masks"]]
        masks.append(torch.rand(image["height"], image["width"], generator=rng).round().byte())
        labels = [*target["labels"].tolist(), 1]
        found = [{"size": [image["height"], image["width"]], "counts": c} for c in encoded(torch.stack(masks))]
        boxes = [codes.toBbox(one).tolist() for one in found]
        values = torch.rand(len(found), generator=rng).tolist()
        corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
        predictions.append((index, {"boxes": corners, "scores": values, "labels": labels, "masks": found}))
        submitted += [
            {"image_id": image["id"], "category_id": label, "segmentation": one, "score": score}
            for one, label, score in zip(found, labels, values, strict=True)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(plain, plain.loadRes(submitted), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    measured = scores(predictions, dataset)
    expected = {f"mask_{name}": value for name, value in zip(NAMES, evaluation.stats, strict=True) if value >= 0}
    assert {name: value for name, value in measured.items() if name.startswith("mask_")} == expected
    assert 0 < expected["mask_map_small"] < 1 and expected.keys() < {f"mask_{name}" for name in NAMES}


@pytest.mark.parametrize("masks", [True, False])
def test_only_a_model_of_masks_has_them_in_its_data(masks: bool, tmp_path: Path) -> None:
    model = Model(name="net", input=InputKind.DETECTION, build=lambda spec: None, masks=masks)  # type: ignore[arg-type, return-value]
    data = replace(SCENES, open=lambda spec, split: spec)
    context = Context(
        job=SimpleNamespace(data=SimpleNamespace(name="scenes", spec=DataSpec(root=tmp_path, image_size=8))),  # type: ignore[arg-type]
        case=Case.parse("net-ddp-1gpu-bs2"),
        world=ALONE,
        phases=lambda name: contextlib.nullcontext(),
        progress=None,  # type: ignore[arg-type]
        registry=Registry(strategies={}, models={"net": model}, datasets={"scenes": data}, metrics={}, launchers={}),
    )
    assert context.open("train") == DataSpec(root=tmp_path, image_size=8, masks=masks)


def test_a_predicted_mask_is_where_its_probability_is_above_a_half() -> None:
    import torch
    from pycocotools import mask as codes

    probability = torch.zeros(2, 1, 6, 5)
    probability[0, 0, 1:4, 2:5] = 0.51
    probability[1, 0] = 0.5
    found = {
        "boxes": torch.tensor([[2.0, 1.0, 5.0, 4.0]] * 2),
        "scores": torch.tensor([0.5, 0.25]),
        "labels": torch.tensor([7, 7]),
        "masks": probability,
    }
    nothing = {key: value[:0] for key, value in found.items()}
    outputs = iter([[found], [nothing]])

    class Module(torch.nn.Module):
        def forward(self, images: Any) -> Any:
            return next(outputs)

    samples = [(torch.zeros(3, 6, 5), {"labels": torch.tensor([1])})] * 2
    data = ValidationData(samples, ALONE, kind=InputKind.DETECTION, batch_size=1, workers=0)
    seen: list[Any] = []
    evaluate(Module(), data, ALONE, kind=InputKind.DETECTION, score=[lambda p, _: seen.extend(p) or {}])
    first, second = (codes.decode(code) for code in seen[0][1]["masks"])
    assert (first == (probability[0, 0].numpy() > 0)).all() and second.sum() == 0
    assert seen[1] == (1, {"boxes": [], "scores": [], "labels": [], "masks": []})
