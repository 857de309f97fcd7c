"""CIFAR's official files with few images, byte for byte in the form that Python 2's pickle gave them."""

from __future__ import annotations

import hashlib
import pickle
import struct
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import pytest

FOLDERS = {10: "cifar-10-batches-py", 100: "cifar-100-python"}
LABELS = {10: "labels", 100: "fine_labels"}
FILES = {
    10: {"train": [f"data_batch_{i}" for i in range(1, 6)], "val": ["test_batch"]},
    100: {"train": ["train"], "val": ["test"]},
}


class _Python2(pickle._Pickler):
    """Writes text and bytes as Python 2 did its strings: with STRING opcodes, in which a character is a byte."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _string(self, text: str | bytes) -> None:
        raw = text if isinstance(text, bytes) else text.encode("latin1")
        short = len(raw) < 256
        self.write((b"U" + bytes([len(raw)]) if short else b"T" + struct.pack("<i", len(raw))) + raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = _string


def python2(content: Any) -> bytes:
    """Return the pickle of a value as Python 2 with the numpy of its days wrote it."""
    file = BytesIO()
    _Python2(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def batch(classes: int, count: int, rng: Any) -> dict[str, Any]:
    """Return the content of one file."""
    import numpy as np

    content = {
        "batch_label": "training batch 1 of 5",
        LABELS[classes]: rng.randint(0, classes, count).tolist(),
        "data": rng.randint(0, 256, (count, 3072)).astype(np.uint8),
        "filenames": [f"leptodactylus_pentadactylus_s_{i:06}.png" for i in range(count)],
    }
    return content | ({"coarse_labels": [0] * count} if classes == 100 else {})


def write(
    root: Path, patch: pytest.MonkeyPatch, *, train: int = 30, val: int = 6, sets: tuple[int, ...] = (10, 100)
) -> dict[str, Any]:
    """Write the sets, and return the content of each file by set and name.

    Their sizes and checksums are made the official ones: torchvision's lists are given the files' own sums, so that the
    check stays torchvision's.
    """
    import numpy as np
    from torchvision import datasets

    from harness.datasets import cifar

    rng = np.random.RandomState(0)
    patch.setattr(cifar, "_IMAGES", {"train": train, "val": val})
    written: dict[str, Any] = {}
    for classes in sets:
        source = {10: datasets.CIFAR10, 100: datasets.CIFAR100}[classes]
        folder = root / FOLDERS[classes]
        folder.mkdir(parents=True)
        for kind, count in (("train", train), ("val", val)):
            sums = []
            for name in FILES[classes][kind]:
                content = batch(classes, count // len(FILES[classes][kind]), rng)
                written[f"cifar{classes}/{name}"] = content
                (folder / name).write_bytes(python2(content))
                sums.append([name, hashlib.md5((folder / name).read_bytes()).hexdigest()])
            patch.setattr(source, {"train": "train_list", "val": "test_list"}[kind], sums)
        meta = python2({source.meta["key"]: [f"class {i}" for i in range(classes)]})
        (folder / source.meta["filename"]).write_bytes(meta)
        patch.setattr(source, "meta", {**source.meta, "md5": hashlib.md5(meta).hexdigest()})
    return written
