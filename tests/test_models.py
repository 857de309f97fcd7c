"""Every model is what it says, starts from the weights it says, and never asks the network."""

from __future__ import annotations

import functools
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError, StoreError
from harness.plugins import BuiltModel, InputKind, ModelSpec
from harness.registry import discover

if TYPE_CHECKING:
    import torch

# model: image size, trained parameters for ten classes, blocks
MODELS = {
    "resnet18": (16, 11_173_962, 8),
    "resnet50": (16, 23_520_842, 16),
    "vit_tiny": (8, 5_351_242, 12),
    "vit_b16": (32, 85_658_890, 12),
    "fasterrcnn_r18": (64, 12_306_822, 9),
    "fasterrcnn_r50": (64, 41_398_406, 17),
}
LIGHT = ("resnet18", "vit_tiny", "fasterrcnn_r18")
VIT_REPOSITORY = "models--google--vit-base-patch16-224"


@pytest.fixture(autouse=True, scope="module")
def no_network_and_no_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder where torch hub and Hugging Face look for weights, empty; any connection fails the test."""
    import huggingface_hub.constants
    import torch

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a model asked the network")

    folder = tmp_path_factory.mktemp("caches")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder))
        patch.delenv("SHARDBENCH_VIT", raising=False)
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket.socket, "connect_ex", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield folder
    torch.set_num_threads(threads)


def build(name: str, *, seed: int = 0, **spec: Any) -> BuiltModel:
    import torch

    torch.manual_seed(seed)
    built: BuiltModel = (
        discover().models[name].build(ModelSpec(**{"classes": 10, "image_size": MODELS[name][0], **spec}))
    )
    return built


@functools.cache
def unpretrained(name: str) -> BuiltModel:
    """Return the model as built where public weights are asked for and there are none."""
    return build(name, pretrained=True)


def batch(name: str) -> tuple[Any, Any]:
    import torch

    draw = torch.Generator().manual_seed(1)
    size = MODELS[name][0]
    images = torch.rand(2, 3, size, size, generator=draw)
    if discover().models[name].input is InputKind.IMAGES:
        return images, torch.tensor([0, 9])
    boxes = torch.tensor([[4.0, 4.0, 30.0, 44.0], [20.0, 10.0, 60.0, 40.0]])
    return list(images), [{"boxes": boxes, "labels": torch.tensor([1, 10])} for _ in images]


def loss_of(name: str, module: torch.nn.Module) -> torch.Tensor:
    import torch
    from torch.nn import functional

    inputs, targets = batch(name)
    if isinstance(inputs, torch.Tensor):
        return functional.cross_entropy(module(inputs), targets)
    return torch.stack(list(module(inputs, targets).values())).sum()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    import torch

    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_its_published_size_and_its_blocks_and_is_ready_to_train(name: str) -> None:
    built = unpretrained(name)
    _, parameters, blocks = MODELS[name]
    assert sum(p.numel() for p in built.module.parameters() if p.requires_grad) == parameters
    assert sum(isinstance(module, built.blocks) for module in built.module.modules()) == blocks
    assert all(module.training for module in built.module.modules())
    floating = [t for t in built.module.state_dict().values() if t.is_floating_point()]
    assert {str(t.dtype) for t in floating} == {"torch.float32"}
    assert {t.device.type for t in floating} == {"cpu"}


@pytest.mark.parametrize("name", MODELS)
def test_without_pretrained_weights_a_model_says_so_and_asks_no_network(name: str) -> None:
    assert unpretrained(name).weights == "random initialisation: no pretrained weights on this machine"


@pytest.mark.parametrize("name", MODELS)
def test_backward_gives_every_trained_parameter_a_finite_gradient(name: str) -> None:
    import torch

    module = unpretrained(name).module
    torch.manual_seed(0)
    loss_of(name, module).backward()
    unsound = [key for key, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    module.zero_grad()
    assert unsound == []


@pytest.mark.parametrize("name", [n for n in MODELS if not n.startswith("fasterrcnn")])
def test_a_classifier_returns_one_logit_per_class(name: str) -> None:
    assert unpretrained(name).module(batch(name)[0]).shape == (2, 10)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_stem_keeps_every_pixel_of_a_small_image(name: str) -> None:
    import torch

    module = unpretrained(name).module
    sizes = []
    hook = module.layer1.register_forward_hook(lambda _, inputs, __: sizes.append(tuple(inputs[0].shape[-2:])))
    with torch.no_grad():
        module(batch(name)[0])
    hook.remove()
    assert sizes == [(16, 16)]


@pytest.mark.parametrize("name", ["fasterrcnn_r18", "fasterrcnn_r50"])
def test_a_detector_returns_boxes_scores_and_labels_of_each_image_when_not_training(name: str) -> None:
    import torch

    module = unpretrained(name).module.eval()
    with torch.no_grad():
        found = module(batch(name)[0])
    module.train()
    assert [sorted(one) for one in found] == [["boxes", "labels", "scores"]] * 2
    assert all(one["labels"].numel() == 0 or 1 <= one["labels"].min() <= one["labels"].max() <= 10 for one in found)


@pytest.mark.parametrize("name", LIGHT)
def test_training_lowers_the_loss(name: str) -> None:
    import torch

    module = build(name).module
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-4)
    losses = []
    for _ in range(6):
        torch.manual_seed(0)
        loss = loss_of(name, module)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", LIGHT)
def test_one_seed_builds_equal_weights_and_another_seed_others(name: str) -> None:
    one = build(name, seed=7).module.state_dict()
    assert same(one, build(name, seed=7).module.state_dict())
    assert not same(one, build(name, seed=8).module.state_dict())


@pytest.mark.parametrize("name", LIGHT)
def test_a_warm_start_is_loaded_whole_and_named(name: str, tmp_path: Path) -> None:
    import torch

    file = tmp_path / "trained.pt"
    trained = build(name, seed=1).module
    loss_of(name, trained)  # moves the running statistics off their start
    torch.save(trained.state_dict(), file)

    built = build(name, seed=2, weights=file, pretrained=True)

    expected = trained.state_dict()
    if name == "fasterrcnn_r18":  # a frozen BatchNorm counts no batches
        expected = {key: value for key, value in expected.items() if not key.endswith("num_batches_tracked")}
    assert same(built.module.state_dict(), expected)
    assert built.weights == "warm start trained on this machine (trained.pt)"


def test_a_warm_started_detector_has_its_batchnorm_frozen_and_detects_as_before(tmp_path: Path) -> None:
    import torch
    from torch import nn

    file = tmp_path / "trained.pt"
    plain = build("fasterrcnn_r18", seed=1).module
    loss_of("fasterrcnn_r18", plain)
    torch.save(plain.state_dict(), file)
    frozen = build("fasterrcnn_r18", seed=2, weights=file).module

    assert any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    before = {key: value.clone() for key, value in frozen.named_buffers()}
    loss_of("fasterrcnn_r18", frozen)
    assert same(dict(frozen.named_buffers()), before)
    images = batch("fasterrcnn_r18")[0]
    with torch.no_grad():
        for one, other in zip(plain.eval()(images), frozen.eval()(images), strict=True):
            torch.testing.assert_close(one, other)


def nothing_there(file: Path) -> None:
    file.unlink(missing_ok=True)


def cut_short(file: Path) -> None:
    import torch

    torch.save(build("vit_tiny").module.state_dict(), file)
    os.truncate(file, file.stat().st_size // 2)


def of_another_model(file: Path) -> None:
    import torch

    torch.save(build("resnet18").module.state_dict(), file)


def of_other_classes(file: Path) -> None:
    import torch

    torch.save(build("vit_tiny", classes=11).module.state_dict(), file)


def one_tensor_short(file: Path) -> None:
    import torch

    state = build("vit_tiny").module.state_dict()
    state.popitem()
    torch.save(state, file)


def no_state_dict(file: Path) -> None:
    import torch

    torch.save([1, 2, 3], file)


def text(file: Path) -> None:
    file.write_text("not weights")


@pytest.mark.parametrize(
    "write", [nothing_there, cut_short, of_another_model, of_other_classes, one_tensor_short, no_state_dict, text]
)
def test_a_warm_start_that_is_not_this_models_is_refused_by_name(write: Callable[[Path], None], tmp_path: Path) -> None:
    file = tmp_path / "trained.pt"
    write(file)
    with pytest.raises(StoreError, match=r"trained\.pt.*delete it") as raised:
        build("vit_tiny", weights=file)
    assert len(str(raised.value)) < 600 + len(str(tmp_path))


@pytest.mark.parametrize(("name", "size"), [("vit_b16", 0), ("vit_b16", 40), ("vit_tiny", 10)])
def test_an_image_that_does_not_divide_into_patches_is_refused(name: str, size: int) -> None:
    with pytest.raises(HarnessError, match=rf"{size} pixels .* patches of (16|4); set \d+"):
        build(name, image_size=size)


def test_detectors_resize_as_torchvision_does_unless_told_the_image_size() -> None:
    assert unpretrained("fasterrcnn_r50").module.transform.min_size == (64,)
    transform = build("fasterrcnn_r18", image_size=0).module.transform
    assert (transform.min_size, transform.max_size) == ((800,), 1333)


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
    public_vit: tuple[Path, dict[str, torch.Tensor]], no_network_and_no_caches: Path
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
def coco_file(no_network_and_no_caches: Path) -> Iterator[Path]:
    """Yield where torch hub keeps torchvision's COCO weights; what is written there is gone after the test."""
    file = no_network_and_no_caches / "hub" / "checkpoints" / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    yield file
    file.unlink()


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
