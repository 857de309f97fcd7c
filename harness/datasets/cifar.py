"""`cifar10` and `cifar100`: the official Python batches on the user's disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from harness.datasets._cifar_format import SIDE, CifarImages, read_batch
from harness.datasets._images import drawn, held_in, no_test, presentation, reference_transform
from harness.errors import DataError
from harness.plugins import Dataset, DataSpec, InputKind, Split

_IMAGES = {"train": 50_000, "val": 10_000}
"""Of each stored split, in files of equal parts."""
_MEND = "delete it and fetch it with --download"
_MEAN_AND_STD = {
    10: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    100: ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""Of the training images, per channel."""


def _source(classes: int) -> Any:
    """Return torchvision's class, which knows where the files are, their names and checksums."""
    from torchvision import datasets

    return {10: datasets.CIFAR10, 100: datasets.CIFAR100}[classes]


def _folder(root: Path, classes: int) -> Path:
    return root / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")


def _missing(root: Path, download: bool, *, classes: int) -> str | None:
    folder = _folder(root, classes)
    if download or folder.is_dir():
        return None
    return f"CIFAR-{classes} in {folder}; name the folder above it with --data-root, or fetch it with --download"


def _prepare(spec: DataSpec, *, classes: int) -> None:
    """Check each official file by its checksum, as torchvision does when it fetches them, and name the wrong one."""
    wrong = _wrong(spec.root, classes)
    if wrong and spec.download:
        _fetch(spec.root, classes)
        wrong = _wrong(spec.root, classes)
    if wrong:
        raise DataError(f"CIFAR-{classes} file {wrong}; {_MEND}")


def _wrong(root: Path, classes: int) -> str | None:
    from torchvision.datasets.utils import check_integrity

    source, folder = _source(classes), _folder(root, classes)
    for name, md5 in [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]:
        if not check_integrity(folder / name, md5):
            state = "is damaged: its checksum is not the official one" if (folder / name).exists() else "is not there"
            return f"{folder / name} {state}"
    return None


def _fetch(root: Path, classes: int) -> None:
    from torchvision.datasets import utils

    source = _source(classes)
    try:
        utils.download_and_extract_archive(source.url, root, filename=source.filename, md5=source.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"CIFAR-{classes} cannot be fetched into {root}: {error}; try again, or unpack {source.url} there"
        ) from error


def _open(spec: DataSpec, split: Split, *, classes: int) -> Any:
    from torch.utils.data import Subset

    name = f"cifar{classes}"
    if split == "pretrain":
        raise DataError(f"{name} has no pretrain split; start from public weights")
    source, stored = _source(classes), held_in(spec, split)
    files = source.train_list if stored == "train" else source.test_list
    count = _IMAGES[stored]
    batches = [
        read_batch(
            _folder(spec.root, classes) / file,
            labels="labels" if classes == 10 else "fine_labels",
            classes=classes,
            count=count // len(files),
            mend=_MEND,
        )
        for file, _ in files
    ]
    images: Any = CifarImages(batches, presentation(spec, split, **_stored(classes)))
    return Subset(images, drawn(len(images), spec, split, name=name))


def _stored(classes: int) -> dict[str, Any]:
    mean, std = _MEAN_AND_STD[classes]
    return {"side": SIDE, "mean": mean, "std": std}


def _reference(spec: DataSpec, *, classes: int) -> Any:
    transform = reference_transform(spec, "train", **_stored(classes))
    return _source(classes)(spec.root, train=True, transform=transform)


def _cifar(classes: int) -> Dataset:
    return Dataset(
        name=f"cifar{classes}",
        input=InputKind.IMAGES,
        classes=classes,
        embedded=False,
        prepare=partial(_prepare, classes=classes),
        open=partial(_open, classes=classes),
        missing=partial(_missing, classes=classes),
        untested=no_test,
        reference=partial(_reference, classes=classes),
    )


CIFAR10 = _cifar(10)
CIFAR100 = _cifar(100)
