"""`shape_net`: three blocks of convolution, BatchNorm and ReLU, and a linear head."""

from __future__ import annotations

from harness.plugins import BuiltModel, InputKind, Model, ModelSpec


def _build(spec: ModelSpec) -> BuiltModel:
    # torch is imported by ranks alone: pytest collects without it.
    import torch
    from torch import nn

    def block(inside: int, outside: int) -> nn.Sequential:
        convolution = nn.Conv2d(inside, outside, kernel_size=3, stride=2, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU())

    module = nn.Sequential(
        block(3, 16),
        block(16, 32),
        block(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, spec.classes),
    )
    weights = "random initialisation"
    if spec.weights is not None:  # a warm start that the suite trained, where the profile asks for one
        module.load_state_dict(torch.load(spec.weights, weights_only=True))
        weights = f"warm start trained on this machine ({spec.weights.name})"
    # Strategies that wrap make one unit of each convolution, and one of the rest.
    return BuiltModel(module=module, blocks=(nn.Conv2d,), weights=weights)


SHAPE_NET = Model(name="shape_net", input=InputKind.IMAGES, build=_build)
