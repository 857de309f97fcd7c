"""Where the time of a step goes: one line for each traced case, and what its collectives cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median

from harness.anatomy import budget, communication
from harness.anatomy.budget import MOST_REMAINDER, Budget
from harness.case import Case
from harness.records.trace import RankTrace
from harness.report.lines import table, wrapped

_LEGEND = (
    "shares of a step, mean over ranks; every moment counts once, in this order. compute: operators or kernels. comm: "
    "transfers that no compute hides. late: waiting for the last rank of a collective. data: waiting for the batch. "
    "host: in the update, and none of these. core: ready to run, and no core was free (taken from compute, data and "
    "host). rest: not explained"
)
_PARTS = ("compute_s", "communication_s", "late_s", "data_s", "host_s", "idle_s", "remainder_s")
_HEAD = ("step", "compute", "comm", "late", "data", "host", "core", "rest", "bound by")
_NOT_MEASURED = "n/a"


def render(
    traces: Mapping[Case, Sequence[RankTrace]],
    *,
    bound: Mapping[Case, str] | None = None,
    ceiling: Mapping[int, Mapping[str, float]] | None = None,
) -> Iterator[str]:
    """Yield the lines of the section.

    Args:
        traces: of every rank of each traced case.
        bound: what a case is bound by, where more is known than its trace tells: memory, for one.
        ceiling: by number of ranks, the best busbw of each kind of collective in this run's sweeps, bytes/s.
    """
    by_model: dict[str, list[Case]] = defaultdict(list)
    for case in traces:
        by_model[case.model].append(case)
    if not by_model:
        return
    yield from wrapped(f"{len(next(iter(traces.values()))[0].steps)} steps under torch's profiler. {_LEGEND}.")
    for model, cases in by_model.items():
        yield ""
        means = {case: budget.mean(budget.budgets(traces[case])) for case in cases}
        rows = [_row(case, means[case], (bound or {}).get(case)) for case in cases]
        yield from table([model, *_HEAD], rows, left=(0, 9), optional=(8, 7, 5))
        for case in cases:
            yield from _notes(case, means[case], traces[case])
        yield from _collectives({case: traces[case] for case in cases if len(traces[case]) > 1}, ceiling or {})
    yield ""
    added = [_added(ranks) for ranks in traces.values()]
    yield from wrapped(
        f"the profiler adds {median(added):+.0%} to a step, at most {max(added):+.0%}; no time here is gated"
    )


def _row(case: Case, mean: Budget, bound: str | None) -> list[str]:
    shares = (getattr(mean, part) for part in _PARTS)
    return [
        _short(case),
        f"{mean.step_s * 1e3:.1f} ms",
        *(_NOT_MEASURED if share is None else f"{share / mean.step_s:.0%}" for share in shares),
        bound or mean.bound,
    ]


def _notes(case: Case, mean: Budget, traces: Sequence[RankTrace]) -> Iterator[str]:
    name = _short(case)
    if mean.flagged:
        yield from wrapped(
            f"  {name}: {mean.remainder_s / mean.step_s:.1%} of the step is not explained: "
            f"more than {MOST_REMAINDER:.0%}"
        )
    if late := communication.straggler(traces):
        rank, seconds = late
        yield from wrapped(f"  {name}: the others wait {seconds * 1e3:.1f} ms a step for rank {rank}")
    alone = [fmean(trace.unsynchronised_s) for trace in traces if trace.unsynchronised_s]
    if alone and len(traces) > 1:
        whole = max(median(trace.plain_s) for trace in traces)
        alone_s = max(median(trace.unsynchronised_s) for trace in traces)
        yield from wrapped(
            f"  {name}: without synchronisation the same step takes {alone_s * 1e3:.1f} of {whole * 1e3:.1f} ms"
        )


def _collectives(
    traces: Mapping[Case, Sequence[RankTrace]], ceiling: Mapping[int, Mapping[str, float]]
) -> Iterator[str]:
    rows = []
    for case, ranks in traces.items():
        for one in communication.figures(ranks):
            busbw = one.busbw_bytes_per_s
            best = ceiling.get(len(ranks), {}).get(one.kind)
            rows.append(
                [
                    _short(case),
                    one.kind,
                    f"{one.calls:.0f}",
                    _NOT_MEASURED if one.size_bytes is None else f"{one.size_bytes / 2**20:.1f}",
                    f"{one.transfer_s * 1e3:.1f}",
                    _NOT_MEASURED if busbw is None else f"{busbw / 1e9:.2f}",
                    _NOT_MEASURED if busbw is None or not best else f"{busbw / best:.0%}",
                    f"{1 - one.exposed_s / one.transfer_s:.0%}" if one.transfer_s else _NOT_MEASURED,
                    f"{one.wait_s * 1e3:.1f}",
                ]
            )
    if rows:
        yield ""
        head = ["per step", "collective", "calls", "MiB", "ms", "GB/s", "of best", "hidden", "late ms"]
        yield from table(head, rows, left=(0, 1), optional=(8, 6))
        yield from wrapped(
            "  MiB: nccl-tests' sizes; ms: from when the last rank was ready; GB/s: busbw, and its share of the best "
            "of this run's sweep; hidden: behind compute of the same rank"
        )


def _added(traces: Sequence[RankTrace]) -> float:
    """Return what the profiler adds to a step, as a share: the slowest rank's, in the same run with and without."""
    traced = max(median(step.end_s - step.begin_s for step in trace.steps) for trace in traces)
    return traced / max(median(trace.plain_s) for trace in traces) - 1


def _short(case: Case) -> str:
    return case.id.removeprefix(f"{case.model}-")
