"""CIFAR's official Python batches: pickles, read without running what a pickle can ask for, and checked.

Unpickling calls whatever the file names. Numpy's array is all that an official batch names, and stand-ins of it are all
that is called here, so a file from a stranger can do nothing but be refused.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.datasets._images import Presentation, scaled
from harness.errors import DataError

if TYPE_CHECKING:
    import torch

SIDE = 32
"""Height and width of an image, pixels."""
_VALUES = 3 * SIDE * SIDE


class _Type:
    """In place of numpy's data type."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Take no note of the byte order: a byte has none."""


class _Array:
    """In place of numpy's array: what a pickle says of it."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> torch.Tensor:
        """Return the content, uint8 [N, 3, 32, 32].

        Raises:
            ValueError: it is no array of bytes [N, 3072], or not whole.
        """
        import numpy as np
        import torch

        _, shape, kind, fortran, raw = self.state
        if not isinstance(kind, _Type) or kind.code != "u1" or len(shape) != 2 or shape[1] != _VALUES:
            raise ValueError(f"its data are no bytes of [images, {_VALUES}]")
        # Python 2 wrote them as text, in which a character is a byte.
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        if len(content) != math.prod(shape):
            raise ValueError(f"its data are {len(content)} bytes of {math.prod(shape)}")
        bytes_ = np.frombuffer(content, dtype=np.uint8)
        table = bytes_.reshape(shape[::-1]).T if fortran else bytes_.reshape(shape)
        return torch.from_numpy(np.array(table, order="C")).reshape(-1, 3, SIDE, SIDE)


def _blank(*_: Any) -> _Array:
    return _Array()


_NAMED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _blank,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
}
"""What a batch may name, and what is called instead."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no official file does")
        return _NAMED[module, name]


def read_batch(file: Path, *, labels: str, classes: int, count: int, mend: str) -> tuple[torch.Tensor, list[int]]:
    """Return the images of a batch, uint8 [N, 3, 32, 32], and the class of each.

    Args:
        file: the pickle.
        labels: the key of the classes.
        classes: labels are below it.
        count: N, as the official file has it.
        mend: what to do about a damaged file, the end of the message.

    Raises:
        DataError: it is missing, damaged, not of the format, or holds another number of images.
    """
    try:
        content = _Unpickler(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; {mend}") from error
    except Exception as error:  # what a damaged pickle raises can be anything
        raise DataError(f"{file} is damaged: {error or type(error).__name__}; {mend}") from error
    try:
        pixels, of_each = content["data"].pixels(), content[labels]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{file} is no batch of CIFAR-{classes}: {error or type(error).__name__}; {mend}") from error
    if not isinstance(of_each, list) or not all(type(label) is int and 0 <= label < classes for label in of_each):
        raise DataError(f"{file} is no batch of CIFAR-{classes}: {labels} are not all 0 to {classes - 1}; {mend}")
    if not len(pixels) == len(of_each) == count:
        raise DataError(f"{file} holds {len(pixels)} images and {len(of_each)} labels, the official {count}; {mend}")
    return pixels, of_each


class CifarImages:
    """A map-style dataset of a stored split: items are a float tensor [3, S, S] and a class.

    torch's DataLoader takes the items of a batch at once.
    """

    def __init__(self, batches: Sequence[tuple[torch.Tensor, list[int]]], present: Presentation) -> None:
        """Hold the images of some batches, as they were read, and how they are shown."""
        import torch

        self._pixels = torch.cat([pixels for pixels, _ in batches])
        self._labels = [label for _, labels in batches for label in labels]
        self._present = present

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        picture = Image.fromarray(self._pixels[index].permute(1, 2, 0).contiguous().numpy())
        return self._present(picture), self._labels[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        """Return the items of a batch, the same as one by one."""
        shown = self._present
        if shown.augment is not None or shown.image_size not in (0, SIDE):
            return [self[index] for index in indices]
        images = scaled(self._pixels[indices], mean=shown.mean, std=shown.std)
        return [(image, self._labels[index]) for image, index in zip(images, indices, strict=True)]
