"""What a machine can do at most, measured in the same run as the cases: the figures are given as shares of it."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Product:
    """A square matrix product of one type and size."""

    type: Literal["fp32", "tf32", "bf16", "fp16"]
    """Of the arithmetic; `tf32` is FP32 matrices through NVIDIA's tensor cores, which FP32 convolutions may take."""
    flops: float
    """Floating-point operations of each repetition: two for each multiplication and addition."""
    seconds: tuple[float, ...]
    """Of each repetition, the slowest rank's."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Point:
    """One size of a sweep of a collective."""

    size_bytes: int
    """nccl-tests' size S: an all-reduce's tensor, and of all-gather and reduce-scatter the whole over all ranks."""
    seconds: tuple[float, ...]
    """Of each repetition, the slowest rank's."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Sweep:
    """One kind of collective over sizes."""

    kind: Literal["all_reduce", "all_gather", "reduce_scatter"]
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Ceilings:
    """What so many ranks of this machine can do at most, all working at once."""

    ranks: int
    backend: str
    device: str
    products: tuple[Product, ...]
    copy_bytes: int
    """Read and written together by each repetition of the memory copy."""
    copy_s: tuple[float, ...]
    """Of each repetition, the slowest rank's seconds."""
    sweeps: tuple[Sweep, ...] = ()
    """None with one rank."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Loaded:
    """What one rank's loader gave while nothing was trained and every rank loaded.

    Of a model's input kind, a dataset and a batch, so it is no part of `Ceilings`, which are the machine's.
    """

    images: int
    seconds: float
