"""Batches for one rank: its own shard in training, and every validation image exactly once over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler
from torch.utils.data import Dataset as TorchDataset

from harness.errors import DataError
from harness.plugins import Batch, InputKind, World
from harness.worker.process import die_with_parent


def collate(kind: InputKind) -> Any:
    """Return how samples become a batch of that kind."""
    return _stack if kind is InputKind.IMAGES else _list


def _stack(samples: Sequence[tuple[torch.Tensor, int]]) -> Batch:
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels)


def _list(samples: Sequence[tuple[torch.Tensor, dict[str, torch.Tensor]]]) -> Batch:
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


def _dealt(stack: Callable[[Sequence[Any]], Batch], devices: int, samples: Sequence[Any]) -> Batch:
    """Return a batch whose d-th part holds what the d-th of as many ranks would be dealt: every n-th sample."""
    return stack([sample for device in range(devices) for sample in samples[device::devices]])


def to_device(batch: Batch, device: str) -> Batch:
    """Return the batch on the device; copies from pinned memory do not wait."""
    inputs, targets = batch
    if isinstance(inputs, torch.Tensor):
        return inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
    moved = [
        {
            key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for key, value in t.items()
        }
        for t in targets
    ]
    return [image.to(device, non_blocking=True) for image in inputs], moved


class TrainingData:
    """The training batches of one rank, epoch by epoch.

    The data order depends on the seed, the epoch and the global batch alone, so every strategy sees the same global
    batches; each rank takes every n-th sample of them, and so does each device of a process that drives several.
    """

    def __init__(
        self,
        dataset: TorchDataset[Any],
        world: World,
        *,
        kind: InputKind,
        batch_size: int,
        seed: int,
        workers: int,
    ) -> None:
        images = len(dataset)  # type: ignore[arg-type]
        wanted = batch_size * world.size
        if wanted > images:
            raise DataError(
                f"a global batch of {wanted} ({batch_size // world.devices_per_process} per GPU) is larger than the "
                f"{images} training images; lower the batch, or raise train_images in the profile"
            )
        self._sampler: DistributedSampler[Any] = DistributedSampler(
            dataset, num_replicas=world.size, rank=world.rank, shuffle=True, seed=seed, drop_last=True
        )
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=self._sampler,
            collate_fn=partial(_dealt, collate(kind), world.devices_per_process),
            drop_last=True,
            num_workers=workers,
            pin_memory=world.on_cuda,
            persistent_workers=workers > 0,
            worker_init_fn=die_with_parent,
        )
        self.dataset = dataset
        self.steps_per_epoch = images // world.size // batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        """Return the batches of an epoch, counted from 0, in an order of its own."""
        self._sampler.set_epoch(number)
        return iter(self._loader)

    def endless(self, first_epoch: int) -> Iterator[Batch]:
        """Yield batches of epoch after epoch."""
        number = first_epoch
        while True:
            yield from self.epoch(number)
            number += 1


class ValidationData:
    """The validation batches of one rank.

    Batches are the consecutive groups of `batch_size` images whatever the number of ranks, and rank r takes groups r,
    r + n, r + 2n, ... An image's prediction depends in its last digits on what it shares a batch with: kernels differ
    by batch size, and a detector pads every image to the largest of its batch. A sharded module needs every rank in
    every forward, so all ranks make the same number of batches; a rank that has run out repeats image 0, marked so
    that its prediction is dropped.
    """

    def __init__(
        self, dataset: TorchDataset[Any], world: World, *, kind: InputKind, batch_size: int, workers: int
    ) -> None:
        images = len(dataset)  # type: ignore[arg-type]
        if images == 0:
            raise DataError("the validation split holds no image; raise val_images in the profile")
        self.dataset = dataset
        self._indices = shares(images, world.size, world.rank, batch_size)
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=[list(part) or [0] for part in self._indices],
            collate_fn=collate(kind),
            num_workers=workers,
            pin_memory=world.on_cuda,
            worker_init_fn=die_with_parent,
        )

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], Batch]]:
        """Yield the dataset indices that count, none for a batch that only keeps step, and the batch."""
        return iter(zip(self._indices, self._loader, strict=True))


def shares(images: int, ranks: int, rank: int, batch_size: int) -> list[tuple[int, ...]]:
    """Return the index batches of one rank: as many for every rank, empty where the rank has run out."""
    groups = [tuple(range(images)[start : start + batch_size]) for start in range(0, images, batch_size)]
    own = groups[rank::ranks]
    rounds = -(-len(groups) // ranks)
    return own + [()] * (rounds - len(own))
