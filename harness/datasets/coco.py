"""`coco2017`: COCO 2017 detection from the user's disk, in the official layout."""

from __future__ import annotations

from pathlib import Path

from harness.datasets._coco_format import CocoImages
from harness.datasets._images import reference_detection
from harness.errors import DataError
from harness.plugins import Dataset, DataSpec, InputKind, Split

_CLASSES = 90
"""Labels are the original category ids, 1 to 90 with gaps, which is what torchvision's COCO weights predict."""
_SPLITS: tuple[Split, ...] = ("train", "val")


def _places(root: Path, split: Split) -> tuple[Path, Path]:
    return root / f"{split}2017", root / "annotations" / f"instances_{split}2017.json"


def _missing(root: Path, download: bool) -> str | None:
    absent = [str(place) for split in _SPLITS for place in _places(root, split) if not place.exists()]
    if not absent:
        return None
    return (
        f"COCO 2017 in {root}: train2017/, val2017/ and annotations/instances_{{train,val}}2017.json from "
        f"https://cocodataset.org, of which {' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not there; "
        f"unpack it or name its folder with --data-root{' (--download does not fetch it)' if download else ''}"
    )


def _open(spec: DataSpec, split: Split) -> CocoImages:
    """Open a split; an `image_size` of 0 keeps the images' own sizes, as the published study did."""
    if split == "pretrain":
        raise DataError("coco2017 has no pretrain split; start from public weights")
    if split == "test":
        raise DataError(f"coco2017 has no test split: {_untested(spec)}")
    folder, annotations = _places(spec.root, split)
    return CocoImages(
        folder,
        annotations,
        spec=spec,
        split=split,
        classes=_CLASSES,
        name="coco2017",
        mend="put the official file from https://cocodataset.org in its place",
    )


def _untested(spec: DataSpec) -> str:
    return "the annotations of its test images are not public"


def _prepare(spec: DataSpec) -> None:
    for split in _SPLITS:
        _open(spec, split).check_files()


COCO2017 = Dataset(
    name="coco2017",
    input=InputKind.DETECTION,
    classes=_CLASSES,
    embedded=False,
    prepare=_prepare,
    open=_open,
    missing=_missing,
    untested=_untested,
    reference=lambda spec: reference_detection(*_places(spec.root, "train"), spec),
)
