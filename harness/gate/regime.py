"""The regime of a training, row by row: what a strategy was seen to do beside what the reference did. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean

from harness.certificate import Group, Row, Watched
from harness.gate.evidence import Evidence, near, norms_of, tolerance
from harness.plugins import Hierarchy, Traffic


def rows(evidence: Evidence) -> Iterator[Row]:
    """Yield every row of the regime table."""
    ranks, played = evidence.ranks, evidence.played

    def types(fact: str, of: Callable[[Watched], tuple[str, ...]]) -> Row:
        found = sorted({name for rank in ranks for name in of(rank)})
        wanted = sorted({name for rank in played for name in of(rank)})
        # Nothing seen is nothing wrong: one rank reduces nothing, SGD without momentum has no state.
        return Row(fact=fact, strategy=_join(found), reference=_join(wanted), same=found in ([], wanted))

    yield types("live weights", lambda rank: rank.live)
    yield types("compute", lambda rank: rank.compute)
    yield types("master weights", lambda rank: rank.master)
    yield types("gradients", lambda rank: rank.gradient)
    yield types("reduction", lambda rank: rank.reduction)
    yield types("optimizer state", lambda rank: rank.state)
    yield _text("loss gradient", _each([_once(rank.loss_gradients) for rank in ranks]), _scale(played))
    yield _clipping(evidence)
    updating = [rank for rank in ranks if rank.groups]  # a rank's part may be frozen altogether
    yield _text("optimizer", _each([_settings(rank) for rank in updating]), _settings(played[0]))
    yield _text("learning rate", _each([_rates(rank) for rank in updating]), _rates(played[0]))
    yield _weight_decay(evidence)
    yield _samples(evidence)
    yield _batch_norm(evidence)
    yield _sharding(evidence)
    yield from _traffic(evidence)


def _text(fact: str, strategy: str, reference: str) -> Row:
    return Row(fact=fact, strategy=strategy, reference=reference, same=strategy == reference)


def _join(names: Sequence[str]) -> str:
    return " and ".join(names) or "none seen"


def _each(of_ranks: Sequence[str]) -> str:
    """Return what all ranks say, or each rank's own word where they differ."""
    if not of_ranks:
        return "none seen"
    if len(set(of_ranks)) == 1:
        return of_ranks[0]
    return "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(of_ranks))


def _once(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values)) or "none"


def _scale(played: Sequence[Watched]) -> str:
    return _once(played[0].loss_gradients)


def _clipping(evidence: Evidence) -> Row:
    unclipped, stated = evidence.reference.unclipped_norms, evidence.case.clipping
    ours = _limit(evidence.norms, unclipped, stated)
    theirs = _limit(norms_of(evidence.played[0]), unclipped, stated)
    same = ours == theirs if ours is None or theirs is None else near(ours, theirs)

    def words(limit: float | None) -> str:
        return "none seen" if limit is None else f"to a norm of {limit:.3g}"

    return Row(fact="clipping", strategy=words(theirs if same else ours), reference=words(theirs), same=same)


def _limit(applied: Sequence[float], unclipped: Sequence[float], stated: float | None) -> float | None:
    """Return the norm that gradients were clipped to, as the pattern tells: several cut to one, or one to a number
    that a person would choose.
    """
    steps = zip(applied, unclipped, strict=True)
    cut = [norm for norm, whole in steps if math.isfinite(whole) and norm < 0.98 * whole]
    if not cut or max(cut) > 1.001 * min(cut):
        return None
    limit = max(cut)
    chosen = any(abs(limit - n) <= 1e-4 * n for n in (float(f"{limit:.2g}"), stated or math.nan))
    return limit if chosen or len(cut) > 1 or len(applied) == 1 else None


def _settings(rank: Watched) -> str:
    return f"{rank.optimizer} {_each(list(dict.fromkeys(group.rest for group in rank.groups)))}".strip()


def _rates(rank: Watched) -> str:
    return _each(list(dict.fromkeys(_once_each_step(group.learning_rates) for group in rank.groups)))


def _once_each_step(rates: Sequence[float]) -> str:
    return f"{rates[0]:.6g}" if len(set(rates)) == 1 else ", ".join(f"{rate:.6g}" for rate in rates)


def _weight_decay(evidence: Evidence) -> Row:
    ours = _decayed([group for rank in evidence.ranks for group in rank.groups], evidence.copies)
    theirs = _decayed(evidence.played[0].groups, 1)
    # Every rank may pad every group to a multiple of some alignment.
    padding = 1024 * len(evidence.ranks) + 0.001 * evidence.reference.trained
    same = set(ours) == set(theirs) and all(abs(ours[decay] - theirs[decay]) <= padding for decay in ours)
    if same:
        ours = theirs
    return Row(fact="weight decay", strategy=_decays(ours), reference=_decays(theirs), same=same)


def _decayed(groups: Sequence[Group], copies: int) -> dict[float, int]:
    found: dict[float, int] = {}
    for group in groups:
        found[group.weight_decay] = found.get(group.weight_decay, 0) + group.elements
    return {decay: elements // copies for decay, elements in sorted(found.items())}


def _decays(found: dict[float, int]) -> str:
    return ", ".join(f"{decay:g} on {elements:,} parameters" for decay, elements in found.items())


def _samples(evidence: Evidence) -> Row:
    ranks, played = evidence.ranks, evidence.played
    whole = sum(len(rank.samples[0]) for rank in played)
    wanted = f"{whole} a step, each rank its own"
    for step in range(len(played[0].samples)):
        count = sum(len(rank.samples[step]) for rank in ranks)
        if count != whole:
            return _text("global batch", f"{count} at step {step + 1}", wanted)
        for rank, watched in enumerate(ranks):
            if len(ranks) != len(played) or sorted(watched.samples[step]) == sorted(played[rank].samples[step]):
                continue
            twin = next(
                (
                    n
                    for n, p in enumerate(played)
                    if n != rank and sorted(p.samples[step]) == sorted(watched.samples[step])
                ),
                None,
            )
            whose = "other samples than its own" if twin is None else f"the samples of rank {twin}"
            return _text("global batch", f"rank {rank} trained on {whose} at step {step + 1}", wanted)
    return _text("global batch", wanted, wanted)


def _batch_norm(evidence: Evidence) -> Row:
    ranks, played = evidence.ranks, evidence.played
    ours, theirs = [rank.buffers for rank in ranks], [rank.buffers for rank in played]
    wanted = "each rank its own statistics" if any(theirs) else "no statistics"
    # Ranks that were dealt the same samples have the same statistics, rightly.
    apart = len({rank.samples for rank in ranks}) > 1 and len(set(theirs)) > 1
    seen = wanted
    if apart and len(ours) == len(theirs):
        rounding = evidence.reference.rounding
        shares = [rank.differences["buffers"].share for rank in ranks]
        own, *others = [share <= tolerance(rounding.buffers if rounding else None) for share in shares]
        if all(near(share, 1.0) for share in shares):
            seen = "no rank updates its statistics"
        elif own and not any(others):
            seen = "rank 0's statistics on every rank"
        elif len(set(ours)) == 1:
            seen = "averaged statistics on every rank"
    return _text("BatchNorm", seen, wanted)


def _sharding(evidence: Evidence) -> Row:
    """Compare what a rank keeps, on the mean over the ranks, with what its strategy says it shards."""
    strategy, ranks, sizes = evidence.strategy, evidence.ranks, evidence.reference.sizes
    over_nodes = _over_nodes(evidence)
    if over_nodes is not None:
        hierarchy, per_node = over_nodes
        shares = hierarchy.held(evidence.case.gpu_count, per_node)
    else:
        one = 1 / len(ranks)
        shares = one if "parameters" in strategy.shards else 1.0, one if "optimizer" in strategy.shards else 1.0
    whole, state = sum(sizes), evidence.played[0].held_state
    # ZeRO-3 keeps its share of a small parameter beside the whole, on a single rank too.
    shards = over_nodes is not None or "parameters" in strategy.shards
    small = sum(size for size in sizes if size < strategy.whole_below) if shards else 0
    wanted_parameters, wanted_state = shares[0] * whole + small, shares[1] * state
    held_parameters = fmean(rank.held_parameters for rank in ranks)
    held_state = fmean(rank.held_state for rank in ranks)
    fits = [
        # A node's own copies must be there; else less is no fault.
        held <= 1.1 * wanted + 1024 and (over_nodes is None or held >= 0.9 * wanted - 1024)
        for held, wanted in ((held_parameters, wanted_parameters), (held_state, wanted_state))
    ]

    def words(parameters: float, of_state: float) -> str:
        told = [f"{parameters / whole:.0%} of the parameters" if whole else "no parameters"]
        if state:
            told.append(f"{of_state / state:.0%} of the optimizer state")
        return "a rank keeps " + " and ".join(told)

    wanted = words(wanted_parameters, wanted_state)
    if all(fits):
        return Row(fact="sharding", strategy=words(held_parameters, held_state), reference=wanted, same=True)
    what = "shards nothing: " if held_parameters > 0.98 * whole and "parameters" in strategy.shards else ""
    return Row(fact="sharding", strategy=what + words(held_parameters, held_state), reference=wanted, same=False)


def _traffic(evidence: Evidence) -> Iterator[Row]:
    """Hold what the ranks moved to what the strategy must move, element for element; nothing where that is not known.

    gloo does a reduce-scatter as an all-reduce of the whole, and reports it so. What NCCL reports is not judged: it has
    not been seen.
    """
    reference, ranks = evidence.reference, evidence.ranks
    seen = [c for rank in ranks for c in rank.collectives if c.type in _FLOATING]
    known = evidence.case.accumulation == 1 and len(ranks) == evidence.case.gpu_count
    whole = bool(reference.units) and reference.trained == sum(reference.sizes)
    if not (known and whole and len(ranks) > 1) or {c.backend for c in seen} - {"gloo"}:
        return
    if (traffic := _expected(evidence)) is None:
        return
    if not all(map(any, zip(*(rank.gradient_squares for rank in ranks), strict=True))):
        return  # the loss scaler skipped a step: with it what follows an update, and the next one gathers anew
    wanted: dict[str, tuple[int, int | None]] = {}
    for moved in traffic:
        kind = "all_reduce" if moved.kind == "reduce_scatter" else moved.kind
        elements, calls = wanted.get(kind, (0, 0))
        more = None if calls is None or moved.calls is None else calls + moved.calls
        wanted[kind] = (elements + moved.elements, more)
    for rank in ranks:
        own = {c.kind: (c.elements, c.calls) for c in rank.collectives if c.type in _FLOATING}
        same = own.keys() == wanted.keys() and all(
            own[kind][0] == elements and calls in (None, own[kind][1]) for kind, (elements, calls) in wanted.items()
        )
        if not same or rank is ranks[-1]:
            yield Row(fact="communication", strategy=_moved(own), reference=_moved(own if same else wanted), same=same)
            return


def _expected(evidence: Evidence) -> Sequence[Traffic] | None:
    """Return what a rank must move in the certified steps; None where no closed form tells."""
    strategy, units, count = evidence.strategy, evidence.reference.units, len(evidence.ranks)
    if (over_nodes := _over_nodes(evidence)) is not None:
        hierarchy, per_node = over_nodes
        return hierarchy.traffic(units, count, per_node)
    return None if strategy.traffic is None else strategy.traffic(units, count)


def _over_nodes(evidence: Evidence) -> tuple[Hierarchy, int] | None:
    """Return how a strategy treats the GPUs of a node unlike others, and how many those are; None where it does not."""
    hierarchy, per_node = evidence.strategy.hierarchy, evidence.case.gpus_per_node
    return None if hierarchy is None or per_node is None else (hierarchy, per_node)


_FLOATING = ("fp32", "bf16", "fp16")


def _moved(traffic: Mapping[str, tuple[int, int | None]]) -> str:
    return ", ".join(
        f"{kind} of {elements:,}" + ("" if calls is None else f" in {calls}")
        for kind, (elements, calls) in sorted(traffic.items())
    )
