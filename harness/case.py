"""A case: the axes that name one benchmark, and the id that spells them.

The id is `<model>-<strategy>-<n>gpu-bs<b>[-<option>...]`. `-` only separates; an option at its default is never
written, so a new axis renames no case; `Case.parse(case.id) == case` always holds. The options, in their order:

    bf16, fp16       precision            linear, cosine   schedule of the learning rate
    offload          offload to the CPU   warmup<n>        its warm-up, in updates
    ckpt             checkpointing        lrscale          its scaling with the GPU count
    accum<n>         accumulation         fused            fused optimizer
    clip<x>          gradient clipping    compile          torch.compile
    pernode<n>       GPUs of each node    chlast           channels-last
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from harness.errors import CaseError, unknown

Precision = Literal["fp32", "bf16", "fp16"]
Offload = Literal["none", "cpu"]
Schedule = Literal["constant", "linear", "cosine"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_ID = re.compile(r"(?P<model>[^-]+)-(?P<strategy>[^-]+)-(?P<gpus>\d+)gpu-bs(?P<batch>\d+)(?P<options>(-[^-]+)*)")

_WORDS: dict[str, dict[Any, str]] = {
    "precision": {"bf16": "bf16", "fp16": "fp16"},
    "offload": {"cpu": "offload"},
    "checkpointing": {True: "ckpt"},
    "schedule": {"linear": "linear", "cosine": "cosine"},
    "lr_scaling": {True: "lrscale"},
    "fused": {True: "fused"},
    "compiled": {True: "compile"},
    "channels_last": {True: "chlast"},
}
"""The option tokens that are a word, by the axis and the value they set."""

_NUMBERED: dict[str, tuple[str, type[int] | type[float]]] = {
    "accumulation": ("accum", int),
    "clipping": ("clip", float),
    "lr_warmup": ("warmup", int),
    "gpus_per_node": ("pernode", int),
}
"""The option tokens that are a word and a number, by axis."""

_AXIS_OF = {word: (axis, value) for axis, words in _WORDS.items() for value, word in words.items()}
_AXIS_OF_NUMBERED = {kind: (axis, number) for axis, (kind, number) in _NUMBERED.items()}

OPTIONS = (*_AXIS_OF, *_AXIS_OF_NUMBERED)
"""The kinds of option tokens: of those with a number, the word before it."""

OPTION_WORDS = (*_AXIS_OF, *(f"{kind}<n>" for kind in _AXIS_OF_NUMBERED))
"""The same as a person is told them."""

_CHOICES = {"precision": get_args(Precision), "offload": get_args(Offload), "schedule": get_args(Schedule)}
_LEAST = {"gpu_count": 1, "batch_size": 1, "accumulation": 1, "lr_warmup": 0, "gpus_per_node": 1}


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
    """Arithmetic of forward and backward: torch's autocast to this type over FP32 parameters."""
    offload: Offload = "none"
    """Where parameters and optimizer state rest when not in use."""
    checkpointing: bool = False
    """Whether activations are recomputed in backward instead of kept."""
    accumulation: int = 1
    """Micro-batches per optimizer update; `batch_size` is their sum."""
    clipping: float | None = None
    """Largest norm of the global gradient; a larger one is scaled down to it."""
    schedule: Schedule = "constant"
    """What the learning rate does after the warm-up: stay, or fall to zero at the last step."""
    lr_warmup: int = 0
    """Updates over which the learning rate rises in equal parts to its full value, which the last of them has."""
    lr_scaling: bool = False
    """Whether the learning rate is multiplied by the GPU count, that is by global batch over batch per GPU (Goyal et
    al., arXiv 1706.02677)."""
    fused: bool = False
    """Whether the optimizer updates all parameters in one kernel."""
    compiled: bool = False
    """Whether the model's repeated blocks go through torch.compile."""
    channels_last: bool = False
    """Whether images and convolution weights lie in memory as [N, H, W, C]."""
    gpus_per_node: int | None = None
    """GPUs of each node, where they are spread over several; None is one node with all."""

    def __post_init__(self) -> None:
        for axis, value in self.axes.items():
            check(axis, value)
        if self.batch_size % self.accumulation:
            raise CaseError(
                f"batch of {self.batch_size} per GPU does not divide into {self.accumulation} micro-batches"
            )
        if self.gpus_per_node is not None and (
            self.gpu_count % self.gpus_per_node or self.gpu_count == self.gpus_per_node
        ):
            raise CaseError(
                f"{self.gpu_count} GPUs do not fill several nodes of {self.gpus_per_node}; "
                "leave pernode out for a single node, or choose a multiple"
            )

    @property
    def global_batch_size(self) -> int:
        """Samples per optimizer update over all GPUs."""
        return self.batch_size * self.gpu_count

    @property
    def nodes(self) -> int:
        """Nodes that its GPUs are spread over."""
        return self.gpu_count // (self.gpus_per_node or self.gpu_count)

    @property
    def options(self) -> tuple[str, ...]:
        """The option tokens of the id, in their fixed order; empty when all are at their defaults."""
        return tuple(filter(None, (spell(axis, value) for axis, value in self.axes.items())))

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
        try:
            for token in filter(None, match["options"].split("-")):
                options.update(option(token))
            case = cls(
                model=match["model"],
                strategy=match["strategy"],
                gpu_count=int(match["gpus"]),
                batch_size=int(match["batch"]),
                **options,
            )
        except CaseError as error:
            raise CaseError(f"{text!r}: {error}") from error
        if case.id != text:
            raise CaseError(f"{text!r} is not how this case is spelled; write {case.id!r}")
        return case


_DEFAULTS = {field.name: field.default for field in fields(Case)}


def check(axis: str, value: Any) -> None:
    """Look at one axis for itself.

    Raises:
        CaseError: no case can have this value there, or there is no such axis.
    """
    if axis not in _DEFAULTS:
        raise CaseError(unknown("axis", axis, _DEFAULTS))
    if axis in ("model", "strategy"):
        if not (isinstance(value, str) and _NAME.fullmatch(value)):
            raise CaseError(f"{axis} {value!r} is no name: lower-case letters, digits and _ only, a letter first")
    elif axis in _CHOICES:
        if value not in _CHOICES[axis]:
            raise CaseError(f"{axis} {value!r} is none of {', '.join(_CHOICES[axis])}")
    elif axis == "gpus_per_node" and value is None:
        pass
    elif axis in _LEAST:
        if isinstance(value, bool) or not isinstance(value, int) or value < _LEAST[axis]:
            raise CaseError(f"{axis} is {value!r}; it must be a whole number of at least {_LEAST[axis]}")
    elif axis == "clipping":
        if value is not None and not _is_norm(value):
            raise CaseError(f"clipping is {value!r}; it must be a norm of 0.0001 to 999999 in at most 6 digits")
    elif not isinstance(value, bool):
        raise CaseError(f"{axis} is {value!r}; it must be True or False")


def _is_norm(value: Any) -> bool:
    """Whether an id can hold the number, to the last digit and without an exponent."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return False
    text = f"{value:g}"
    return _NUMBER.fullmatch(text) is not None and float(text) == value


def spell(axis: str, value: Any) -> str:
    """Return the option token for an axis at a value; empty for its default, and for an axis that is no option."""
    if axis not in _NUMBERED:
        return _WORDS.get(axis, {}).get(value, "")
    kind, number = _NUMBERED[axis]
    if value == _DEFAULTS[axis]:
        return ""
    return f"{kind}{value:g}" if number is float else f"{kind}{value}"


def kind_of(token: str) -> str:
    """Return the kind of an option token, `accum` for `accum4`; the token itself where it is of no kind."""
    for kind, (_, number) in _AXIS_OF_NUMBERED.items():
        digits = token.removeprefix(kind)
        if digits != token and (_NUMBER.fullmatch(digits) if number is float else re.fullmatch("[0-9]+", digits)):
            return kind
    return token


def option(token: str) -> dict[str, Any]:
    """Return the axis that an option token sets, and to what.

    Raises:
        CaseError: there is no such option.
    """
    if token == "fp32":  # never written, but what a person may think of
        return {"precision": token}
    if token in _AXIS_OF:
        axis, value = _AXIS_OF[token]
        return {axis: value}
    kind = kind_of(token)
    if kind == token:
        raise CaseError(unknown("option", token, OPTION_WORDS))
    axis, number = _AXIS_OF_NUMBERED[kind]
    return {axis: number(token.removeprefix(kind))}


def combine(tokens: Iterable[str]) -> dict[str, Any]:
    """Return the axes that option tokens set together, in the order of an id.

    Raises:
        CaseError: one is no option, sets what another sets too, or is not how an id spells it.
    """
    set_to: dict[str, Any] = {}
    for token in tokens:
        ((axis, value),) = option(token).items()
        check(axis, value)
        spelled = spell(axis, value)
        if not spelled:
            raise CaseError(f"option {token!r} is what a case is without it; leave it out")
        if spelled != token:
            raise CaseError(f"option {token!r} is not how an id spells it; write {spelled!r}")
        if axis in set_to:
            raise CaseError(f"options {spell(axis, set_to[axis])!r} and {token!r} both set {axis}; choose one")
        set_to[axis] = value
    return {axis: set_to[axis] for axis in _DEFAULTS if axis in set_to}


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
