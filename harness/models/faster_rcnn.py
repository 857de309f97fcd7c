"""Faster R-CNN: torchvision's ResNet-50 FPN detector, and a light ResNet-18 one that a CPU core can train.

As in torchvision, a detector that starts from trained weights has its BatchNorm frozen: the few images of a detection
batch are too few to estimate statistics anew. Only the COCO weights also freeze the stem and the first stage, which is
torchvision's rule for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.models._weights import begin, unreadable
from harness.plugins import BuiltModel, InputKind, Model, ModelSpec

if TYPE_CHECKING:
    from torch import nn
    from torchvision.models.detection import FasterRCNN

_COCO_CLASSES = 90
_STAGES = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
_FPN_CHANNELS = 64
_BOX_FEATURES = 256
# One size a level, for objects of 15 to 100 pixels: scenes of 128 pixels hold digits of 24 to 56.
_ANCHOR_SIZES = ((20,), (32,), (48,), (64,), (96,))
_ANCHOR_RATIOS = ((0.5, 1.0, 2.0),) * len(_ANCHOR_SIZES)


def _build_r50(spec: ModelSpec) -> BuiltModel:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn
    from torchvision.models.detection.faster_rcnn import TwoMLPHead
    from torchvision.models.resnet import Bottleneck

    file = _coco_file() if spec.pretrained and spec.weights is None else None
    if file is not None:
        module, weights = _from_coco(file, spec), f"torchvision's COCO_V1 from {file}"
    else:
        module = fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=spec.classes + 1, **_image_sizes(spec)
        )
        weights = _begin_detector(module, spec)
    return BuiltModel(module=module, blocks=(Bottleneck, TwoMLPHead), weights=weights)


def _build_r18(spec: ModelSpec) -> BuiltModel:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.resnet import BasicBlock, resnet18
    from torchvision.ops import MultiScaleRoIAlign

    pool = MultiScaleRoIAlign(featmap_names=list(_STAGES.values()), output_size=7, sampling_ratio=2)
    module = FasterRCNN(
        BackboneWithFPN(resnet18(weights=None), _STAGES, [64, 128, 256, 512], _FPN_CHANNELS),
        rpn_anchor_generator=AnchorGenerator(_ANCHOR_SIZES, _ANCHOR_RATIOS),
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
        rpn_batch_size_per_image=64,
        box_roi_pool=pool,
        box_head=TwoMLPHead(_FPN_CHANNELS * pool.output_size[0] * pool.output_size[1], _BOX_FEATURES),
        box_predictor=FastRCNNPredictor(_BOX_FEATURES, spec.classes + 1),
        box_batch_size_per_image=64,
        **_image_sizes(spec),
    )
    return BuiltModel(module=module, blocks=(BasicBlock, TwoMLPHead), weights=_begin_detector(module, spec))


def _image_sizes(spec: ModelSpec) -> dict[str, int]:
    """Return the detector's own resizing: none beyond the spec's image size, torchvision's defaults if that is 0."""
    return {"min_size": spec.image_size, "max_size": spec.image_size} if spec.image_size else {}


def _begin_detector(module: FasterRCNN, spec: ModelSpec) -> str:
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


def _coco_file() -> Path | None:
    """Return where torch hub keeps the COCO weights, if it has them."""
    import torch
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    name = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.url.rsplit("/", 1)[-1]
    file = Path(torch.hub.get_dir(), "checkpoints", name)
    return file if file.is_file() else None


def _from_coco(file: Path, spec: ModelSpec) -> FasterRCNN:
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, fasterrcnn_resnet50_fpn
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

    try:
        module = fasterrcnn_resnet50_fpn(weights=FasterRCNN_ResNet50_FPN_Weights.COCO_V1, **_image_sizes(spec))
    except Exception as error:  # torch names a dozen types for a file that is not what it should be
        raise unreadable(f"COCO weights {file}", error, "delete the file or download it again") from error
    if spec.classes != _COCO_CLASSES:
        module.roi_heads.box_predictor = FastRCNNPredictor(
            module.roi_heads.box_predictor.cls_score.in_features, spec.classes + 1
        )
    return module


FASTERRCNN_R50 = Model(name="fasterrcnn_r50", input=InputKind.DETECTION, build=_build_r50)
FASTERRCNN_R18 = Model(name="fasterrcnn_r18", input=InputKind.DETECTION, build=_build_r18)
