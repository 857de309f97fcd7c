"""What is wrong with a training that differs, as the pattern of its figures tells. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from harness.gate.evidence import Evidence, apart, near, norms_of


def explain(evidence: Evidence, *, known: bool) -> Iterator[str]:
    """Yield what the pattern of the first step tells, at which all parameters were still equal.

    Args:
        evidence: what the certificate is judged by.
        known: whether the regime tells a cause already.
    """
    ranks, played, case = evidence.ranks, evidence.played, evidence.case
    reference = norms_of(played[0])[0]
    ratio = evidence.norms[0] / reference if reference else 1.0
    counts = {"ranks": case.gpu_count, "micro-batches": case.accumulation}
    summed = [f"the {n} {what}" for what, n in counts.items() if n > 1 and near(ratio, n)]
    weights = _weighted(evidence)
    if weights:
        yield weights
    elif case.gpu_count > 1 and near(ratio, 1 / case.gpu_count):
        yield f"the gradient is divided by the {case.gpu_count} ranks twice: its norm is {ratio:.3g} of the reference's"
    elif summed:
        yield f"the gradient is summed over {' or '.join(summed)}, not averaged: its norm is {ratio:.3g} times as large"
    elif not known and len(ranks) == len(played):
        yield from _first(evidence)


def _first(evidence: Evidence) -> Iterator[str]:
    """Yield where the training first parts from the reference's."""
    for step, norms in enumerate(zip(evidence.norms, norms_of(evidence.played[0]), strict=True)):
        ranks = zip(evidence.ranks, evidence.played, strict=True)
        if max(apart(own.losses[step], other.losses[step]) for own, other in ranks) > evidence.loss_tolerance(step):
            if step == 0:
                yield "the first loss differs: the weights it began with, or what it computes, are not the reference's"
            else:
                yield f"the update of step {step} differs: the losses and the norms of the gradients agree up to it"
            return
        if not apart(*norms) <= evidence.norm_tolerance(step):
            yield f"the gradient of step {step + 1} differs: the losses agree up to it"
            return


def _weighted(evidence: Evidence) -> str | None:
    """Return the sentence for ranks' losses that are weighted by how many targets each rank has."""
    ranks, played = evidence.ranks, evidence.played
    if len(ranks) != len(played) or len(ranks) < 2:
        return None
    targets = [rank.targets[0] for rank in ranks]
    mean = fmean(targets)
    if not mean or len(set(targets)) == 1:
        return None
    wanted = [n / mean for n in targets]
    ratios = [
        [own.loss_gradients[0] / other.loss_gradients[0] for own, other in zip(ranks, played, strict=True)],
        [own.losses[0] / other.losses[0] for own, other in zip(ranks, played, strict=True) if other.losses[0]],
    ]
    if any(len(seen) == len(wanted) and all(map(near, seen, wanted)) for seen in ratios):
        shares = ", ".join(f"rank {rank} {n}" for rank, n in enumerate(targets))
        return f"the ranks' losses are weighted by their numbers of targets ({shares}), not averaged"
    return None
