"""Datasets are what they say: made once and checked, split without leaks, read exactly, refused when damaged."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.datasets import digits, scenes
from harness.datasets._embedded import Content, make_or_verify, read_manifest, verify
from harness.datasets.digits import DIGITS
from harness.datasets.scenes import SCENES
from harness.errors import DataError
from harness.plugins import Dataset, DataSpec

FOLDERS = {"digits": "digits-1", "scenes": "scenes-2"}
EMBEDDED = pytest.mark.parametrize("dataset", [DIGITS, SCENES], ids=lambda dataset: dataset.name)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    for dataset in (DIGITS, SCENES):
        dataset.prepare(spec(root))
    return root


def spec(root: Path, image_size: int = 32, **fields: Any) -> DataSpec:
    return DataSpec(root=root, image_size=image_size, **fields)


def copied(cache: Path, root: Path, dataset: Dataset) -> Path:
    return Path(shutil.copytree(cache / FOLDERS[dataset.name], root / FOLDERS[dataset.name]))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def coco_json(folder: Path, split: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
    return content


# ------------------------------------------------------------------------------------------- made from sklearn


def test_no_source_digit_is_in_two_splits(cache: Path) -> None:
    for name, folder in FOLDERS.items():
        sources = read_manifest(cache / folder)["sources"]
        assert {split: len(members) for split, members in sources.items()} == {
            "pretrain": 600,
            "train": 837,
            "val": 360,
        }
        assert len(set().union(*sources.values())) == 1797
        for split, members in sources.items():
            if name == "digits":
                used = {int(file.stem) for file in (cache / folder / split).rglob("*.jpg")}
                assert used == set(members)
            else:
                used = {entry["source_digit"] for entry in coco_json(cache / folder, split)["annotations"]}
                assert used <= set(members)


def test_every_class_has_the_same_share_of_each_split(cache: Path) -> None:
    from sklearn.datasets import load_digits

    whole = Counter(load_digits().target.tolist())
    for split, count in {"pretrain": 600, "train": 837, "val": 360}.items():
        for label in range(10):
            files = len(list((cache / "digits-1" / split / str(label)).iterdir()))
            assert abs(files - whole[label] * count / 1797) <= 1


def test_a_digit_keeps_its_ink_and_its_label(cache: Path) -> None:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    source = load_digits()
    for file in sorted((cache / "digits-1" / "val").rglob("*.jpg"))[::20]:
        index, small = int(file.stem), Image.open(file).resize((8, 8), Image.Resampling.BOX)
        assert int(file.parent.name) == source.target[index]
        assert np.corrcoef(np.asarray(small).ravel(), source.images[index].ravel())[0, 1] > 0.98


@EMBEDDED
def test_making_it_twice_gives_equal_bytes(dataset: Dataset, cache: Path, tmp_path: Path) -> None:
    dataset.prepare(spec(tmp_path))
    folder = FOLDERS[dataset.name]
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    assert contents(tmp_path / folder) == contents(cache / folder)


def test_boxes_are_tight_around_the_ink() -> None:
    """Every digit is a bar here, so bright pixels must reach all four sides of each box, and never leave the boxes."""
    import numpy as np

    bar = np.zeros((1, 8, 8), dtype=np.uint8)
    bar[:, 1:7, 3:5] = 255
    rng = np.random.RandomState(0)
    seen = 0
    for _ in range(40):
        picture, placed = scenes._compose(rng, bar, [0])
        bright = np.asarray(picture).min(axis=2) > 145
        outside = bright.copy()
        for _, (left, top, right, bottom), _ in placed:
            assert 0 <= left < right <= 128 and 0 <= top < bottom <= 128
            outside[top:bottom, left:right] = False
            rows, columns = np.nonzero(bright[top:bottom, left:right])
            gaps = (rows.min(), columns.min(), bottom - top - 1 - rows.max(), right - left - 1 - columns.max())
            assert max(gaps) <= 4
            seen += 1
        assert not outside.any()
    assert seen > 80


def test_scenes_hold_varied_digits_that_hide_little_of_each_other(cache: Path) -> None:
    for split, count in {"pretrain": 640, "train": 640, "val": 200}.items():
        content = coco_json(cache / "scenes-2", split)
        boxes: dict[int, list[list[float]]] = {image["id"]: [] for image in content["images"]}
        for entry in content["annotations"]:
            assert entry["area"] == entry["bbox"][2] * entry["bbox"][3] and entry["iscrowd"] == 0
            boxes[entry["image_id"]].append(entry["bbox"])
        assert len(boxes) == count and min(map(len, boxes.values())) >= 1
        assert {entry["category_id"] for entry in content["annotations"]} == set(range(1, 11))
        heights = [box[3] for group in boxes.values() for box in group]
        assert min(heights) < 30 and max(heights) > 50
        for group in boxes.values():
            for i, (x, y, w, h) in enumerate(group):
                for u, v, p, q in group[:i]:
                    shared = max(0, min(x + w, u + p) - max(x, u)) * max(0, min(y + h, v + q) - max(y, v))
                    assert shared <= 0.1 * min(w * h, p * q)


def test_digits_items_are_normalised_images_with_a_class(cache: Path) -> None:
    for size, expected in ((32, 32), (20, 20), (0, 32)):
        items = DIGITS.open(spec(cache, size), "val")
        image, label = items[7]
        assert image.shape == (3, expected, expected) and str(image.dtype) == "torch.float32"
        assert -1 <= image.min() < -0.9 and 0.5 < image.max() <= 1
        assert type(label) is int and 0 <= label < 10
        assert (image == items[7][0]).all()


def test_scenes_items_scale_their_boxes_with_the_image(cache: Path) -> None:
    native, doubled = (SCENES.open(spec(cache, size), "train") for size in (128, 256))
    for index in range(5):
        (image, target), (large, scaled) = native[index], doubled[index]
        assert image.shape == (3, 128, 128) and large.shape == (3, 256, 256) and image.min() >= 0 and image.max() <= 1
        assert (scaled["boxes"] == 2 * target["boxes"]).all() and (scaled["area"] == 4 * target["area"]).all()
        expected = [
            entry
            for entry in coco_json(cache / "scenes-2", "train")["annotations"]
            if entry["image_id"] == target["image_id"].item()
        ]
        assert target["boxes"].tolist() == [[x, y, x + w, y + h] for x, y, w, h in (e["bbox"] for e in expected)]
        assert target["labels"].tolist() == [entry["category_id"] for entry in expected]
        assert (str(target["boxes"].dtype), str(target["labels"].dtype)) == ("torch.float32", "torch.int64")
    truth = doubled.ground_truth()
    assert truth["images"][3]["width"] == 256
    assert [truth["images"][3]["id"]] == [doubled[3][1]["image_id"].item()]
    found = [entry["bbox"] for entry in truth["annotations"] if entry["image_id"] == truth["images"][3]["id"]]
    assert [[x, y, x + w, y + h] for x, y, w, h in found] == doubled[3][1]["boxes"].tolist()


@EMBEDDED
def test_a_subset_follows_its_seed_and_leaves_pretraining_whole(dataset: Dataset, cache: Path) -> None:
    def drawn(seed: int, split: Any) -> list[Any]:
        part = dataset.open(spec(cache, train_images=50, val_images=20, seed=seed), split)
        if dataset is SCENES:
            return [image["id"] for image in part.ground_truth()["images"]]
        return [part.dataset.samples[i] for i in part.indices]

    assert [len(drawn(0, split)) for split in ("pretrain", "train", "val")] == [len(drawn(1, "pretrain")), 50, 20]
    assert len(drawn(0, "pretrain")) in (600, 640)
    assert drawn(0, "train") == drawn(0, "train") != drawn(1, "train")
    assert len(set(drawn(0, "train"))) == 50


@EMBEDDED
@pytest.mark.parametrize("asked", [0, 5000])
def test_a_subset_the_data_cannot_give_is_refused_with_both_numbers(dataset: Dataset, asked: int, cache: Path) -> None:
    with pytest.raises(DataError, match=rf"{asked or 'some'} val images of {dataset.name} .*it has (360|200)"):
        dataset.open(spec(cache, val_images=asked), "val")


# --------------------------------------------------------------------------------------- damage and bad machines


@EMBEDDED
def test_any_damaged_file_is_named_with_the_folder_to_delete(dataset: Dataset, cache: Path, tmp_path: Path) -> None:
    folder = copied(cache, tmp_path, dataset)
    for pattern in ("*.jpg", "*val*") if dataset is SCENES else ("*.jpg",):
        victim = max(file for file in folder.rglob(pattern) if file.is_file())
        whole = victim.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        for damaged, says in ((bytes(flipped), "damaged"), (b"", "damaged"), (None, "No such file")):
            victim.unlink() if damaged is None else victim.write_bytes(damaged)
            with pytest.raises(DataError, match=says) as caught:
                dataset.prepare(spec(tmp_path))
            assert str(victim) in str(caught.value) and f"delete the folder {folder} " in str(caught.value)
        victim.write_bytes(whole)
        dataset.prepare(spec(tmp_path))


@pytest.mark.parametrize("text", ['{"format": 1', "[]", '{"format": 2, "files": {}, "sources": {}}', '{"format": 1}'])
def test_a_damaged_or_unknown_manifest_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "digits-1").mkdir()
    (tmp_path / "digits-1" / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest.json is .*delete the folder"):
        DIGITS.prepare(spec(tmp_path))


@EMBEDDED
def test_a_truncated_jpeg_is_named_when_it_is_read(dataset: Dataset, cache: Path, tmp_path: Path) -> None:
    folder = copied(cache, tmp_path, dataset)
    victim = next((folder / "train").rglob("*.jpg"))
    victim.write_bytes(victim.read_bytes()[:-60])
    with pytest.raises(DataError, match="truncated") as caught:
        items = dataset.open(spec(tmp_path), "train")
        for index in range(len(items)):
            items[index]
    assert str(victim) in str(caught.value) and "delete the folder" in str(caught.value)


@EMBEDDED
def test_opening_what_was_never_made_is_one_clear_error(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="delete the folder"):
        dataset.open(spec(tmp_path), "train")


@EMBEDDED
def test_a_full_disk_leaves_nothing_and_says_so(dataset: Dataset, cache: Path, tmp_path: Path) -> None:
    """The kernel refuses to let the largest file grow to its full length, as it does when the last block is taken.

    A limit on file size needs no mount and no root, and its error (EFBIG) comes from the same write as ENOSPC.
    """
    largest = max(file.stat().st_size for file in (cache / FOLDERS[dataset.name]).rglob("*.jpg"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, hard))
    try:
        with pytest.raises(DataError, match=r"cannot be written \(\d+ of \d+ files were\): .*free space") as caught:
            dataset.prepare(spec(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / FOLDERS[dataset.name]) in str(caught.value)
    assert not list(tmp_path.iterdir())
    dataset.prepare(spec(tmp_path))


def test_no_space_left_is_told_in_the_systems_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    plain = Path.write_bytes
    monkeypatch.setattr(
        Path, "write_bytes", lambda path, data: plain(Path("/dev/full") if path.name == "b" else path, data)
    )
    with pytest.raises(DataError, match=r"\(1 of 2 files were\): No space left on device; free space"):
        make_or_verify(tmp_path / "set", lambda: Content(files={"a": b"1", "b": b"2"}, sources={}))
    assert not list(tmp_path.iterdir())


def test_a_root_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        DIGITS.prepare(spec(tmp_path / "file" / "below"))


def test_the_second_of_two_makers_takes_what_the_first_made(tmp_path: Path) -> None:
    content = Content(files={"a": b"1"}, sources={"train": [4]})

    def overtaken() -> Content:
        make_or_verify(tmp_path / "set", lambda: content)
        return Content(files={"a": b"later"}, sources={})

    make_or_verify(tmp_path / "set", overtaken)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert (tmp_path / "set" / "a").read_bytes() == b"1"


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    make_or_verify(tmp_path / "set", lambda: Content(files={"a": b"1"}, sources={}))
    make_or_verify(tmp_path / "set", lambda: pytest.fail("made again"))


def test_two_processes_can_make_it_at_once(cache: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, sklearn.datasets, PIL.Image\n"
        "from harness.plugins import DataSpec\n"
        "from harness.datasets.digits import DIGITS\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "DIGITS.prepare(DataSpec(root=pathlib.Path(sys.argv[1]), image_size=32))\n"
    )
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(digits.__file__).parents[2],
        )
        for _ in range(2)
    ]
    try:
        for maker in makers:
            assert maker.stdout is not None and maker.stdout.readline() == "ready\n"
        for maker in makers:
            assert maker.stdin is not None
            maker.stdin.write("go\n")
            maker.stdin.flush()
        while any(maker.poll() is None for maker in makers):
            if (tmp_path / "digits-1").exists():
                verify(tmp_path / "digits-1")  # from the first moment on, all of it is there
        for maker in makers:
            errors = maker.communicate(timeout=60)[1]
            assert maker.returncode == 0, errors
    finally:
        for maker in makers:
            maker.kill()
            maker.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["digits-1"]
    assert contents(tmp_path / "digits-1") == contents(cache / "digits-1")
