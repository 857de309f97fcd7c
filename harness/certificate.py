"""What is recorded when a strategy trains beside the reference: what each rank was seen to do, and the certificate.

A rank records raw facts alone: sums of squares, digests, types, learning rates. What they say about the training is
decided by `harness.gate.sameness`, in the parent, from these.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from harness.errors import StoreError
from harness.stored import reading
from harness.stored.writing import whole

_STRICT = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

Grade = Literal["bit-equal", "rounding", "differs"]


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Group:
    """One parameter group of the optimizer that writes this rank's part of the parameters."""

    weight_decay: float
    elements: int
    """Of this rank, padding included."""
    learning_rates: tuple[float, ...]
    """Of each step."""
    rest: str
    """Every other setting of the group, in words."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Slot:
    """One kind of optimizer state, such as `momentum_buffer`, over all parameters of this rank."""

    digest: int
    """Sum over the elements of a 64-bit mix of their bits, modulo 2^64; 0 for zeros. So the digests of shards add up to
    that of the whole, however it was cut and padded."""
    squares: float
    """Sum of the squares of the elements."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Difference:
    """How far a set of tensors is from the reference's after the last step."""

    equal: bool
    """Bit for bit."""
    share: float
    """L2 norm of the difference over that of what the reference's training changed; the norm itself if it changed
    nothing."""
    worst: str
    """Name of the tensor with the largest difference."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Collective:
    """All calls of one kind of collective in one step, as the backend reported them to torch's profiler; sums of
    single numbers, which are norms and flags, left out.
    """

    backend: str
    kind: str
    """`all_reduce`, `all_gather`, `reduce_scatter`, `broadcast`, ..."""
    type: str
    calls: int
    elements: int
    """Of this rank's input tensors, over all calls."""

    def wire_bytes(self, ranks: int) -> float | None:
        """Return what a rank must send over its link for these calls, bytes; None for a kind without a known bound.

        The bandwidth-optimal algorithms' bounds (Chan et al., Collective communication, 2007; nccl-tests' PERFORMANCE
        notes): an all-reduce of S bytes sends 2 S (n - 1) / n, an all-gather of parts of S sends S (n - 1); a
        reduce-scatter, a reduction to one rank and a broadcast send S (n - 1) / n, the last two on the mean over ranks.
        """
        factors = {
            "all_reduce": 2 * (ranks - 1) / ranks,
            "all_gather": ranks - 1.0,
            "reduce_scatter": (ranks - 1) / ranks,
            "reduce": (ranks - 1) / ranks,
            "broadcast": (ranks - 1) / ranks,
        }
        size = {"fp32": 4, "bf16": 2, "fp16": 2, "fp64": 8, "int": 4, "long int": 8}.get(self.type)
        return None if size is None or self.kind not in factors else factors[self.kind] * self.elements * size


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Watched:
    """What one rank did in the certified steps; of the reference, what it did when it played that rank."""

    losses: tuple[float, ...]
    """This rank's mean loss of each step."""
    loss_gradients: tuple[float, ...]
    """What backward began with at each micro-batch's loss: 1 over the micro-batches, times the loss scale."""
    samples: tuple[tuple[str, ...], ...]
    """Of each step, a checksum of every image the loss was computed of, in order."""
    targets: tuple[int, ...]
    """Of each step, how many targets they had: labels or boxes."""
    gradient_squares: tuple[float, ...]
    """Of each step, the sum of squares of the gradients that the optimizer applied to this rank's part."""
    groups: tuple[Group, ...]
    slots: dict[str, Slot]
    live: tuple[str, ...]
    """Types of the parameters during forward."""
    compute: tuple[str, ...]
    """Types of what the modules with parameters returned."""
    master: tuple[str, ...]
    """Types of the tensors that the optimizer writes."""
    gradient: tuple[str, ...]
    """Types of their gradients."""
    reduction: tuple[str, ...]
    """Types of what collectives summed over ranks, single numbers left out."""
    state: tuple[str, ...]
    """Types of the optimizer's state, single numbers left out."""
    optimizer: str
    held_parameters: int
    """Elements of parameters that this rank keeps between steps."""
    held_state: int
    """Elements of optimizer state that this rank keeps."""
    buffers: int
    """Digest of the floating buffers."""
    differences: dict[str, Difference]
    """Of `parameters` (rank 0 alone) and `buffers` against the reference's."""
    collectives: tuple[Collective, ...] = ()
    """Of one step."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Spread:
    """What rounding alone does: the reference against itself with the last bits of every gradient changed."""

    losses: tuple[float, ...]
    """Of each step, the largest relative difference over the ranks."""
    gradient_norms: tuple[float, ...]
    """Of each step, the relative difference."""
    parameters: float
    """As `Difference.share`."""
    buffers: float


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Played:
    """What the reference did: one process that plays every rank in turn."""

    ranks: tuple[Watched, ...]
    """`gradient_squares`, `groups`, `slots` and `held_*` are of the whole model, in every rank."""
    unclipped_norms: tuple[float, ...]
    """Global gradient norm of each step before clipping."""
    terms: int
    """The most gradients that backward adds up at one place."""
    sizes: tuple[int, ...]
    """Elements of each parameter."""
    trained: int
    """Elements of the parameters that are trained."""
    units: tuple[tuple[tuple[int, ...], ...], ...] = ()
    """Shapes of the parameters by unit, as `harness.plugins.Unit` says; none where a block is not used just once a
    forward, for then it depends on the library how often it is gathered."""
    rounding: Spread | None
    """None where no sum can be taken in two orders."""
    from_fp32: Spread | None
    """How far it is from the same training in FP32; None in FP32."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Row:
    """One line of the regime table: a fact about the training, of the strategy and of the reference."""

    fact: str
    strategy: str
    reference: str
    same: bool


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Figure:
    """One quantity held to the reference's."""

    name: str
    difference: float
    """Relative, the largest over steps and ranks."""
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Certificate:
    """Whether a case trains as the reference does."""

    case_id: str
    key: str
    """Digest of everything it depends on."""
    steps: int
    demanded: Grade
    found: Grade
    figures: tuple[Figure, ...]
    regime: tuple[Row, ...]
    causes: tuple[str, ...]
    """What is wrong, in words; empty when granted."""
    collectives: tuple[Collective, ...] = ()
    """Of one step of rank 0."""
    from_fp32: float | None
    """In mixed precision, how far the reference's parameters are from FP32's, as `Difference.share`."""
    seconds: float
    """What it cost, the reference not counted."""
    unix_time: float

    @property
    def granted(self) -> bool:
        """Whether the case's speed may be compared."""
        return not self.causes


_WATCHED: TypeAdapter[Watched] = TypeAdapter(Watched)
_PLAYED: TypeAdapter[Played] = TypeAdapter(Played)
_CERTIFICATE: TypeAdapter[Certificate] = TypeAdapter(Certificate)


def to_json(record: Watched | Played | Certificate) -> dict[str, Any]:
    """Return a record as plain JSON values."""
    adapter: TypeAdapter[Any] = TypeAdapter(type(record))
    # Through text: only there an overflow becomes a word, which JSON can hold.
    plain: dict[str, Any] = json.loads(adapter.dump_json(record))
    return plain


def watched(data: Any) -> Watched:
    """Return what a rank recorded, from plain JSON values."""
    return _WATCHED.validate_python(data)


def played(data: Any) -> Played:
    """Return what the reference recorded, from plain JSON values."""
    return _PLAYED.validate_python(data)


def certificate(data: Any, *, where: str) -> Certificate:
    """Return a certificate from plain JSON values; `where` names their file in messages.

    Raises:
        StoreError: they hold none.
    """
    try:
        return _CERTIFICATE.validate_python(data)
    except ValidationError as error:
        raise StoreError(f"{where} holds no valid certificate; run with --recertify") from error


def write(record: Certificate, path: Path) -> None:
    """Keep a certificate so that a reader sees all of it or none.

    Raises:
        StoreError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole(path, _CERTIFICATE.dump_json(record, indent=1))
    except OSError as error:
        raise StoreError(f"certificate {path} cannot be kept: {error.strerror}; set SHARDBENCH_CACHE") from error


def read(path: Path) -> Certificate | None:
    """Return a kept certificate, or None where there is none that can be read: it is then made again."""
    try:
        return _CERTIFICATE.validate_python(reading.read(path, kind="certificate", mend="run with --recertify"))
    except (OSError, ValidationError, StoreError):
        return None
