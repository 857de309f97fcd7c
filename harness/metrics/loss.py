"""Mean training loss of the last epoch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from harness.plugins import Metric
from harness.results import Result


def epoch_losses(result: Result) -> Sequence[float]:
    """Return the mean loss of each epoch, over its steps and all ranks, whose batches are of one size."""
    losses, start = [], 0
    for epoch in result.lead.epochs:
        end = start + epoch.steps
        losses.append(fmean(fmean(rank.loss[start:end]) for rank in result.ranks))
        start = end
    return losses


def last_loss(result: Result, reference: Result | None = None) -> float | None:
    """Return the mean loss of the last epoch."""
    losses = epoch_losses(result)
    return losses[-1] if losses else None


LOSS = Metric(
    name="loss",
    title="loss",
    unit="",
    better="lower",
    across="mean",
    value=last_loss,
    show=lambda value: f"{value:.3f}",
    order=60,
)
