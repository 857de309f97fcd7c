"""From stored results to forecasts, and forecasts of cases that were measured too held against them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median, stdev

from harness.anatomy import communication, forecast, memory
from harness.anatomy.ceilings import fitted as line_of
from harness.anatomy.forecast import Error, Forecast, Measured, Moved
from harness.anatomy.links import Fabric, ForecastError, Link, fitted, ring
from harness.case import Case
from harness.plugins import Strategy
from harness.records.ceilings import Ceilings
from harness.records.trace import RankTrace
from harness.results import Result

_CHECKED = ((1, 2), (2, 4))
"""Numbers of ranks that are predicted from others where both were run."""


def measured_fabric(ceilings: Ceilings) -> Fabric:
    """Return the links of this machine, each kind of collective as its sweep of several ranks shows it.

    Raises:
        ForecastError: one rank, so there was no sweep.
    """
    links: dict[str, Link] = {}
    for sweep in ceilings.sweeps:
        line = line_of(sweep)
        links[sweep.kind] = fitted(
            sweep.kind,
            ranks=ceilings.ranks,
            latency_s=line.latency_s,
            algbw_bytes_per_s=line.bytes_per_s,
            name="this machine's",
        )
    if "all_reduce" not in links:
        raise ForecastError("collectives of one rank tell nothing of links; measure them with at least 2")
    return Fabric(node=links["all_reduce"], by_kind=links)


def known_links(ceilings: Ceilings, traces: Sequence[RankTrace], *, nominal_bytes_per_s: float) -> Fabric:
    """Return links whose nominal rate is known, with the share of it that a traced case achieved.

    The latency is that of the sweeps' smallest size; the rest of the transfers' time is taken to be their bytes'. So a
    link of another rate can be told from it (`Fabric.at_rate`).

    Args:
        ceilings: of as many ranks over these links.
        traces: of a case over these links.
        nominal_bytes_per_s: in each direction.

    Raises:
        ForecastError: the case moves nothing that was swept.
    """
    ranks = len(traces)
    smallest = {sweep.kind: min(sweep.points, key=lambda point: point.size_bytes) for sweep in ceilings.sweeps}
    links: dict[str, Link] = {}
    for one in communication.figures(traces):
        if one.kind not in smallest or one.size_bytes is None:
            continue
        messages, share = ring(one.kind, ranks)
        latency_s = median(smallest[one.kind].seconds)
        # Calls that take no longer than that tell nothing of the rate.
        moving_s = one.transfer_s - one.calls * latency_s
        rate = share * one.size_bytes / moving_s if moving_s > 0 else nominal_bytes_per_s
        links[one.kind] = Link(
            name="known",
            latency_s=latency_s / messages,
            bytes_per_s=min(rate, nominal_bytes_per_s),
            nominal_bytes_per_s=nominal_bytes_per_s,
        )
    if not links:
        raise ForecastError("the case moves nothing that was swept, so no link can be seen")
    return Fabric(node=max(links.values(), key=lambda link: link.bytes_per_s), by_kind=links)


def same_ranks(result: Result, traces: Sequence[RankTrace]) -> Measured:
    """Return what a result and its traces tell of a case with as many ranks, over whatever links."""
    moved = forecast.moved_in(communication.figures(traces))
    return Measured(
        name=result.case_id,
        ranks=len(traces),
        step_s=result.step_s,
        collectives=lambda ranks: moved,
        overlap=forecast.overlap(traces),
    )


def measured_case(result: Result, strategy: Strategy, *, backend: str) -> Measured:
    """Return what a result tells of a case; it holds a traced and an accounted run.

    Args:
        result: of the case.
        strategy: the case's.
        backend: that is to carry its collectives: `gloo` does a reduce-scatter as an all-reduce.

    Raises:
        ForecastError: something is missing, or what the case moves at other numbers of ranks is not known.
    """
    case = Case.parse(result.case_id)
    if not (result.traces and result.accounts):
        raise ForecastError(f"{case}: needs its traced and its accounted run; give --traced and --accounted")
    moved = communication.figures(result.traces)
    counted = {one.kind: one.calls for one in moved}
    account = max(result.accounts, key=lambda one: one.at_peak.total)
    peak_bytes = account.at_peak.total if account.driver is None else account.driver.peak_allocated_bytes
    unpredicted = memory.figures(case, strategy, result.accounts).unpredicted
    traffic = strategy.traffic

    def collectives(ranks: int) -> Sequence[Moved]:
        if traffic is not None and account.units and case.accumulation == 1 and not unpredicted:
            return forecast.predicted(traffic(account.units, ranks), ranks, backend=backend, calls=counted)
        if not moved:
            raise ForecastError(f"{case}: what {case.strategy} moves is known from a run with several ranks alone")
        return forecast.moved_in(moved)

    def state_bytes(ranks: int) -> float:
        # Ranks of one strategy may differ, but beyond the first few they are alike.
        kept = [memory.predict(case, strategy, account, rank=rank, ranks=ranks) for rank in range(min(ranks, 8))]
        return max(one.parameters + one.gradients + one.optimizer + one.master + one.rest for one in kept if one)

    return Measured(
        name=case.id,
        ranks=case.gpu_count,
        step_s=result.step_s,
        collectives=collectives,
        overlap=forecast.overlap(result.traces),
        # Steps of several ranks wait for each other, so that only a single one shows how it varies by itself.
        rank_sd_s=stdev(result.step_s) if case.gpu_count == 1 and len(result.step_s) > 1 else None,
        memory_bytes=None if unpredicted else forecast.memory(peak_bytes, case.gpu_count, state_bytes),
    )


def forecasts(
    results: Sequence[Result], strategies: Mapping[str, Strategy], fabric: Fabric, *, backend: str
) -> tuple[list[Forecast], list[str]]:
    """Return a forecast for each case, and why some have none.

    Of a case that was run with several numbers of ranks the largest tells most: what is exposed was seen there. Cases
    whose ranks shared cores are left out.
    """
    made, reasons = [], []
    known: dict[Case, Result] = {}
    for result in results:
        case = Case.parse(result.case_id)
        alike = replace(case, gpu_count=1)
        before = known.get(alike)
        if result.oversubscribed:
            continue
        if before is None or Case.parse(before.case_id).gpu_count < case.gpu_count:
            known[alike] = result
    for result in known.values():
        try:
            measured = measured_case(result, _strategy(result, strategies), backend=backend)
            made.append(forecast.forecast(measured, fabric))
        except ForecastError as error:
            reasons.append(str(error))
    return made, reasons


def check(
    results: Sequence[Result], strategies: Mapping[str, Strategy], fabric: Fabric, *, backend: str
) -> list[Error]:
    """Return, for every case run with 1 and 2, or 2 and 4 ranks, its step predicted from the fewer and as measured.

    Args:
        results: of the run.
        strategies: by name.
        fabric: this machine's own links.
        backend: that carries its collectives.
    """
    by_case = {Case.parse(result.case_id): result for result in results}
    predicted, measured = {}, {}
    for case, result in by_case.items():
        for fewer, more in _CHECKED:
            target = by_case.get(replace(case, gpu_count=more))
            if case.gpu_count != fewer or target is None:
                continue
            try:
                known = measured_case(result, _strategy(result, strategies), backend=backend)
                one = forecast.forecast(known, fabric, counts=(more,))
            except ForecastError:
                continue
            name = f"{target.case_id} from {fewer}" + (" *" if target.oversubscribed else "")
            predicted[name] = one.rows[0].step_s * 1e3
            measured[name] = median(target.step_s) * 1e3
    return forecast.errors(predicted, measured)


def _strategy(result: Result, strategies: Mapping[str, Strategy]) -> Strategy:
    return strategies[Case.parse(result.case_id).strategy]
