"""Models start from the public weights in the caches of Hugging Face and torch, and refuse what is not those."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.errors import StoreError
from tests.test_models import batch, build, no_network_and_no_caches, same  # noqa: F401

if TYPE_CHECKING:
    import torch

VIT_REPOSITORY = "models--google--vit-base-patch16-224"


@pytest.fixture(scope="module")
def public_vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Return a folder as a clone of google/vit-base-patch16-224 is, with random weights, and those weights."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(3)
    # BF16 halves the file, and shows that a model is FP32 whatever its file is.
    public = ViTForImageClassification(ViTConfig(num_labels=1000)).to(torch.bfloat16)
    public.save_pretrained(folder)
    return folder, {key: value.float() for key, value in public.state_dict().items()}


def test_vit_b16_starts_from_the_folder_the_variable_names(
    public_vit: tuple[Path, dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    folder, public = public_vit
    monkeypatch.setenv("SHARDBENCH_VIT", str(folder))
    built = build("vit_b16", pretrained=True)

    state = built.module.state_dict()
    position, head = "vit.embeddings.position_embeddings", ("classifier.weight", "classifier.bias")
    assert state.keys() == public.keys()
    assert [key for key, value in state.items() if value.shape != public[key].shape] == [position, *head]
    resized = {position, *head}
    assert same(*({k: v for k, v in one.items() if k not in resized} for one in (state, public)))
    assert state[position].shape == (1, 1 + 2 * 2, 768)
    assert torch.equal(state[position][:, 0], public[position][:, 0])
    assert {str(value.dtype) for value in state.values()} == {"torch.float32"}
    assert all(module.training for module in built.module.modules())
    assert str(folder) in built.weights
    assert built.module(batch("vit_b16")[0]).shape == (2, 10)


def test_vit_b16_starts_from_the_hubs_cache(
    public_vit: tuple[Path, dict[str, torch.Tensor]],
    no_network_and_no_caches: Path,  # noqa: F811
) -> None:
    import torch

    repository = no_network_and_no_caches / VIT_REPOSITORY
    snapshot = repository / "snapshots" / "0123abcd"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(snapshot.name)
    snapshot.parent.mkdir()
    snapshot.symlink_to(public_vit[0], target_is_directory=True)
    try:
        built = build("vit_b16", pretrained=True, image_size=224)
    finally:
        shutil.rmtree(repository)
    key = "vit.embeddings.position_embeddings"
    assert torch.equal(built.module.state_dict()[key], public_vit[1][key])
    assert VIT_REPOSITORY in built.weights


def lacks_weights(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def has_damaged_weights(folder: Path) -> None:
    from transformers import ViTConfig

    ViTConfig().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"not weights")


def holds_another_vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    ViTForImageClassification(ViTConfig(hidden_size=48, num_hidden_layers=1, intermediate_size=8)).save_pretrained(
        folder
    )


def holds_half_a_vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    ViTForImageClassification(ViTConfig(num_hidden_layers=1)).save_pretrained(folder)
    ViTConfig().save_pretrained(folder)


@pytest.mark.parametrize("fill", [lacks_weights, has_damaged_weights, holds_another_vit, holds_half_a_vit])
def test_a_folder_that_does_not_hold_vit_b16_is_refused_by_name(
    fill: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    monkeypatch.setenv("SHARDBENCH_VIT", str(tmp_path))
    with pytest.raises(StoreError, match=tmp_path.name):
        build("vit_b16", pretrained=True)


@pytest.fixture
def checkpoints(no_network_and_no_caches: Path) -> Iterator[Path]:  # noqa: F811
    """Yield where torch hub keeps torchvision's weights; what is written there is gone after the test."""
    folder = no_network_and_no_caches / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def coco_file(checkpoints: Path) -> Path:
    """Return the file of Faster R-CNN's COCO weights."""
    return checkpoints / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"


def test_fasterrcnn_r50_starts_from_coco_weights_in_torch_hubs_cache(coco_file: Path) -> None:
    import torch
    from torchvision.models.detection import fasterrcnn_resnet50_fpn
    from torchvision.ops import FrozenBatchNorm2d

    torch.manual_seed(3)
    public = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    public = {key: value for key, value in public.items() if not key.endswith("num_batches_tracked")}
    torch.save(public, coco_file)

    built = build("fasterrcnn_r50", classes=90, pretrained=True)
    assert same(built.module.state_dict(), public)
    assert str(coco_file) in built.weights
    assert any(isinstance(module, FrozenBatchNorm2d) for module in built.module.modules())

    ten = build("fasterrcnn_r50", classes=10, pretrained=True).module.state_dict()
    other = [key for key, value in ten.items() if not torch.equal(value, public[key])]
    assert {key.rsplit(".", 2)[0] for key in other} == {"roi_heads.box_predictor"}
    assert ten["roi_heads.box_predictor.cls_score.weight"].shape == (11, 1024)


def test_damaged_coco_weights_are_refused_by_name(coco_file: Path) -> None:
    coco_file.write_bytes(b"not weights")
    with pytest.raises(StoreError, match=coco_file.name):
        build("fasterrcnn_r50", pretrained=True)


def test_maskrcnn_r50_starts_from_coco_weights_in_torch_hubs_cache(checkpoints: Path) -> None:
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(3)
    public = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    public = {key: value for key, value in public.items() if not key.endswith("num_batches_tracked")}
    file = checkpoints / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
    torch.save(public, file)

    built = build("maskrcnn_r50", classes=90, pretrained=True)
    assert same(built.module.state_dict(), public)
    assert built.weights == f"torchvision's COCO_V1 from {file}"

    ten = build("maskrcnn_r50", classes=10, pretrained=True).module.state_dict()
    other = [key for key, value in ten.items() if not torch.equal(value, public[key])]
    assert {key.rsplit(".", 2)[0] for key in other} == {"roi_heads.box_predictor", "roi_heads.mask_predictor"}
    assert len(ten["roi_heads.mask_predictor.mask_fcn_logits.bias"]) == 11


PUBLIC = {
    "swin_t": ("swin_t", "swin_t-704ceda3.pth", "", ""),
    "fasterrcnn_swin_t": ("swin_t", "swin_t-704ceda3.pth", "features", "backbone.body.stages"),
    "fasterrcnn_r101": ("resnet101", "resnet101-63fe2227.pth", "", "backbone.body"),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_classifiers_public_weights_are_taken_from_torch_hubs_cache_but_for_its_head(
    name: str, checkpoints: Path
) -> None:
    import torch
    import torchvision

    source, file, part, place = PUBLIC[name]
    torch.manual_seed(3)
    public = getattr(torchvision.models, source)(weights=None)
    torch.save(public.state_dict(), checkpoints / file)
    built = build(name, pretrained=True)

    own, theirs = built.module.get_submodule(place), public.get_submodule(part)
    head = {name for name, _ in public.named_children()} & {"head", "fc"}
    state = {key: value for key, value in own.state_dict().items() if key.split(".")[0] not in head}
    expected = {k: v for k, v in theirs.state_dict().items() if k in state}
    assert same(state, expected) and len(state) > 150
    assert str(checkpoints / file) in built.weights
    assert [p.shape[0] for p in own.parameters()][-1] == 10 or name != "swin_t"


def test_a_resnet_that_starts_from_public_weights_has_its_norms_and_first_stages_frozen(checkpoints: Path) -> None:
    import torch
    from torch import nn
    from torchvision.models import resnet101

    torch.save(resnet101(weights=None).state_dict(), checkpoints / "resnet101-63fe2227.pth")
    module = build("fasterrcnn_r101", pretrained=True).module
    assert not any(isinstance(one, nn.BatchNorm2d) for one in module.modules())
    frozen = {key.split(".")[2] for key, p in module.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("maskrcnn_r50", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"),
        *((name, file) for name, (_, file, _, _) in PUBLIC.items()),
    ],
)
def test_damaged_public_weights_are_refused_by_name(name: str, file: str, checkpoints: Path) -> None:
    (checkpoints / file).write_bytes(b"not weights")
    with pytest.raises(StoreError, match=file):
        build(name, pretrained=True)
