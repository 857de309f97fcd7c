"""Images with boxes in COCO's format: one JSON file of annotations beside a folder of JPEG files.

The JSON is read here, and not by torchvision's CocoDetection, because that keeps every outline of all 118,287 training
images in every rank and loader process, where the boxes of the chosen images are enough, or run-length codes of their
masks for a model that wants those.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from harness.datasets._images import as_tensor, read_rgb, subset
from harness.datasets._masks import CocoRle, Codes, Polygons, code_of, encoded, masks_of
from harness.errors import DataError
from harness.plugins import DataSpec, Split

if TYPE_CHECKING:
    import torch

_LENIENT = ConfigDict(extra="ignore", allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True, config=_LENIENT)
class CocoImage:
    """An entry of `images`; width and height in pixels."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True, config=_LENIENT)
class CocoAnnotation:
    """An entry of `annotations`; bbox is x, y, width, height in pixels."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int
    segmentation: Polygons | CocoRle | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=_LENIENT)
class CocoCategory:
    """An entry of `categories`."""

    id: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True, config=_LENIENT)
class CocoFile:
    """An annotation file."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


_FILE = TypeAdapter(CocoFile)


class CocoImages:
    """A map-style dataset of one split: any class with a length and items is one to torch's DataLoader.

    An item is a float tensor [3, H, W] in [0, 1] and a target dict of tensors: boxes float32 [M, 4] xyxy in pixels of
    that tensor, labels int64 [M] (the file's category ids), image_id int64 [], area float32 [M], iscrowd int64 [M], and
    masks uint8 [M, H, W] where `spec.masks` asks for them. Boxes are cut at the image's border, and what is then empty
    is no target. Training leaves out crowds, and images without a box.
    """

    def __init__(
        self, folder: Path, annotations: Path, *, spec: DataSpec, split: Split, classes: int, name: str, mend: str
    ) -> None:
        """Read the annotations and choose the images; no image is opened.

        Args:
            folder: where the JPEG files are.
            annotations: the JSON file.
            spec: subset, seed, the height and width images are resized to (0 keeps their own), and whether with masks.
            split: `val` keeps crowds and images without a box.
            classes: category ids are 1 to this.
            name: the dataset's, for messages.
            mend: what to do about a damaged file, the end of a message.

        Raises:
            DataError: the JSON is missing, malformed or contradicts itself, or holds too few images.
        """
        import torch

        content = _read(annotations, classes, mend, outlines=spec.masks)
        training = split != "val"
        by_image: dict[int, list[tuple[CocoAnnotation, bool]]] = {image.id: [] for image in content.images}
        sizes = {image.id: image for image in content.images}
        for entry in content.annotations:
            target = _has_extent(entry, sizes[entry.image_id]) and not (training and entry.iscrowd)
            by_image[entry.image_id].append((entry, target))
        eligible = [
            image for image in content.images if not training or any(target for _, target in by_image[image.id])
        ]
        self._images = [eligible[i] for i in subset(len(eligible), spec, split, name=name)]
        kept = [by_image[image.id] for image in self._images]
        # One table instead of many small objects: forked loader processes share it.
        self._table = torch.tensor(
            [(*a.bbox, a.category_id, a.area, a.iscrowd, target) for of_image in kept for a, target in of_image],
            dtype=torch.float64,
        ).reshape(-1, 8)
        self._spans = [slice(*ends) for ends in pairwise(accumulate(map(len, kept), initial=0))]
        self._codes = None
        if spec.masks:
            self._codes = Codes(
                _code(a, image, annotations, mend)
                for image, of_image in zip(self._images, kept, strict=True)
                for a, _ in of_image
            )
        self._categories = content.categories
        self._folder, self._annotations = folder, annotations
        self._image_size, self._mend = spec.image_size, mend

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Decode one image.

        Raises:
            DataError: the file is missing or damaged, or not of the size the annotations say.
        """
        import torch

        image = self._images[index]
        path = self._folder / image.file_name
        picture = read_rgb(path, mend=self._mend)
        if picture.size != (image.width, image.height):
            raise DataError(
                f"image {path} is {picture.width}x{picture.height} pixels, and {self._annotations} says "
                f"{image.width}x{image.height}; {self._mend}"
            )
        rows = self._table[self._spans[index]]
        wanted = rows[:, 7] == 1
        rows = rows[wanted]
        across, down = self._scale(image)
        corners = torch.cat((rows[:, :2], rows[:, :2] + rows[:, 2:4]), dim=1)
        corners = corners.clamp(min=0).minimum(corners.new_tensor([image.width, image.height] * 2))
        target = {
            "boxes": (corners * corners.new_tensor([across, down] * 2)).float(),
            "labels": rows[:, 4].long(),
            "image_id": torch.tensor(image.id),
            "area": (rows[:, 5] * across * down).float(),
            "iscrowd": rows[:, 6].long(),
        }
        if self._codes is not None:
            target["masks"] = self._masks(self._codes, index)[wanted]
        return as_tensor(picture, image_size=self._image_size), target

    def ground_truth(self) -> dict[str, Any]:
        """Return what pycocotools compares with: this subset's images, in this dataset's order, and all their boxes.

        With masks, each has its mask as a compressed run-length code. Coordinates and areas are of the frame the model
        sees. Crowds and empty boxes are in it as in the file, because the official evaluation counts them its own way.
        Annotations are numbered anew from 1: pycocotools takes a match with number 0 for none.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index, image in enumerate(self._images):
            across, down = self._scale(image)
            width, height = round(image.width * across), round(image.height * down)
            images.append({"id": image.id, "file_name": image.file_name, "width": width, "height": height})
            first = len(annotations)
            for x, y, w, h, category, area, crowd, _ in self._table[self._spans[index]].tolist():
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image.id,
                        "category_id": int(category),
                        "bbox": [x * across, y * down, w * across, h * down],
                        "area": area * across * down,
                        "iscrowd": int(crowd),
                    }
                )
            if self._codes is not None:
                codes = self._codes[self._spans[index]]
                if self._image_size:
                    codes = encoded(self._masks(self._codes, index))
                for annotation, counts in zip(annotations[first:], codes, strict=True):
                    annotation["segmentation"] = {"size": [height, width], "counts": counts}
        categories = [{"id": category.id, "name": category.name} for category in self._categories]
        return {"images": images, "annotations": annotations, "categories": categories}

    def check_files(self) -> None:
        """Ask for every chosen image's file, without opening it.

        Raises:
            DataError: some are not there; the message counts them and names the first.
        """
        paths = [self._folder / image.file_name for image in self._images]
        absent = [path for path in paths if not path.is_file()]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(paths)} images that {self._annotations} names are not there, the first is "
                f"{absent[0]}; {self._mend}"
            )

    def _masks(self, codes: Codes, index: int) -> torch.Tensor:
        image, own = self._images[index], codes[self._spans[index]]
        return masks_of(own, height=image.height, width=image.width, image_size=self._image_size)

    def _scale(self, image: CocoImage) -> tuple[float, float]:
        size = self._image_size
        return (size / image.width, size / image.height) if size else (1.0, 1.0)


def _has_extent(entry: CocoAnnotation, image: CocoImage) -> bool:
    x, y, width, height = entry.bbox
    return min(x + width, image.width) > max(x, 0) and min(y + height, image.height) > max(y, 0)


def _code(entry: CocoAnnotation, image: CocoImage, path: Path, mend: str) -> bytes:
    try:
        return code_of(entry.segmentation, height=image.height, width=image.width)
    except ValueError as error:
        raise DataError(
            f"annotations {path} do not give the mask of an object in image {image.id}, "
            f"{image.width}x{image.height} pixels: {error}; {mend}"
        ) from error


def _read(path: Path, classes: int, mend: str, *, outlines: bool) -> CocoFile:
    try:
        with path.open(encoding="utf-8") as file:
            content = _FILE.validate_python(json.load(file, object_pairs_hook=dict if outlines else _without_outline))
    except OSError as error:
        raise DataError(f"annotations {path} cannot be read: {error.strerror}; {mend}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "top level"
        raise DataError(f"annotations {path} are not in COCO's format: {place}: {first['msg']}; {mend}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"annotations {path} are no JSON: {error}; {mend}") from error
    for image in content.images:
        if Path(image.file_name).is_absolute() or ".." in Path(image.file_name).parts:
            raise DataError(f"annotations {path} name an image outside its folder, {image.file_name!r}; {mend}")
    for kind, known, named in (
        ("categories", set(range(1, classes + 1)), (category.id for category in content.categories)),
        ("categories", {category.id for category in content.categories}, (a.category_id for a in content.annotations)),
        ("images", {image.id for image in content.images}, (a.image_id for a in content.annotations)),
    ):
        if strangers := sorted(set(named) - known):
            raise DataError(f"annotations {path} name {kind} it does not have, the first is {strangers[0]}; {mend}")
    return content


def _without_outline(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if key != "segmentation"}
