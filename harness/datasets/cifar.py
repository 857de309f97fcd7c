"""`cifar10` and `cifar100`: the official Python batches on the user's disk, through torchvision."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from harness.datasets._images import as_tensor, subset
from harness.errors import DataError
from harness.plugins import Dataset, DataSpec, InputKind, Split


def _source(classes: int) -> Any:
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
    if spec.download:
        try:
            _source(classes)(spec.root, download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"CIFAR-{classes} cannot be fetched into {spec.root}: {error}; try again, or unpack "
                f"{_source(classes).url} there"
            ) from error
    _verify(spec.root, classes)


def _verify(root: Path, classes: int) -> None:
    """Check each official file as torchvision does, which does not say which one is wrong."""
    from torchvision.datasets.utils import check_integrity

    source, folder = _source(classes), _folder(root, classes)
    for name, md5 in [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]:
        if not check_integrity(folder / name, md5):
            state = "is damaged: its checksum is not the official one" if (folder / name).exists() else "is not there"
            raise DataError(f"CIFAR-{classes} file {folder / name} {state}; delete it and fetch it with --download")


def _open(spec: DataSpec, split: Split, *, classes: int) -> Any:
    from torch.utils.data import Subset

    if split == "pretrain":
        raise DataError(f"cifar{classes} has no pretrain split, only train and val; start from public weights")
    # Mean and standard deviation of the training images, per channel.
    mean, std = {
        10: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        100: ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    }[classes]
    transform = partial(as_tensor, image_size=spec.image_size, mean=mean, std=std)
    try:
        images = _source(classes)(spec.root, train=split == "train", transform=transform)
    except (OSError, RuntimeError) as error:
        _verify(spec.root, classes)
        raise DataError(
            f"CIFAR-{classes} in {_folder(spec.root, classes)} cannot be opened: {error}; try again"
        ) from error
    return Subset(images, subset(len(images), spec, split, name=f"cifar{classes}"))


def _cifar(classes: int) -> Dataset:
    return Dataset(
        name=f"cifar{classes}",
        input=InputKind.IMAGES,
        classes=classes,
        embedded=False,
        prepare=partial(_prepare, classes=classes),
        open=partial(_open, classes=classes),
        missing=partial(_missing, classes=classes),
    )


CIFAR10 = _cifar(10)
CIFAR100 = _cifar(100)
