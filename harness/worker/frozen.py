"""The references that a case's steps are timed beside; frozen, so that a ratio to them means the same from run to run.

Whoever changes what stands here changes what every stored ratio was taken to: its digest is stored with each ratio, and
ratios to other code are not compared.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.nn import functional as F

from harness.case import Case
from harness.source import source_of
from harness.worker import options, training
from harness.worker.loading import collate, to_device
from harness.worker.purposes import Context

_BATCHES = 4
"""Batches that the plain loop goes round; a detector's work depends on what is in them."""
_CONVOLUTION = {"cpu": (8, 32, 32, 4), "cuda": (64, 128, 64, 4)}
"""Samples, channels, height and width, and repetitions: some ms on a core and on a data-centre GPU alike."""
_PRODUCT = {"cpu": (384, 4), "cuda": (4096, 4)}
"""Rows and repetitions."""

Work = Callable[[], object]


def same_work(context: Context) -> Work:
    """Return a step of the case's model by a plain loop: no strategy, no communication, batches at hand.

    Precision and memory format are the case's; what may change nothing (checkpointing, compiled and fused kernels,
    offload) is left out, and so are accumulation, clipping and schedule.
    """
    case, device = context.case, context.world.device
    plain = Case(
        model=case.model,
        strategy=case.strategy,
        gpu_count=case.gpu_count,
        batch_size=case.batch_size,
        precision=case.precision,
        channels_last=case.channels_last,
    )
    built = context.build()
    options.prepare(built, plain)
    module = built.module.train()
    loss = options.loss(context.model.input, plain, device)
    optimizer = context.job.optimizer.spec.make(module.parameters())
    samples, size = context.open("train"), context.batch_size
    gather = collate(context.model.input)
    batches = itertools.cycle(
        to_device(gather([samples[(start + i) % len(samples)] for i in range(size)]), device)
        for start in range(0, _BATCHES * size, size)
    )

    def step() -> None:
        optimizer.zero_grad()
        loss(module, next(batches)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def convolution(device: str) -> Work:
    """Return convolutions, forward and backward, in FP32 or what torch takes for it."""
    samples, channels, size, repetitions = _CONVOLUTION[device.partition(":")[0]]
    images = torch.randn(samples, channels, size, size, device=device)
    weight = torch.randn(channels, channels, 3, 3, device=device, requires_grad=True)

    def work() -> None:
        for _ in range(repetitions):
            weight.grad = None
            F.conv2d(images, weight, padding=1).sum().backward()  # type: ignore[no-untyped-call]

    return work


def product(device: str) -> Work:
    """Return matrix products; on a GPU each with a copy, for the speed of its memory."""
    rows, repetitions = _PRODUCT[device.partition(":")[0]]
    a, b = torch.randn(rows, rows, device=device), torch.randn(rows, rows, device=device)
    out = torch.empty_like(a)

    def work() -> None:
        for _ in range(repetitions):
            torch.mm(a, b, out=out)
            if device != "cpu":
                a.copy_(out)

    return work


def collective(elements: int, device: str) -> Work:
    """Return an all-reduce of so many FP32 numbers in one call; every rank makes it at once."""
    whole = torch.zeros(elements, device=device)
    return lambda: dist.all_reduce(whole)


def digests(context: Context) -> dict[str, str]:
    """Return a digest of the code of each reference: of the plain loop with its model, of the machine's kernels."""
    code = {"plain": (same_work, training.image_loss, training.detection_loss), "machine": (convolution, product)}
    texts = {name: "".join(map(inspect.getsource, functions)).encode() for name, functions in code.items()}
    texts["plain"] += source_of(context.model.build)
    sizes = repr((_BATCHES, _CONVOLUTION, _PRODUCT)).encode()
    return {name: hashlib.sha256(text + sizes).hexdigest()[:16] for name, text in texts.items()}
