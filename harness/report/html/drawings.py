"""Every kind of figure of the page: which cases are drawn together, what is drawn of them, or why nothing is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from harness.anatomy.load import busy_over_time, power_over_time
from harness.figures import insides, results
from harness.figures.charts import Figure
from harness.figures.results import Group
from harness.metrics.memory import peak_bytes
from harness.report import past
from harness.report.html import beside, course
from harness.report.reported import Run
from harness.running.pipeline import Outcome, reference_of

Drawn = list[tuple[str, Figure]] | str
"""Figures, each with what tells it from the others of its card; or why there is none, empty where none could be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Cases of a model that are drawn together."""

    outcomes: tuple[Outcome, ...]
    gpus: int | None
    """None where they are of several numbers of GPUs."""
    label: str

    @property
    def group(self) -> Group:
        """Their results as figures take them."""
        (group,) = results.grouped([one.result for one in self.outcomes], by_gpus=self.gpus is not None)
        return group


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One kind of figure."""

    theme: str
    title: str
    about: str
    draw: Callable[[Run, Alike], Drawn]
    by_gpus: bool = True
    """Whether there is one for each number of GPUs."""
    beside: Callable[[str, int], str] = lambda model, batch: ""
    """What others published of a model at a batch per GPU, in words."""

    def groups(self, run: Run, model: str) -> Iterator[Alike]:
        """Yield the cases of a model that are drawn together: of one dataset and batch per GPU."""
        found: dict[tuple[str, int, int], list[Outcome]] = {}
        for one in run.outcomes:
            if one.case.model == model:
                gpus = one.case.gpu_count if self.by_gpus else 0
                found.setdefault((one.result.dataset, one.case.batch_size, gpus), []).append(one)
        several = len({(dataset, batch) for dataset, batch, _ in found}) > 1
        for (dataset, batch, gpus), members in sorted(found.items(), key=lambda item: item[0]):
            words = [f"{gpus} GPU{'s' * (gpus > 1)}"] if gpus else []
            words += [f"{dataset}, batch {batch}"] if several else []
            yield Alike(outcomes=tuple(members), gpus=gpus or None, label=", ".join(words) or "all")


def _alone(alike: Alike, figure: Figure) -> Drawn:
    shared = any(one.result.oversubscribed for one in alike.outcomes) and alike.gpus is not None
    return [(alike.label + "*" * shared, figure)]


def _epochs(draw: Callable[[Group], Figure]) -> Callable[[Run, Alike], Drawn]:
    def drawn(run: Run, alike: Alike) -> Drawn:
        if max(len(one.result.lead.epochs) for one in alike.outcomes) < 2:
            return "one epoch makes no line; its loss stands in the table, and what each step gave is drawn"
        return _alone(alike, draw(alike.group))

    return drawn


def _scores(run: Run, alike: Alike) -> Drawn:
    if max(len(one.result.lead.epochs) for one in alike.outcomes) < 2:
        return "one epoch makes no line; its score stands in the table"
    for metric in sorted(run.registry.metrics.values(), key=lambda one: one.order):
        if metric.scores is not None and any(metric.value(one.result, None) is not None for one in alike.outcomes):
            return _alone(alike, results.epoch_score(alike.group, score=metric.name, label=metric.title))
    return "no epoch was validated"


def _steps(run: Run, alike: Alike) -> Drawn:
    return _alone(alike, results.step_loss(alike.group))


def _speedups(run: Run, alike: Alike) -> Drawn:
    return _scaled(run, alike, results.speedups, share=False)


def _efficiencies(run: Run, alike: Alike) -> Drawn:
    return _scaled(run, alike, results.efficiencies, share=True)


def _scaled(run: Run, alike: Alike, draw: Callable[..., Figure], *, share: bool) -> Drawn:
    if len({one.case.gpu_count for one in alike.outcomes}) < 2:
        return "one number of GPUs makes no line"
    if all(one.reference is None for one in alike.outcomes):
        return "no case has a reference to compare its speed with"
    model = alike.outcomes[0].case.model
    against = sorted({reference_of(one.case).id.removeprefix(f"{model}-") for one in alike.outcomes})
    published = beside.published(model, alike.outcomes[0].case.batch_size, share=share)
    references = [one.reference for one in alike.outcomes]
    return _alone(alike, draw(alike.group, references, against=", ".join(against), published=published))


def _step_times(run: Run, alike: Alike) -> Drawn:
    return _alone(alike, results.step_times(alike.group))


def _traced(draw: Callable[[Group], Figure], *, ranks: int = 1) -> Callable[[Run, Alike], Drawn]:
    def drawn(run: Run, alike: Alike) -> Drawn:
        known = tuple(one for one in alike.outcomes if one.result.traces)
        if not known:
            return "no case was traced; --traced does"
        if known[0].case.gpu_count < ranks:
            return "one rank has nobody to communicate with"
        return _alone(alike, draw(replace(alike, outcomes=known).group))

    return drawn


def _memory(draw: Callable[..., Figure]) -> Callable[[Run, Alike], Drawn]:
    def drawn(run: Run, alike: Alike) -> Drawn:
        known = tuple(one for one in alike.outcomes if one.memory is not None)
        if not known:
            return "no case was accounted; --accounted does"
        return _alone(alike, draw(replace(alike, outcomes=known).group, [one.memory for one in known]))

    return drawn


def _trade_off(run: Run, alike: Alike) -> Drawn:
    # What trains otherwise is no alternative, however fast it is.
    known = tuple(one for one in alike.outcomes if one.certificate.granted)
    if not known:
        return "no case is certified"
    if all(peak_bytes(one.result) is None for one in known):
        return "no peak memory was measured"
    return _alone(alike, results.trade_off(replace(alike, outcomes=known).group))


def _busy(run: Run, alike: Alike) -> Drawn:
    known = tuple(one for one in alike.outcomes if len(busy_over_time(one.result.telemetry)) > 1)
    if not known:
        return _unread(alike, "utilisation")
    return _alone(alike, insides.utilisation(replace(alike, outcomes=known).group))


def _power(run: Run, alike: Alike) -> Drawn:
    known = tuple(one for one in alike.outcomes if len(power_over_time(one.result.telemetry)) > 1)
    if not known:
        return _unread(alike, "energy", "power")
    return _alone(alike, insides.power(replace(alike, outcomes=known).group))


def _unread(alike: Alike, *what: str) -> str:
    """Return why the machine did not tell something."""
    read = [one.result.telemetry for one in alike.outcomes if one.result.telemetry is not None]
    if not read:
        return "the machine was not sampled; --accounted does"
    for telemetry in read:
        for name, why in telemetry.missing.items():
            if any(word in name for word in what):
                return f"n/a, {name}: {why}"
    return "the measured steps were over before the machine was read twice"


def _confusions(run: Run, alike: Alike) -> Drawn:
    known = [one for one in alike.outcomes if one.result.confusion]
    if not known:
        return "no classifier was scored on a test split; --tested does"
    return [(one.case.id.removeprefix(f"{one.case.model}-"), results.confusion(one.result)) for one in known]


_DRAWINGS = (
    Drawing(
        theme="Training",
        title="Loss by epoch",
        about="The mean training loss over all ranks. Lines that coincide share their dashes: the same training.",
        draw=_epochs(results.epoch_loss),
    ),
    Drawing(
        theme="Training",
        title="Seconds by epoch",
        about="Of the slowest rank; validation is not in it.",
        draw=_epochs(results.epoch_seconds),
    ),
    Drawing(theme="Training", title="Accuracy by epoch", about="Of the validation split.", draw=_scores),
    Drawing(
        theme="Training",
        title="Loss by step",
        about="The mean over the ranks, warm-up included. Lines that coincide share their dashes: the same training.",
        draw=_steps,
    ),
    Drawing(
        theme="Training",
        title="Confusion matrix",
        about="Rows are true classes, columns what they were taken for; how dark a cell is, is its share of its row.",
        draw=_confusions,
    ),
    Drawing(
        theme="Scaling",
        title="Speedup over GPUs",
        about="The batch per GPU is kept: weak scaling.",
        beside=beside.sources,
        draw=_speedups,
        by_gpus=False,
    ),
    Drawing(
        theme="Scaling",
        title="Efficiency over GPUs",
        about="Speedup over the number of GPUs; 1 is ideal.",
        beside=beside.sources,
        draw=_efficiencies,
        by_gpus=False,
    ),
    Drawing(
        theme="Time",
        title="Step times",
        about="Of each measured step the slowest rank, a stroke each: the middle half is a box, the median a marker.",
        draw=_step_times,
    ),
    Drawing(
        theme="Time",
        title="Where the time goes",
        about="Every moment counts once. Under the profiler, which adds to a step; no time here is gated.",
        draw=_traced(insides.time_budget),
    ),
    Drawing(
        theme="Time",
        title="Exposed communication",
        about="Transfers from when the last rank was ready; exposed is what no compute of the same rank hides.",
        draw=_traced(insides.exposed_communication, ranks=2),
    ),
    Drawing(
        theme="Memory",
        title="Memory against throughput",
        about="Of certified cases; up and to the left is better. On the line is what no other beats in both.",
        draw=_trade_off,
    ),
    Drawing(
        theme="Memory",
        title="Memory kept, against the prediction",
        about="Tensors of the fullest rank by what they are for, never summed over ranks; the mark is the closed form.",
        draw=_memory(insides.memory_kept),
    ),
    Drawing(
        theme="Memory",
        title="Memory at the peak",
        about="Work is what appears and is gone within a step: activations, gathered parameters, workspace.",
        draw=_memory(insides.memory_at_peak),
    ),
    Drawing(
        theme="Machine",
        title="Utilisation",
        about="Of a GPU the time in which any kernel ran, of a core that in which it was not idle.",
        draw=_busy,
    ),
    Drawing(theme="Machine", title="Power", about="All GPUs together, or the processor as a whole.", draw=_power),
)
"""In the order of the page; what is told of earlier runs follows."""


def of_run(run: Run) -> Iterator[Drawing]:
    """Yield every kind of figure that a run may have."""
    yield from _DRAWINGS
    for figure in course.figures(run):
        yield Drawing(
            theme="History",
            title=course.words(figure)[0].upper() + course.words(figure)[1:],
            about="Stored runs of this set-up on this machine, oldest first. A ring: a change that was accepted.",
            draw=_history(figure),
        )


def _history(figure: past.Figure) -> Callable[[Run, Alike], Drawn]:
    def drawn(run: Run, alike: Alike) -> Drawn:
        made = course.figure_of(run, alike.outcomes, alike.group, figure)
        return made if isinstance(made, str) else _alone(alike, made)

    return drawn
