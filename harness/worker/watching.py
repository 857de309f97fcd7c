"""What a strategy's objects are seen to do while it trains: read from them as they run, not from how they were set up.

Nothing here knows a library. The loss function, the forward of the modules and the step of the optimizer that writes
the parameters are the three places that every strategy passes through.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from harness.certificate import Collective, Difference, Group, Slot
from harness.plugins import Batch
from harness.records import kineto
from harness.worker.profiling import profiled

Tensors = Mapping[str, torch.Tensor]
Loss = Callable[[nn.Module, Batch], torch.Tensor]

_MASK = 2**64 - 1


@dataclass(slots=True)
class Watch:
    """Facts of the steps of one rank, gathered by hooks."""

    loss_gradients: list[float] = field(default_factory=list)
    samples: list[tuple[str, ...]] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    groups: dict[int, tuple[float, int, str]] = field(default_factory=dict)
    rates: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    live: set[str] = field(default_factory=set)
    compute: set[str] = field(default_factory=set)
    master: set[str] = field(default_factory=set)
    gradient: set[str] = field(default_factory=set)
    reduction: set[str] = field(default_factory=set)
    collectives_seen: dict[tuple[str, str, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    untouched: dict[torch.Tensor, torch.Tensor] = field(default_factory=dict)
    """Of each tensor that the optimizer writes, where no gradient ever was."""

    def begin_step(self) -> None:
        """Open the place that the hooks write to."""
        self.samples.append(())
        self.targets.append(0)
        self.squares.append(0.0)

    def loss(self, loss: Loss, before: Callable[[], None]) -> Loss:
        """Return the loss function with its batch and the gradient it receives noted; `before` runs first."""

        def watched(module: nn.Module, batch: Batch) -> torch.Tensor:
            before()
            images, targets = batch
            self.samples[-1] += tuple(map(checksum, images))
            self.targets[-1] += sum(len(t["labels"]) if isinstance(t, dict) else 1 for t in targets)
            value = loss(module, batch)
            if value.requires_grad:
                value.register_hook(lambda grad: self.loss_gradients.append(float(grad)))  # type: ignore[no-untyped-call]
            return value

        return watched

    def modules(self, module: nn.Module) -> list[RemovableHandle]:
        """Note the types that the modules with parameters of their own compute with."""

        def before(module: nn.Module, _: Any) -> None:
            self.live |= {name_of(p.dtype) for p in module.parameters(recurse=False)}

        def after(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                self.compute.add(name_of(output.dtype))

        own = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
        return [handle for m in own for handle in (m.register_forward_pre_hook(before), m.register_forward_hook(after))]

    def optimizer(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Note what each step of the optimizer applies, before it does.

        A library may step it several times an update, with another part in its groups each time.
        """

        def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            # A fused optimizer is handed the loss scale instead of unscaled gradients.
            scale = float(getattr(optimizer, "grad_scale", None) or 1.0)
            for number, group in enumerate(optimizer.param_groups):
                parts = [p for p in group["params"] if p.grad is not None]
                if not parts:
                    continue
                self._group(number, group, sum(local(p).numel() for p in group["params"] if p.requires_grad))
                for part in parts:
                    gradient = local(part.grad)
                    self.squares[-1] += squares(gradient) / scale**2
                    self.master.add(name_of(part.dtype))
                    self.gradient.add(name_of(gradient.dtype))
                    self.untouched[part] = self.untouched.get(part, True) & (gradient == 0)

        return optimizer.register_step_pre_hook(before)

    def _group(self, number: int, group: Mapping[str, Any], elements: int) -> None:
        steps = len(self.squares)
        rest = ", ".join(f"{k} {v}" for k, v in sorted(group.items()) if k in _SETTINGS and v)
        if len(self.rates[number]) < steps:
            self.rates[number].append(float(group["lr"]))
            self.groups[number] = (float(group.get("weight_decay", 0.0)), elements, rest)
        else:
            decay, before, _ = self.groups[number]
            self.groups[number] = (decay, before + elements, rest)

    def group_records(self) -> tuple[Group, ...]:
        """Return what was noted of the parameter groups."""
        return tuple(
            Group(weight_decay=decay, elements=elements, learning_rates=tuple(self.rates[number]), rest=rest)
            for number, (decay, elements, rest) in sorted(self.groups.items())
        )

    @contextmanager
    def collectives(self) -> Iterator[None]:
        """Note, from torch's profiler, the collectives of the block: calls, elements, and the types they sum in."""
        with profiled() as profile:
            yield
        for call in kineto.calls(kineto.written(profile)["traceEvents"]):
            if "reduce" in call.kind and call.elements == 1:
                continue  # a norm or a flag, no gradient
            self.collectives_seen[call.backend, call.kind, call.type].append(call.elements)
            if "reduce" in call.kind:
                self.reduction.add(call.type)

    def collective_records(self) -> tuple[Collective, ...]:
        """Return what was noted of collectives."""
        return tuple(
            Collective(backend=backend, kind=kind, type=type_, calls=len(sizes), elements=sum(sizes))
            for (backend, kind, type_), sizes in sorted(self.collectives_seen.items())
        )


_SETTINGS = ("momentum", "dampening", "nesterov", "betas", "eps", "amsgrad", "maximize")
_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}


def name_of(dtype: torch.dtype) -> str:
    """Return the field's short name of a type."""
    return _NAMES.get(dtype, str(dtype).removeprefix("torch."))


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that this rank holds."""
    held: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return held


def squares(tensor: torch.Tensor) -> float:
    """Return the sum of the squares of the elements, summed in FP64."""
    return float(tensor.detach().double().square().sum())


def digest(tensor: torch.Tensor) -> int:
    """Return the sum of a 64-bit mix of every element's FP32 bits, modulo 2^64; zeros count nothing."""
    bits = (tensor.detach().cpu().float() + 0.0).contiguous().view(torch.int32).long()
    # Multiply and fold, as hash functions' finishers do; zero stays zero, whatever the constants.
    mixed = bits * 0x1E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 29)) * 0x3F58476D1CE4E5B9
    mixed = mixed ^ (mixed >> 32)
    return int(mixed.sum()) & _MASK


def checksum(image: torch.Tensor) -> str:
    """Return a checksum of a sample's values in BF16: a strategy may cast a sample, which makes it no other sample."""
    return f"{zlib.crc32(image.detach().cpu().bfloat16().float().contiguous().numpy().tobytes()):08x}"


def state_slots(
    optimizer: torch.optim.Optimizer, untouched: Mapping[torch.Tensor, torch.Tensor]
) -> tuple[dict[str, Slot], set[str], int]:
    """Return the optimizer's state by kind, its types, and its number of elements; single numbers left out.

    Args:
        optimizer: whose state it is.
        untouched: where it counts as zero, by parameter: padding holds what lay in memory, and decays.
    """
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    for parameter, slots in optimizer.state.items():
        for name, value in slots.items():
            # A step counter is no state of the parameters; a parameter of one element has state of one.
            if isinstance(value, torch.Tensor) and name != "step":
                held, mask = local(value), untouched.get(parameter)
                found[name].append(held if mask is None else held.masked_fill(mask, 0))
    records = {
        name: Slot(digest=sum(map(digest, tensors)) & _MASK, squares=sum(map(squares, tensors)))
        for name, tensors in found.items()
    }
    types = {name_of(tensor.dtype) for tensors in found.values() for tensor in tensors}
    return records, types, sum(tensor.numel() for tensors in found.values() for tensor in tensors)


def buffers_of(module: nn.Module) -> list[torch.Tensor]:
    """Return the floating buffers, in the module's order, on the CPU."""
    return [buffer.detach().cpu().clone() for buffer in module.buffers() if buffer.is_floating_point()]


def difference(ours: Tensors, theirs: Tensors, changed: float) -> Difference:
    """Return how far tensors are from the reference's.

    Args:
        ours: by name.
        theirs: the reference's, by the same names.
        changed: L2 norm of what the reference's training changed.
    """
    if unmatched := sorted(set(ours) ^ set(theirs)):
        return Difference(equal=False, share=1.0, worst=unmatched[0])
    total, worst, largest, equal = 0.0, "", 0.0, True
    for name, tensor in theirs.items():
        other = ours[name].detach().cpu()
        if other.dtype == tensor.dtype and torch.equal(other, tensor):
            continue
        equal = False
        apart = squares(other.double() - tensor.double())
        apart = math.inf if math.isnan(apart) else apart  # no number is infinitely far
        total += apart
        if apart >= largest:
            worst, largest = name, apart
    return Difference(equal=equal, share=math.sqrt(total) / (changed or 1.0), worst=worst)


def changed(before: Tensors, after: Tensors) -> float:
    """Return the L2 norm of the difference of two states."""
    return math.sqrt(sum(squares(after[name].double() - tensor.double()) for name, tensor in before.items()))


def elements(tensors: Iterable[torch.Tensor]) -> int:
    """Return how many elements lie in this rank's memory."""
    return sum(local(tensor).numel() for tensor in tensors)
