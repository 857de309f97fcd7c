"""Step time, throughput, speedup and scaling efficiency, all derived from the raw times of the measured steps."""

from __future__ import annotations

from statistics import median

from harness.case import Case
from harness.plugins import Metric
from harness.results import Result


def step_s(result: Result, reference: Result | None = None) -> float | None:
    """Return the median over the measured steps of the slowest rank's time, seconds."""
    steps = result.step_s
    return median(steps) if steps else None


def images_per_s(result: Result, reference: Result | None = None) -> float | None:
    """Return the global batch over the step time; None without steps, or with steps that took no time."""
    step = step_s(result)
    return None if not step else Case.parse(result.case_id).global_batch_size / step


def speedup(result: Result, reference: Result | None) -> float | None:
    """Return the throughput over that of the reference."""
    if reference is None:
        return None
    own, base = images_per_s(result), images_per_s(reference)
    return None if own is None or not base else own / base


def efficiency(result: Result, reference: Result | None) -> float | None:
    """Return throughput(N) / (N x throughput(reference)), the batch per GPU kept: weak scaling.

    None unless the reference runs on one GPU.
    """
    gained = speedup(result, reference)
    if gained is None or reference is None or Case.parse(reference.case_id).gpu_count != 1:
        return None
    return gained / Case.parse(result.case_id).gpu_count


def fixed_s(result: Result) -> float:
    """Return what a case cost beside building, sharding, training and evaluating, seconds: everything that is ours."""
    work = ("build", "shard", "train", "evaluate")
    return result.wall_s - max(sum(rank.phases_s.get(phase, 0.0) for phase in work) for rank in result.ranks)


def _milliseconds(value: float) -> str:
    return f"{value * 1e3:.1f} ms"


STEP_TIME = Metric(
    name="step_time",
    title="step",
    unit="s",
    better="lower",
    across="max",
    value=step_s,
    show=_milliseconds,
    order=10,
    timed=True,
    layer="time",
)
THROUGHPUT = Metric(
    name="throughput",
    title="images/s",
    unit="images/s",
    better="higher",
    across="one",
    value=images_per_s,
    show=lambda value: f"{value:.1f}",
    order=20,
    timed=True,
)
SPEEDUP = Metric(
    name="speedup",
    title="speedup",
    unit="",
    better="higher",
    across="one",
    value=speedup,
    show=lambda value: f"{value:.2f}x",
    order=30,
    timed=True,
    layer="time",
)
EFFICIENCY = Metric(
    name="efficiency",
    title="effic.",
    unit="",
    better="higher",
    across="one",
    value=efficiency,
    show=lambda value: f"{value:.0%}",
    order=40,
    timed=True,
)
