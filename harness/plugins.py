"""What a Strategy, Model, Dataset, Metric, Launcher and Study is.

Nothing here imports torch, and no module that defines one may do so when imported: only its functions, in a rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from harness.case import Case, Precision

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.evidence.claims import Claim
    from harness.evidence.runs import Evidence
    from harness.evidence.tables import Table
    from harness.figures.charts import Figure
    from harness.machine.host import Host
    from harness.machine.nodes import Joining
    from harness.profiles import StudyProfile
    from harness.registry import Registry
    from harness.results import RankReport, Result
    from harness.running.job import Job


class InputKind(StrEnum):
    """What one batch looks like; a model and a strategy fit when the strategy can split the model's kind."""

    IMAGES = "images"
    """A float tensor [N, 3, H, W] and an int64 tensor [N] of class indices."""
    DETECTION = "detection"
    """A list of N float tensors [3, H, W] and a list of N target dicts (boxes [M, 4] in pixels xyxy, labels [M], and
    masks uint8 [M, H, W] for a model of `masks`)."""


# ---------------------------------------------------------------------------------------------------- models


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a model is built for."""

    classes: int
    """Number of classes, background not counted."""
    image_size: int
    """Height and width of an input image, pixels."""
    weights: Path | None = None
    """State dict written by this suite's own warm start, to load after building; None starts as `pretrained` says."""
    pretrained: bool = False
    """Whether to look for the model's public weights (local folder or cache, never the network)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModel:
    """A module ready to be sharded, the same on every rank."""

    module: nn.Module
    """On the CPU, in training mode, all floating tensors FP32."""
    blocks: tuple[type[nn.Module], ...]
    """Classes of the repeated blocks; wrapping strategies make one unit of each instance and one of the rest."""
    weights: str
    """Where the weights came from, in words a report can print, for example "random initialisation"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model the suite can train."""

    name: str
    input: InputKind
    build: Callable[[ModelSpec], BuiltModel]
    """Called once per rank under one seed, so every rank builds equal weights."""
    requires: tuple[str, ...] = ()
    """Top-level modules it needs beside torch, asked with `find_spec`."""
    refuses: Mapping[str, str] = field(default_factory=dict)
    """Kinds of option tokens it cannot be trained with, each with the reason."""
    save: Callable[[nn.Module, Path], None] | None = None
    """Write a trained module into a folder, as its own library reads it; None leaves it to `harness.worker.saving`."""
    load: Callable[[nn.Module, Path], None] | None = None
    """Give a module that was just built the weights that `save` wrote, without unpickling anything."""
    masks: bool = False
    """Of a detector: whether it learns and predicts the mask of each object beside its box."""


# ------------------------------------------------------------------------------------------------ strategies


class Processes(StrEnum):
    """How many processes drive the devices of a case."""

    ONE = "one"
    PER_GPU = "per_gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSpec:
    """A torch optimizer by name, so that every library can construct it its own way."""

    name: Literal["sgd", "adamw"]
    arguments: Mapping[str, float] = field(default_factory=dict)
    """Keyword arguments of the torch class: lr, momentum, weight_decay, ..."""

    @property
    def factory(self) -> type[torch.optim.Optimizer]:
        """The torch class."""
        import torch

        return {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[self.name]

    def make(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimizer over those of `parameters` that are trained."""
        return self.factory([p for p in parameters if p.requires_grad], **dict[str, Any](self.arguments))


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One rank's place among the others."""

    rank: int
    local_rank: int
    size: int
    """Ranks over all nodes."""
    device: str
    """`cpu` or `cuda:<i>`."""
    backend: str
    """`gloo` or `nccl`."""
    devices_per_process: int = 1
    """Devices this process drives: more than one only for `Processes.ONE`."""
    ranks_per_node: int | None = None
    """Ranks of each node, where there are several; those of a node have numbers next to each other."""

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a CUDA GPU."""
        return self.device.startswith("cuda")


Batch = tuple[Any, Any]
"""Inputs and targets of one rank, as the model's `InputKind` says, on the rank's device."""


@dataclass(slots=True, kw_only=True)
class Workload:
    """What is to be trained, before any strategy touched it."""

    module: nn.Module
    """On `world.device`, equal on every rank."""
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    """Forward of the (wrapped) module on a batch of this rank and the mean loss over it, a scalar with grad."""
    optimizer: OptimizerSpec
    blocks: tuple[type[nn.Module], ...]
    batch_size: int
    """Samples per GPU and optimizer update."""
    accumulation: int = 1
    """Micro-batches that `step` cuts its batch into; the update is that of the whole batch's mean loss."""
    clipping: float | None = None
    """Largest norm of the global gradient; a larger one is scaled down to it before the update."""
    precision: Precision = "fp32"
    """`loss` runs under torch's autocast to this type already; FP16 needs its loss scaled besides."""
    offload: bool = False
    """Whether parameters and optimizer state rest in the host's memory."""


class Scaler(Protocol):
    """Scales a loss by a factor that follows the gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Return the factor and whatever decides the next one."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take that over."""


@dataclass(slots=True, kw_only=True)
class Trainee:
    """A sharded workload: the seam on which all strategies are the same."""

    module: nn.Module
    """What to call for a forward; `.train()` and `.eval()` work on it, and so does `.buffers()`."""
    step: Callable[[Batch], torch.Tensor]
    """One optimizer update of the global mean loss; returns this rank's mean loss, detached, without synchronising."""
    full_state: Callable[[], dict[str, torch.Tensor]]
    """Collective: every rank calls it; rank 0 gets the unsharded parameters and buffers on the CPU under the plain
    module's names, other ranks get those or an empty dict."""
    optimizer: torch.optim.Optimizer
    """What a learning-rate schedule acts on."""
    applied: torch.optim.Optimizer
    """The torch optimizer that writes this rank's part of the parameters: its groups hold what is updated, with the
    gradients that are applied. Mostly `optimizer` itself; a library's own may wrap it."""
    kept: Callable[[], Iterable[torch.Tensor]] | None = None
    """The tensors in which this rank keeps parameters between steps; None for the module's own."""
    written: Callable[[], Iterable[torch.Tensor]] | None = None
    """The tensors that `applied` writes, always in the same order; None for those in its groups."""
    scaler: Scaler | None = None
    """What scales the loss of FP16."""
    unsynchronised: Callable[[], AbstractContextManager[Any]] | None = None
    """In which `step` leaves gradients unreduced, so that it is the same step without communication; None where the
    strategy cannot compute without."""


Shape = tuple[int, ...]
"""Of a parameter."""

Unit = tuple[Shape, ...]
"""The parameters that a wrapping strategy keeps together, in the order of the module: those of one block and of no
block inside it; the last unit of a model has what is in no block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What the ranks move by one kind of collective in one update."""

    kind: Literal["all_reduce", "reduce_scatter", "all_gather", "reduce", "broadcast"]
    elements: int
    """Of one rank's input tensors, over all calls."""
    calls: int | None = None
    """None where the library decides by sizes of buckets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One rank's part in training a model as a whole, as what it keeps depends on it.

    Not on the precision: this suite's lower ones are autocast's, over parameters, gradients and state in FP32.
    """

    units: Sequence[Unit]
    shapes: Sequence[Shape]
    """Of all parameters, in the order of the module."""
    ranks: int
    rank: int
    slots: int
    """Elements of optimizer state for each parameter's: 0 for SGD, 1 with momentum, 2 for AdamW."""
    counters: bool = False
    """Whether the optimizer counts the steps of each tensor, in an FP32 number of its own: AdamW does."""
    offload: bool = False
    ranks_per_node: int | None = None
    """None is one node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes of the tensors that a rank keeps from step to step, wherever they lie; the model's buffers left out."""

    parameters: int
    gradients: int
    """When the optimizer steps; some libraries drop them after it."""
    optimizer: int
    master: int = 0
    """Copies of the parameters that the optimizer writes in their place."""
    rest: int = 0
    """Buckets and staging, on the CPU; in all less than 1 KiB of single numbers and tables left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """How a strategy treats the GPUs of a node unlike those of others."""

    held: Callable[[int, int], tuple[float, float]]
    """Given ranks, and ranks of each node: the share of all parameters and of the optimizer's state that a rank keeps,
    copies for its node included."""
    traffic: Callable[[Sequence[Unit], int, int], Sequence[Traffic]]
    """As `Strategy.traffic`, given ranks of each node besides; a collective among the ranks of a node, or among those
    that have the same place in theirs, counts as any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A way to train one model on several devices, through its library's own interface."""

    name: str
    shard: Callable[[Workload, World], Trainee]
    requires: tuple[str, ...] = ()
    """Top-level modules it needs beside torch, asked with `find_spec`."""
    processes: Processes = Processes.PER_GPU
    accepts: frozenset[InputKind] = frozenset(InputKind)
    """Input kinds it can split over its devices."""
    cannot_split: str = ""
    """Why not the others, completing "<strategy> cannot train <model>: ..."."""
    devices: frozenset[str] = frozenset({"cpu", "cuda"})
    needs_device: str = ""
    """Why not the other device kinds, a sentence."""
    refuses: Mapping[str, str] = field(default_factory=dict)
    """Kinds of option tokens (`harness.case.OPTIONS`) it cannot honour, each with the reason, completing "<strategy>
    has no <option>: ..."."""
    refuses_on_cpu: Mapping[str, str] = field(default_factory=dict)
    """The like for option tokens that it can honour with CUDA GPUs only."""
    shards: frozenset[Literal["parameters", "optimizer"]] = frozenset()
    """What each rank keeps only its share of, between steps."""
    whole_below: int = 0
    """Parameters of fewer elements stay whole on every rank, even if it shards parameters."""
    traffic: Callable[[Sequence[Unit], int], Sequence[Traffic]] | None = None
    """Given a model that is trained as a whole and the number of ranks, at least two: what an update without
    accumulation must move, in closed form, norms and flags of one element left out. None is not predicted."""
    memory: Callable[[Share], Footprint] | None = None
    """What a rank must keep, in closed form and to the byte. None is not predicted."""
    hierarchy: Hierarchy | None = None
    """Of one for several nodes, which has nothing to do on a single one; its `shards` is what all ranks together keep
    one copy of, and `traffic` is left out."""


# -------------------------------------------------------------------------------------------------- datasets


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """Which part of a dataset, and how it is presented."""

    root: Path
    """The user's `--data-root`, or the cache folder for an embedded dataset."""
    image_size: int
    """Images are resized to this height and width, pixels."""
    train_images: int | None = None
    """Seeded subset of the training split; None takes all."""
    val_images: int | None = None
    """Seeded subset of the validation split; None takes all."""
    test_images: int | None = None
    """Seeded subset of the test split; None takes all."""
    carved_images: int | None = None
    """So many training images, drawn by `seed`, are the validation split, and what is that otherwise is the test split;
    None carves nothing, and then a dataset with two splits of its own has no test split."""
    seed: int = 0
    """Seed of the subsets and of what is carved, apart from every other seed."""
    download: bool = False
    """Whether missing files may be fetched."""
    augment: Augmentation = "none"
    """Of the training images, not of those to pretrain on; what is drawn for it comes from torch's generator."""
    normalise: Normalisation = "dataset"
    masks: bool = False
    """Whether targets of detection, and their ground truth, are to have the mask of each object."""


Augmentation = Literal["none", "crop", "crop_flip", "resized_crop_flip"]
"""What is done to training images by chance: moved by a little, or a part of them enlarged; and mirrored."""

Normalisation = Literal["dataset", "half"]
"""What a classifier's pixels are normalised by: mean and deviation of the dataset, or .5 and .5, to -1 to 1."""

Split = Literal["pretrain", "train", "val", "test"]
"""`test` is looked at once, by the model that `val` chose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset the suite can train on."""

    name: str
    input: InputKind
    classes: int
    """Number of classes, background not counted; labels are 0..classes-1 for images, 1..classes for detection."""
    embedded: bool
    """Whether it is made from what is installed and lives in the user's cache."""
    prepare: Callable[[DataSpec], None]
    """Make and verify the files; called once per run before any rank. Raises DataError."""
    open: Callable[[DataSpec, Split], Any]
    """A map-style torch dataset of (image [3, S, S] float, label int) or (image, target dict). Raises DataError."""
    missing: Callable[[Path, bool], str | None]
    """Given root and download: why the files are not there, completing "<case> needs ...", or None. Cheap."""
    untested: Callable[[DataSpec], str | None] = lambda spec: "it has no images for one"
    """Why a spec has no test split, completing "<dataset> has no test split: ...", or None where it can be opened."""
    reference: Callable[[DataSpec], Any] | None = None
    """All stored training images through torchvision's own dataset and transforms, for the benchmark of the loader."""


# --------------------------------------------------------------------------------------------------- metrics


Layer = Literal["tight", "accuracy", "time"]
"""How a metric is gated: by a limit, for it has almost no noise; by a margin, over seeds; by samples of its own, from
which `harness.gate.timing` judges step time and speedup. Figures without any noise are no metrics: `harness.gate.exact`
holds them to the last digit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How much worse than the baseline a metric may be before the case fails."""

    relative: float = 0.0
    """Share of the baseline."""
    absolute: float = 0.0
    """In the metric's unit; the larger of the two counts."""
    advisory: bool = False
    """Whether what is beyond it is said, and does not fail the case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure of a result: how it is derived from raw samples, shown, and gated."""

    name: str
    title: str
    """Head of the table column."""
    unit: str
    better: Literal["higher", "lower"]
    across: Literal["max", "mean", "sum", "one"]
    """How the ranks' figures become one: `one` when a single rank holds the figure of all."""
    value: Callable[[Result, Result | None], float | None]
    """From a result, and the reference's result where it has one; None when it could not be measured."""
    show: Callable[[float], str]
    """The value in words for a table cell, unit included unless the title has it."""
    order: int
    """Place among the table's columns."""
    layer: Layer | None = None
    """How it is gated; None is not."""
    limit: Limit | None = None
    """Of the layers `tight` and `accuracy`; an absolute one is the margin that paired seeds are tested with."""
    limits_on: Mapping[str, Limit] = field(default_factory=dict)
    """Other limits by kind of device."""
    timed: bool = False
    """Whether the clock decides it, so that it says little where ranks share cores."""
    scores: InputKind | None = None
    """The input kind whose validation it scores, or None for figures of the run itself."""
    score: Callable[[Sequence[Any], Any], dict[str, float]] | None = None
    """In the worker: all validation predictions, each image once, and the dataset -> named scores in [0, 1]."""
    confusion: Callable[[Sequence[Any], int], Sequence[Sequence[int]]] | None = None
    """In the worker: all predictions, and the number of classes -> how many of each class (row) were taken for each."""


# ------------------------------------------------------------------------------------------------- launchers


class Session(Protocol):
    """An open launcher: starts the ranks of one job after another."""

    conditions: str
    """What it does to the machine that results depend on, in words; mostly nothing."""

    def launch(self, job: Job, *, timeout_s: float) -> Sequence[RankReport]:
        """Run one job in fresh processes and return one report per rank.

        Raises:
            WorkerFailed: a rank died, hung, or did not report; no rank is left behind.
        """

    def close(self) -> None:
        """End every process that was started; may be called twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """A way to start ranks."""

    name: str
    open: Callable[[Host, Path], Session]
    """Given the host and a folder for logs and reports."""
    probe: Callable[[Joining], Host] | None = None
    """Looks at the machines that ranks will start on, joined as the command line says; None is this machine. Raises
    CannotRun."""


# --------------------------------------------------------------------------------------------------- studies


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A case of a study."""

    case: Case
    timed: bool = False
    """Whether the study tells its speed from others', so that several processes of it are taken."""
    accounted: bool = False
    """Whether the study needs what an accounted run of it counts, or the machine tells meanwhile."""
    traced: bool = False
    """Whether the study needs to know where its time goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A published study that the suite runs whole, and what it makes of it."""

    name: str
    about: str
    """What it trains and asks, in a sentence."""
    plan: Callable[[StudyProfile, Registry], Iterable[Planned]]
    """Its cases, in the order of its tables; those that cannot run here too."""
    tables: Callable[[Evidence], Iterable[Table]]
    """What was measured beside what was published."""
    claims: Callable[[Evidence], Iterable[Claim]]
    """What the study says, each judged by what was measured."""
    figures: Callable[[Evidence], Iterable[Figure]] = lambda evidence: ()
    tested: bool = False
    """Whether the test split is scored too, by the model of the best epoch."""
    published: Path | None = None
    """File of the figures that it published, as `harness.published` reads it; None for a study that has none."""
