"""What the ranks of a machine can do at most, all at once: arithmetic, memory, collectives; and what a loader gives.

Every repetition begins behind a barrier and counts as long as its slowest rank took, which is told outside the timing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from harness.records.ceilings import Ceilings, Loaded, Point, Product, Sweep
from harness.worker.clocks import clock_for
from harness.worker.loading import to_device
from harness.worker.purposes import Context

_REPETITIONS = range(3, 20)
"""At least and below: slow ones are made fewer times."""
_PER_POINT_S = 0.06
"""Aimed at for the repetitions of one point."""
_SIZES = {"cpu": (512, 1024), "cuda": (4096, 8192)}
"""Rows of the matrices: a repetition takes some ms on a core and on a data-centre GPU alike."""
_SWEPT_BYTES = tuple(2**12 * 8**power for power in range(5))
"""4 KiB to 16 MiB."""
_COPIED_BYTES = range(2**26, 2**28)
"""The least and the most that a rank copies at a time: more than the last cache where that can be told."""
_LOADED_S = 1.0
_LEAST_BATCHES = 8
_RECORD: TypeAdapter[Ceilings] = TypeAdapter(Ceilings)
_LOADED: TypeAdapter[Loaded] = TypeAdapter(Loaded)


def ceilings(context: Context) -> dict[str, Any]:
    """Return the `Ceilings` of as many ranks as the job has, as JSON values, in `extra`; the same on every rank."""
    world = context.world
    with context.phases("ceilings"):
        copied, copy_s = _copy(world.device, world.size)
        record = Ceilings(
            ranks=world.size,
            backend=world.backend,
            device=world.device.partition(":")[0],
            products=tuple(_products(world.device)),
            copy_bytes=2 * copied,
            copy_s=copy_s,
            sweeps=tuple(_sweeps(world.device, world.size)) if world.size > 1 else (),
        )
    return {"extra": {"ceilings": _RECORD.dump_python(record, mode="json")}}


def loader_rate(context: Context) -> dict[str, Any]:
    """Return what the rank's loader gives without training, a `Loaded` as JSON values, in `extra`.

    Batches end on the rank's device, as those of a step do. The first ones, which start the loader's processes and find
    their prefetched batches waiting, are not counted.
    """
    device = context.world.device
    with context.phases("data"):
        batches = context.training_data("train").endless(0)
        for _ in range(_LEAST_BATCHES + 2 * context.job.loader_workers):
            to_device(next(batches), device)
        _wait(device)
        dist.barrier()
        began = time.perf_counter()
        count, seconds = 0, 0.0
        while count < _LEAST_BATCHES or seconds < _LOADED_S:
            to_device(next(batches), device)
            count += 1
            seconds = time.perf_counter() - began
        _wait(device)
        record = Loaded(images=count * context.batch_size, seconds=time.perf_counter() - began)
    return {"extra": {"loaded": _LOADED.dump_python(record, mode="json")}}


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def repeated(work: Callable[[], object], device: str) -> tuple[float, ...]:
    """Return the slowest rank's seconds of each repetition; every rank calls it at once, with equal work."""
    work()  # allocates, connects, chooses kernels
    (once_s,) = _timed(work, device, 1)
    wanted = math.ceil(_PER_POINT_S / max(once_s, 1e-9))
    return _timed(work, device, min(max(wanted, _REPETITIONS.start), _REPETITIONS.stop))


def _timed(work: Callable[[], object], device: str, count: int) -> tuple[float, ...]:
    clock = clock_for(device)
    for _ in range(count):
        dist.barrier()
        clock.start()
        work()
        clock.mark()
    slowest = torch.tensor(clock.step_s(), dtype=torch.float64, device=device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return tuple(slowest.tolist())


def _products(device: str) -> Iterator[Product]:
    on_cuda = device.startswith("cuda")
    types: list[tuple[Literal["fp32", "tf32", "bf16", "fp16"], torch.dtype]] = [
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
    ]
    if on_cuda:
        types.append(("fp16", torch.float16))
        if torch.cuda.get_device_capability() >= (8, 0) and torch.backends.cudnn.allow_tf32:
            types.append(("tf32", torch.float32))
    allowed = torch.backends.cuda.matmul.allow_tf32
    try:
        for name, dtype in types:
            torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
            for rows in _SIZES["cuda" if on_cuda else "cpu"]:
                a, b = (torch.randn(rows, rows, device=device).to(dtype) for _ in range(2))
                out = torch.empty_like(a)

                def multiply(a: torch.Tensor = a, b: torch.Tensor = b, out: torch.Tensor = out) -> None:
                    torch.mm(a, b, out=out)

                yield Product(type=name, flops=2.0 * rows**3, seconds=repeated(multiply, device))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def _copy(device: str, ranks: int) -> tuple[int, tuple[float, ...]]:
    """Return the bytes a rank copied at a time, and the seconds of each repetition."""
    most = _COPIED_BYTES.stop
    # The ranks share the last cache; what they read and write together is then twice as large, or more.
    wanted = most if device.startswith("cuda") else (_last_cache_bytes() or 0) // ranks
    size = min(max(wanted, _COPIED_BYTES.start), most)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return size, repeated(lambda: target.copy_(source), device)


def _last_cache_bytes() -> int | None:
    """Return the size of the largest cache of a core (Linux, sysfs-devices-system-cpu); None where it is not told."""
    try:
        files = list(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
        return max((int(file.read_text().strip().removesuffix("K")) * 1024 for file in files), default=None)
    except (OSError, ValueError):
        return None


def _sweeps(device: str, ranks: int) -> Iterator[Sweep]:
    yield Sweep(kind="all_reduce", points=tuple(_points(_all_reduce, device, ranks)))
    yield Sweep(kind="all_gather", points=tuple(_points(_all_gather, device, ranks)))
    yield Sweep(kind="reduce_scatter", points=tuple(_points(_reduce_scatter, device, ranks)))


def _points(collective: Callable[[torch.Tensor, torch.Tensor], object], device: str, ranks: int) -> Iterator[Point]:
    for wanted in _SWEPT_BYTES:
        part = torch.zeros(-(-wanted // 4 // ranks), device=device)  # zeros stay zeros, however often they are summed
        whole = torch.zeros(part.numel() * ranks, device=device)

        def communicate(whole: torch.Tensor = whole, part: torch.Tensor = part) -> None:
            collective(whole, part)

        yield Point(size_bytes=whole.nbytes, seconds=repeated(communicate, device))


def _all_reduce(whole: torch.Tensor, part: torch.Tensor) -> None:
    dist.all_reduce(whole)


def _all_gather(whole: torch.Tensor, part: torch.Tensor) -> None:
    dist.all_gather_into_tensor(whole, part)


def _reduce_scatter(whole: torch.Tensor, part: torch.Tensor) -> None:
    dist.reduce_scatter_tensor(part, whole)
