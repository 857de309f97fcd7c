"""The loader is held to torchvision's own for the same images, and both say what they give."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.case import Case
from harness.datasets.cifar import CIFAR10, CIFAR100
from harness.datasets.digits import DIGITS
from harness.datasets.scenes import SCENES
from harness.errors import CannotRun
from harness.plugins import DataSpec
from tests.cifar_files import write


def spec(root: Path, **fields: Any) -> DataSpec:
    return DataSpec(root=root, **fields)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        write(folder, patch)
        for dataset in (DIGITS, SCENES):
            dataset.prepare(spec(folder, image_size=0))
        yield folder


@pytest.mark.parametrize("dataset", [CIFAR10, CIFAR100, DIGITS], ids=lambda dataset: dataset.name)
@pytest.mark.parametrize("size", [0, 16])
def test_torchvision_loads_the_same_pictures_and_classes(dataset, size, root):
    import torch

    ours = dataset.open(spec(root, image_size=size), "train")
    theirs = dataset.reference(spec(root, image_size=size))
    assert len(ours) == len(theirs)
    for index in range(0, len(ours), max(1, len(ours) // 30)):
        (image, label), (other, wanted) = ours[index], theirs[index]
        assert label == wanted
        assert image.shape == other.shape and torch.allclose(image, other, atol=1e-5)


def test_torchvision_loads_the_same_pictures_and_boxes(root):
    import torch

    ours, theirs = SCENES.open(spec(root, image_size=0), "train"), SCENES.reference(spec(root, image_size=0))
    assert len(ours) == len(theirs) == 640
    for index in (0, 7, 639):
        (image, target), (other, wanted) = ours[index], theirs[index]
        assert torch.allclose(image, other.as_subclass(torch.Tensor), atol=1e-6)
        assert torch.equal(target["boxes"], wanted["boxes"].as_subclass(torch.Tensor))
        assert torch.equal(target["labels"], wanted["labels"])


def test_both_loaders_tell_their_images_per_second_of_as_many_rounds(pipeline):
    case = Case(model="tiny_net", strategy="ddp", gpu_count=2, batch_size=4)
    reports, _ = pipeline.ranks.launch(case, "loaders", purpose="loaders")
    for report in reports:
        assert report.extra.keys() == {"ours", "theirs"}
        assert len(report.extra["ours"]) == len(report.extra["theirs"]) >= 5
        assert all(rate > 0 for rates in report.extra.values() for rate in rates)


def test_a_dataset_that_torchvision_cannot_load_is_held_to_nothing():
    from harness.worker.loaders import loaders

    context: Any = SimpleNamespace(dataset=SimpleNamespace(reference=None, name="own"))
    with pytest.raises(CannotRun, match="torchvision has no loader of own to be held to"):
        loaders(context)
