"""Forecasts held to links of known speed: hosts of network namespaces, whose links tc limits to one rate or another."""

from statistics import median

import pytest

from harness.anatomy import forecast, outlook
from harness.case import Case
from harness.session.recording import ReplayClock

pytestmark = pytest.mark.when_named("forecast_links")

KNOWN_MBIT = 400
"""Everything is measured at this rate; at the others a step is predicted, then measured."""
OTHER_MBIT = (100, 200, 800)
MOST_ERROR = 0.25


@pytest.mark.benchmark(timer=ReplayClock())
@pytest.mark.parametrize("strategy", ["ddp", "fsdp1", "fsdp2", "fairscale_sdp", "zero1", "zero2", "zero3"])
def test_forecast_links(cost, strategy):
    """Fails when a predicted step is off by more than a quarter of the measured one."""
    case = Case(model="vit_tiny", strategy=strategy, gpu_count=2, batch_size=16)

    def over(mbit):
        return cost.other("namespaces", SHARDBENCH_LINK=f"{mbit}mbit")

    known = over(KNOWN_MBIT)
    result, traces = known.fresh(case), known.explainer.traces(case)
    fabric = outlook.known_links(known.explainer.ceilings(case), traces, nominal_bytes_per_s=KNOWN_MBIT * 1e6 / 8)
    measured, predicted = {}, {}
    for mbit in OTHER_MBIT:
        links = fabric.at_rate(mbit * 1e6 / 8, f"{mbit} Mbit/s")
        predicted[mbit] = forecast.forecast(outlook.same_ranks(result, traces), links, counts=(2,)).rows[0].step_s
        measured[mbit] = median(over(mbit).fresh(case).step_s)
    errors = {mbit: predicted[mbit] / measured[mbit] - 1 for mbit in OTHER_MBIT}
    words = ", ".join(
        f"at {mbit} {predicted[mbit]:.2f} s for {measured[mbit]:.2f} s ({errors[mbit]:+.0%})" for mbit in OTHER_MBIT
    )
    cost.record(f"{case} from {median(result.step_s):.2f} s at {KNOWN_MBIT} Mbit/s: {words}", result.step_s)
    assert max(map(abs, errors.values())) <= MOST_ERROR
