"""Mask R-CNN: torchvision's ResNet-50 FPN detector of boxes and masks, and a light ResNet-18 one for a CPU core.

What starts from trained weights has its BatchNorm frozen, as Faster R-CNN has.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from harness.models._detector import LEVELS, LIGHT_CHANNELS, begin_detector, cached, from_cache, image_sizes, light
from harness.plugins import BuiltModel, InputKind, Model, ModelSpec

if TYPE_CHECKING:
    from torchvision.models.detection import MaskRCNN

_COCO_CLASSES = 90
_STAGES = {f"layer{number}": level for number, level in enumerate(LEVELS, start=1)}


def _build_r50(spec: ModelSpec) -> BuiltModel:
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn
    from torchvision.models.resnet import Bottleneck

    public = MaskRCNN_ResNet50_FPN_Weights.COCO_V1
    file = cached(public, spec)
    if file is not None:
        build = partial(maskrcnn_resnet50_fpn, weights=public, **image_sizes(spec))
        module, weights = from_cache(build, "COCO weights", file), f"torchvision's COCO_V1 from {file}"
        if spec.classes != _COCO_CLASSES:
            _give_new_classes(module, spec.classes + 1)
    else:
        module = maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=spec.classes + 1, **image_sizes(spec)
        )
        weights = begin_detector(module, spec)
    return _built(module, Bottleneck, weights)


def _build_r18(spec: ModelSpec) -> BuiltModel:
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.resnet import BasicBlock, resnet18
    from torchvision.ops import MultiScaleRoIAlign

    module = MaskRCNN(
        BackboneWithFPN(resnet18(weights=None), _STAGES, [64, 128, 256, 512], LIGHT_CHANNELS),
        mask_roi_pool=MultiScaleRoIAlign(featmap_names=list(LEVELS), output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(LIGHT_CHANNELS, [LIGHT_CHANNELS] * 2, dilation=1),
        mask_predictor=MaskRCNNPredictor(LIGHT_CHANNELS, LIGHT_CHANNELS, spec.classes + 1),
        **light(spec),
    )
    return _built(module, BasicBlock, begin_detector(module, spec))


def _built(module: MaskRCNN, block: type, weights: str) -> BuiltModel:
    from torchvision.models.detection.faster_rcnn import TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads

    return BuiltModel(module=module, blocks=(block, TwoMLPHead, MaskRCNNHeads), weights=weights)


def _give_new_classes(module: MaskRCNN, classes: int) -> None:
    """Replace what predicts boxes and masks by untrained ones of so many classes, background counted."""
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
    from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

    heads = module.roi_heads
    heads.box_predictor = FastRCNNPredictor(heads.box_predictor.cls_score.in_features, classes)
    convolution = heads.mask_predictor.conv5_mask
    heads.mask_predictor = MaskRCNNPredictor(convolution.in_channels, convolution.out_channels, classes)


MASKRCNN_R50 = Model(name="maskrcnn_r50", input=InputKind.DETECTION, build=_build_r50, masks=True)
MASKRCNN_R18 = Model(name="maskrcnn_r18", input=InputKind.DETECTION, build=_build_r18, masks=True)
