"""Swin transformers: torchvision's Swin-T, and a tiny one of the same class for small images.

Both drop residual branches at random with the probability that Swin-T was published with; torch's generator draws.
"""

from __future__ import annotations

from functools import partial

from harness.models._detector import cached, from_cache
from harness.models._weights import begin
from harness.plugins import BuiltModel, InputKind, Model, ModelSpec

_IMAGENET_CLASSES = 1000


def _build_t(spec: ModelSpec) -> BuiltModel:
    from torch import nn
    from torchvision.models.swin_transformer import Swin_T_Weights, SwinTransformerBlock, swin_t

    public = Swin_T_Weights.IMAGENET1K_V1
    file = cached(public, spec)
    if file is not None:
        module = from_cache(partial(swin_t, weights=public), "Swin-T weights", file)
        weights = f"torchvision's IMAGENET1K_V1 from {file}"
        if spec.classes != _IMAGENET_CLASSES:
            module.head = nn.Linear(module.head.in_features, spec.classes)
            weights += "; its head is new"
    else:
        module = swin_t(weights=None, num_classes=spec.classes)
        weights = begin(module, spec)
    return BuiltModel(module=module, blocks=(SwinTransformerBlock,), weights=weights)


def _build_tiny(spec: ModelSpec) -> BuiltModel:
    """Build the first three of Swin-T's stages at half its width, for images of 8 to 32 pixels.

    Patches of 2 pixels leave 4 to 16 a side, and windows of 4 patches look at all of the smallest image at once.
    """
    from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlock

    module = SwinTransformer(
        patch_size=[2, 2],
        embed_dim=48,
        depths=[2, 2, 6],
        num_heads=[3, 6, 12],
        window_size=[4, 4],
        stochastic_depth_prob=0.2,
        num_classes=spec.classes,
    )
    return BuiltModel(module=module, blocks=(SwinTransformerBlock,), weights=begin(module, spec))


SWIN_T = Model(name="swin_t", input=InputKind.IMAGES, build=_build_t)
SWIN_TINY = Model(name="swin_tiny", input=InputKind.IMAGES, build=_build_tiny)
