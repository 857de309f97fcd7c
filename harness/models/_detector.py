"""What detectors of torchvision's parts have in common: sizes of images, where weights come from, a head for a CPU.

`faster_rcnn.py` has some of it itself: its text is a part of what stored ratios of time were taken to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.models._weights import begin, unreadable
from harness.plugins import ModelSpec

if TYPE_CHECKING:
    from torch import nn
    from torchvision.models import WeightsEnum
    from torchvision.models.detection import FasterRCNN

LEVELS = ("0", "1", "2", "3")
"""Feature maps that objects are looked at in, the finest first; one more, pooled, is for proposals alone."""
LIGHT_CHANNELS = 64
"""Of a light detector's feature maps."""
_BOX_FEATURES = 256
# One size a level, for objects of 15 to 100 pixels: scenes of 128 pixels hold digits of 24 to 56.
_ANCHOR_SIZES = ((20,), (32,), (48,), (64,), (96,))
_ANCHOR_RATIOS = ((0.5, 1.0, 2.0),) * len(_ANCHOR_SIZES)

_Built = TypeVar("_Built")


def image_sizes(spec: ModelSpec) -> dict[str, int]:
    """Return the detector's own resizing: none beyond the spec's image size, torchvision's defaults if that is 0."""
    return {"min_size": spec.image_size, "max_size": spec.image_size} if spec.image_size else {}


def light(spec: ModelSpec) -> dict[str, Any]:
    """Return the arguments of a torchvision detector over feature maps of `LIGHT_CHANNELS` that make it light."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    pool = MultiScaleRoIAlign(featmap_names=list(LEVELS), output_size=7, sampling_ratio=2)
    return {
        "rpn_anchor_generator": AnchorGenerator(_ANCHOR_SIZES, _ANCHOR_RATIOS),
        "rpn_pre_nms_top_n_train": 200,
        "rpn_pre_nms_top_n_test": 200,
        "rpn_post_nms_top_n_train": 100,
        "rpn_post_nms_top_n_test": 50,
        "rpn_batch_size_per_image": 64,
        "box_roi_pool": pool,
        "box_head": TwoMLPHead(LIGHT_CHANNELS * pool.output_size[0] * pool.output_size[1], _BOX_FEATURES),
        "box_predictor": FastRCNNPredictor(_BOX_FEATURES, spec.classes + 1),
        "box_batch_size_per_image": 64,
        **image_sizes(spec),
    }


def begin_detector(module: FasterRCNN, spec: ModelSpec) -> str:
    """Load the warm start, if the spec names one, and freeze BatchNorm with it; return where the weights come from.

    Raises:
        StoreError: the file cannot be read, or is not the state of this very model.
    """
    weights = begin(module, spec)
    if spec.weights is not None:
        _freeze_norms(module)
    return weights


def _freeze_norms(module: nn.Module) -> None:
    from torch import nn
    from torchvision.ops import FrozenBatchNorm2d

    for parent in list(module.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
                frozen.load_state_dict(norm.state_dict())
                setattr(parent, name, frozen)


def cached(weights: WeightsEnum, spec: ModelSpec) -> Path | None:
    """Return where torch hub keeps public weights, if it has them and the spec is to begin from such."""
    import torch

    file = Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[-1])
    return file if spec.pretrained and spec.weights is None and file.is_file() else None


def from_cache(build: Callable[[], _Built], what: str, file: Path) -> _Built:
    """Return what torchvision builds and loads from a file of its cache.

    Raises:
        StoreError: the file cannot be read or holds something else.
    """
    try:
        return build()
    except Exception as error:  # torch names a dozen types for a file that is not what it should be
        raise unreadable(f"{what} {file}", error, "delete the file or download it again") from error
