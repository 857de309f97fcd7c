"""Faster R-CNN over other backbones than a ResNet-50: a ResNet-101, a Swin-T, and a light Swin for a CPU core.

They start from a classifier's public weights where they are at hand. As torchvision does for its detectors, a ResNet of
trained weights then has its BatchNorm and its first two stages frozen. A Swin has no BatchNorm, and all of it is
trained, as it was published (Liu et al., Swin Transformer, arXiv 2103.14030, section 4.2): each stage's output passes a
LayerNorm of its own to the feature pyramid, and residual branches are dropped at random.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.models._detector import LEVELS, LIGHT_CHANNELS, begin_detector, cached, from_cache, image_sizes, light
from harness.plugins import BuiltModel, InputKind, Model, ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

_CHANNELS = 256
"""Of the feature pyramid, in torchvision's detectors."""
_SWIN_STAGES = dict(zip(("1", "3", "5", "7"), LEVELS, strict=True))
"""Between these of its `features` a Swin merges patches."""


def _build_r101(spec: ModelSpec) -> BuiltModel:
    from torch import nn
    from torchvision.models import ResNet101_Weights
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.models.detection.faster_rcnn import TwoMLPHead
    from torchvision.models.resnet import Bottleneck

    public = ResNet101_Weights.IMAGENET1K_V1  # of the kind that torchvision's ResNet-50 detectors were trained from
    file = cached(public, spec)
    build = partial(resnet_fpn_backbone, backbone_name="resnet101")
    if file is not None:
        backbone = from_cache(partial(build, weights=public), "ResNet-101 weights", file)
    else:
        backbone = build(weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)
    module = FasterRCNN(backbone, num_classes=spec.classes + 1, **image_sizes(spec))
    weights = f"backbone: torchvision's IMAGENET1K_V1 from {file}" if file else begin_detector(module, spec)
    return BuiltModel(module=module, blocks=(Bottleneck, TwoMLPHead), weights=weights)


def _build_swin_t(spec: ModelSpec) -> BuiltModel:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.swin_transformer import Swin_T_Weights, swin_t

    public = Swin_T_Weights.IMAGENET1K_V1
    file = cached(public, spec)
    swin = from_cache(partial(swin_t, weights=public), "Swin-T weights", file) if file else swin_t(weights=None)
    module = FasterRCNN(
        _pyramid(swin.features, [96, 192, 384, 768], _CHANNELS), num_classes=spec.classes + 1, **image_sizes(spec)
    )
    weights = f"backbone: torchvision's IMAGENET1K_V1 from {file}" if file else begin_detector(module, spec)
    return _built(module, weights)


def _build_swin_tiny(spec: ModelSpec) -> BuiltModel:
    """Build Swin-T's four stages at a third of its width and of two blocks each, with windows of 4 patches."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.swin_transformer import SwinTransformer

    swin = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=32,
        depths=[2, 2, 2, 2],
        num_heads=[2, 4, 8, 16],
        window_size=[4, 4],
        stochastic_depth_prob=0.2,
    )
    module = FasterRCNN(_pyramid(swin.features, [32, 64, 128, 256], LIGHT_CHANNELS), **light(spec))
    return _built(module, begin_detector(module, spec))


def _built(module: nn.Module, weights: str) -> BuiltModel:
    from torchvision.models.detection.faster_rcnn import TwoMLPHead
    from torchvision.models.swin_transformer import SwinTransformerBlock

    return BuiltModel(module=module, blocks=(SwinTransformerBlock, TwoMLPHead), weights=weights)


def _pyramid(features: nn.Sequential, channels: Sequence[int], out_channels: int) -> nn.Module:
    """Return a Swin's features under a feature pyramid, as torchvision's detectors take a backbone.

    Args:
        features: of a torchvision SwinTransformer of four stages.
        channels: of each stage's output.
        out_channels: of the pyramid's.
    """
    from torch import nn
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    pyramid = FeaturePyramidNetwork(list(channels), out_channels, extra_blocks=LastLevelMaxPool())
    backbone = nn.Sequential(OrderedDict(body=_stages_class()(features, channels), fpn=pyramid))
    backbone.out_channels = out_channels  # type: ignore[assignment]
    return backbone


@functools.cache
def _stages_class() -> type[nn.Module]:
    """Return the class, which stands in a function because importing this file must not import torch."""
    from torch import nn
    from torchvision.models._utils import IntermediateLayerGetter

    class SwinStages(nn.Module):
        """The output of each stage under a LayerNorm, float [N, C, H, W], the finest first."""

        def __init__(self, features: nn.Sequential, channels: Sequence[int]) -> None:
            super().__init__()
            self.stages = IntermediateLayerGetter(features, _SWIN_STAGES)
            self.norms = nn.ModuleList(nn.LayerNorm(count) for count in channels)

        def forward(self, images: torch.Tensor) -> dict[str, Any]:
            outputs = self.stages(images).items()
            return OrderedDict(
                (level, norm(output).permute(0, 3, 1, 2).contiguous())
                for norm, (level, output) in zip(self.norms, outputs, strict=True)
            )

    return SwinStages


FASTERRCNN_R101 = Model(name="fasterrcnn_r101", input=InputKind.DETECTION, build=_build_r101)
FASTERRCNN_SWIN_T = Model(name="fasterrcnn_swin_t", input=InputKind.DETECTION, build=_build_swin_t)
FASTERRCNN_SWIN_TINY = Model(name="fasterrcnn_swin_tiny", input=InputKind.DETECTION, build=_build_swin_tiny)
