"""Rules by which other tools call a benchmark slower, each as a pure function over two sets of processes.

Each is written from the tool's own source or documentation, named in its docstring, with its defaults; where it is
shortened the docstring says so. A rule answers one question: is this reported as a slowdown? What a tool reports in the
other direction does not count. A process is the list of its step times in microseconds, in order; processes are in
order of time, the stored ones before the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Any

Process = Sequence[float]
Rule = Callable[[Sequence[Process], Sequence[Process]], bool]
"""From the stored and the new processes to whether a slowdown is reported."""

_Interval = tuple[int, int]

RESAMPLES = 2000
"""Of each bootstrap. criterion draws 100,000, which decides alike but for close calls."""


def pytest_benchmark_mean(stored: Sequence[Process], new: Sequence[Process]) -> bool:
    """`--benchmark-compare-fail=mean:5%`: one run's mean against one stored run's.

    Source: pytest-benchmark 5.3.1, `utils.PercentageRegressionCheck`: new / stored x 100 - 100 > 5.
    """
    return _above(fmean(stored[-1]), fmean(new[0]), 0.05)


def pytest_benchmark_median(stored: Sequence[Process], new: Sequence[Process]) -> bool:
    """`--benchmark-compare-fail=median:5%`, as `pytest_benchmark_mean`."""
    return _above(median(stored[-1]), median(new[0]), 0.05)


def pytest_benchmark_min(stored: Sequence[Process], new: Sequence[Process]) -> bool:
    """`--benchmark-compare-fail=min:5%`, as `pytest_benchmark_mean`."""
    return _above(min(stored[-1]), min(new[0]), 0.05)


def torchbench(stored: Sequence[Process], new: Sequence[Process]) -> bool:
    """The median latency of one run is more than 7 % above that of another.

    Source: TorchBench (pytorch/benchmark, August 2026), `userbenchmark/torch-nightly/regression_detector.py`,
    DEFAULT_REGRESSION_DELTA_THRESHOLD = 0.07; `run.py` takes the median.
    """
    return _above(median(stored[-1]), median(new[0]), 0.07)


def pyperf(stored: Sequence[Process], new: Sequence[Process], values: int | None = 3) -> bool:
    """Student's two-tailed t-test over the pooled values of all processes, at 95 %.

    Source: pyperf 2.10.0, `_utils.is_significant` (equal variances, equally many values, by default no least effect)
    and its default of 3 values a process after one warm-up.

    Args:
        stored: stored processes.
        new: as many new ones.
        values: how many values of each process count, the first ones; None for all.
    """
    from scipy.stats import ttest_ind

    a, b = ([x for process in processes for x in process[:values]] for processes in (stored, new))
    return fmean(b) > fmean(a) and bool(ttest_ind(b, a).pvalue <= 0.05)


def pyperf_all(stored: Sequence[Process], new: Sequence[Process]) -> bool:
    """`pyperf` over every step of every process."""
    return pyperf(stored, new, values=None)


def criterion(stored: Sequence[Process], new: Sequence[Process]) -> bool:
    """One run against one: a bootstrapped t-test at 5 %, and the mean's change above 1 % with its whole interval.

    Source: criterion.rs 0.7.0, `analysis/compare.rs` and `report.rs`: the distribution of Welch's t under no change is
    drawn with replacement from both samples together, the 95 % percentile interval of the relative change of the mean
    from each sample by itself; noise_threshold 0.01, significance_level 0.05. Here with fewer resamples: see RESAMPLES.
    """
    import numpy as np
    from scipy.stats import bootstrap

    a, b = np.asarray(stored[-1], dtype=float), np.asarray(new[0], dtype=float)
    random = np.random.default_rng(0)
    drawn = random.choice(np.concatenate([a, b]), size=(RESAMPLES, len(a) + len(b)))
    below = int(np.sum(_welch(drawn[:, : len(a)], drawn[:, len(a) :]) < _welch(a, b)))
    if not 2 * min(below, RESAMPLES - below) / RESAMPLES < 0.05:
        return False
    if a.std() == b.std() == 0:  # scipy refuses to resample what does not vary
        return _above(float(a.mean()), float(b.mean()), 0.01)
    change = bootstrap(
        (a, b), _relative_change, n_resamples=RESAMPLES, method="percentile", vectorized=True, rng=random
    ).confidence_interval
    return bool(change.low > 0.01)


def _relative_change(a: Any, b: Any, axis: int = -1) -> Any:
    return b.mean(axis=axis) / a.mean(axis=axis) - 1


def _welch(a: Any, b: Any) -> Any:
    import numpy as np

    error = np.sqrt(a.var(axis=-1, ddof=1) / a.shape[-1] + b.var(axis=-1, ddof=1) / b.shape[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return (b.mean(axis=-1) - a.mean(axis=-1)) / error


def asv(stored: Sequence[Process], new: Sequence[Process]) -> bool:
    """Mann-Whitney's U test over the samples of all processes at p < .002, and the median above 1.10 times the stored.

    Source: asv 0.6.6, `_stats.is_different` and `commands/compare.py: _is_result_better`, factor 1.1; a benchmark is
    run in 2 rounds, each a process, by default. The p value is that of scipy, which corrects for ties. Not here: what
    asv does with so few samples that p < .002 cannot be reached.
    """
    from scipy.stats import mannwhitneyu

    a, b = ([x for process in processes for x in process] for processes in (stored, new))
    return _above(median(a), median(b), 0.1) and bool(mannwhitneyu(a, b, use_continuity=False).pvalue < 0.002)


FENCE_HISTORY = 30
"""Commits that rustc-perf looks back (`HistoricalDataMap::NUM_PREVIOUS_COMMITS`)."""


def rustc_perf(stored: Sequence[Process], new: Sequence[Process]) -> bool:
    """The change from the last stored result is at or above Q3 + 3 (Q3 - Q1) of the changes between stored neighbours.

    Source: rustc-perf (August 2026), `site/src/comparison.rs` and `docs/comparison-analysis.md`; a commit's result is
    the least of its values (`database/src/pool/postgres.rs`). Q1 and Q3 are the medians of the lower and the upper
    half. With fewer than 30 stored results the threshold is 0.2 %, as there. It is made for instruction counts.
    """
    results = [min(process) for process in stored[-FENCE_HISTORY:]]
    change = min(new[0]) / results[-1] - 1
    if len(results) < FENCE_HISTORY:
        return change >= 0.002
    steps = sorted(abs(b - a) / a for a, b in pairwise(results))
    half = len(steps) // 2
    q1, q3 = median(steps[:half]), median(steps[-half:])
    return change > 0 and change >= q3 + 3 * (q3 - q1)


def conbench(stored: Sequence[Process], new: Sequence[Process]) -> bool:
    """The lookback z-score is above 5: the result less the mean of the stored ones, over the deviation of residuals.

    Source: conbench (August 2024), `entities/history.py` and `api/compare.py`, DEFAULT_Z_SCORE_THRESHOLD = 5,
    DISTRIBUTION_COMMITS = 100, and its default of a run's best value as the result. A residual is a result less the
    mean of those before it; the first is 0. Not here: leaving out stored results that stick out by 5 deviations.
    """
    results = [min(process) for process in stored[-100:]]
    residuals = [0.0] + [result - fmean(results[:place]) for place, result in enumerate(results) if place]
    spread = stdev(residuals)
    return spread > 0 and (min(new[0]) - fmean(results)) / spread > 5


def otava(stored: Sequence[Process], new: Sequence[Process]) -> bool:
    """`otava_series` over the median of each process."""
    return otava_series([median(process) for process in [*stored, *new]], len(stored))


def otava_series(series: Sequence[float], first_new: int, *, window: int = 50, p: float = 0.001) -> bool:
    """Whether a series has a change point upward at a new value, or at the last before: points are found a place off.

    Source: Apache Otava 0.8.0 (once Hunter; Fleming et al., ICPE 2023), `analysis.compute_change_points`: in windows
    that overlap by half, the place is sought that parts the values most by the energy statistic (Matteson and James,
    J. Am. Stat. Assoc. 109, 2014) and kept while Student's t-test has p <= 10 x 0.001; then the weakest of all such
    points are dropped until each has p < 0.001. As there, standard deviations are divided by n, not n - 1, which makes
    p too small; the least magnitude is 0.

    Args:
        series: stored values and then the new ones, in order of time.
        first_new: place of the first new one.
        window: length of a window.
        p: largest p value of a change point.
    """
    points: set[int] = set()
    start = 0
    while start < len(series):
        found = _parted(series[start : start + window], 10 * p)
        points |= {start + place for place in found}
        start = max(start + max(found, default=0), start + window // 2)
    kept = sorted(points)
    while kept:
        sides = [_sides(series, kept, place) for place in kept]
        values = [_p_value(*pair) for pair in sides]
        weakest = max(range(len(kept)), key=values.__getitem__)
        if values[weakest] < p:
            break
        del kept[weakest]
    return any(
        place >= first_new - 1 and fmean(after) > fmean(before)
        for place in kept
        for before, after in [_sides(series, kept, place)]
    )


def _parted(series: Sequence[float], p: float) -> list[int]:
    """Return the change points of one window: the best candidate of all intervals, again and again, while p holds."""
    points: list[int] = []
    while True:
        edges = [0, *points, len(series)]
        intervals = [(a, b) for a, b in pairwise(edges) if b - a > 1]
        if not intervals:
            return points
        _, place = max(_candidate(series, interval) for interval in intervals)
        if not _p_value(*_sides(series, [*points, place], place)) <= p:
            return points
        points = sorted({*points, place})


def _candidate(series: Sequence[float], interval: _Interval) -> tuple[float, int]:
    """Return the largest energy statistic between two runs of neighbours in an interval, and where the second begins.

    With n and m values it is 2 / (n + m) x the sum of distances across, less 2 m / (n + m) / (n - 1) x that within the
    first, less 2 n / (n + m) / (m - 1) x that within the second. The first begins with the interval.
    """
    import numpy as np

    values = np.asarray(series[slice(*interval)], dtype=float)
    count = len(values)
    sums = np.zeros((count + 1, count + 1))
    sums[1:, 1:] = np.abs(values[:, None] - values[None, :]).cumsum(axis=0).cumsum(axis=1)
    at, end = np.meshgrid(np.arange(1, count), np.arange(2, count + 1), indexing="ij")
    n, m = at, np.maximum(end - at, 1)
    first = sums[at, at] / 2
    across = sums[at, end] - sums[at, at]
    second = (sums[end, end] - 2 * sums[at, end] + sums[at, at]) / 2
    energy = 2 / (n + m) * (across - first * m / np.maximum(n - 1, 1) - second * n / np.maximum(m - 1, 1))
    energy[end <= at] = -np.inf
    best = int(energy.argmax())
    return float(energy.flat[best]), interval[0] + int(at.flat[best])


def _sides(series: Sequence[float], points: Sequence[int], place: int) -> tuple[Sequence[float], Sequence[float]]:
    """Return the values between the change point before a place and it, and from it to the next one."""
    before = max((point for point in points if point < place), default=0)
    after = min((point for point in points if point > place), default=len(series))
    return series[before:place], series[place:after]


def _p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """Return p of Student's t-test as Otava takes it; 1 for two values, of which no scatter is known."""
    import numpy as np
    from scipy.stats import ttest_ind_from_stats

    if len(a) + len(b) < 3:
        return 1.0
    spread_a, spread_b = float(np.std(a)), float(np.std(b))
    if spread_a == spread_b == 0:
        return 0.0 if fmean(a) != fmean(b) else 1.0
    return float(ttest_ind_from_stats(fmean(a), spread_a, len(a), fmean(b), spread_b, len(b)).pvalue)


def _above(stored: float, new: float, share: float) -> bool:
    return new / stored - 1 > share
