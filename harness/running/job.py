"""A job: everything a rank needs to know, as one JSON file from the parent to the ranks."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from harness.errors import StoreError
from harness.plugins import Augmentation, DataSpec, Normalisation, OptimizerSpec
from harness.running.progress import HANG_S
from harness.stored import reading
from harness.stored.writing import whole

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class OptimizerSettings:
    """A torch optimizer by name with its keyword arguments."""

    name: Literal["sgd", "adamw"]
    arguments: dict[str, float] = field(default_factory=dict)

    @property
    def spec(self) -> OptimizerSpec:
        """As the strategies take it."""
        return OptimizerSpec(name=self.name, arguments=self.arguments)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class DataSettings:
    """Which dataset, which part of it, and where it is."""

    name: str
    root: Path
    image_size: int
    train_images: int | None = None
    val_images: int | None = None
    test_images: int | None = None
    carved_images: int | None = None
    augment: Augmentation = "none"
    normalise: Normalisation = "dataset"
    download: bool = False

    @property
    def spec(self) -> DataSpec:
        """As the datasets take it; the seed of its subsets is always the same."""
        return DataSpec(
            root=self.root,
            image_size=self.image_size,
            train_images=self.train_images,
            val_images=self.val_images,
            test_images=self.test_images,
            carved_images=self.carved_images,
            augment=self.augment,
            normalise=self.normalise,
            download=self.download,
        )


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Job:
    """One run of some ranks."""

    case_id: str
    purpose: Literal[
        "measure",
        "replicate",
        "account",
        "trace",
        "ceilings",
        "loader_rate",
        "loaders",
        "fit",
        "certify",
        "play",
        "warm_start",
        "prepare_data",
        "overhead",
        "score",
        "evaluate",
    ] = "measure"
    """`measure` times; `account` counts bytes and operations, `trace` attaches the profiler: three runs, never mixed.
    `replicate` times again, beside frozen references. `ceilings` measures what the machine can do, `loader_rate` the
    loader, `loaders` it beside torchvision's, `fit` whether a batch fits. `certify` trains a few steps and holds them
    to the reference, which `play` makes in one process; `warm_start` trains on the pretrain split and writes the
    weights; `prepare_data` makes the dataset's files; `overhead` interleaves the harness's step with a bare loop's.
    `score` takes up a kept training to score and save its model, `evaluate` scores a saved one."""
    ranks: int
    """Processes to start."""
    ranks_per_node: int | None = None
    """So many of them on each of several nodes; None is one node with all."""
    devices_per_process: int = 1
    device_kind: Literal["cpu", "cuda"]
    backend: Literal["gloo", "nccl"]
    data: DataSettings
    epochs: int
    warmup_steps: int
    measured_steps: int
    """At least so many steps after warm-up are measured; if the epochs hold fewer, steps follow the last evaluation."""
    sampled_s: float = 0.0
    """Of `replicate`: seconds of rounds to make."""
    optimizer: OptimizerSettings
    loader_workers: int = 0
    """Loader processes per rank; 0 loads in the rank itself."""
    weights: Path | None = None
    """State dict of the warm start to begin from, or, for `warm_start`, where to write it."""
    reference: Path | None = None
    """State that `play` writes and `certify` reads."""
    pretrained: bool = False
    """Whether public weights are looked for."""
    seed: int = 0
    """Of initial weights, data order and whatever a model draws; the dataset's subset has a seed of its own."""
    cores: tuple[int, ...] = ()
    """Cores to pin ranks to, on CPU: rank r to `cores[r % len(cores)]`; empty pins nothing."""
    threads: int = 1
    """Intra-operator threads per rank."""
    device_memory_bytes: int | None = None
    """What a rank may allocate at most; None leaves the limit to the device."""
    plant: str = ""
    """A fault that the case is to have, as `harness.running.plant` reads it."""
    plugins: tuple[str, ...] = ()
    """Modules named by `--plugins`."""
    checkpoints: Path | None = None
    """Where each rank keeps its state after each epoch; None keeps nothing."""
    begin_from: Path | None = None
    """Of `measure` and `score`: what ranks kept after an epoch, to go on from."""
    scored: Literal["", "val", "test"] = ""
    """Of `score` and `evaluate`: the split to score."""
    saved: Path | None = None
    """Folder of a saved model: that `score` makes, that `evaluate` reads."""
    hang_s: float = HANG_S
    """Without a step for so long, its ranks are ended while they train."""
    asked_s: float = 0.0
    """The parent's monotonic clock when it asked for the ranks; those of another machine are told by their agent."""
    folder: Path
    """Where each rank writes `rank<r>.json`, and where its logs are."""


_ADAPTER = TypeAdapter(Job)


def write(job: Job, path: Path) -> None:
    """Write a job for its ranks to read.

    Raises:
        StoreError: the file cannot be written.
    """
    try:
        # Without what is at its default: accepted code of before a field was added reads the job too.
        whole(path, _ADAPTER.dump_json(job, exclude_defaults=True))
    except OSError as error:
        raise StoreError(f"job file {path} cannot be written: {error.strerror}; free or change the folder") from error


def read(path: Path) -> Job:
    """Read a job.

    Raises:
        StoreError: the file cannot be read or is no job.
    """
    try:
        plain = reading.read(path, kind="job file", mend="the run that wrote it must write it again")
        return _ADAPTER.validate_python(plain)
    except (OSError, ValidationError) as error:
        raise StoreError(f"job file {path} cannot be read: {error}") from error
