"""The training loop that is measured: what a user's own loop would do, plus a clock, a list and a progress file."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from harness.errors import HarnessError
from harness.plugins import Batch, InputKind, Trainee
from harness.worker.clocks import clock_for
from harness.worker.loading import to_device
from harness.worker.process import Progress


class TrainingDiverged(HarnessError):
    """A loss is no longer a number."""

    def __init__(self, message: str, *, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


def image_loss(module: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy of a classifier's logits [N, C] over the batch."""
    images, labels = batch
    return F.cross_entropy(module(images), labels)


def detection_loss(module: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the sum of a torchvision detector's losses, each its own mean over the batch."""
    images, targets = batch
    losses: dict[str, torch.Tensor] = module(images, targets)
    return torch.stack(list(losses.values())).sum()


LOSSES = {InputKind.IMAGES: image_loss, InputKind.DETECTION: detection_loss}


class TrainingLoop:
    """Steps of one rank, each timed from boundary to boundary."""

    def __init__(
        self, trainee: Trainee, *, device: str, progress: Progress, schedule: LRScheduler | None = None
    ) -> None:
        self._step = trainee.step
        self._schedule = schedule
        self._device = device
        self._progress = progress
        self._losses: list[torch.Tensor] = []
        self.clock = clock_for(device)

    def stretch(self, batches: Iterator[Batch], *, steps: int, epoch: int = 0, epochs: int = 0) -> None:
        """Run `steps` steps without a pause.

        Raises:
            TrainingDiverged: a loss of the stretch is infinite or no number.
        """
        self.clock.start()
        for number in range(1, steps + 1):
            self.one(batches)
            self._progress.show(epoch, epochs, number, steps)
        self.check()

    def one(self, batches: Iterator[Batch]) -> None:
        """Wait for a batch and make one optimizer update."""
        batch = self.clock.fetch(batches)
        self._losses.append(self._step(to_device(batch, self._device)))
        if self._schedule is not None:
            self._schedule.step()
        self.clock.mark()

    def losses(self) -> list[float]:
        """Return this rank's mean loss of every step so far; synchronises."""
        return torch.stack(self._losses).double().tolist() if self._losses else []

    def check(self) -> None:
        """Raise TrainingDiverged where a loss so far is infinite or no number; synchronises."""
        for step, loss in enumerate(self.losses()):
            if not math.isfinite(loss):
                raise TrainingDiverged(
                    f"the loss became {loss} at step {step + 1}; lower the learning rate of this model's profile",
                    step=step + 1,
                )
