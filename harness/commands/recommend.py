"""`recommend`: which strategy to take, by a stored run of this suite."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from harness.anatomy.advice import Candidate, Effort, advise, effort
from harness.errors import HarnessError, StoreError, unknown
from harness.registry import Registry, discover
from harness.report.advice import render
from harness.report.answer import candidates
from harness.stored import store
from harness.units import bytes_of

NAME = "recommend"
HELP = "which strategy is fastest within the memory, and which is leanest, by a stored run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a stored run, as --benchmark-save writes it")
    parser.add_argument("--mem", type=_size, help="memory of a GPU: 24GB (10^9 bytes), 24GiB (2^30), 500MB")
    parser.add_argument(
        "--slowdown", type=_share, default=0.1, help="how much slower the leanest may be (default: 10%%)"
    )
    parser.add_argument("--gpus", type=int, help="only cases of so many GPUs")
    parser.add_argument("--model", help="only cases of this model")


def run(arguments: argparse.Namespace) -> int:
    """Print the advice; 1 where no case counts, or none fits.

    Raises:
        StoreError: the file is no stored run, or holds no case that was asked for.
    """
    registry = discover()
    found = _asked_for(read(arguments.results, registry), arguments)
    advices = advise(found, memory_bytes=arguments.mem, slowdown=arguments.slowdown)
    efforts = _efforts(registry)
    for line in render(advices, efforts=efforts, memory_bytes=arguments.mem, slowdown=arguments.slowdown):
        sys.stdout.write(line + "\n")
    if any(advice.fastest for advice in advices):
        return 0
    known = [one.memory_bytes for a in advices for one in a.counted if one.memory_bytes is not None]
    if not any(advice.counted for advice in advices):
        why = f"none of the {len(found)} cases is certified; run them again with a strategy that trains alike"
    elif known:
        why = f"nothing fits into {arguments.mem} bytes; the least that exists is {min(known)}: give --mem more"
    else:
        why = "no case has a peak memory to hold against --mem; leave it out"
    sys.stderr.write(f"python -m harness {NAME}: {why}\n")
    return 1


def read(file: Path, registry: Registry) -> list[Candidate]:
    """Return every case of a stored run.

    Raises:
        StoreError: the file is none, is damaged, or holds no case of this suite.
    """
    if file.is_dir():
        raise StoreError(f"{file} is a folder; name one of the files in it, for example 0001_accepted.json")
    if not file.exists():
        raise StoreError(f"there is no file {file}; stored runs are in baselines/<host>/")
    benchmarks = store.read_run(file)["benchmarks"]
    stored = [one for one in (store.unpack(b, where=file.name) for b in benchmarks) if one is not None]
    if not stored:
        raise StoreError(f"{file} holds no case of this suite; store a run with pytest benches --benchmark-save")
    return candidates([(one.result, one.reference, one.certificate) for one in stored], registry.metrics)


def _asked_for(found: list[Candidate], arguments: argparse.Namespace) -> list[Candidate]:
    models = {one.case.model for one in found}
    if arguments.model is not None and arguments.model not in models:
        raise StoreError(f"{arguments.results} holds {unknown('model', arguments.model, models)}")
    counts = sorted({one.case.gpu_count for one in found})
    chosen = [
        one
        for one in found
        if arguments.model in (None, one.case.model) and arguments.gpus in (None, one.case.gpu_count)
    ]
    if not chosen:
        raise StoreError(
            f"{arguments.results} holds no case of {arguments.gpus} GPUs; it has {', '.join(map(str, counts))}"
        )
    return chosen


def _efforts(registry: Registry) -> dict[str, Effort]:
    return {name: effort(strategy) for name, strategy in registry.strategies.items()}


def _size(text: str) -> int:
    try:
        return bytes_of(text)
    except HarnessError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _share(text: str) -> float:
    """Return the share that `10%` or `0.1` names."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; write it like 10% or 0.1")
    return share
