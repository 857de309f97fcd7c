"""What every dataset does alike: read an image file, present it as a tensor, and draw a seeded subset.

An `image_size` of 0 leaves images at the size they are stored in.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import DataError
from harness.plugins import DataSpec, Split

if TYPE_CHECKING:
    import torch
    from PIL import Image


def read_rgb(path: str | Path, *, mend: str) -> Image.Image:
    """Return a decoded image file as RGB, be it stored in colour, grey or CMYK.

    Args:
        path: the file.
        mend: what to do about a damaged file, the end of the message.

    Raises:
        DataError: the file is missing, truncated, or no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
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
    from PIL import Image
    from torchvision.transforms import functional

    if image_size and image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    tensor: torch.Tensor = functional.to_tensor(image)
    if mean:
        tensor = functional.normalize(tensor, mean, std)
    return tensor


def subset(count: int, spec: DataSpec, split: Split, *, name: str) -> list[int]:
    """Return the ascending indices of a split's images that `spec` asks for; of `pretrain` always all.

    The choice depends on `count` and `spec.seed` alone: numpy's RandomState is frozen, so it is the same everywhere.

    Raises:
        DataError: more images are asked for than there are, or none.
    """
    import numpy as np

    wanted = {"pretrain": None, "train": spec.train_images, "val": spec.val_images}[split]
    if wanted is None:
        wanted = count
    if not 0 < wanted <= count:
        raise DataError(
            f"{wanted or 'some'} {split} images of {name} are asked for, and it has {count} to use; "
            "ask for a smaller part, or complete the data"
        )
    chosen: list[int] = np.sort(np.random.RandomState(spec.seed).permutation(count)[:wanted]).tolist()
    return chosen
