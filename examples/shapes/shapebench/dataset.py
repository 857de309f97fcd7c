"""`shapes`: circles, squares, triangles and crosses of chance places, sizes and colours, drawn when asked for."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from harness.errors import DataError
from harness.plugins import Dataset, DataSpec, InputKind, Split

if TYPE_CHECKING:
    import torch

_CLASSES = ("circle", "square", "triangle", "cross")
_IMAGES: dict[Split, int] = {"pretrain": 1024, "train": 4096, "val": 1024, "test": 1024}


class _Drawn:
    """A map-style dataset: an image depends on its split and its index alone, so it is the same in every rank."""

    def __init__(self, split: Split, images: int, side: int) -> None:
        self._split, self._images, self._side = split, images, side

    def __len__(self) -> int:
        return self._images

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        import numpy as np
        import torch
        from PIL import Image, ImageDraw

        chance = random.Random(f"{self._split} {index}")
        label = chance.randrange(len(_CLASSES))
        image = Image.new("RGB", (64, 64), tuple(chance.randrange(100) for _ in range(3)))
        draw = ImageDraw.Draw(image)
        half = chance.randint(12, 24)
        x, y = (chance.randint(half, 63 - half) for _ in range(2))
        box = (x - half, y - half, x + half, y + half)
        colour = tuple(chance.randrange(120, 256) for _ in range(3))
        match _CLASSES[label]:
            case "circle":
                draw.ellipse(box, fill=colour)
            case "square":
                draw.rectangle(box, fill=colour)
            case "triangle":
                draw.polygon([(x, y - half), (x + half, y + half), (x - half, y + half)], fill=colour)
            case "cross":
                draw.line((x - half, y, x + half, y), fill=colour, width=6)
                draw.line((x, y - half, x, y + half), fill=colour, width=6)
        small = image.resize((self._side, self._side), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)
        return pixels.float() / 127.5 - 1, label


def _open(spec: DataSpec, split: Split) -> _Drawn:
    if spec.augment != "none" or spec.carved_images:
        raise DataError("shapes are not augmented and have a validation split; leave augment and carved_images out")
    asked = {"train": spec.train_images, "val": spec.val_images, "test": spec.test_images}.get(split)
    images = _IMAGES[split] if asked is None else asked
    if images > _IMAGES[split]:
        raise DataError(
            f"{images} {split} images of shapes are asked for, and there are {_IMAGES[split]}; ask for fewer"
        )
    return _Drawn(split, images, spec.image_size)


SHAPES = Dataset(
    name="shapes",
    input=InputKind.IMAGES,
    classes=len(_CLASSES),
    embedded=True,
    prepare=lambda spec: None,  # nothing is written
    open=_open,
    missing=lambda root, download: None,
    untested=lambda spec: None,  # it has a test split
)
