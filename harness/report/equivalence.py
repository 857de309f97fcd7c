"""Which strategies train equally well, in the terminal: groups that are equivalent, and the pairs that are not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

from tabulate import tabulate

from harness.case import Case
from harness.gate.equivalence import ALPHA, Equivalence, Interval, compare
from harness.plugins import Metric
from harness.report.lines import wrapped

Scores = Mapping[Case, Sequence[float | None]]
Pairs = Mapping[tuple[str, str], Equivalence]


def render(scores: Scores, *, metric: Metric) -> Iterator[str]:
    """Yield the lines on every pair of strategies that trained the same model on as many GPUs with the same options.

    Args:
        scores: of each case the metric's value for each seed, in the order of the seeds, which are the same for all
            cases; None where it could not be measured. A case with fewer values than another of its kind, or one that
            is missing or no number, is left out by name.
        metric: what was scored; its absolute limit is the margin. Without one nothing is yielded, nor where no two
            strategies can be compared or none was given.
    """
    margin = metric.limit.absolute if metric.limit else 0.0
    alike: dict[str, dict[str, Sequence[float | None]]] = defaultdict(dict)
    for case, values in scores.items():
        alike[_without_strategy(case)][case.strategy] = values
    kinds = {kind: strategies for kind, strategies in alike.items() if len(strategies) > 1}
    if not margin or not kinds:
        return
    yield from wrapped(
        f"{metric.name} of the same seeds, every two strategies: equivalent within {metric.show(margin)}, different, "
        f"or unresolved (two one-sided t-tests and the paired t-test, {100 * ALPHA:g} % error per pair)"
    )
    for kind, strategies in kinds.items():
        seeds = max(map(len, strategies.values()))
        yield from wrapped(f"  {kind} ({seeds} seed{'s' * (seeds != 1)})")
        gaps = {name: gap for name, values in strategies.items() if (gap := _gap(values, seeds))}
        for name, gap in gaps.items():
            yield from wrapped(f"    {name}: not compared, {gap}")
        whole = [(name, values) for name, values in strategies.items() if name not in gaps]
        pairs = {(a, b): compare(x, y, margin=margin) for (a, x), (b, y) in combinations(whole, 2)}
        yield from _groups(pairs, metric)
        yield from _others(pairs, metric)


def _without_strategy(case: Case) -> str:
    return "-".join((case.model, f"{case.gpu_count}gpu", f"bs{case.batch_size}", *case.options))


def _gap(values: Sequence[float | None], seeds: int) -> str:
    """Return what is missing among the scores of a case; empty when nothing is."""
    absent = [seed for seed, value in enumerate(values) if value is None or not math.isfinite(value)]
    absent += range(len(values), seeds)
    return f"no score of seed{'s' * (len(absent) > 1)} {', '.join(map(str, absent))}" if absent else ""


def _groups(pairs: Pairs, metric: Metric) -> Iterator[str]:
    """Yield a line for each group whose members are all equivalent to each other; together they hold all such pairs."""
    equal = {pair: found for pair, found in pairs.items() if found.word == "equivalent"}
    left = dict.fromkeys(equal)
    names = dict.fromkeys(name for pair in pairs for name in pair)
    while left:
        group = set(next(iter(left)))
        for name in names:
            if all(name == member or (name, member) in equal or (member, name) in equal for member in group):
                group.add(name)
        members = [pair for pair in equal if group.issuperset(pair)]
        left = {pair: None for pair in left if pair not in members}
        largest = max(abs(equal[pair].difference or 0.0) for pair in members)
        apart = f"mean differences up to {metric.show(largest)}" if largest else "the same in every seed"
        listed = ", ".join(name for name in names if name in group)
        yield from wrapped(f"    {listed}: equivalent, {apart}")


def _others(pairs: Pairs, metric: Metric) -> Iterator[str]:
    """Yield the pairs that are different or unresolved: each with its interval, or all that lack one for one reason."""
    signed = _signed(metric.show)
    rows = []
    by_note: dict[str, list[str]] = defaultdict(list)
    for (first, second), found in pairs.items():
        if found.word == "equivalent":
            continue
        title = f"{first} - {second}"
        if found.difference is not None and found.interval90 and found.interval95:
            intervals = (_spelled(interval, signed) for interval in (found.interval90, found.interval95))
            rows.append([title, found.word, signed(found.difference), *intervals])
        else:
            difference = "" if found.difference is None else f" {signed(found.difference)}"
            by_note[found.note].append(title + difference)
    if rows:
        head = ["    pair", "", "mean", "90 % interval", "95 % interval"]
        align = ("left", "left", "right", "left", "left")
        table = [head, *(["    " + title, *cells] for title, *cells in rows)]
        with_indent = tabulate(table, tablefmt="plain", colalign=align, disable_numparse=True, preserve_whitespace=True)
        yield from (line.rstrip() for line in with_indent.splitlines())
    for note, titles in by_note.items():
        yield from wrapped(f"    unresolved ({note}): {'; '.join(titles)}")


def _signed(show: Callable[[float], str]) -> Callable[[float], str]:
    return lambda value: ("-" if value < 0 else "+") + show(abs(value))


def _spelled(interval: Interval, signed: Callable[[float], str]) -> str:
    return f"{signed(interval[0])} to {signed(interval[1])}"
