"""Validation of a sharded module: every image once, scored on rank 0 from the predictions of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pycocotools import mask
from torch import nn

from harness.plugins import InputKind, World
from harness.worker.loading import ValidationData, to_device

Scores = dict[str, float]
ScoreFunction = Callable[[Sequence[Any], Any], Scores]

_INSIDE = 0.5


def average_buffers(module: nn.Module, world: World) -> None:
    """Replace every floating buffer by its mean over the ranks.

    During training each rank keeps the BatchNorm statistics of its own micro-batches, under every strategy alike; this
    makes one model of them before it is evaluated or saved. The sum is in FP64, where it and its quotient are exact for
    equal buffers: in FP32 the mean of three equal numbers can be another one.
    """
    floating = [b for b in module.buffers() if b.is_floating_point()]
    if world.size == 1 or not floating:
        return
    flat = torch.cat([b.detach().reshape(-1).double() for b in floating])
    dist.all_reduce(flat)
    flat /= world.size
    for buffer, mean in zip(floating, torch.split(flat, [b.numel() for b in floating]), strict=True):
        buffer.copy_(mean.view_as(buffer))


def evaluate(
    module: nn.Module, data: ValidationData, world: World, *, kind: InputKind, score: Sequence[ScoreFunction]
) -> Scores | None:
    """Return the scores of the module on all validation images; rank 0 gets them, the others None.

    Collective: every rank makes the same number of forwards. Equal weights and batch size give equal scores, to the
    last digit, for any number of ranks: `ValidationData` keeps the batches the same, and predictions are scored in the
    order of their images. (`dp` drives its GPUs from one rank, which cuts a short last batch differently.)

    Args:
        module: as its strategy sharded it; left in training mode.
        data: this rank's batches.
        world: this rank's place.
        kind: what a batch looks like.
        score: functions of all predictions, in the order of their images, and the dataset.
    """
    predict = _PREDICT[kind]
    predictions: list[Any] = []
    average_buffers(module, world)
    module.eval()
    with torch.no_grad():
        for indices, batch in data:
            found = predict(module, to_device(batch, world.device))
            # A rank that has run out has no index left, so what it found for image 0 is dropped.
            predictions += [(index, *one) for index, one in zip(indices, found, strict=bool(indices))]
    module.train()
    gathered = _gather(predictions, world)
    if gathered is None:
        return None
    scores: Scores = {}
    for function in score:
        scores |= function(gathered, data.dataset)
    return scores


def _gather(predictions: list[Any], world: World) -> list[Any] | None:
    if world.size == 1:
        return predictions
    parts: list[Any] | None = [None] * world.size if world.rank == 0 else None
    dist.gather_object(predictions, parts)
    return None if parts is None else sorted((one for part in parts for one in part), key=itemgetter(0))


def _classes(module: nn.Module, batch: Any) -> list[tuple[int, int]]:
    images, labels = batch
    predicted = module(images).argmax(dim=1)
    return list(zip(predicted.tolist(), labels.tolist(), strict=True))


def _boxes(module: nn.Module, batch: Any) -> list[tuple[dict[str, list[Any]]]]:
    """Return what is found in each image: boxes, scores, labels, and of a detector of masks these, as COCO codes them.

    A mask is where its probability is above a half, as torchvision's reference evaluates it.
    """
    images, _ = batch
    predictions = []
    for found in module(images):
        plain = {key: found[key].tolist() for key in ("boxes", "scores", "labels")}
        if "masks" in found:
            inside = (found["masks"][:, 0] > _INSIDE).byte().cpu().numpy()
            plain["masks"] = [mask.encode(np.asfortranarray(one)) for one in inside]
        predictions.append((plain,))
    return predictions


_PREDICT: dict[InputKind, Callable[[nn.Module, Any], list[Any]]] = {
    InputKind.IMAGES: _classes,
    InputKind.DETECTION: _boxes,
}
