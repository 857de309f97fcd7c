"""How near a case comes to what its machine can do: arithmetic, memory, collectives, the loader. Pure.

A step's compute cannot be over before its operations are done at the rate of the measured matrix product, nor before
its operators' inputs and outputs have moved once at the rate of the measured memory copy (Williams et al., Roofline,
CACM 52, 2009). Whichever takes longer says what compute is bound by.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from harness.anatomy import budget, ceilings
from harness.case import Case
from harness.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """A case beside the ceilings of as many ranks; what was not measured is None."""

    step_s: float
    """Of the timed run: the median of the slowest rank's."""
    flops: int | None
    """Of one rank's step, without recomputation."""
    op_bytes: int | None
    """Of one rank's step: inputs and outputs of its operators, were each to move once."""
    mfu: float | None
    """Model FLOPs utilisation: of the measured matrix product of the case's precision, over the timed step."""
    memory_share: float | None
    """Operators' bytes over the timed step, of the measured memory copy."""
    loader_images_per_s: float | None
    """What all ranks' loaders give while nothing is trained."""
    loader_share: float | None
    """Of it, what the timed steps consume: 1 is a loader that keeps up and no more."""
    bound: str | None
    """In a word: compute, communication, data, host, memory, or no core."""


def roof(result: Result) -> Roof | None:
    """Return how near a result comes to its ceilings, or None of one without steps."""
    if not result.step_s:
        return None
    case = Case.parse(result.case_id)
    step_s, known = median(result.step_s), result.ceilings
    peak = ceilings.peak_flops_per_s(known, case.precision) if known else None
    copy = ceilings.copy_bytes_per_s(known) if known else None
    # Of all ranks the one that computes most.
    busiest = max(result.accounts, key=lambda account: account.flops, default=None)
    flops = busiest.flops - busiest.recomputed_flops if busiest else None
    loader = ceilings.images_per_s(result.loaded) if result.loaded else None
    bound = budget.mean(budget.budgets(result.traces)).bound if result.traces else None
    if bound == "compute" and busiest and peak and copy and busiest.op_bytes / copy > busiest.flops / peak:
        bound = "memory"
    return Roof(
        step_s=step_s,
        flops=flops,
        op_bytes=busiest.op_bytes if busiest else None,
        mfu=ceilings.mfu(flops, step_s, peak),
        memory_share=busiest.op_bytes / step_s / copy if busiest and copy else None,
        loader_images_per_s=loader,
        loader_share=case.global_batch_size / step_s / loader if loader else None,
        bound=bound,
    )
