"""Every stored record, and JSON both ways: raw samples and facts only; whatever can be derived is derived on reading.

Schema history:
    1  first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from harness.errors import StoreError
from harness.records.account import Account
from harness.records.ceilings import Ceilings, Loaded
from harness.records.samples import Samples
from harness.records.telemetry import Telemetry
from harness.records.trace import RankTrace
from harness.stored.writing import whole

SCHEMA = 1

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

# A message may hold the name of a file that is no valid Unicode, which JSON cannot.
_Text = Annotated[str, AfterValidator(lambda text: text.encode(errors="backslashreplace").decode())]


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class EpochReport:
    """One epoch of training as one rank saw it."""

    seconds: float
    """From before the first batch was asked for to after the last step; evaluation is not in it."""
    steps: int
    scores: dict[str, float] | None = None
    """Validation after the epoch, over all ranks; rank 0 alone holds it."""
    learning_rate: float | None = None
    """Of the epoch's first update, of the first parameter group; runs of before this was recorded have none."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Memory:
    """Peaks of one rank's device, bytes; None where the device has no such figure."""

    peak_allocated_bytes: int | None = None
    """CUDA: torch's allocator, since before the model was built."""
    peak_reserved_bytes: int | None = None
    """CUDA: what the allocator held."""
    peak_resident_bytes: int | None = None
    """CPU: peak resident set of the rank, pages of files left out, above its state before the model was built."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Failure:
    """Why a rank did not finish."""

    kind: str
    """Name of the exception's class."""
    message: _Text
    phase: str
    """What the rank was doing: start, data, build, shard, train, evaluate or report."""
    traceback: _Text
    expected: bool
    """Whether it is one of this suite's own errors, which need no traceback to be understood."""
    unix_time: float
    """When it happened, so that the first of several ranks can be named."""
    step: int | None = None
    """In which step, counted from 1, where the rank noticed later."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class RankReport:
    """What one rank measured."""

    schema_version: Literal[1] = 1
    rank: int
    node: int = 0
    """Which of the case's nodes it ran on, counted from 0."""
    world_size: int
    device: str
    device_name: str
    cores: tuple[int, ...] = ()
    threads: int = 1
    failure: Failure | None = None
    step_s: tuple[float, ...] = ()
    """Boundary to boundary of every step, warm-up included."""
    data_wait_s: tuple[float, ...] = ()
    """Of each step, the seconds in which the device had nothing to do for want of a batch."""
    loss: tuple[float, ...] = ()
    """This rank's mean loss of each step."""
    warmup_steps: int = 0
    """So many steps at the start are not measured."""
    epochs: tuple[EpochReport, ...] = ()
    memory: Memory = field(default_factory=Memory)
    phases_s: dict[str, float] = field(default_factory=dict)
    """Seconds of each phase, from the moment the parent asked for the ranks."""
    parameters: int | None = None
    """Of the unsharded model."""
    trained_parameters: int | None = None
    weights: str = ""
    """Where the weights the training began from came from."""
    train_images: int | None = None
    val_images: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """What a job of another purpose than `measure` has to say."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Repeat:
    """The same case trained with another seed, for its accuracy alone."""

    seed: int
    epochs: tuple[EpochReport, ...]
    """As rank 0 saw them."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Result:
    """One measured case."""

    schema_version: Literal[1] = 1
    case_id: str
    profile: str
    identity: str
    """Digest of everything that makes two results comparable apart from the machine: case, profile settings, data."""
    dataset: str
    settings: dict[str, Any]
    """The profile's settings for the model, as resolved."""
    host: str
    launcher: str
    versions: dict[str, str]
    """Of Python and of every library that has a part in the figures."""
    oversubscribed: bool
    """Whether ranks shared cores, so that the timing says little."""
    wall_s: float
    """From asking for the ranks to holding their reports."""
    started_unix_s: float
    ranks: tuple[RankReport, ...]
    """With seed 0."""
    repeats: tuple[Repeat, ...] = ()
    """With `--seeds N`: seeds 1 to N - 1, the same for every strategy."""
    conditions: str = ""
    """What the launcher did to the machine, such as links of a given speed; mostly nothing."""
    watched: Telemetry | None = None
    """The machine before and after the timed run."""
    telemetry: Telemetry | None = None
    """With `--accounted`: the machine while that run made plain steps."""
    accounts: tuple[Account, ...] = ()
    """With `--accounted`: of each rank of the accounted run."""
    traces: tuple[RankTrace, ...] = ()
    """With `--traced`: of each rank of the traced run."""
    ceilings: Ceilings | None = None
    """With `--traced`: what as many ranks of the machine can do at most, measured in the same pytest run."""
    loaded: tuple[Loaded, ...] = ()
    """With `--traced`: what the loader of each rank gives while nothing is trained."""
    samples: tuple[Samples, ...] = ()
    """Processes of the time layer, in the order they ran."""
    beside: tuple[Samples, ...] = ()
    """The like of the accepted code, where a suspicion was confirmed beside it."""
    plain_s: float | None = None
    """Seconds of a step of the plain loop that the seconds of these processes are told at, as if the machine had the
    same speed in every run; the first run of a level measured it."""
    hardware: str = ""
    """Digest of what decides the machine's speed."""
    best_epoch: int | None = None
    """With `--tested` or `--save-model`: the epoch that validation scored best, counted from 1, the first of equals."""
    test_scores: dict[str, float] = field(default_factory=dict)
    """With `--tested`: of the test split, by the model as it was after its best epoch."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """With `--tested`, of a classifier: how many test images of each class (row) it took for each class (column)."""
    resumed: str = ""
    """With `--resume`: after which epoch this training was taken up by fresh ranks, or why it began anew."""

    def __post_init__(self) -> None:
        if len({len(rank.step_s) for rank in self.ranks}) != 1:
            raise ValueError("it must hold at least one rank, and as many steps of each")
        epochs = {tuple(epoch.steps for epoch in rank.epochs) for rank in self.ranks}
        steps = next(iter(epochs))
        if len(epochs) != 1 or min(steps, default=1) < 1 or sum(steps) > min(len(rank.loss) for rank in self.ranks):
            raise ValueError("its ranks must have made the same epochs, and have a loss of each of their steps")
        if len({len(rank.data_wait_s) for rank in self.ranks}) != 1:
            raise ValueError("its ranks must tell of as many steps how long they waited for a batch")

    @property
    def lead(self) -> RankReport:
        """The report of rank 0."""
        return self.ranks[0]

    def last_scores(self, name: str) -> tuple[float | None, ...]:
        """Return a validation score of the last epoch for each seed, None where there is none."""
        of_seeds = (self.lead.epochs, *(repeat.epochs for repeat in self.repeats))
        return tuple((epochs[-1].scores or {}).get(name) if epochs else None for epochs in of_seeds)

    @property
    def class_accuracy(self) -> tuple[float | None, ...]:
        """Share of the test images of each class that were taken for it; None where there is no such image."""
        return tuple(row[place] / sum(row) if sum(row) else None for place, row in enumerate(self.confusion))

    @property
    def step_s(self) -> tuple[float, ...]:
        """Seconds of every measured step: the slowest rank of each."""
        warm = self.lead.warmup_steps
        return tuple(max(step) for step in zip(*(r.step_s[warm:] for r in self.ranks), strict=True))

    @property
    def data_wait_share(self) -> float | None:
        """The share of the measured steps in which they waited for a batch; None where nothing was timed.

        Of each step the rank counts that waited longest, for the others then wait for it.
        """
        warm = self.lead.warmup_steps
        waits = [max(step) for step in zip(*(r.data_wait_s[warm:] for r in self.ranks), strict=True)]
        whole = sum(self.step_s)
        return min(1.0, sum(waits) / whole) if waits and whole > 0 else None


_REPORT: TypeAdapter[RankReport] = TypeAdapter(RankReport)
_RESULT: TypeAdapter[Result] = TypeAdapter(Result)


def identity_of(*, case_id: str, profile: str, settings: Mapping[str, Any], dataset: str) -> str:
    """Return `Result.identity`: a digest of everything but the machine that two results must share to be compared."""
    facts = {"case": case_id, "profile": profile, "settings": settings, "dataset": dataset}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def write_report(report: RankReport, path: Path) -> None:
    """Write a rank's report so that a reader sees all of it or none.

    Raises:
        StoreError: the file cannot be written, for example because the disk is full.
    """
    try:
        whole(path, _REPORT.dump_json(report))
    except OSError as error:
        raise StoreError(f"report {path} cannot be written: {error.strerror}; free or change the folder") from error


def read_report(path: Path) -> RankReport:
    """Read a rank's report.

    Raises:
        StoreError: the file is missing, truncated, or holds something else.
    """
    try:
        return _REPORT.validate_json(path.read_bytes())
    except OSError as error:
        raise StoreError(f"no report {path.name}: {error.strerror}") from error
    except ValidationError as error:
        raise StoreError(f"report {path.name} is no report: {_first(error)}") from error


def result_to_json(result: Result) -> dict[str, Any]:
    """Return the result as plain JSON values."""
    dumped: dict[str, Any] = _RESULT.dump_python(result, mode="json")
    return dumped


def result_from_json(data: Any, *, where: str) -> Result:
    """Return the result that plain JSON values hold; `where` names their file in messages.

    Raises:
        StoreError: another schema, or not a result.
    """
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA:
        raise StoreError(
            f"{where} holds a result of schema {version!r}; this suite reads schema {SCHEMA}: "
            "record it again with --benchmark-save"
        )
    try:
        return _RESULT.validate_python(data)
    except ValidationError as error:
        raise StoreError(f"{where} holds no valid result: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])[:200]
    return f"{place or 'top level'}: {first['msg']}"
