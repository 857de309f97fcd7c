"""`digits`: scikit-learn's 1,797 real handwritten digits as JPEG files, for classification without a download."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.datasets._embedded import Content, jpeg, make_or_verify, mend
from harness.datasets._images import drawn, held_in, no_test, presentation, read_rgb, reference_transform
from harness.errors import DataError
from harness.plugins import Dataset, DataSpec, InputKind, Split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VERSION = 1
"""Counts up with every change of what is written; an older folder then stays as it is, unused."""
_SPLITS: dict[Split, int] = {"pretrain": 600, "train": 837, "val": 360}
_SEED = 1797
_STORED_SIZE = 32
_STORED: dict[str, Any] = {"side": _STORED_SIZE, "mean": (0.5,) * 3, "std": (0.5,) * 3}
"""How they are stored, and normalised."""


def sources() -> tuple[NDArray[np.uint8], NDArray[np.int64], dict[Split, list[int]]]:
    """Return the ink of every source digit, its class, and which digits belong to which split.

    Returns:
        Ink [1797, 8, 8], 0 to 255; classes [1797]; of each split the ascending indices into both. Every class has the
        same share of each split, to one digit, and no digit is in two.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    bunch = load_digits()
    ink = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    classes = bunch.target.astype(np.int64)

    shuffled = np.random.RandomState(_SEED).permutation(len(classes))
    # Where a digit stands in its own class, as a share: any stretch of this scale holds equal parts of every class.
    standing = np.empty(len(classes))
    for label in np.unique(classes):
        members = shuffled[classes[shuffled] == label]
        standing[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.argsort(standing, kind="stable")
    cuts = np.cumsum(list(_SPLITS.values()))
    parts = np.split(order, cuts[:-1])
    return ink, classes, {split: np.sort(part).tolist() for split, part in zip(_SPLITS, parts, strict=True)}


def _render() -> Content:
    from PIL import Image

    ink, classes, splits = sources()
    files = {}
    for split, members in splits.items():
        for source in members:
            image = Image.fromarray(ink[source]).resize((_STORED_SIZE, _STORED_SIZE), Image.Resampling.BICUBIC)
            files[f"{split}/{classes[source]}/{source:04}.jpg"] = jpeg(image)
    return Content(files=files, sources=splits)


def _folder(root: Path) -> Path:
    return root / f"digits-{_VERSION}"


def _prepare(spec: DataSpec) -> None:
    make_or_verify(_folder(spec.root), _render)


def _open(spec: DataSpec, split: Split) -> Any:
    from torch.utils.data import Subset
    from torchvision.datasets import ImageFolder

    folder = _folder(spec.root)
    stored = folder / held_in(spec, split)
    try:
        files = ImageFolder(
            stored,
            transform=presentation(spec, split, **_STORED),
            loader=partial(read_rgb, mend=mend(folder)),
        )
    except OSError as error:
        raise DataError(f"digits in {stored} cannot be listed: {error}; {mend(folder)}") from error
    return Subset(files, drawn(len(files), spec, split, name="digits"))


def _reference(spec: DataSpec) -> Any:
    from torchvision.datasets import ImageFolder

    return ImageFolder(_folder(spec.root) / "train", transform=reference_transform(spec, "train", **_STORED))


DIGITS = Dataset(
    name="digits",
    input=InputKind.IMAGES,
    classes=10,
    embedded=True,
    prepare=_prepare,
    open=_open,
    missing=lambda root, download: None,
    untested=no_test,
    reference=_reference,
)
