"""CIFAR is read exactly from the official batches, no image is in two splits, and nothing that is read is ever run."""

from __future__ import annotations

import os
import pickle
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.datasets.cifar import CIFAR10, CIFAR100
from harness.errors import DataError
from harness.plugins import DataSpec
from tests.cifar_files import batch, python2, write

BOTH = pytest.mark.parametrize("dataset", [CIFAR10, CIFAR100], ids=lambda dataset: dataset.name)
MEAN_AND_STD = {
    10: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    100: ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def spec(root: Path, image_size: int = 32, **fields: Any) -> DataSpec:
    return DataSpec(root=root, image_size=image_size, **fields)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Both sets with few images, in the official files."""
    return {"root": tmp_path, **write(tmp_path, monkeypatch)}


@pytest.fixture
def replaced(cifar: dict[str, Any]) -> Callable[[bytes], DataSpec]:
    """Return a function that puts something else in the place of a file of CIFAR-10 and returns the spec to open."""

    def replace(content: bytes) -> DataSpec:
        (cifar["root"] / "cifar-10-batches-py" / "data_batch_4").write_bytes(content)
        return spec(cifar["root"])

    return replace


# -------------------------------------------------------------------------------------------------- what is read


@BOTH
@pytest.mark.parametrize("size", [0, 20, 32, 48])
def test_items_are_to_the_last_bit_what_torchvisions_transforms_make_of_the_batches(dataset, size, cifar):
    import torch
    from PIL import Image
    from torchvision.transforms import functional

    dataset.prepare(spec(cifar["root"]))
    items = dataset.open(spec(cifar["root"], size), "val")
    stored = cifar["cifar10/test_batch" if dataset is CIFAR10 else "cifar100/test"]
    assert [label for _, label in items] == stored["labels" if dataset is CIFAR10 else "fine_labels"]
    at_once = items.__getitems__(list(range(len(items))))
    for index, pixels in enumerate(stored["data"]):
        picture = Image.fromarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0))
        if size:
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        wanted = functional.normalize(functional.to_tensor(picture), *MEAN_AND_STD[dataset.classes])
        assert torch.equal(items[index][0], wanted)
        assert torch.equal(at_once[index][0], wanted) and at_once[index][1] == items[index][1]


def test_half_normalises_to_minus_one_to_one(cifar):
    import torch

    pixels = torch.from_numpy(cifar["cifar100/test"]["data"][3]).reshape(3, 32, 32)
    image, _ = CIFAR100.open(spec(cifar["root"], normalise="half"), "val")[3]
    assert torch.allclose(image, (pixels.double() / 127.5 - 1).float(), atol=1e-6)


def test_a_batch_that_was_stored_by_columns_is_the_same(cifar, replaced):
    import numpy as np

    whole = cifar["cifar10/data_batch_4"]
    part = replaced(python2(whole | {"data": np.asfortranarray(whole["data"])}))
    images = CIFAR10.open(part, "train").dataset._pixels[18:24]
    assert (images.numpy().reshape(6, 3072) == whole["data"]).all()


def test_a_subset_follows_its_seed(cifar):
    parts = [CIFAR10.open(spec(cifar["root"], train_images=12, seed=seed), "train").indices for seed in (3, 3, 4)]
    assert parts[0] == parts[1] != parts[2] and len(set(parts[0])) == 12


# -------------------------------------------------------------------------------------------------------- splits


def indices(dataset: Any, split: str, part: DataSpec) -> list[int]:
    return dataset.open(part, split).indices


@BOTH
def test_without_carving_the_official_test_images_are_validated_on_and_there_is_no_test_split(dataset, cifar):
    import torch

    part = spec(cifar["root"])
    assert indices(dataset, "train", part) == list(range(30)) and indices(dataset, "val", part) == list(range(6))
    reason = dataset.untested(part)
    assert reason is not None and "carved_images" in reason
    with pytest.raises(DataError, match=rf"{dataset.name} has no test split: {reason}"):
        dataset.open(part, "test")
    carved = dataset.open(spec(cifar["root"], carved_images=10), "test")
    assert dataset.untested(spec(cifar["root"], carved_images=10)) is None
    assert all(torch.equal(a[0], b[0]) for a, b in zip(dataset.open(part, "val"), carved, strict=True))


@BOTH
@pytest.mark.parametrize("seed", [0, 5])
def test_carved_images_are_no_longer_trained_on_and_the_official_test_is_left_for_the_test(dataset, seed, cifar):
    part = spec(cifar["root"], carved_images=10, seed=seed)
    train, val = indices(dataset, "train", part), indices(dataset, "val", part)
    assert (len(train), len(val)) == (20, 10) and sorted(train + val) == list(range(30))
    assert (
        val == indices(dataset, "val", part) != indices(dataset, "val", spec(cifar["root"], carved_images=10, seed=9))
    )
    held = {split: dataset.open(part, split).dataset for split in ("train", "val", "test")}
    assert (held["train"]._pixels == held["val"]._pixels).all() and len(held["test"]) == 6


def test_subsets_stay_within_their_split_and_more_than_there_is_is_refused(cifar):
    part = spec(cifar["root"], carved_images=10)
    small = spec(cifar["root"], carved_images=10, train_images=7, val_images=4, test_images=3)
    for split, count in (("train", 7), ("val", 4), ("test", 3)):
        assert len(set(indices(CIFAR10, split, small))) == count
        assert set(indices(CIFAR10, split, small)) <= set(indices(CIFAR10, split, part))
    for over, says in (
        ({"train_images": 21}, "21 train images of cifar10 are asked for, and it has 20"),
        ({"val_images": 11}, "11 val images .* it has 10"),
        ({"test_images": 7}, "7 test images .* it has 6"),
    ):
        with pytest.raises(DataError, match=says):
            CIFAR10.open(spec(cifar["root"], carved_images=10, **over), next(iter(over)).partition("_")[0])
    with pytest.raises(DataError, match="30 validation images are to be carved out of the 30 training images"):
        CIFAR10.open(spec(cifar["root"], carved_images=30), "train")


# ------------------------------------------------------------------------------------------------- what is refused


class Hostile:
    """Runs a command as soon as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._mark}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused_before_it_runs_anything(protocol, tmp_path, replaced):
    import numpy as np

    mark = tmp_path / "was_here"
    content = pickle.dumps({"data": Hostile(mark), "labels": []}, protocol)
    pickle.loads(content)
    assert mark.exists(), "the pickle must be a hostile one"
    mark.unlink()
    part = replaced(content)
    with pytest.raises(
        DataError, match=r"data_batch_4 is damaged: it asks for \w+\.system, which no official file does"
    ):
        CIFAR10.open(part, "train")
    with pytest.raises(DataError, match="checksum"):
        CIFAR10.prepare(part)
    # Hidden behind a batch that is otherwise right, and inside the array's own state.
    whole = batch(10, 6, np.random.RandomState(0))
    for place in ("filenames", "labels"):
        with pytest.raises(DataError, match="asks for"):
            CIFAR10.open(replaced(pickle.dumps(whole | {place: [Hostile(mark)]}, protocol)), "train")
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "builtins.getattr", "numpy.fromfile", "numpy.core.multiarray.scalar"]
)
def test_nothing_but_the_array_can_be_named(name, replaced):
    module, _, attribute = name.rpartition(".")
    with pytest.raises(DataError, match=f"asks for {name}, which no official file does"):
        CIFAR10.open(replaced(f"c{module}\n{attribute}\n.".encode()), "train")


def test_every_cut_of_a_batch_is_refused(tmp_path, replaced):
    import numpy as np

    whole = python2(batch(10, 6, np.random.RandomState(0)))
    for length in {*range(0, 400, 7), *range(len(whole) - 400, len(whole), 7)}:
        with pytest.raises(DataError, match=r"data_batch_4 is (damaged|no batch)"):
            CIFAR10.open(replaced(whole[:length]), "train")


def _changed(**over: Any) -> bytes:
    import numpy as np

    return python2(batch(10, 6, np.random.RandomState(0)) | over)


# Given numpy, which is not imported to collect tests.
NO_BATCHES: dict[str, tuple[Callable[[Any], bytes], str]] = {
    "one too few": (
        lambda np: _changed(data=np.zeros((5, 3072), np.uint8)),
        "holds 5 images and 6 labels, the official 6",
    ),
    "one too many": (
        lambda np: _changed(data=np.zeros((7, 3072), np.uint8), labels=[0] * 7),
        "holds 7 images and 7 labels",
    ),
    "a label missing": (lambda np: _changed(labels=[0] * 5), "holds 6 images and 5 labels"),
    "an eleventh class": (lambda np: _changed(labels=[0, 1, 2, 3, 4, 10]), "labels are not all 0 to 9"),
    "a class below 0": (lambda np: _changed(labels=[0, 1, 2, 3, 4, -1]), "labels are not all 0 to 9"),
    "a fraction": (lambda np: _changed(labels=[0, 1, 2, 3, 4, 5.0]), "labels are not all 0 to 9"),
    "labels in a text": (lambda np: _changed(labels="012345"), "labels are not all 0 to 9"),
    "floats": (
        lambda np: _changed(data=np.zeros((6, 3072), np.float32)),
        "no batch of CIFAR-10: its data are no bytes",
    ),
    "signed": (lambda np: _changed(data=np.zeros((6, 3072), np.int8)), "its data are no bytes"),
    "a value missing": (lambda np: _changed(data=np.zeros((6, 3071), np.uint8)), "its data are no bytes of"),
    "one dimension": (lambda np: _changed(data=np.zeros(6 * 3072, np.uint8)), "its data are no bytes of"),
    "a list for data": (lambda np: _changed(data=[1, 2]), "no batch of CIFAR-10"),
    "no data": (lambda np: python2({"labels": [0] * 6}), "no batch of CIFAR-10: 'data'"),
    "a list": (lambda np: python2(["data"]), "no batch of CIFAR-10"),
    "a bare array": (lambda np: python2(np.zeros((6, 3072), np.uint8)), "no batch of CIFAR-10"),
    "an array of nothing": (lambda np: b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.", "no batch of CIFAR-10"),
    "text": (lambda np: b"not a pickle", "is damaged"),
    "an empty file": (lambda np: b"", "is damaged: Ran out of input"),
    "another shape than bytes": (
        lambda np: _changed().replace(b"K\x06M\x00\x0c\x86", b"K\x05M\x00\x0c\x86"),
        "18432 bytes of 15360",
    ),
}


@pytest.mark.parametrize("kind", NO_BATCHES)
def test_what_is_no_official_batch_is_refused_by_name_and_number(kind, replaced):
    import numpy as np

    content, says = NO_BATCHES[kind]
    part = replaced(content(np))
    with pytest.raises(DataError, match=says) as caught:
        CIFAR10.open(part, "train")
    assert str(part.root / "cifar-10-batches-py" / "data_batch_4") in str(caught.value)
    assert str(caught.value).endswith("; delete it and fetch it with --download")
    with pytest.raises(DataError, match="data_batch_4 is damaged: its checksum"):
        CIFAR10.prepare(part)


@pytest.mark.parametrize(
    ("damage", "prepared", "opened"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "is damaged: its checksum", "is damaged: "),
        (lambda file: file.write_bytes(file.read_bytes()[:-1] + b"!"), "is damaged: its checksum", "is damaged: "),
        (Path.unlink, "is not there", "No such file"),
    ],
    ids=["truncated", "changed", "missing"],
)
def test_a_bad_file_is_named(damage, prepared, opened, cifar):
    victim = cifar["root"] / "cifar-10-batches-py" / "data_batch_4"
    damage(victim)
    for use, says in ((CIFAR10.prepare, prepared), (lambda part: CIFAR10.open(part, "train"), opened)):
        with pytest.raises(DataError, match=says) as caught:
            use(spec(cifar["root"]))
        assert str(victim) in str(caught.value) and "--download" in str(caught.value)


def test_without_files_it_is_said_what_is_needed_and_where(tmp_path, cifar):
    absent = CIFAR100.missing(tmp_path / "nowhere", False)
    assert absent is not None and "cifar-100-python" in absent and "--download" in absent and "nowhere" in absent
    assert CIFAR100.missing(tmp_path / "nowhere", True) is None
    assert CIFAR100.missing(cifar["root"], False) is None
    with pytest.raises(DataError, match="no pretrain split"):
        CIFAR10.open(spec(cifar["root"]), "pretrain")


def test_what_is_whole_is_not_fetched_and_what_is_not_is(cifar, monkeypatch):
    from torchvision.datasets import CIFAR10 as SOURCE
    from torchvision.datasets import utils

    asked = []
    monkeypatch.setattr(utils, "download_and_extract_archive", lambda *args, **kw: asked.append((args, kw)))
    CIFAR10.prepare(spec(cifar["root"], download=True))
    assert not asked
    victim = cifar["root"] / "cifar-10-batches-py" / "data_batch_4"
    victim.write_bytes(b"")
    with pytest.raises(DataError, match="data_batch_4 is damaged"):
        CIFAR10.prepare(spec(cifar["root"], download=True))
    assert asked == [((SOURCE.url, cifar["root"]), {"filename": SOURCE.filename, "md5": SOURCE.tgz_md5})]


def test_a_failed_download_is_one_clear_error(tmp_path, monkeypatch):
    from torchvision.datasets import utils

    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(utils, "download_and_extract_archive", refuse)
    with pytest.raises(DataError, match=r"CIFAR-10 cannot be fetched into .*no route to host"):
        CIFAR10.prepare(spec(tmp_path, download=True))
