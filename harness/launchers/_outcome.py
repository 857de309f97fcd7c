"""What the ranks of a job left behind: all their reports, or one failure that names the rank and the cause."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import CannotRun, OutOfMemory, StoreError, WorkerFailed, tells_of_no_memory
from harness.results import RankReport, read_report
from harness.running import flight
from harness.running.job import Job
from harness.running.progress import read_progress, was_stopped

_TAIL_LINES = 25
_STACK_LINES = 20
_STACK = ("Thread 0x", "Current thread 0x")
"""What faulthandler's account of a thread begins with."""
_CRASH = "Fatal Python error"
"""What faulthandler writes before the stacks of a process that a fault of its own ends."""


ROOT = Path(__file__).resolve().parents[2]
"""Of this suite's own code."""


def environment(job_kind: str, root: Path = ROOT) -> dict[str, str]:
    """Return the environment in which ranks start, whatever starts them; their suite is the one in `root`."""
    # Where this process finds its modules, the user's plug-ins among them, ranks find them too.
    settings = {
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)]),
        "PYTHONUNBUFFERED": "1",
        # Asks the driver, not the runtime, so that the fork server stays free of CUDA.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        "DS_ACCELERATOR": job_kind,
        # Nothing is fetched unless --download asks for it.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if job_kind == "cpu":
        # One thread a rank at every gpu_count; libraries read this once, when they are loaded.
        settings |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return os.environ | settings


def collect(
    job: Job, *, exits: Mapping[int, int], timed_out: bool, timeout_s: float, hung: bool = False
) -> Sequence[RankReport]:
    """Return every rank's report.

    Args:
        job: what was run.
        exits: exit status by rank, negative for a signal, as far as known.
        timed_out: whether the ranks were ended, because their time was over or because they hung.
        timeout_s: that time.
        hung: whether it was because no rank finished a step for the job's `hang_s`.

    Raises:
        WorkerFailed: some rank did not report; names the first rank that failed, why, where, and the end of its log.
    """
    reports: dict[int, RankReport] = {}
    wrong: dict[int, str] = {}
    for rank in range(job.ranks):
        try:
            reports[rank] = read_report(job.folder / f"rank{rank}.json")
        except StoreError as error:
            wrong[rank] = str(error)
    failed = sorted(
        ((r.failure.unix_time, rank) for rank, r in reports.items() if r.failure is not None), key=lambda pair: pair[0]
    )
    if full := [rank for _, rank in failed if _kind(reports[rank]) == OutOfMemory.__name__]:
        # Its peers fail too, maybe before it, for what they wait for never comes.
        raise OutOfMemory(_reported(job, reports[full[0]]))
    died = {rank: status for rank, status in exits.items() if status != 0 and rank in wrong}
    # Elastic ends the ranks that are left with SIGTERM as soon as one has failed.
    by_itself = {rank: status for rank, status in died.items() if status != -signal.SIGTERM}
    for rank, status in by_itself.items():
        # What is refused memory below Python ends the process without a report: C++ code aborts, for a thread as well,
        # the loader, for a library's thread-local data, exits with 127, and C code that ignores it follows null.
        limited = job.device_memory_bytes is not None
        told = status in (-signal.SIGABRT, 127) and tells_of_no_memory("\n".join(_lines(job, rank)), limited=limited)
        if told or (limited and status == -signal.SIGSEGV):
            raise OutOfMemory(
                f"{job.case_id}: rank {rank} of {job.ranks} ran out of memory {_where(job, rank)}{_limit(job)}"
            )
    if by_itself and not timed_out:
        # Before any reported failure: a rank that ends without a word makes its peers fail, and they can tell.
        raise WorkerFailed(_silent(job, by_itself))
    if failed:
        first = reports[_cause(failed, reports)]
        assert first.failure is not None
        if first.failure.kind == CannotRun.__name__:
            raise CannotRun(first.failure.message)
        raise WorkerFailed(_reported(job, first))
    if timed_out:
        why = f"no rank finished a step for {job.hang_s:g} s" if hung else f"not finished after {timeout_s:g} s"
        option = "--hang-timeout" if hung else "--case-timeout"
        raise WorkerFailed(_hung(job, sorted(wrong), f"{why}, so it was ended", f"if it was only slow, give {option}"))
    if died:
        raise WorkerFailed(_silent(job, died))
    if wrong:
        rank = min(wrong)
        raise WorkerFailed(
            f"{job.case_id}: rank {rank} of {job.ranks} left no valid report: {wrong[rank]}\n{_log(job, rank)}"
        )
    return [reports[rank] for rank in range(job.ranks)]


def _cause(failed: Sequence[tuple[float, int]], reports: Mapping[int, RankReport]) -> int:
    """Return the rank that failed first: by the step, where all know it, else by the clock."""
    steps = {rank: reports[rank].failure.step for _, rank in failed}  # type: ignore[union-attr]
    known = [(step, rank) for rank, step in steps.items() if step is not None]
    # A loss that is no number makes its peers' the same a step later, and all look for it at the end of an epoch.
    return min(known)[1] if len(known) == len(steps) else failed[0][1]


def _limit(job: Job) -> str:
    if job.device_memory_bytes is None:
        return ""
    return f"; --device-memory leaves a rank {job.device_memory_bytes / 2**30:.3g} GiB"


def _kind(report: RankReport) -> str:
    return report.failure.kind if report.failure is not None else ""


def _reported(job: Job, report: RankReport) -> str:
    failure = report.failure
    assert failure is not None
    where = f"{job.case_id}: rank {report.rank} of {job.ranks} failed during {failure.phase}"
    if failure.kind == OutOfMemory.__name__:
        return f"{where}: out of memory: {failure.message.splitlines()[0]}{_limit(job)}"
    if failure.expected:
        return f"{where}: {failure.message}"
    return f"{where}: {failure.kind}: {failure.message}\n{failure.traceback.rstrip()}"


def _silent(job: Job, died: Mapping[int, int]) -> str:
    rank = min(died)
    return f"{job.case_id}: rank {rank} of {job.ranks} {_ended(died[rank])} {_where(job, rank)}\n{_log(job, rank)}"


def _hung(job: Job, silent: Sequence[int], why: str, advice: str) -> str:
    ranks = ", ".join(str(rank) for rank in silent) or "none"
    places = [_standing(job, rank) for rank in silent]
    late = [f"  {sentence}" for sentence in flight.told(flight.read(job.folder, silent))]
    logs = [_stacks(job, rank) for rank in silent]
    head = f"{job.case_id}: {why}; no report from rank {ranks} of {job.ranks}; {advice}"
    return "\n".join([head, *places, *late, *logs])


def _ended(status: int) -> str:
    if status < 0:
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"
    return f"exited with status {status}"


def _standing(job: Job, rank: int) -> str:
    stopped = "; it is stopped, by SIGSTOP or a debugger" if was_stopped(job.folder, rank) else ""
    return f"  rank {rank} {_where(job, rank)}{stopped}"


def _where(job: Job, rank: int) -> str:
    place = read_progress(job.folder, rank)
    if place is None:
        return "before it started"
    phase, epoch, epochs, step, steps = place
    if steps:
        return f"during {phase}, epoch {epoch} of {epochs}, step {step} of {steps}"
    return f"during {phase}"


def _log(job: Job, rank: int) -> str:
    lines = _lines(job, rank)
    if not lines:
        return f"  rank {rank} wrote no log"
    crash = next((place for place, line in enumerate(lines) if line.startswith(_CRASH)), None)
    if crash is None:
        told = lines[-_TAIL_LINES:]
    else:
        # Below the stack stand the names of all that is loaded, above it what a library said before it gave up.
        stack = _main_stack(lines[crash:])
        told = [*lines[: crash + 1][-(_TAIL_LINES - len(stack)) :], *stack]
    return "\n".join([f"  end of rank {rank}'s log ({len(lines)} lines):", *(f"  | {line}" for line in told)])


def _stacks(job: Job, rank: int) -> str:
    """Return the stack that a rank wrote when it was asked, else the end of its log."""
    stack = _main_stack(_lines(job, rank))
    if not stack:
        return _log(job, rank)
    return "\n".join([f"  stack of rank {rank}, the innermost call first:", *(f"  | {line}" for line in stack)])


def _main_stack(lines: Sequence[str]) -> list[str]:
    """Return the innermost calls of the main thread; none where no stack was written."""
    told = [line for line in lines if line.startswith((*_STACK, "  File"))]
    starts = [place for place, line in enumerate(told) if line.startswith(_STACK)]
    # It comes last, what it called last first: which is where it hangs, or died.
    return told[starts[-1] + 1 :][:_STACK_LINES] if starts else []


def _lines(job: Job, rank: int) -> list[str]:
    try:
        return (job.folder / f"rank{rank}.log").read_text(errors="replace").splitlines()
    except OSError:
        return []
