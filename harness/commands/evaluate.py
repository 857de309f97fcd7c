"""`evaluate`: scores a model that `--save-model` saved, on one process of this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from harness.case import Case
from harness.errors import CaseError, DataError, PluginError, ProfileError, StoreError
from harness.machine import host
from harness.plugins import Dataset
from harness.profiles import Profile
from harness.registry import Registry, discover
from harness.running.ranks import REFERENCE_STRATEGY, Ranks, RunOptions
from harness.stored import saved_models
from harness.stored.saved_models import SavedModel

NAME = "evaluate"
HELP = "score a model that --save-model saved, on one process of this machine"
_TIMEOUT_S = 86400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the model's folder: DIR/<case>")
    parser.add_argument(
        "--data-root", type=Path, metavar="DIR", help="folder with its dataset, unless that is embedded"
    )
    parser.add_argument("--split", choices=("test", "val"), default="test", help="of its dataset (default: test)")
    parser.add_argument(
        "--plugins", action="append", default=[], metavar="MODULE", help="module that its model or dataset comes from"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the scores.

    Raises:
        StoreError: the model is damaged, none of this suite's, or of a kind that this machine does not know.
        DataError: its dataset, or that split of it, is not there.
        WorkerFailed: it could not be scored.
    """
    about = saved_models.read(arguments.checkpoint)
    registry = discover(arguments.plugins)
    dataset, case = _known(about, registry, arguments.checkpoint)
    root = None if dataset.embedded else arguments.data_root
    if not dataset.embedded and root is None:
        raise DataError(f"the model was trained on {dataset.name}: name the folder above its files with --data-root")
    # Its weights are all its own, wherever those of the training began; what is not named here is the run's.
    settings = {**about.settings, "warm_start": False, "pretrained": False, "dataset": dataset.name}
    settings["embedded"] = dataset.name if dataset.embedded else None
    ranks = Ranks(
        host=host.probe(),
        registry=registry,
        profile=Profile(name=about.profile, about="", case_timeout_s=_TIMEOUT_S, models={about.model: settings}),
        options=RunOptions(data_root=root, plugins=tuple(arguments.plugins)),
        watch=lambda title, folder: nullcontext(),
    )
    try:
        spec = ranks.data(ranks.settings(case)).spec
        if root is not None and (reason := dataset.missing(root, False)):
            raise DataError(f"{dataset.name} needs {reason}")
        if arguments.split == "test" and (reason := dataset.untested(spec)):
            raise DataError(f"{dataset.name} has no test split: {reason}; or give --split val")
        reports, _ = ranks.launch(
            case,
            f"{about.case_id}: {arguments.split}",
            purpose="evaluate",
            saved=arguments.checkpoint.resolve(),
            scored=arguments.split,
        )
    except ProfileError as error:
        raise StoreError(f"{arguments.checkpoint} was saved by another version of this suite: {error}") from error
    finally:
        ranks.close()
    report = reports[0]
    for line in _lines(about, arguments.split, report.device_name, report.extra):
        sys.stdout.write(line + "\n")
    return 0


def _known(about: SavedModel, registry: Registry, folder: Path) -> tuple[Dataset, Case]:
    """Return the dataset of a saved model, and the case that evaluates it on one process as its own run did."""
    try:
        registry.find("models", about.model)
        dataset: Dataset = registry.find("datasets", about.dataset)
        trained = Case.parse(about.case_id)
    except (PluginError, CaseError) as error:
        raise StoreError(f"{folder} cannot be scored here: {error}; name its module with --plugins") from error
    return dataset, Case(
        model=about.model,
        strategy=REFERENCE_STRATEGY,
        gpu_count=1,
        batch_size=about.batch_size,
        # An option that changes what a forward computes, though only in its last digits.
        channels_last=trained.channels_last,
    )


def _lines(about: SavedModel, split: str, device: str, found: Mapping[str, Any]) -> Iterator[str]:
    scores: Mapping[str, float] = found["scores"]
    yield f"{about.model} of {about.case_id}, profile {about.profile}, after epoch {about.epoch}"
    yield f"{about.dataset}, {split} split, one process on {device}"
    yield from (f"  {name:<12}{score!r}" for name, score in scores.items())
    own = about.scores.get(split)
    if own is None:
        yield "its run did not score this split"
    elif own == scores:
        yield "to the last digit what its run scored"
    else:
        yield f"its run scored {', '.join(f'{name} {score!r}' for name, score in own.items())}"
    if confusion := found.get("confusion"):
        yield ""
        yield from _classes(confusion)


def _classes(confusion: Sequence[Sequence[int]]) -> Iterator[str]:
    yield "class  images  right  accuracy"
    for place, row in enumerate(confusion):
        images, right = sum(row), row[place]
        share = f"{100 * right / images:.1f} %" if images else "n/a"
        yield f"{place:>5}  {images:>6}  {right:>5}  {share:>8}"
