"""What every dataset does alike: read an image file, present it as a tensor, and draw a seeded subset.

An `image_size` of 0 leaves images at the size they are stored in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import DataError
from harness.plugins import DataSpec, Split

if TYPE_CHECKING:
    import torch
    from PIL import Image

_CARVING = 1
"""Beside the seed, of what is carved."""


def read_rgb(path: str | Path, *, mend: str) -> Image.Image:
    """Return a decoded image file as RGB, be it stored in colour, grey or CMYK, with a palette or an opacity.

    As it is stored: an orientation that its EXIF data ask for is not followed, for neither do torchvision's loaders,
    and boxes are told in the frame of the stored pixels. Opacity is dropped.

    Args:
        path: the file.
        mend: what to do about a damaged file, the end of the message.

    Raises:
        DataError: the file is missing, truncated, or no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"image {path} cannot be read: {error}; {mend}") from error


def as_tensor(
    image: Image.Image, *, image_size: int, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
) -> torch.Tensor:
    """Return an RGB image as a float tensor [3, S, S] in [0, 1], or `(value - mean) / std` per channel if given.

    Args:
        image: the picture.
        image_size: S, pixels; 0 keeps the image's own height and width.
        mean: of each channel.
        std: of each channel.
    """
    import numpy as np
    import torch
    from PIL import Image

    if image_size and image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    # What torchvision's to_tensor and normalize do, to the last bit, in less time: they copy more often.
    planes = torch.from_numpy(np.ascontiguousarray(np.array(image).transpose(2, 0, 1)))
    return scaled(planes, mean=mean, std=std)


def scaled(pixels: torch.Tensor, *, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()) -> torch.Tensor:
    """Return pixels, uint8 [..., 3, H, W], as floats in [0, 1], or `(value - mean) / std` per channel if given."""
    import torch

    tensor = pixels.to(torch.float32).div_(255)
    return tensor.sub_(_of_channels(mean)).div_(_of_channels(std)) if mean else tensor


@cache
def _of_channels(values: tuple[float, ...]) -> torch.Tensor:
    import torch

    return torch.tensor(values).reshape(-1, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Presentation:
    """How a classifier is shown the pictures of a split."""

    image_size: int
    """Pixels; 0 keeps a picture's own."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Callable[[Image.Image], Image.Image] | None = None
    """Done before, by what torch's generator draws."""

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """Return a float tensor [3, S, S]."""
        if self.augment is not None:
            picture = self.augment(picture)
        return as_tensor(picture, image_size=self.image_size, mean=self.mean, std=self.std)


def presentation(
    spec: DataSpec, split: Split, *, side: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Presentation:
    """Return how the pictures of a split are shown, as `spec` asks for.

    Args:
        spec: its `image_size`, `normalise` and `augment`.
        split: `train` alone is augmented.
        side: height and width of the stored pictures, pixels.
        mean: of the dataset's channels.
        std: of the dataset's channels.
    """
    if spec.normalise == "half":
        mean = std = (0.5,) * 3
    augment = _augmentation(spec, side) if split == "train" and spec.augment != "none" else None
    return Presentation(image_size=spec.image_size, mean=mean, std=std, augment=augment)


def reference_transform(spec: DataSpec, split: Split, **stored: Any) -> Any:
    """Return what makes a `presentation` of the same arguments in a script of torchvision's own."""
    from torchvision.transforms import v2

    wanted = presentation(spec, split, **stored)
    steps: list[Any] = [wanted.augment] if wanted.augment is not None else []
    if spec.image_size:
        steps.append(v2.Resize((spec.image_size, spec.image_size)))
    return v2.Compose([*steps, *_to_float(), v2.Normalize(wanted.mean, wanted.std)])


def reference_detection(folder: Path, annotations: Path, spec: DataSpec) -> Any:
    """Return images and boxes in COCO's format as torchvision's detection reference reads them."""
    from torchvision import datasets
    from torchvision.transforms import v2

    resize = [v2.Resize((spec.image_size, spec.image_size))] if spec.image_size else []
    plain = datasets.CocoDetection(folder, annotations, transforms=v2.Compose([*resize, *_to_float()]))
    return datasets.wrap_dataset_for_transforms_v2(plain, target_keys=("boxes", "labels", "image_id"))


def _to_float() -> list[Any]:
    import torch
    from torchvision.transforms import v2

    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]


def _augmentation(spec: DataSpec, side: int) -> Callable[[Image.Image], Image.Image]:
    """Return what does an augmentation to a picture.

    `crop`: with a black border of an eighth of its side, a cut of the picture's own size from anywhere in it;
    `crop_flip`: that, mirrored every other time (He et al., arXiv 1512.03385, section 4.2: 4 pixels of CIFAR's 32).
    `resized_crop_flip`: a part of 5 % to 100 % of its area, stretched by at most a third, enlarged bilinearly, mirrored
    every other time (what ViT was fine-tuned with: google-research/vision_transformer, vit_jax/input_pipeline.py).
    """
    from torchvision.transforms import v2

    if spec.augment == "resized_crop_flip":
        crop = v2.RandomResizedCrop(spec.image_size or side, scale=(0.05, 1.0))
    else:
        crop = v2.RandomCrop(side, padding=side // 8)
    mirror = v2.RandomHorizontalFlip() if spec.augment.endswith("flip") else v2.Identity()
    composed: Callable[[Image.Image], Image.Image] = v2.Compose([crop, mirror])
    return composed


def held_in(spec: DataSpec, split: Split) -> Split:
    """Return in which of the splits that a dataset is stored in, pretrain, train and val, a split's images are."""
    if split == "test":
        return "val"
    return "train" if split == "val" and spec.carved_images else split


def no_test(spec: DataSpec) -> str | None:
    """Return why a dataset that is stored as train and val has no test split, None where validation is carved."""
    return None if spec.carved_images else "it is validated on; set carved_images in the profile to validate on others"


def drawn(count: int, spec: DataSpec, split: Split, *, name: str) -> list[int]:
    """Return the ascending indices of a split's images that `spec` asks for, of a dataset stored as train and val.

    Args:
        count: images of the stored split that `held_in` tells.
        spec: which of them; of the training images what is carved out is validated on and not trained on.
        split: which of them.
        name: the dataset's, for messages.

    Raises:
        DataError: more images are asked for than there are, or none, or there is no such split.
    """
    import numpy as np

    if split == "test" and (reason := no_test(spec)) is not None:
        raise DataError(f"{name} has no test split: {reason}")
    members = np.arange(count)
    if spec.carved_images and held_in(spec, split) == "train":
        if spec.carved_images >= count:
            raise DataError(
                f"{spec.carved_images} validation images are to be carved out of the {count} training images of "
                f"{name}; set carved_images lower in the profile"
            )
        # The subset is drawn by the same seed, so this is a stream of its own.
        order = np.random.RandomState((spec.seed, _CARVING)).permutation(count)
        val, train = np.split(order, [spec.carved_images])
        members = np.sort(val if split == "val" else train)
    chosen: list[int] = members[subset(len(members), spec, split, name=name)].tolist()
    return chosen


def subset(count: int, spec: DataSpec, split: Split, *, name: str) -> list[int]:
    """Return the ascending indices of a split's images that `spec` asks for; of `pretrain` always all.

    The choice depends on `count` and `spec.seed` alone: numpy's RandomState is frozen, so it is the same everywhere.

    Raises:
        DataError: more images are asked for than there are, or none.
    """
    import numpy as np

    asked = {"train": spec.train_images, "val": spec.val_images, "test": spec.test_images}
    wanted = asked.get(split)
    if wanted is None:
        wanted = count
    if not 0 < wanted <= count:
        raise DataError(
            f"{wanted or 'some'} {split} images of {name} are asked for, and it has {count} to use; "
            "ask for a smaller part, or complete the data"
        )
    chosen: list[int] = np.sort(np.random.RandomState(spec.seed).permutation(count)[:wanted]).tolist()
    return chosen
