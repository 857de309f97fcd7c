"""Every model is what it says, starts from the warm start it is given, and never asks the network."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import profiles
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
    "maskrcnn_r18": (64, 12_397_841, 10),
    "maskrcnn_r50": (64, 44_023_953, 18),
    "fasterrcnn_r101": (64, 60_390_534, 34),
    "fasterrcnn_swin_tiny": (64, 3_380_386, 9),
    "fasterrcnn_swin_t": (64, 44_796_672, 13),
    "swin_tiny": (16, 3_050_164, 10),
    "swin_t": (32, 27_527_044, 12),
}
DETECTORS = tuple(name for name in MODELS if "rcnn" in name)
LIGHT = ("resnet18", "vit_tiny", "fasterrcnn_r18", "maskrcnn_r18", "fasterrcnn_swin_tiny", "swin_tiny")


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
    target = {"boxes": boxes, "labels": torch.tensor([1, 10])}
    if discover().models[name].masks:
        inside = torch.zeros(2, size, size, dtype=torch.uint8)
        inside[0, 8:40, 4:30] = inside[1, 10:36, 20:60] = 1
        target["masks"] = inside
    return list(images), [target for _ in images]


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


def test_swin_t_has_the_size_that_its_weights_were_published_with() -> None:
    from torchvision.models import Swin_T_Weights

    module = build("swin_t", classes=1000).module
    assert sum(p.numel() for p in module.parameters()) == Swin_T_Weights.IMAGENET1K_V1.meta["num_params"]


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


@pytest.mark.parametrize("name", [n for n in MODELS if n not in DETECTORS])
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


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_returns_boxes_scores_and_labels_of_each_image_when_not_training(name: str) -> None:
    import torch

    module = unpretrained(name).module.eval()
    with torch.no_grad():
        found = module(batch(name)[0])
    module.train()
    masks = discover().models[name].masks
    assert [sorted(one) for one in found] == [["boxes", "labels", *(["masks"] if masks else []), "scores"]] * 2
    if masks:
        assert all(one["masks"].shape == (len(one["boxes"]), 1, 64, 64) for one in found)
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
    if name in DETECTORS:  # a frozen BatchNorm counts no batches
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


@pytest.mark.parametrize("name", ["swin_tiny", "fasterrcnn_swin_tiny"])
def test_a_swin_drops_branches_by_torchs_generator_as_swin_t_was_published_with(name: str) -> None:
    import torch
    from torchvision.ops import StochasticDepth

    module = build(name).module
    probabilities = [one.p for one in module.modules() if isinstance(one, StochasticDepth)]
    assert probabilities[0] == 0 and probabilities[-1] == pytest.approx(0.2) and sorted(probabilities) == probabilities
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(loss_of(name, module).item())
    assert losses[0] == losses[1] != losses[2]


def test_a_swin_backbone_gives_each_stage_normalised_with_channels_first() -> None:
    import torch

    body = build("fasterrcnn_swin_tiny").module.backbone.body.eval()
    with torch.no_grad():
        maps = body(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert list(maps) == ["0", "1", "2", "3"]
    for level, (side, channels) in zip(maps.values(), ((16, 32), (8, 64), (4, 128), (2, 256)), strict=True):
        assert level.shape == (2, channels, side, side)
        assert level.mean(1).abs().max() < 1e-4 and (level.var(1, correction=0) - 1).abs().max() < 1e-2


def test_no_model_joined_the_default_matrix() -> None:
    light, heavy = {"resnet18", "vit_tiny", "fasterrcnn_r18"}, {"resnet50", "vit_b16", "fasterrcnn_r50"}
    for name, profile in profiles.load(Path(__file__).parents[1] / "benches" / "profiles.toml").items():
        asked = {model.name for model in discover().models.values() if profile.settings(model).in_default_matrix}
        assert asked == (light if name == "smoke" else light | heavy)
