"""ResNet-18 and ResNet-50 for small images: torchvision's networks behind the stem that is usual for CIFAR.

The stem is one 3x3 convolution of stride 1 and no pooling, as section 4.2 of He et al., "Deep Residual Learning for
Image Recognition" (arXiv 1512.03385) has it: torchvision's own makes 8 pixels of 32 before the first block.
"""

from __future__ import annotations

from typing import Literal

from harness.models._weights import begin
from harness.plugins import BuiltModel, InputKind, Model, ModelSpec


def _build(depth: Literal[18, 50], spec: ModelSpec) -> BuiltModel:
    from torch import nn
    from torchvision.models import resnet

    block, layers = {18: (resnet.BasicBlock, [2, 2, 2, 2]), 50: (resnet.Bottleneck, [3, 4, 6, 3])}[depth]
    module = resnet.ResNet(block, layers, num_classes=spec.classes)
    module.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(module.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's others
    module.maxpool = nn.Identity()
    # torchvision publishes no weights for this stem, so there are no pretrained ones to look for.
    return BuiltModel(module=module, blocks=(block,), weights=begin(module, spec))


def _build18(spec: ModelSpec) -> BuiltModel:
    return _build(18, spec)


def _build50(spec: ModelSpec) -> BuiltModel:
    return _build(50, spec)


RESNET18 = Model(name="resnet18", input=InputKind.IMAGES, build=_build18)
RESNET50 = Model(name="resnet50", input=InputKind.IMAGES, build=_build50)
