"""From stored results to forecasts, and forecasts of cases that were measured too held against them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median, stdev

from harness.anatomy import communication, forecast, memory
from harness.anatomy.ceilings import fitted as line_of
from harness.anatomy.forecast import Error, Forecast, Measured, Moved
from harness.anatomy.links import Fabric, ForecastError, Link, fitted
from harness.case import Case
from harness.plugins import Strategy
from harness.records.ceilings import Ceilings
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
