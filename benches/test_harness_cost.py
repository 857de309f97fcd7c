"""What the harness itself costs: its share of a step, and the fixed cost of a case, warm and cold."""

from math import exp, log, sqrt
from statistics import NormalDist, fmean, median, stdev

import pytest

from harness.case import Case
from harness.metrics.timing import fixed_s
from harness.session.recording import ReplayClock

pytestmark = pytest.mark.when_named("harness_cost")

# The shortest steps of the default matrix, so that what is added to each counts most; one rank, since gloo's own noise
# would hide it.
STEP_CASE = Case(model="vit_tiny", strategy="ddp", gpu_count=1, batch_size=16)
PAIRS = 400
FIXED_CASE = Case(model="resnet18", strategy="ddp", gpu_count=2, batch_size=8)
MOST_STEP_SHARE = 0.01
MOST_FIXED_S = 0.6


@pytest.mark.benchmark(timer=ReplayClock())
def test_step(cost):
    """Fails when the harness's step is, beyond doubt, more than 1 % slower than a bare loop's."""
    reports = cost.pipeline.overhead(STEP_CASE, steps=PAIRS)
    pairs = zip(*(zip(r.extra["harness_s"], r.extra["bare_s"], strict=True) for r in reports), strict=True)
    # Of each pair, the slowest rank of either step.
    ratios = [log(max(h for h, _ in pair) / max(b for _, b in pair)) for pair in pairs]
    margin = NormalDist().inv_cdf(0.975) * stdev(ratios) / sqrt(len(ratios))
    low, high = (exp(fmean(ratios) + side * margin) - 1 for side in (-1, 1))
    cost.record(
        f"harness step over bare step: {exp(fmean(ratios)) - 1:+.2%} ({low:+.2%} to {high:+.2%}, {PAIRS} pairs)",
        [max(step) for step in zip(*(r.extra["harness_s"] for r in reports), strict=True)],
    )
    assert low <= MOST_STEP_SHARE


@pytest.mark.benchmark(timer=ReplayClock())
def test_fixed_warm(cost):
    """Fails when a case costs more than 0.6 s beside building, training and evaluating, with a warm agent."""
    cost.pipeline.measure(FIXED_CASE)  # the first waits for the agent's libraries
    seconds = [fixed_s(cost.pipeline.fresh(FIXED_CASE)) for _ in range(5)]
    cost.record(f"fixed cost of a case, warm: median {median(seconds):.2f} s of {len(seconds)}", seconds)
    assert median(seconds) <= MOST_FIXED_S


@pytest.mark.benchmark(timer=ReplayClock())
def test_fixed_cold(cost):
    """Shows what the warm agent saves: the same under torchrun."""
    seconds = [fixed_s(cost.other("torchrun").fresh(FIXED_CASE)) for _ in range(2)]
    cost.record(f"fixed cost of a case, cold (torchrun): median {median(seconds):.2f} s of {len(seconds)}", seconds)
