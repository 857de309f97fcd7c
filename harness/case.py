"""A case: the axes that name one benchmark, and the id that spells them.

The id is `<model>-<strategy>-<n>gpu-bs<b>[-<option>...]`. `-` only separates; an option at its default is never
written, so a new axis renames no case; `Case.parse(case.id) == case` always holds.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from harness.errors import CaseError

Precision = Literal["fp32", "bf16", "fp16"]
Offload = Literal["none", "cpu"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_ID = re.compile(r"(?P<model>[^-]+)-(?P<strategy>[^-]+)-(?P<gpus>\d+)gpu-bs(?P<batch>\d+)(?P<options>(-[^-]+)*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One benchmark: a model trained by a strategy on some GPUs with a batch per GPU.

    On a machine without CUDA a "GPU" is one gloo rank pinned to its own core.
    """

    model: str
    """Name of a model in `harness/models/`."""
    strategy: str
    """Name of a strategy in `harness/strategies/`."""
    gpu_count: int
    """Devices over all nodes; one rank each, except for strategies that drive several from one process."""
    batch_size: int
    """Samples per GPU in one optimizer update."""
    precision: Precision = "fp32"
    """Arithmetic of forward and backward."""
    offload: Offload = "none"
    """Where parameters and optimizer state rest when not in use."""
    checkpointing: bool = False
    """Whether activations are recomputed in backward instead of kept."""
    accumulation: int = 1
    """Micro-batches per optimizer update; `batch_size` is their sum."""

    def __post_init__(self) -> None:
        for axis in ("model", "strategy"):
            name = getattr(self, axis)
            if not _NAME.fullmatch(name):
                raise CaseError(f"{axis} {name!r} is no name: lower-case letters, digits and _ only, a letter first")
        for axis in ("gpu_count", "batch_size", "accumulation"):
            value = getattr(self, axis)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CaseError(f"{axis} is {value!r}; it must be a whole number of at least 1")
        if self.precision not in get_args(Precision):
            raise CaseError(f"precision {self.precision!r} is none of {', '.join(get_args(Precision))}")
        if self.offload not in get_args(Offload):
            raise CaseError(f"offload {self.offload!r} is none of {', '.join(get_args(Offload))}")
        if self.batch_size % self.accumulation:
            raise CaseError(
                f"batch of {self.batch_size} per GPU does not divide into {self.accumulation} micro-batches"
            )

    @property
    def global_batch_size(self) -> int:
        """Samples per optimizer update over all GPUs."""
        return self.batch_size * self.gpu_count

    @property
    def options(self) -> tuple[str, ...]:
        """The option tokens of the id, in their fixed order; empty when all are at their defaults."""
        tokens: list[str] = []
        if self.precision != "fp32":
            tokens.append(self.precision)
        if self.offload != "none":
            tokens.append("offload")
        if self.checkpointing:
            tokens.append("ckpt")
        if self.accumulation != 1:
            tokens.append(f"accum{self.accumulation}")
        return tuple(tokens)

    @property
    def id(self) -> str:
        """The id, for example `vit_b16-zero3-2gpu-bs64-bf16-offload`."""
        head = (self.model, self.strategy, f"{self.gpu_count}gpu", f"bs{self.batch_size}")
        return "-".join(head + self.options)

    def __str__(self) -> str:
        return self.id

    @property
    def axes(self) -> dict[str, Any]:
        """Every axis by name, as the keywords of the `bench` mark."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def parse(cls, text: str) -> Case:
        """Return the case an id spells.

        Raises:
            CaseError: the text is no id, or spells a case in another way than its id.
        """
        match = _ID.fullmatch(text)
        # An id is the name of a folder too, so a longer one is none; nor could Python read a number of 5000 digits.
        if not match or len(text) > 200:
            raise CaseError(
                f"{text[:200]!r} is no case id; an id reads <model>-<strategy>-<n>gpu-bs<b>[-<option>...], "
                "for example resnet18-ddp-2gpu-bs32"
            )
        options: dict[str, Any] = {}
        for token in filter(None, match["options"].split("-")):
            options.update(_option(token, text))
        case = cls(
            model=match["model"],
            strategy=match["strategy"],
            gpu_count=int(match["gpus"]),
            batch_size=int(match["batch"]),
            **options,
        )
        if case.id != text:
            raise CaseError(f"{text!r} is not how this case is spelled; write {case.id!r}")
        return case


def _option(token: str, text: str) -> dict[str, Any]:
    if token in get_args(Precision):
        return {"precision": token}
    if token == "offload":
        return {"offload": "cpu"}
    if token == "ckpt":
        return {"checkpointing": True}
    if match := re.fullmatch(r"accum(\d+)", token):
        return {"accumulation": int(match[1])}
    raise CaseError(f"{text!r}: no option {token!r}; known: bf16, fp16, offload, ckpt, accum<n>")


def grid(
    *,
    models: Iterable[str],
    strategies: Iterable[str],
    gpu_counts: Iterable[int],
    batch_sizes: Mapping[str, Iterable[int]],
) -> Iterator[Case]:
    """Yield the product of the axes, model by model; `batch_sizes` maps a model to its batches per GPU."""
    strategies, gpu_counts = tuple(strategies), tuple(gpu_counts)
    for model in models:
        for strategy, gpus, batch in itertools.product(strategies, gpu_counts, tuple(batch_sizes[model])):
            yield Case(model=model, strategy=strategy, gpu_count=gpus, batch_size=batch)
