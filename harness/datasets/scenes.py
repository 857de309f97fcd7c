"""`scenes`: small pictures composed of the handwritten digits, with boxes and masks, for detection without a download.

A digit's mask is its own ink, whole where a later digit covers a little of it, so that its box is the extent of its
mask. `area` is the box's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.datasets._coco_format import CocoImages
from harness.datasets._embedded import Content, jpeg, make_or_verify, mend
from harness.datasets._images import reference_detection
from harness.datasets._masks import encoded
from harness.datasets.digits import sources
from harness.errors import DataError
from harness.plugins import Dataset, DataSpec, InputKind, Split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Pixels = NDArray[np.float64]
    Mask = NDArray[np.bool_]
    Box = tuple[int, int, int, int]

_VERSION = 2
"""Counts up with every change of what is written; an older folder then stays as it is, unused."""
_SPLITS: dict[Split, int] = {"pretrain": 640, "train": 640, "val": 200}
_SEED = 128
_CANVAS = 128
_TRIES = (2, 7)
"""Least and greatest number of digits tried on a scene; those that would hide another are left out."""
_SIDES = (24, 56)
"""Least and greatest side of the square a digit is drawn in, pixels."""
_INK = 0.3
"""A pixel covered at least so far belongs to the digit, to its mask and so to its box."""
_OVERLAP = 0.1
"""So much of a box at most is covered by another one."""


def _render() -> Content:
    import numpy as np
    import torch

    ink, classes, splits = sources()
    files: dict[str, bytes] = {}
    for place, (split, count) in enumerate(_SPLITS.items()):
        rng = np.random.RandomState((_SEED, place))
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(1, count + 1):
            picture, digits = _compose(rng, ink, splits[split])
            name = f"{number:06}.jpg"
            files[f"{split}/{name}"] = jpeg(picture)
            images.append({"id": number, "file_name": name, "width": _CANVAS, "height": _CANVAS})
            codes = encoded(torch.from_numpy(np.stack([mask for _, _, mask in digits]).astype(np.uint8)))
            for (source, (left, top, right, bottom), _), counts in zip(digits, codes, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": int(classes[source]) + 1,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": (right - left) * (bottom - top),
                        "iscrowd": 0,
                        "segmentation": {"size": [_CANVAS, _CANVAS], "counts": counts.decode("ascii")},
                        "source_digit": source,
                    }
                )
        categories = [{"id": digit + 1, "name": str(digit), "supercategory": "digit"} for digit in range(10)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        files[f"annotations/instances_{split}.json"] = json.dumps(content).encode("ascii")
    return Content(files=files, sources=splits)


def _compose(
    rng: np.random.RandomState, ink: NDArray[np.uint8], members: list[int]
) -> tuple[Image.Image, list[tuple[int, Box, Mask]]]:
    """Draw one scene of 1 to 7 digits on a dim, uneven, noisy ground; return it, each digit's source, box and mask."""
    import numpy as np
    from PIL import Image

    coarse = Image.fromarray(rng.uniform(0, 90, (6, 6)).astype(np.uint8))
    ground = np.asarray(coarse.resize((_CANVAS, _CANVAS), Image.Resampling.BICUBIC), dtype=np.float64)
    canvas = (ground + rng.normal(0, 8, ground.shape))[..., None].repeat(3, axis=2)
    digits: list[tuple[int, Box, Mask]] = []
    for _ in range(rng.randint(_TRIES[0], _TRIES[1] + 1)):
        source = members[rng.randint(len(members))]
        side = rng.randint(_SIDES[0], _SIDES[1] + 1)
        left, top = rng.randint(0, _CANVAS - side + 1, 2)
        drawn = Image.fromarray(ink[source]).resize((side, side), Image.Resampling.BICUBIC)
        cover = np.asarray(drawn, dtype=np.float64) / 255
        mask = np.zeros((_CANVAS, _CANVAS), dtype=np.bool_)
        mask[top : top + side, left : left + side] = cover >= _INK
        rows, columns = np.nonzero(mask)
        box = (int(columns.min()), int(rows.min()), int(columns.max() + 1), int(rows.max() + 1))
        colour = rng.uniform(150, 255, 3)
        if any(_covered(box, other) > _OVERLAP for _, other, _ in digits):
            continue
        patch = canvas[top : top + side, left : left + side]
        patch += (colour - patch) * cover[..., None]
        digits.append((source, box, mask))
    return Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8)), digits


def _covered(one: Box, other: Box) -> float:
    """Return the area two boxes share as a part of the smaller one."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(width, 0) * max(height, 0) / smaller


def _folder(root: Path) -> Path:
    return root / f"scenes-{_VERSION}"


def _prepare(spec: DataSpec) -> None:
    make_or_verify(_folder(spec.root), _render)


def _places(root: Path, split: Split) -> tuple[Path, Path]:
    folder = _folder(root)
    return folder / split, folder / "annotations" / f"instances_{split}.json"


def _open(spec: DataSpec, split: Split) -> CocoImages:
    if split == "test":
        raise DataError("scenes has no test split: it has no images for one")
    folder, annotations = _places(spec.root, split)
    return CocoImages(
        folder,
        annotations,
        spec=spec,
        split=split,
        classes=10,
        name="scenes",
        mend=mend(_folder(spec.root)),
    )


SCENES = Dataset(
    name="scenes",
    input=InputKind.DETECTION,
    classes=10,
    embedded=True,
    prepare=_prepare,
    open=_open,
    missing=lambda root, download: None,
    reference=lambda spec: reference_detection(*_places(spec.root, "train"), spec),
)
