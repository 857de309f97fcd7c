"""The best model of a training: scored on a split that it never saw, saved for others, and scored again from there.

A run of its own, after the timed one: it takes up what the ranks kept after the best epoch, so that it has no part in
steps and memory that are measured.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.errors import StoreError
from harness.worker import options, saving
from harness.worker.evaluation import average_buffers, evaluate
from harness.worker.keeping import Keeper
from harness.worker.loading import ValidationData
from harness.worker.purposes import Context


def score(context: Context) -> dict[str, Any]:
    """Take up a kept training, score it if that is asked for, and write its model if that is.

    Returns:
        In `extra` of rank 0 the `scores` and, of a classifier, the `confusion`.
    """
    job, world = context.job, context.world
    if job.begin_from is None:
        raise StoreError("there is no training to score: no folder of it is named")
    with context.phases("build"):
        built = context.build()
    with context.phases("shard"):
        trainee = context.shard(context.workload(built))
    with context.phases("take up"):
        Keeper(job=job, world=world, trainee=trainee, schedule=None).take_up(job.begin_from, to_train=False)
    found = _scored(context, trainee.module) if job.scored else {}
    if job.saved is not None:
        with context.phases("save"):
            average_buffers(trainee.module, world)
            state = trainee.full_state()
            if world.rank == 0:
                _save(context, state, job.saved)
    return {"extra": found}


def evaluate_saved(context: Context) -> dict[str, Any]:
    """Score a saved model on one process; returns in `extra` what `score` does."""
    job = context.job
    if job.saved is None:
        raise StoreError("there is no model to score: no folder of it is named")
    with context.phases("build"):
        built = context.build()
        load = context.model.load or saving.load
        try:
            load(built.module, job.saved)
        except Exception as error:  # safetensors, JSON and torch raise what they like for a file that is no model's
            raise StoreError(
                f"{job.saved} does not hold a {context.model.name} of {context.dataset.classes} classes: "
                f"{textwrap.shorten(str(error), 300)}; name a folder that --save-model wrote"
            ) from error
        built.module.to(context.world.device)
        options.prepare(built, context.case)
    return {"extra": _scored(context, built.module)}


def _scored(context: Context, module: nn.Module) -> dict[str, Any]:
    job, metrics = context.job, context.metrics
    assert job.scored, "asked to score no split"
    with context.phases("data"):
        data = ValidationData(
            context.open(job.scored),
            context.world,
            kind=context.model.input,
            batch_size=context.batch_size,
            workers=job.loader_workers,
        )
    found: dict[str, Any] = {}

    def count(predictions: Sequence[Any], dataset: Any) -> dict[str, float]:
        for metric in metrics:
            if metric.confusion is not None:
                found["confusion"] = metric.confusion(predictions, context.dataset.classes)
        return {}

    with context.phases("evaluate"):
        functions = [metric.score for metric in metrics if metric.score is not None]
        scores = evaluate(module, data, context.world, kind=context.model.input, score=[*functions, count])
    return found if scores is None else found | {"scores": scores}


def _save(context: Context, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Write the model's weights, by a module that no strategy has touched."""
    plain = context.build().module.cpu()
    plain.load_state_dict(state)
    save = context.model.save or saving.save
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save(plain.eval(), folder)
    except (OSError, RuntimeError) as error:
        raise StoreError(f"the model cannot be saved in {folder}: {error}; free or change the folder") from error
