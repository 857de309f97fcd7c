"""Vision transformers: Hugging Face's `google/vit-base-patch16-224`, and a tiny one of the same class for small images.

`vit_b16` starts from the public weights when they are on this machine: in the folder that the environment variable
SHARDBENCH_VIT names (as `save_pretrained` or a clone of the repository leaves it: config.json and model.safetensors),
else in the hub's cache. The network is never asked. The module is transformers' own class, so the names in its state
dict are Hugging Face's, with no prefix; only its call returns the logits [N, classes] alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ProfileError, StoreError
from harness.models._weights import begin, unreadable
from harness.plugins import BuiltModel, InputKind, Model, ModelSpec

if TYPE_CHECKING:
    from torch import nn
    from transformers import ViTConfig, ViTForImageClassification

FOLDER_VARIABLE = "SHARDBENCH_VIT"
_REPOSITORY = "google/vit-base-patch16-224"
_FILES = ("config.json", "model.safetensors")
_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
}
# The widths of DeiT-Ti (Touvron et al., arXiv 2012.12877, table 1), with a patch for images of 8 to 64 pixels.
_TINY = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 3,
    "patch_size": 4,
}


def _build_b16(spec: ModelSpec) -> BuiltModel:
    folder = _public_weights() if spec.pretrained and spec.weights is None else None
    if folder is None:
        return _build(_BASE, spec)
    module = _pretrained(folder, _config(_BASE, spec))
    return _built(module, f"{_REPOSITORY} from {folder}; its head is new")


def _build_tiny(spec: ModelSpec) -> BuiltModel:
    return _build(_TINY, spec)


def _build(shape: Mapping[str, int], spec: ModelSpec) -> BuiltModel:
    from transformers import ViTForImageClassification

    module = ViTForImageClassification(_config(shape, spec))
    return _built(module, begin(module, spec))


def _config(shape: Mapping[str, int], spec: ModelSpec) -> ViTConfig:
    from transformers import ViTConfig

    patch = shape["patch_size"]
    if spec.image_size < patch or spec.image_size % patch:
        raise ProfileError(
            f"an image size of {spec.image_size} pixels does not divide into this model's patches of {patch}; "
            f"set {max(1, round(spec.image_size / patch)) * patch}"
        )
    return ViTConfig(**shape, image_size=spec.image_size, num_labels=spec.classes)


def _built(module: ViTForImageClassification, weights: str) -> BuiltModel:
    from transformers.models.vit.modeling_vit import ViTLayer

    module.register_forward_hook(_logits)
    return BuiltModel(module=module.train(), blocks=(ViTLayer,), weights=weights)


def _logits(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    return output.logits


def _public_weights() -> Path | None:
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        missing = [file for file in _FILES if not Path(named, file).is_file()]
        if missing:
            raise StoreError(
                f"{FOLDER_VARIABLE} names {named}, which lacks {' and '.join(missing)}; "
                f"name a folder with the files of {_REPOSITORY}, or unset the variable"
            )
        return Path(named)
    from huggingface_hub import try_to_load_from_cache

    cached = [path for file in _FILES if isinstance(path := try_to_load_from_cache(_REPOSITORY, file), str)]
    return Path(cached[0]).parent if len(cached) == len(_FILES) else None


def _pretrained(folder: Path, config: ViTConfig) -> ViTForImageClassification:
    """Return the model of `config` with the folder's weights, its head new, its position embeddings resampled."""
    import torch
    from transformers import ViTForImageClassification

    try:
        public, report = ViTForImageClassification.from_pretrained(
            str(folder),
            num_labels=config.num_labels,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever safetensors, JSON and transformers raise for a damaged file
        raise unreadable(f"ViT weights in {folder}", error, f"put the files of {_REPOSITORY} there again") from error
    differing = [f"{key} {getattr(public.config, key)}" for key in _BASE if getattr(public.config, key) != _BASE[key]]
    absent = [key for key in report["missing_keys"] if not key.startswith("classifier.")]
    if differing or absent:
        raise StoreError(
            f"the weights in {folder} are not those of {_REPOSITORY}: "
            f"{', '.join(differing) or f'{len(absent)} tensors are missing, first {absent[0]}'}; "
            "put its files there again"
        )
    module = ViTForImageClassification(config)
    state = public.state_dict()
    # Once here, rather than at every forward: an image of another size has another grid of patches.
    positions = torch.empty(1, (config.image_size // config.patch_size) ** 2 + 1, config.hidden_size)
    state["vit.embeddings.position_embeddings"] = public.vit.embeddings.interpolate_pos_encoding(
        positions, config.image_size, config.image_size
    )
    module.load_state_dict(state)
    return module


VIT_B16 = Model(name="vit_b16", input=InputKind.IMAGES, build=_build_b16, requires=("transformers",))
VIT_TINY = Model(name="vit_tiny", input=InputKind.IMAGES, build=_build_tiny, requires=("transformers",))
