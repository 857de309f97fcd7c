"""A small model that draws random numbers, in ranks that are killed when a test says so: for `--plugins`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from harness.plugins import BuiltModel, InputKind, Model, ModelSpec

MOMENT = "moment"
"""A file in the cache folder: `step 3` kills every rank in its third forward for training, `write 2 1000` in its second
write of tensors, after so many bytes, and `record 2` before the record of those."""


def _build(spec: ModelSpec) -> BuiltModel:
    import torch
    from torch import nn

    module = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(8 * (spec.image_size - 2) ** 2, 400),  # above the size from which ZeRO-3 shards
        nn.ReLU(),
        nn.Linear(400, spec.classes),
    )
    if moment := _moment():
        _die(module, *moment)
    if spec.weights is not None:
        module.load_state_dict(torch.load(spec.weights, weights_only=True))
    return BuiltModel(module=module, blocks=(nn.Linear,), weights="random initialisation")


def _moment() -> list[str]:
    file = Path(os.environ["SHARDBENCH_CACHE"], MOMENT)
    return file.read_text().split() if file.exists() else []


def _die(module, kind: str, number: str, at: str = "0") -> None:
    from harness.stored import checkpoints

    left = int(number)

    def counted() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def forward(*_) -> None:
        if module.training and counted():
            os.kill(os.getpid(), signal.SIGKILL)

    class Mortal:
        """A file that is written up to a place."""

        def __init__(self, file) -> None:
            self._file, self._left = file, int(at)

        def write(self, data) -> int:
            self._left -= len(data)
            if self._left <= 0:
                self._file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return self._file.write(data)

        def __getattr__(self, name):
            return getattr(self._file, name)

    whole = checkpoints.whole

    def write(file, content, **how) -> None:
        if file.suffix == (".pt" if kind == "write" else ".json") and counted():
            whole(file, lambda part: part_of(content, Mortal(part)), **how)
        else:
            whole(file, content, **how)

    def part_of(content, file) -> None:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)

    if kind == "step":
        module.register_forward_pre_hook(forward)
    else:
        checkpoints.whole = write


MORTAL = Model(name="mortal_net", input=InputKind.IMAGES, build=_build)
