"""The figures of a set of results: what their epochs, steps, memory and machine looked like, strategies side by side.

Each function takes results that are alternatives to each other, such as one model by several strategies on as many
GPUs; `grouped` makes such sets. A result that lacks what a figure shows has its place in it, with n/a.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from harness.anatomy.load import busy_share, power_w
from harness.case import Case
from harness.figures.charts import Figure, Point, Series, bars, lines, matrix, scatter, spreads
from harness.metrics.loss import epoch_losses
from harness.metrics.memory import peak_bytes
from harness.metrics.timing import efficiency, images_per_s, speedup
from harness.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Results that are alternatives to each other."""

    name: str
    """For files: `resnet18-digits-2gpu-bs8`."""
    title: str
    """For people: `resnet18 on digits, 2 GPUs, batch 8 per GPU`."""
    results: tuple[Result, ...]


def grouped(results: Iterable[Result], *, by_gpus: bool = True) -> list[Group]:
    """Return results by model, dataset, batch per GPU and, unless they are to be compared over it, number of GPUs."""
    found: dict[tuple[str, str, int, int], list[Result]] = defaultdict(list)
    for result in results:
        case = Case.parse(result.case_id)
        found[case.model, result.dataset, case.gpu_count if by_gpus else 0, case.batch_size].append(result)
    return [
        Group(
            name="-".join((model, dataset, *([f"{gpus}gpu"] if gpus else []), f"bs{batch}")),
            title=", ".join((f"{model} on {dataset}", *([_gpus(gpus)] if gpus else []), f"batch {batch} per GPU")),
            results=tuple(members),
        )
        for (model, dataset, gpus, batch), members in found.items()
    ]


def labels(results: Sequence[Result]) -> list[str]:
    """Return what tells results apart: the strategy, and whatever else is not the same for all."""
    cases = [Case.parse(result.case_id) for result in results]

    def differ(axis: Callable[[Case], object]) -> bool:
        return len(set(map(axis, cases))) > 1

    return [
        " ".join(
            (
                *([case.model] if differ(lambda one: one.model) else []),
                "-".join((case.strategy, *case.options)),
                *([_gpus(case.gpu_count)] if differ(lambda one: one.gpu_count) else []),
                *([f"bs{case.batch_size}"] if differ(lambda one: one.batch_size) else []),
            )
        )
        for case in cases
    ]


def epoch_loss(group: Group, *, published: Sequence[Series] = ()) -> Figure:
    """Return the mean training loss of each epoch."""
    return _epochs(group, "loss", "training loss", lambda one: epoch_losses(one), published)


def epoch_seconds(group: Group, *, published: Sequence[Series] = ()) -> Figure:
    """Return the seconds of each epoch, evaluation left out: those of the slowest rank."""

    def seconds(result: Result) -> list[float]:
        ranks = zip(*(rank.epochs for rank in result.ranks), strict=True)
        return [max(epoch.seconds for epoch in epochs) for epochs in ranks]

    return _epochs(group, "seconds", "seconds per epoch", seconds, published)


def epoch_score(group: Group, *, score: str, label: str, published: Sequence[Series] = ()) -> Figure:
    """Return a validation score after each epoch.

    Args:
        group: the results.
        score: its name in `EpochReport.scores`.
        label: what the figure calls it, with the unit.
        published: what others had, beside it.
    """
    return _epochs(
        group, score, label, lambda one: [(epoch.scores or {}).get(score) for epoch in one.lead.epochs], published
    )


def step_loss(group: Group) -> Figure:
    """Return the loss of every step, warm-up included: the mean over the ranks, whose batches are of one size."""

    def losses(result: Result) -> list[float]:
        return [sum(step) / len(step) for step in zip(*(rank.loss for rank in result.ranks), strict=True)]

    return lines(
        name=f"{group.name}-steps-loss",
        title=f"{group.title}: training loss of every step",
        x_label="step",
        y_label="training loss",
        series=_series(group.results, losses),
    )


def speedups(
    group: Group, references: Sequence[Result | None], *, against: str, published: Sequence[Series] = ()
) -> Figure:
    """Return the speedup over the number of GPUs, with what is ideal.

    Args:
        group: results of several numbers of GPUs.
        references: of each of them, the result whose throughput is 1.
        against: what that is, in words.
        published: what others had: GPUs and speedup.
    """
    series = _over_gpus(group, references, speedup)
    counts = sorted({gpus for one in (*series, *published) for gpus in one.x})
    bases = {Case.parse(reference.case_id).gpu_count for reference in references if reference}
    base = min(bases, default=1)
    return lines(
        name=f"{group.name}-speedup",
        title=f"{group.title}: speedup against {against}",
        x_label="GPUs",
        y_label="speedup",
        series=[*series, *published],
        ideal=Series(label="ideal", x=tuple(counts), y=tuple(gpus / base for gpus in counts)),
    )


def efficiencies(
    group: Group, references: Sequence[Result | None], *, against: str, published: Sequence[Series] = ()
) -> Figure:
    """Return the speedup over the number of GPUs as a share of what is ideal; arguments are those of `speedups`."""
    series = _over_gpus(group, references, efficiency)
    counts = sorted({gpus for one in (*series, *published) for gpus in one.x})
    return lines(
        name=f"{group.name}-efficiency",
        title=f"{group.title}: efficiency against {against}",
        x_label="GPUs",
        y_label="efficiency",
        series=[*series, *published],
        ideal=Series(label="ideal", x=tuple(counts), y=(1.0,) * len(counts)),
    )


def _over_gpus(
    group: Group, references: Sequence[Result | None], figure: Callable[[Result, Result | None], float | None]
) -> list[Series]:
    """Return a figure over the number of GPUs, strategy by strategy."""
    found: dict[str, dict[int, float | None]] = defaultdict(dict)
    for result, reference in zip(group.results, references, strict=True):
        case = Case.parse(result.case_id)
        found["-".join((case.strategy, *case.options))][case.gpu_count] = figure(result, reference)
    return [
        Series(label=name, x=tuple(sorted(at)), y=tuple(at[gpus] for gpus in sorted(at)), strategy=name.split("-")[0])
        for name, at in found.items()
    ]


def step_times(group: Group) -> Figure:
    """Return how the measured steps' times spread, the slowest rank of each step."""
    names = labels(group.results)
    return spreads(
        name=f"{group.name}-step-times",
        title=f"{group.title}: time of a step",
        x_label="ms",
        groups={name: [1e3 * step for step in one.step_s] for name, one in zip(names, group.results, strict=True)},
        strategies=_strategies(group.results),
    )


def trade_off(group: Group) -> Figure:
    """Return peak memory against throughput, with the Pareto front."""
    return scatter(
        name=f"{group.name}-memory-throughput",
        title=f"{group.title}: memory against throughput",
        x_label="peak memory of the fullest device, GiB",
        y_label="images/s",
        points=[
            Point(label=name, x=_gib(peak_bytes(one)), y=images_per_s(one), strategy=_strategy(one))
            for name, one in zip(labels(group.results), group.results, strict=True)
        ],
    )


def memory_bars(group: Group) -> Figure:
    """Return peak memory by strategy."""
    return _bars(group, "memory", "peak memory of the fullest device, GiB", lambda one: _gib(peak_bytes(one)))


def utilisation_bars(group: Group) -> Figure:
    """Return by strategy how busy the devices were; n/a unless the machine was sampled (`--accounted`)."""
    return _bars(group, "utilisation", "busy, % of the time, mean of the devices", _busy_percent)


def power_bars(group: Group) -> Figure:
    """Return by strategy the power of all devices together; n/a unless the machine was sampled (`--accounted`)."""
    return _bars(group, "power", "mean power of all devices, W", lambda one: power_w(one.telemetry))


def confusion(result: Result, *, classes: Sequence[str] = ()) -> Figure:
    """Return which class of the test split was taken for which.

    Args:
        result: one that holds a confusion matrix.
        classes: their names; without, they are numbered from 0.
    """
    return matrix(
        name=f"{result.case_id}-confusion",
        title=f"{result.case_id}: test images by true and predicted class",
        labels=classes or [str(place) for place in range(len(result.confusion))],
        counts=result.confusion,
        x_label="predicted class",
        y_label="true class",
    )


def _epochs(
    group: Group,
    what: str,
    label: str,
    values: Callable[[Result], Sequence[float | None]],
    published: Sequence[Series],
) -> Figure:
    return lines(
        name=f"{group.name}-{what}",
        title=f"{group.title}: {label}",
        x_label="epoch",
        y_label=label,
        series=[*_series(group.results, values), *published],
    )


def _series(results: Sequence[Result], values: Callable[[Result], Sequence[float | None]]) -> list[Series]:
    made = []
    for name, result in zip(labels(results), results, strict=True):
        own = tuple(values(result))
        made.append(Series(label=name, x=tuple(range(1, len(own) + 1)), y=own, strategy=_strategy(result)))
    return made


def _bars(group: Group, what: str, label: str, value: Callable[[Result], float | None]) -> Figure:
    return bars(
        name=f"{group.name}-{what}",
        title=f"{group.title}: {what}",
        y_label=label,
        groups=labels(group.results),
        series={what: [value(one) for one in group.results]},
        strategies=_strategies(group.results),
    )


def _strategy(result: Result) -> str:
    return Case.parse(result.case_id).strategy


def _strategies(results: Sequence[Result]) -> dict[str, str]:
    return {name: _strategy(one) for name, one in zip(labels(results), results, strict=True)}


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' if count > 1 else ''}"


def _gib(size: int | None) -> float | None:
    return None if size is None else size / 2**30


def _busy_percent(result: Result) -> float | None:
    share = busy_share(result.telemetry)
    return None if share is None else 100 * share
