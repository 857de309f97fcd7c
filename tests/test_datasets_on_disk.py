"""COCO is read from the official files exactly, through a seeded subset, and refused when damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.datasets.coco import COCO2017
from harness.errors import DataError
from harness.plugins import DataSpec


def spec(root: Path, image_size: int = 32, **fields: Any) -> DataSpec:
    return DataSpec(root=root, image_size=image_size, **fields)


# image id: (mode, width, height), boxes as (category, x, y, width, height, crowd)
IMAGES: dict[int, tuple[tuple[str, int, int], list[tuple[float, ...]]]] = {
    11: (("RGB", 40, 30), [(1, 4, 6, 10, 12, 0), (90, 0, 0, 40, 30, 1), (18, 20.5, 3, 8, 9.5, 0)]),
    12: (("L", 24, 24), [(3, 5, 5, 0, 7, 0), (3, 2, 4, 6, 8, 0)]),
    13: (("CMYK", 20, 32), [(44, -3, 4, 10, 40, 0)]),
    14: (("RGB", 16, 16), []),
    15: (("RGB", 16, 20), [(1, 2, 2, 9, 9, 1)]),
    16: (("RGB", 16, 18), [(1, 16, 2, 4, 4, 0)]),
}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A little COCO 2017 in the official layout: a crowd, empty images, degenerate boxes, grey and CMYK files."""
    from PIL import Image

    annotations = [
        {
            "id": 100 + i,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3] / 2,
            "iscrowd": crowd,
            "segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]],
        }
        for i, (image, category, box, crowd) in enumerate(
            (image, entry[0], list(entry[1:5]), entry[5]) for image, (_, entries) in IMAGES.items() for entry in entries
        )
    ]
    content = {
        "images": [
            {"id": id_, "file_name": f"{id_:012}.jpg", "width": width, "height": height, "license": 1}
            for id_, ((_, width, height), _) in IMAGES.items()
        ],
        "annotations": annotations,
        "categories": [{"id": id_, "name": f"c{id_}", "supercategory": "x"} for id_ in (1, 3, 18, 44, 90)],
    }
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").mkdir()
        for id_, ((mode, width, height), _) in IMAGES.items():
            image = Image.new("RGB", (width, height), (200, 100, 50)).convert(mode)
            image.save(tmp_path / f"{split}2017" / f"{id_:012}.jpg")
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return tmp_path


def test_coco_training_leaves_out_crowds_empty_boxes_and_images_without_a_box(coco: Path) -> None:
    COCO2017.prepare(spec(coco, 0))
    items = COCO2017.open(spec(coco, 0), "train")
    targets = {target["image_id"].item(): target for _, target in items}
    assert list(targets) == [11, 12, 13]
    assert targets[11]["boxes"].tolist() == [[4, 6, 14, 18], [20.5, 3, 28.5, 12.5]]
    assert targets[11]["labels"].tolist() == [1, 18] and targets[11]["iscrowd"].tolist() == [0, 0]
    assert targets[11]["area"].tolist() == [60, 38]
    assert targets[12]["boxes"].tolist() == [[2, 4, 8, 12]]
    assert targets[13]["boxes"].tolist() == [[0, 4, 7, 32]], "boxes end at the image's border"


def test_coco_evaluation_keeps_every_image_and_every_annotation(coco: Path) -> None:
    items = COCO2017.open(spec(coco, 0), "val")
    assert [target["image_id"].item() for _, target in items] == list(IMAGES)
    assert items[0][1]["iscrowd"].tolist() == [0, 1, 0]
    assert items[3][1]["boxes"].shape == (0, 4)
    truth = items.ground_truth()
    found = [
        (entry["image_id"], entry["category_id"], *entry["bbox"], entry["iscrowd"]) for entry in truth["annotations"]
    ]
    assert found == [(image, *entry) for image, (_, entries) in IMAGES.items() for entry in entries]
    assert [entry["id"] for entry in truth["annotations"]] == list(range(1, len(found) + 1))
    assert [image["id"] for image in truth["images"]] == list(IMAGES)
    assert [category["id"] for category in truth["categories"]] == [1, 3, 18, 44, 90]


def test_coco_images_keep_their_size_or_become_square(coco: Path) -> None:
    native, square = (COCO2017.open(spec(coco, size), "val") for size in (0, 20))
    for index, ((_, width, height), _) in enumerate(IMAGES.values()):
        assert native[index][0].shape == (3, height, width)
        image, target = square[index]
        assert image.shape == (3, 20, 20)
        scale = target["boxes"].new_tensor([20 / width, 20 / height] * 2)
        assert (target["boxes"] - native[index][1]["boxes"] * scale).abs().sum() < 1e-4
    truth, scaled = native.ground_truth()["annotations"], square.ground_truth()["annotations"]
    assert scaled[0]["bbox"] == pytest.approx([2, 4, 5, 8]) and scaled[0]["area"] == pytest.approx(truth[0]["area"] / 3)


def test_grey_and_cmyk_jpegs_become_rgb(coco: Path) -> None:
    images = {target["image_id"].item(): image for image, target in COCO2017.open(spec(coco, 0), "val")}
    red, green, blue = images[12][:, 3, 3]
    assert red == green == blue
    expected = images[11].new_tensor([200, 100, 50]) / 255
    for id_ in (11, 13):
        assert (images[id_][:, 3, 3] - expected).abs().max() < 0.05


def test_a_coco_subset_follows_its_seed_and_counts_only_images_with_boxes(coco: Path) -> None:
    def ids(seed: int) -> list[int]:
        part = COCO2017.open(spec(coco, 0, train_images=2, seed=seed), "train")
        return [image["id"] for image in part.ground_truth()["images"]]

    assert ids(5) == ids(5) and len(ids(5)) == 2 and len({tuple(ids(seed)) for seed in range(8)}) > 1
    with pytest.raises(DataError, match="4 train images of coco2017 are asked for, and it has 3"):
        COCO2017.open(spec(coco, 0, train_images=4), "train")


def edited(change: Callable[[Any], Any]) -> Callable[[str], str]:
    def edit(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return edit


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda text: text[: len(text) // 2], "are no JSON: Expecting"),
        (lambda text: "[" * 100_000, "are no JSON: maximum recursion"),
        (lambda text: "[]", "not in COCO's format: top level"),
        (edited(lambda c: c.pop("images")), "images: Field required"),
        (edited(lambda c: c["annotations"][2].pop("bbox")), "annotations.2.bbox: Field required"),
        (edited(lambda c: c["annotations"][2].update(bbox=[1, 2, 3])), "annotations.2.bbox"),
        (edited(lambda c: c["annotations"][2].update(area=float("nan"))), "annotations.2.area"),
        (edited(lambda c: c["images"][1].update(file_name="../../a.jpg")), "image outside its folder, '../../a.jpg'"),
        (edited(lambda c: c["images"][1].update(file_name="/etc/a.jpg")), "an image outside its folder, '/etc/a.jpg'"),
        (edited(lambda c: c["annotations"][2].update(image_id=99)), "images it does not have, the first is 99"),
        (edited(lambda c: c["annotations"][2].update(category_id=5)), "categories it does not have, the first is 5"),
        (edited(lambda c: c["categories"][0].update(id=91)), "categories .*the first is 91"),
        (edited(lambda c: c["images"].clear() or c["annotations"].clear()), "some train images .*it has 0"),
    ],
)  # fmt: skip
def test_a_bad_coco_json_is_named_with_what_is_wrong(edit: Callable[[str], str], says: str, coco: Path) -> None:
    victim = coco / "annotations" / "instances_train2017.json"
    victim.write_text(edit(victim.read_text()))
    with pytest.raises(DataError, match=says) as caught:
        COCO2017.prepare(spec(coco, 0))
    assert str(victim) in str(caught.value) or "coco2017" in str(caught.value)


def test_coco_images_the_json_names_but_the_disk_lacks_are_counted(coco: Path) -> None:
    victim = coco / "val2017" / f"{13:012}.jpg"
    victim.unlink()
    with pytest.raises(DataError, match=r"1 of 6 images .* first is") as caught:
        COCO2017.prepare(spec(coco, 0))
    assert str(victim) in str(caught.value)
    with pytest.raises(DataError, match="No such file") as caught:
        COCO2017.open(spec(coco, 0), "val")[2]
    assert str(victim) in str(caught.value) and "cocodataset.org" in str(caught.value)


def test_a_coco_image_of_another_size_than_the_json_says_is_refused(coco: Path) -> None:
    shutil.copy(coco / "val2017" / f"{11:012}.jpg", coco / "val2017" / f"{12:012}.jpg")
    with pytest.raises(DataError, match=r"000012.jpg is 40x30 pixels, and .* says 24x24"):
        COCO2017.open(spec(coco, 0), "val")[1]


def test_coco_without_files_says_the_layout_and_that_nothing_fetches_it(coco: Path) -> None:
    assert COCO2017.missing(coco, False) is None
    shutil.rmtree(coco / "val2017")
    absent = COCO2017.missing(coco, True)
    assert absent is not None
    assert f"{coco / 'val2017'} is not there" in absent and "--data-root" in absent and "does not fetch" in absent
    with pytest.raises(DataError, match="no pretrain split"):
        COCO2017.open(spec(coco, 0), "pretrain")
