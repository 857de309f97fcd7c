"""How a trained module is saved and read again, where its model says nothing else.

By its own library where that knows how, which is `save_pretrained` of transformers; else as one file of safetensors.
That file's metadata name the BatchNorm layers that are frozen, for a model decides by the weights it begins from
whether it freezes them, and a saved one is read without those. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from harness.errors import StoreError

WEIGHTS = "model.safetensors"
_FROZEN = "frozen_norms"


def save(module: nn.Module, folder: Path) -> None:
    """Write a module on the CPU that no strategy has touched into a folder."""
    if hasattr(module, "save_pretrained"):
        module.save_pretrained(str(folder))  # type: ignore[operator]
        return
    frozen = {name: norm.eps for name, norm in module.named_modules() if isinstance(norm, FrozenBatchNorm2d)}
    save_model(module, str(folder / WEIGHTS), metadata={_FROZEN: json.dumps(frozen)})


def load(module: nn.Module, folder: Path) -> None:
    """Give a module that was just built the weights that `save` wrote, and freeze what was frozen.

    Raises:
        StoreError: some are not there.
    """
    if hasattr(module, "from_pretrained"):
        saved, report = module.from_pretrained(  # type: ignore[operator]
            str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        if absent := report["missing_keys"]:  # they would be drawn at random
            raise StoreError(f"{len(absent)} tensors of the model are missing in {folder}, first {min(absent)}")
        module.load_state_dict(saved.state_dict())
        return
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        frozen: dict[str, float] = json.loads((file.metadata() or {}).get(_FROZEN, "{}"))
    for name, eps in frozen.items():
        parent, _, child = name.rpartition(".")
        channels = cast("nn.BatchNorm2d", module.get_submodule(name)).weight.numel()
        setattr(module.get_submodule(parent), child, FrozenBatchNorm2d(channels, eps=eps))
    load_model(module, folder / WEIGHTS)
