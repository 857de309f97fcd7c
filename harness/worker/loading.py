"""Batches for one rank: its own shard in training, and every validation image exactly once over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, DistributedSampler, Sampler
from torch.utils.data import Dataset as TorchDataset

from harness.errors import DataError
from harness.plugins import Batch, InputKind, World
from harness.worker.process import die_with_parent

Target = dict[str, Any]
"""Of a detection image; values are tensors, as a rule."""

_SMALL_BYTES = 2**16
"""Below this a tensor is quicker sent as bytes than shared."""


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


class _Sent:
    """Targets on their way from a loader process.

    torch opens a file for each tensor that it hands over, and a target has five small ones: those go as plain bytes.
    """

    def __init__(self, targets: list[Target]) -> None:
        self._large = [{key: None if _is_small(value) else value for key, value in one.items()} for one in targets]
        self._small = [{key: value.numpy() for key, value in one.items() if _is_small(value)} for one in targets]

    def opened(self) -> list[Target]:
        """Return the targets as they were."""
        return [
            {key: torch.from_numpy(small[key]) if key in small else value for key, value in large.items()}
            for large, small in zip(self._large, self._small, strict=True)
        ]

    def pin_memory(self) -> list[Target]:
        """Return the targets in pinned memory; torch calls this where it pins a batch."""
        return [
            {key: value.pin_memory() if isinstance(value, torch.Tensor) else value for key, value in target.items()}
            for target in self.opened()
        ]


def _is_small(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.nbytes < _SMALL_BYTES


def _sent(stack: Callable[[Sequence[Any]], Batch], samples: Sequence[Any]) -> Batch:
    inputs, targets = stack(samples)
    return (inputs, _Sent(targets)) if isinstance(targets, list) else (inputs, targets)


def _received(batch: Batch) -> Batch:
    inputs, targets = batch
    return (inputs, targets.opened()) if isinstance(targets, _Sent) else batch


def _loader(
    dataset: TorchDataset[Any], world: World, *, stack: Callable[[Sequence[Any]], Batch], workers: int, **how: Any
) -> DataLoader[Any]:
    """Return torch's loader of a rank's batches; what it yields is to go through `_received`."""
    return DataLoader(
        dataset,
        collate_fn=partial(_sent, stack) if workers else stack,
        num_workers=workers,
        pin_memory=world.on_cuda,
        worker_init_fn=die_with_parent,
        **how,
    )


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


class _InEpoch(Sampler[tuple[int, int]]):
    """The indices of a sampler, each with the epoch, which loader processes are told in no other way."""

    def __init__(self, indices: DistributedSampler[Any]) -> None:
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self._indices.epoch
        return ((epoch, index) for index in self._indices)


def drawn(dataset: TorchDataset[Any], index: int, *, seed: int, epoch: int) -> Any:
    """Return an item of a dataset that draws from torch's generator, which is left as it was.

    What it draws depends on the seed, the epoch and the index alone, so it is the same in whichever rank and loader
    process.
    """
    (start,) = np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64).tolist()
    kept = torch.default_generator.get_state()
    torch.default_generator.manual_seed(start)
    try:
        return dataset[index]
    finally:
        torch.default_generator.set_state(kept)


class _Drawn(TorchDataset[Any]):
    """The items of such a dataset by epoch and index."""

    def __init__(self, dataset: TorchDataset[Any], seed: int) -> None:
        self._dataset, self._seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        return drawn(self._dataset, index, seed=self._seed, epoch=epoch)


class TrainingData:
    """The training batches of one rank, epoch by epoch.

    The data order depends on the seed, the epoch and the global batch alone, so every strategy sees the same global
    batches; each rank takes every n-th sample of them, and so does each device of a process that drives several. Nor
    does anything else decide how an image is augmented than the seed, the epoch and which image it is.
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
        augmented: bool = False,
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
        self._loader = _loader(
            _Drawn(dataset, seed) if augmented else dataset,
            world,
            stack=partial(_dealt, collate(kind), world.devices_per_process),
            workers=workers,
            batch_size=batch_size,
            sampler=_InEpoch(self._sampler) if augmented else self._sampler,
            drop_last=True,
            persistent_workers=workers > 0,
        )
        self.dataset = dataset
        self.steps_per_epoch = images // world.size // batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        """Return the batches of an epoch, counted from 0, in an order of its own."""
        self._sampler.set_epoch(number)
        return map(_received, iter(self._loader))

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
        self._loader = _loader(
            dataset,
            world,
            stack=collate(kind),
            workers=workers,
            batch_sampler=[list(part) or [0] for part in self._indices],
        )

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], Batch]]:
        """Yield the dataset indices that count, none for a batch that only keeps step, and the batch."""
        return zip(self._indices, map(_received, self._loader), strict=True)


def shares(images: int, ranks: int, rank: int, batch_size: int) -> list[tuple[int, ...]]:
    """Return the index batches of one rank: as many for every rank, empty where the rank has run out."""
    groups = [tuple(range(images)[start : start + batch_size]) for start in range(0, images, batch_size)]
    own = groups[rank::ranks]
    rounds = -(-len(groups) // ranks)
    return own + [()] * (rounds - len(own))
