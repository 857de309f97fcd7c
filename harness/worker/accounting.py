"""The accounted run of a rank: some steps under the ledger, one under the flop counter, and some with nothing attached.

Cyclic garbage is collected after each step and not within, so that what is kept is the same in every run, to the byte.
On gloo the peak is not: its threads hold the tensors of a collective a little longer, as they are scheduled.
"""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from harness.plugins import Batch, BuiltModel, OptimizerSpec, Trainee
from harness.records.account import Account, Driver, Growth, Held, to_json
from harness.worker.ledger import Ledger, alike, peak
from harness.worker.loading import to_device
from harness.worker.process import ResidentPeak
from harness.worker.purposes import Context
from harness.worker.reference import units_of
from harness.worker.training import TrainingDiverged

STEPS = 4
"""Libraries settle in the first two; growth from the second to the last is a leak."""
_PLAIN_STEPS = 3
_PLAIN_S = 2.0
"""At least: for a mean power the counters of energy must have changed many times."""
_MOST_STEPS = 2000
_SETTLED_S = 0.05
_COUNTED = ("parameters", "buffers", "master", "optimizer", "gradients")
"""In this order a storage takes the first that it is."""


def account(context: Context) -> dict[str, Any]:
    """Train some steps and return what this rank held and computed as `extra["account"]`.

    Raises:
        TrainingDiverged: a loss is infinite or no number.
    """
    device = context.world.device
    with context.phases("data"):
        train = context.training_data("train")
    resident = ResidentPeak()
    if context.world.on_cuda:
        torch.cuda.reset_peak_memory_stats()
    books = Books(Ledger(), device)
    with books.ledger:
        with context.phases("build"):
            built = context.build()
            facts = facts_of(built, context.job.optimizer.spec)
        with context.phases("shard"):
            trainee = context.shard(context.workload(built))
            schedule = context.schedule(trainee.optimizer, len(train.dataset))  # type: ignore[arg-type]
    books.open(trainee)
    batches = train.endless(0)
    operators = Operators()

    def fetch() -> Batch:
        return to_device(next(batches), device)

    def step(how: Callable[[Callable[[], Batch]], float]) -> float:
        seconds = how(fetch)
        if schedule is not None:
            schedule.step()
        return seconds

    with context.phases("train"):
        ledger_s = [step(books.step) for _ in range(STEPS)]
        peak_resident = None if context.world.on_cuda else resident.peak_bytes()
        driver = _driver() if context.world.on_cuda else None
        step(lambda fetch: operators.step(trainee, fetch))
        for _ in range(_PLAIN_STEPS):
            settled_s = step(lambda fetch: _timed(trainee, fetch()))
        count = _agreed(min(_MOST_STEPS, math.ceil(_PLAIN_S / max(settled_s, 1e-9))), device)
        plain_from_s = time.monotonic()
        plain_s = [step(lambda fetch: _timed(trainee, fetch())) for _ in range(max(_PLAIN_STEPS, count))]
        plain_to_s = time.monotonic()
    record = Account(
        **books.figures(),
        **facts,
        driver=driver,
        peak_resident_bytes=peak_resident,
        flops=operators.flops,
        recomputed_flops=operators.recomputed_flops,
        op_bytes=operators.bytes,
        plain_from_s=plain_from_s,
        plain_to_s=plain_to_s,
        plain_s=tuple(plain_s),
        ledger_s=tuple(ledger_s),
    )
    return {"extra": {"account": to_json(record)}}


def _agreed(number: int, device: str) -> int:
    """Return rank 0's number, on every rank."""
    told = torch.tensor(number, device=device)
    dist.broadcast(told, src=0)
    return int(told)


def facts_of(built: BuiltModel, spec: OptimizerSpec) -> dict[str, Any]:
    """Return the fields of `Account` that say what is trained, read from the plain model."""
    slots = 2 if spec.name == "adamw" else 1 if spec.arguments.get("momentum") else 0
    return {
        "units": tuple(units_of(built.module, built.blocks)),
        "shapes": tuple(tuple(p.shape) for p in built.module.parameters()),
        "trained": sum(p.numel() for p in built.module.parameters() if p.requires_grad),
        "buffer_bytes": sum(b.numel() * b.element_size() for b in built.module.buffers()),
        "slots": slots,
        "counters": spec.name == "adamw",
    }


class Books:
    """What a trainee's storages are for, step by step."""

    def __init__(self, ledger: Ledger, device: str) -> None:
        self.ledger = ledger
        self.accounted = 0
        self._device = device
        self._purpose: dict[int, str] = {}
        self._update: dict[int, int] | None = None
        self._started: dict[int, int] = {}
        self._log: list[tuple[int, int]] = []
        self._ends: list[dict[int, int]] = []

    def open(self, trainee: Trainee) -> None:
        """Take the trainee over, sharded under the ledger."""
        self._trainee = trainee
        trainee.applied.register_step_pre_hook(self._before_update)
        gc.collect()
        gc.freeze()  # so that collecting after each step is quick
        self._setup_events = len(self.ledger.events)

    def step(self, fetch: Callable[[], Batch]) -> float:
        """Make a step under the ledger and return its seconds."""
        gc.disable()
        try:
            self._started, began = self.ledger.held(), len(self.ledger.events)
            batch = fetch()
            self.ledger.add(batch)
            with self.ledger:
                seconds = _timed(self._trainee, batch)
        finally:
            gc.enable()
        del batch  # lest it count as kept
        self._log = self.ledger.events[began:]
        self._settle()
        gc.collect()
        self._classify()
        self._ends.append(self.ledger.held())
        self.accounted += 1
        return seconds

    def figures(self) -> dict[str, Any]:
        """Return the fields of `Account` on memory, after the last step."""
        gc.unfreeze()
        end, update = self._ends[-1], self._update
        setup = peak(self._own_events(self.ledger.events[: self._setup_events]), {})
        return {
            "kept": self._sum(self._own(end)),
            "at_update": None if update is None else self._sum(self._own(update)),
            "at_peak": self._sum(peak(self._own_events(self._log), self._own(self._started))),
            "setup_peak_bytes": sum(setup.values()),
            "offloaded": None
            if self._device == "cpu" or update is None
            else self._sum(self._own(update, device="cpu")),
            "ends_bytes": tuple(sum(self._own(end).values()) for end in self._ends),
            "growth": tuple(self._growth()),
        }

    def _settle(self) -> None:
        """Wait for gloo's threads, which give tensors of a collective back a little after it is done."""
        seen = -1
        while seen != len(self.ledger.events):
            seen = len(self.ledger.events)
            time.sleep(_SETTLED_S)

    def _before_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self.accounted < STEPS:
            self._classify()
            self._update = self.ledger.held()

    def _classify(self) -> None:
        trainee = self._trainee
        own = list(trainee.module.parameters())
        written = [p for group in trainee.applied.param_groups for p in group["params"]]
        tensors: dict[str, Iterable[Any]] = {
            "parameters": [*own, *(trainee.kept() if trainee.kept else ())],
            "buffers": trainee.module.buffers(),
            "master": written,
            "optimizer": tree_leaves(list(trainee.applied.state.values())),
            "gradients": [p.grad for p in (*own, *written)],
        }
        for purpose in _COUNTED:
            for number in self.ledger.numbers(t for t in tensors[purpose] if isinstance(t, torch.Tensor)):
                self._purpose.setdefault(number, purpose)

    def _own(self, held: dict[int, int], device: str | None = None) -> dict[int, int]:
        return {n: size for n, size in held.items() if self.ledger.origins[n].device == (device or self._device)}

    def _own_events(self, events: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return [event for event in events if self.ledger.origins[event[1]].device == self._device]

    def _sum(self, held: dict[int, int]) -> Held:
        end = self._ends[-1]
        sums: Counter[str] = Counter()
        for number, size in held.items():
            sums[self._purpose.get(number) or ("rest" if number in end else "work")] += size
        return Held(**sums)

    def _growth(self) -> Iterator[Growth]:
        before, middle, last = (alike(self._own(end), self.ledger.origins) for end in self._ends[-3:])
        for (origin, size), count in last.items():
            key = origin, size
            if count > middle[key] > before[key]:
                yield Growth(
                    operator=origin.operator,
                    place=origin.place,
                    shape=origin.shape,
                    type=origin.type,
                    bytes_per_step=(count - middle[key]) * size,
                )


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What the operators of one step compute and move."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.recomputed_flops = 0
        self.bytes = 0
        self._counter = FlopCounterMode(display=False)

    def step(self, trainee: Trainee, fetch: Callable[[], Batch]) -> float:
        """Make a step, count what it does, and return its seconds."""
        batch = fetch()
        # This mode is entered last and so called first: what the counter has more after an operator is that operator's.
        with self._counter, self:
            seconds = _timed(trainee, batch)
        self.flops = self._counter.get_total_flops()
        return seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented
        before = self._counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        # A backward runs without gradients of its own: what computes them within it is a second forward.
        if torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled():
            self.recomputed_flops += self._counter.get_total_flops() - before
        if func.namespace == "aten" and not func.is_view and "empty" not in func.name():
            self.bytes += sum(map(_bytes, tree_leaves((args, kwargs, result))))
        return result


def _bytes(value: Any) -> int:
    if not isinstance(value, torch.Tensor) or value.device.type == "meta":
        return 0
    return value.numel() * value.element_size()


def _timed(trainee: Trainee, batch: Batch) -> float:
    """Make a step and return its seconds.

    Raises:
        TrainingDiverged: the loss is infinite or no number.
    """
    began = time.perf_counter()
    loss = float(trainee.step(batch))
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    if not math.isfinite(loss):
        raise TrainingDiverged(f"the loss became {loss}; lower the learning rate")
    return time.perf_counter() - began


def _driver() -> Driver:
    free, total = torch.cuda.mem_get_info()
    return Driver(
        peak_allocated_bytes=torch.cuda.max_memory_allocated(),
        peak_reserved_bytes=torch.cuda.max_memory_reserved(),
        allocation_retries=torch.cuda.memory_stats().get("num_alloc_retries", 0),
        used_bytes=total - free,
        total_bytes=total,
    )
