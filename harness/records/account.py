"""What one rank of an accounted run held in memory, by what it is for, and what its step computed.

Bytes are those of tensors' storages, each counted once; allocators round up, and libraries below torch have their own.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Held:
    """Bytes that a rank holds at one moment, by what they are for."""

    parameters: int = 0
    """What the model's parameters lie in between steps, padding included."""
    gradients: int = 0
    """Those that the optimizer is given."""
    optimizer: int = 0
    """Its state, counters of steps included."""
    master: int = 0
    """Copies of the parameters that the optimizer writes in their place."""
    buffers: int = 0
    """The model's, such as BatchNorm statistics."""
    work: int = 0
    """What appears and is gone within a step: the batch, activations, gathered parameters, gradients on their way,
    workspace."""
    rest: int = 0
    """What else stays from step to step: buckets of communication, flat buffers, staging."""

    @property
    def state(self) -> int:
        """Model state, as the ZeRO paper has it: parameters, gradients, optimizer state and master copies."""
        return self.parameters + self.gradients + self.optimizer + self.master

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.by_kind().values())

    def by_kind(self) -> dict[str, int]:
        """Return the bytes by name of what they are for."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Growth:
    """Tensors of one origin that become more with every step."""

    operator: str
    """That made them, such as `aten.clone.default`."""
    place: str
    """File and line of the innermost call outside of torch."""
    shape: tuple[int, ...]
    type: str
    bytes_per_step: int


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Driver:
    """What CUDA's allocator and driver say."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    allocation_retries: int
    """How often the allocator had to give back what it kept, to find room."""
    used_bytes: int
    """Of the whole device in the end, other processes included."""
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Account:
    """One rank."""

    kept: Held
    """At the end of a step."""
    at_update: Held | None
    """When the optimizer steps; None where it never did, as FP16 skips a step whose gradients overflow."""
    at_peak: Held
    """When the steps held most."""
    setup_peak_bytes: int
    """The most that was held while the model was built and sharded."""
    offloaded: Held | None
    """What lies in the host's memory beside the GPU's when the optimizer steps; None where the device is the host."""
    ends_bytes: tuple[int, ...]
    """Held at the end of each step."""
    growth: tuple[Growth, ...]
    driver: Driver | None
    """None on a CPU."""
    peak_resident_bytes: int | None
    """Resident set above what it was before the model was built, on a CPU; None where the system does not tell."""
    units: tuple[tuple[tuple[int, ...], ...], ...]
    """Shapes of the parameters by unit, as `harness.plugins.Unit` says."""
    shapes: tuple[tuple[int, ...], ...]
    """Of all parameters, in the order of the module."""
    trained: int
    """Elements of the parameters that are trained."""
    buffer_bytes: int
    """Of the model's buffers before it was sharded."""
    slots: int
    """Elements of optimizer state for each trained one: 0 for SGD, 1 with momentum, 2 for AdamW."""
    counters: bool
    """Whether the optimizer keeps a counter of steps for each tensor."""
    flops: int
    """Floating-point operations of one step, recomputation included: products and sums of matrix products and
    convolutions, as torch's flop counter has them."""
    recomputed_flops: int
    """Of them in the second forward of checkpointed blocks, which MFU must not count."""
    op_bytes: int
    """Read and written by the operators of one step were each to move its inputs and outputs once; communication and
    views left out."""
    plain_from_s: float
    """`time.monotonic()` as the plain steps began: the machine's readings of them are told by it."""
    plain_to_s: float
    plain_s: tuple[float, ...]
    """Seconds of steps in the same process with nothing attached."""
    ledger_s: tuple[float, ...]
    """Seconds of the accounted steps; the first also sets the libraries up."""


_ACCOUNT: TypeAdapter[Account] = TypeAdapter(Account)


def to_json(record: Account) -> dict[str, Any]:
    """Return the record as plain JSON values."""
    plain: dict[str, Any] = _ACCOUNT.dump_python(record, mode="json")
    return plain


def account(data: Any) -> Account:
    """Return the record that plain JSON values hold."""
    return _ACCOUNT.validate_python(data)
