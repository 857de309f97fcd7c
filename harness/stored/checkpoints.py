"""The folder that a training is kept in, epoch after epoch, so that other ranks can take it up: what is in it, and
which of it holds.

    epoch-3/rank0.pt      what rank 0 kept after the steps of epoch 3, before that epoch was evaluated
    epoch-3/rank0.json    a `Kept`: what was measured until then, and the digest of the file beside it

A rank writes each file whole or not at all, the second after the first. So whenever the ranks are killed, an epoch is
either complete or seen not to be.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from harness.errors import StoreError
from harness.plugins import Metric
from harness.results import EpochReport, Memory
from harness.running.job import Job
from harness.stored import reading
from harness.stored.writing import whole

_HELD: set[Path] = set()
"""Locks that this process has."""
_EPOCH = re.compile(r"epoch-([1-9]\d*)")
_LIBRARIES = ("torch", "torchvision", "deepspeed", "fairscale", "transformers")
_OWN_TO_A_RUN = (
    *("purpose", "folder", "asked_s", "cores", "reference", "plant", "weights", "data", "device_memory_bytes"),
    *("checkpoints", "begin_from", "scored", "saved", "hang_s"),
)
"""Of a job, what its training does not depend on, or what is told apart below."""


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Kept:
    """What is known of a rank's file."""

    schema_version: Literal[1] = 1
    facts: dict[str, Any]
    """What the training depends on, as `facts_of` tells it."""
    sha256: str
    """Of the file."""
    step_s: tuple[float, ...]
    data_wait_s: tuple[float, ...]
    loss: tuple[float, ...]
    began: tuple[int, ...]
    """After how many of these steps each process began that made some: the first after none."""
    epochs: tuple[EpochReport, ...]
    """The last is not yet evaluated."""
    memory: Memory = field(default_factory=Memory)


_KEPT: TypeAdapter[Kept] = TypeAdapter(Kept)


def facts_of(job: Job) -> dict[str, Any]:
    """Return what the training of a job depends on, as JSON has it: under other facts it would be another training."""
    facts = {name: value for name, value in asdict(job).items() if name not in _OWN_TO_A_RUN}
    # Where the data and the warm start lie says nothing, and a warm start is named by what it was made of.
    facts |= {f"data {name}": value for name, value in asdict(job.data).items() if name not in ("root", "download")}
    facts["warm start"] = job.weights.name if job.weights is not None else None
    facts |= {name: _version(name) for name in _LIBRARIES}
    known: dict[str, Any] = json.loads(json.dumps(facts, sort_keys=True))
    return known


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def folder_of(checkpoints: Path, epoch: int) -> Path:
    """Return the folder of the state after an epoch, counted from 1."""
    return checkpoints / f"epoch-{epoch}"


def newest(checkpoints: Path, facts: dict[str, Any]) -> tuple[Path | None, str]:
    """Return the folder of the last epoch that a training of these facts can be taken up from, or None, and what is
    wrong with those after it.
    """
    wrong: list[str] = []
    for epoch in sorted(epochs_in(checkpoints), reverse=True):
        fault = _fault(folder_of(checkpoints, epoch), facts)
        if not fault:
            return folder_of(checkpoints, epoch), "; ".join(wrong)
        wrong.append(f"what was kept after epoch {epoch} {fault}")
    return None, "; ".join(wrong)


def epochs_in(checkpoints: Path) -> list[int]:
    """Return the epochs that something is kept of, complete or not."""
    try:
        return [int(match[1]) for entry in checkpoints.iterdir() if (match := _EPOCH.fullmatch(entry.name))]
    except OSError:
        return []


def _fault(folder: Path, facts: dict[str, Any]) -> str:
    """Return why a training cannot be taken up from a folder, completing "what was kept after epoch 3 ..."."""
    for rank in range(facts["ranks"]):
        try:
            kept = read(folder, rank)
        except StoreError as error:
            return f"cannot be read: {error}"
        if kept is None:
            return f"is not complete: rank {rank} had not written its part"
        if others := [name for name in facts | kept.facts if facts.get(name) != kept.facts.get(name)]:
            name = others[0]
            return f"is of another training: {name} {kept.facts.get(name)!r}, not {facts.get(name)!r}"
        if digest_of(folder / f"rank{rank}.pt") != kept.sha256:
            return f"is damaged: the checksum of rank{rank}.pt is not the one it was written with"
    return ""


def read(folder: Path, rank: int) -> Kept | None:
    """Return what is known of a rank's file; None where the rank had not come so far.

    Raises:
        StoreError: it holds something else.
    """
    file = folder / f"rank{rank}.json"
    try:
        return _KEPT.validate_python(reading.read(file, kind="record of this suite", mend="train anew"))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StoreError(f"{file} holds no record of this suite: {str(error).splitlines()[0]}") from error


def write(folder: Path, rank: int, kept: Callable[[str], Kept], tensors: Callable[[BinaryIO], None]) -> None:
    """Write what a rank keeps, so that a reader sees all of it or knows that it is not all there.

    Args:
        folder: of the epoch.
        rank: which.
        kept: given the digest of the tensors' file, what is known of it.
        tensors: writes that file.

    Raises:
        StoreError: it cannot be written, for example because the disk is full.
    """
    file = folder / f"rank{rank}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        whole(file, tensors, durable=True)
        record = _KEPT.dump_json(kept(digest_of(file)))
        whole(file.with_suffix(".json"), record, durable=True)
    except (OSError, RuntimeError) as error:  # torch tells of a full disk by the second
        raise StoreError(
            f"the state after {folder.name} cannot be kept in {folder}: {error}; free space, or change SHARDBENCH_CACHE"
        ) from error


@contextlib.contextmanager
def held(checkpoints: Path) -> Iterator[None]:
    """Let no other run write to a folder of kept epochs while the block runs; a holder's end, however, frees it.

    What this process holds already is its own: a run may train a case more than once, one training after the other.

    Raises:
        StoreError: another run holds it, or the lock cannot be made.
    """
    file = checkpoints.with_name(f"{checkpoints.name}.lock").absolute()
    if file in _HELD:
        yield
        return
    try:
        checkpoints.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("a+", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{file} cannot be made: {error.strerror}; free or change SHARDBENCH_CACHE") from error
    with opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            opened.seek(0)
            raise StoreError(
                f"process {opened.read().strip() or 'unknown'} keeps the training {checkpoints.name} in "
                f"{checkpoints.parent} with --resume; wait for its end, or leave --resume out"
            ) from error
        opened.truncate(0)
        opened.write(str(os.getpid()))
        opened.flush()
        _HELD.add(file)
        try:
            yield
        finally:
            _HELD.discard(file)


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file; nothing where it cannot be read."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
    return ""


def forget(checkpoints: Path, *, but: Sequence[int] = ()) -> None:
    """Delete what is kept of all epochs but some."""
    for epoch in set(epochs_in(checkpoints)) - set(but):
        shutil.rmtree(folder_of(checkpoints, epoch), ignore_errors=True)
    with contextlib.suppress(OSError):
        checkpoints.rmdir()  # where nothing is left


def best_epoch(epochs: Sequence[EpochReport], metric: Metric) -> int:
    """Return the epoch, counted from 1, that validation scored best, the first of equals; the last where none has."""
    scores = [(epoch.scores or {}).get(metric.name) for epoch in epochs]
    known = [score for score in scores if score is not None]
    if not known:
        return len(epochs)
    return 1 + scores.index(max(known) if metric.better == "higher" else min(known))
