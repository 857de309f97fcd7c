"""One rank from start to report.

`main` is the whole life of a rank: read the job, join the others, build, shard, train, evaluate, report. Whatever goes
wrong ends in the rank's report file, with the phase it happened in; the parent does the rest.
"""

from __future__ import annotations

import datetime
import importlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from harness.case import Case
from harness.errors import CannotRun, HarnessError, OutOfMemory, tells_of_no_memory
from harness.plugins import World
from harness.registry import discover
from harness.results import Failure, RankReport, write_report
from harness.running import job as jobs
from harness.running.flight import file_of
from harness.running.job import Job
from harness.worker import flight, process
from harness.worker.accounting import account
from harness.worker.ceilings import ceilings, loader_rate
from harness.worker.certifying import certify
from harness.worker.fitting import fit
from harness.worker.loaders import loaders
from harness.worker.overhead import overhead
from harness.worker.purposes import Context, measure, prepare_data, warm_start
from harness.worker.reference import play
from harness.worker.replicate import replicate
from harness.worker.scoring import evaluate_saved, score
from harness.worker.tracing import trace

_PURPOSES = {
    "measure": measure,
    "replicate": replicate,
    "account": account,
    "certify": certify,
    "play": play,
    "warm_start": warm_start,
    "prepare_data": prepare_data,
    "overhead": overhead,
    "trace": trace,
    "ceilings": ceilings,
    "loader_rate": loader_rate,
    "loaders": loaders,
    "fit": fit,
    "score": score,
    "evaluate": evaluate_saved,
}


class Phases:
    """Seconds of each phase of a rank, and which one it is in."""

    def __init__(self, asked_s: float, progress: process.Progress) -> None:
        self.seconds = {"start": time.monotonic() - asked_s}
        self._progress = progress
        self.current = "start"

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Account the block to a phase; phases of one name add up."""
        began = time.monotonic()
        outer, self.current = self.current, name
        self._progress.phase = name
        self._progress.show()
        yield
        # On an exception `current` keeps the name, so that the failure can tell it.
        self.current = outer
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


def main(job_file: str) -> None:
    """Be the rank that RANK, LOCAL_RANK and WORLD_SIZE name; exits with 1 after writing a failure."""
    try:
        _main(job_file)
    except Exception:
        # What it could not report itself: torch elastic would keep it to itself.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _main(job_file: str) -> None:
    process.die_with_parent()
    job = jobs.read(Path(job_file))
    rank = int(os.environ["RANK"])
    flight.tell_when_asked(file_of(job.folder, rank))
    process.log_to(job.folder / f"rank{rank}.log")
    progress = process.Progress(job.folder / f"rank{rank}.progress")
    phases = Phases(float(os.environ.get("SHARDBENCH_ASKED_S", job.asked_s)), progress)
    report = _report(job, rank, phases, progress)
    with phases("report"):
        write_report(report, job.folder / f"rank{rank}.json")
    if dist.is_initialized() and report.failure is None:
        dist.destroy_process_group()
    if report.failure is not None:
        # At once: a peer may wait for this rank in a collective, and an orderly end could wait for the peer.
        sys.stderr.flush()
        os._exit(1)


def _report(job: Job, rank: int, phases: Phases, progress: process.Progress) -> RankReport:
    try:
        with phases("join"):
            cores = process.pin(job.cores, int(os.environ["LOCAL_RANK"]))
            world = _join(job)
        context = Context(job=job, case=Case.parse(job.case_id), world=world, phases=phases, progress=progress)
        with phases("plugins"):
            context.registry = discover(job.plugins)
            _import_required(context)
        if job.device_memory_bytes is not None:
            process.limit_memory(job.device_memory_bytes, on_cuda=world.on_cuda)
        report = _PURPOSES[job.purpose](context)
        return RankReport(
            rank=world.rank,
            node=int(os.environ.get("GROUP_RANK", "0")),
            world_size=world.size,
            device=world.device,
            device_name=torch.cuda.get_device_name() if world.on_cuda else "cpu",
            cores=cores,
            threads=torch.get_num_threads(),
            phases_s=phases.seconds,
            **report,
        )
    except Exception as error:
        traceback.print_exc()
        return RankReport(
            rank=rank,
            world_size=job.ranks,
            device=job.device_kind,
            device_name="",
            phases_s=phases.seconds,
            failure=Failure(
                kind=OutOfMemory.__name__ if is_out_of_memory(error, job) else type(error).__name__,
                message=str(error),
                phase=phases.current,
                traceback=traceback.format_exc(),
                expected=isinstance(error, HarnessError),
                unix_time=time.time(),
                step=getattr(error, "step", None),
            ),
        )


def is_out_of_memory(error: Exception, job: Job) -> bool:
    """Return whether memory was refused: by CUDA's allocator, by torch's on the CPU, or by Python's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    limited = job.device_memory_bytes is not None
    if isinstance(error, RuntimeError | OSError) and tells_of_no_memory(str(error), limited=limited):
        return True
    # What was refused in the middle of something, an import say, is told as that something's failure.
    before = error.__cause__ or error.__context__
    return limited and isinstance(before, Exception) and is_out_of_memory(before, job)


def _join(job: Job) -> World:
    rank, local_rank, size = (int(os.environ[key]) for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    torch.set_num_threads(job.threads)
    device = "cpu"
    if job.device_kind == "cuda":
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(device)
    # What is offloaded is reduced where it lies.
    both = job.backend == "nccl" and Case.parse(job.case_id).offload == "cpu"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if both else job.backend,
        timeout=datetime.timedelta(minutes=30),  # the case's own timeout ends it earlier and says more
        device_id=torch.device(device) if job.backend == "nccl" else None,
    )
    return World(
        rank=rank,
        local_rank=local_rank,
        size=size,
        device=device,
        backend=job.backend,
        devices_per_process=job.devices_per_process,
        ranks_per_node=job.ranks_per_node,
    )


def _import_required(context: Context) -> None:
    for owner in (context.strategy, context.model):
        for name in owner.requires:
            try:
                importlib.import_module(name)
            except Exception as error:
                raise CannotRun(
                    f"{owner.name} needs {name}, which cannot be imported here: {type(error).__name__}: {error}"
                ) from error
