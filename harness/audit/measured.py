"""One result held to itself: what follows from the case, its settings and its samples, and what no clock shows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from harness.audit import accounted
from harness.audit.findings import Place
from harness.case import Case
from harness.plugins import Metric, Processes, Strategy
from harness.records.samples import Samples
from harness.records.telemetry import Telemetry
from harness.registry import Registry
from harness.results import RankReport, Result, identity_of
from harness.stored.checkpoints import best_epoch

_TICK_S = 1e-6
"""Clocks are read one after the other, and times are kept in microseconds here and there."""


def check(place: Place, result: Result, registry: Registry, *, verdict: str | None = None) -> None:
    """Look at everything that a result says of itself.

    Args:
        place: of the result.
        result: one case.
        registry: of what it names.
        verdict: the run's word on the case; None where none is stored.
    """
    case = Case.parse(result.case_id)
    strategy, model = registry.strategies.get(case.strategy), registry.models.get(case.model)
    if strategy is None or model is None:
        what = case.model if model is None else case.strategy
        place.wrong("case_id", f"{what!r} is not known here, so it cannot be looked at: name its module with --plugins")
        return
    place.equal(
        "identity",
        result.identity,
        identity_of(case_id=result.case_id, profile=result.profile, settings=result.settings, dataset=result.dataset),
        by="case, profile, settings and dataset",
    )
    _ranks(place, result, case, strategy)
    for rank in result.ranks:
        _rank(place.at(f"ranks.{rank.rank}"), rank, result, case)
        _longer(place, "wall_s", result.wall_s, result, rank)
    place.equal("repeats", [one.seed for one in result.repeats], [*range(1, len(result.repeats) + 1)], by="their order")
    _scores(place, result, registry.scoring(model.input)[0])
    machine = {one.references.get("machine") for one in result.samples}
    place.holds("samples.references", len(machine) <= 1, "its processes ran frozen kernels of several codes")
    for name in ("samples", "beside"):
        for number, one in enumerate(getattr(result, name)):
            _samples(place.at(f"{name}.{number}"), one, len(result.ranks))
    for name, watched in (("watched", result.watched), ("telemetry", result.telemetry)):
        if watched is not None:
            _telemetry(place.at(name), watched)
    for name in ("accounts", "traces", "loaded"):
        count = len(getattr(result, name))
        place.holds(name, count in (0, len(result.ranks)), f"holds {count} ranks of {len(result.ranks)}")
    accounted.check(place, result, strategy, verdict)


def _ranks(place: Place, result: Result, case: Case, strategy: Strategy) -> None:
    count = len(result.ranks)
    wanted = 1 if strategy.processes is Processes.ONE else case.gpu_count
    place.equal("ranks", count, wanted, by="the case's GPUs")
    place.equal("ranks.rank", [rank.rank for rank in result.ranks], [*range(count)], by="their order")
    place.equal("ranks.world_size", [rank.world_size for rank in result.ranks], [count] * count, by="their number")
    for name in ("parameters", "trained_parameters", "train_images", "val_images", "warmup_steps"):
        seen = {getattr(rank, name) for rank in result.ranks}
        place.holds(f"ranks.{name}", len(seen) == 1, f"ranks of one training disagree: {sorted(map(str, seen))}")


def _rank(place: Place, rank: RankReport, result: Result, case: Case) -> None:
    settings, steps = result.settings, len(rank.step_s)
    place.holds("failure", rank.failure is None, "a rank that failed has no result")
    place.equal("loss", len(rank.loss), steps, by="the number of its steps")
    place.holds("step_s", all(step > 0 for step in rank.step_s), "a step took no time, or less than none")
    if rank.data_wait_s:
        place.equal("data_wait_s", len(rank.data_wait_s), steps, by="the number of its steps")
        waited = all(0 <= wait <= step for wait, step in zip(rank.data_wait_s, rank.step_s, strict=False))
        place.holds("data_wait_s", waited, "a step waited longer for its batch than it took")
    if "warmup_steps" in settings:
        place.equal("warmup_steps", rank.warmup_steps, settings["warmup_steps"], by="the settings")
    if "epochs" in settings:
        place.equal("epochs", len(rank.epochs), settings["epochs"], by="the settings")
    _epochs(place, rank, result, case)


def _epochs(place: Place, rank: RankReport, result: Result, case: Case) -> None:
    lead = result.lead
    steps = [epoch.steps for epoch in rank.epochs]
    place.equal("epochs.steps", steps, [epoch.steps for epoch in lead.epochs], by="rank 0, which made the same")
    place.holds("epochs.steps", sum(steps) <= len(rank.step_s), "its epochs have more steps than were timed")
    begin = 0
    for number, epoch in enumerate(rank.epochs):
        end = begin + epoch.steps
        spent_s = sum(rank.step_s[begin:end])
        place.holds(
            f"epochs.{number}.seconds",
            spent_s <= epoch.seconds + _TICK_S * epoch.steps,
            f"stored {epoch.seconds!r}, and its {epoch.steps} steps alone took {spent_s!r}",
        )
        if lead.train_images is not None:
            left = abs(epoch.steps * case.global_batch_size - lead.train_images)
            place.holds(
                f"epochs.{number}.steps",
                left < case.global_batch_size,
                f"stored {epoch.steps}, with {lead.train_images} images in batches of {case.global_batch_size}",
            )
        begin = end
    if "train" in rank.phases_s:
        _longer(place, "phases_s.train", rank.phases_s["train"], result, rank)


def _longer(place: Place, name: str, limit_s: float, result: Result, rank: RankReport) -> None:
    whole_s = sum(epoch.seconds for epoch in rank.epochs)
    if not result.resumed.startswith("taken up"):  # then an earlier run's seconds are among them
        said = f"stored {limit_s!r}, and the epochs of rank {rank.rank} alone took {whole_s!r}"
        place.holds(name, whole_s <= limit_s + _TICK_S, said)


def _scores(place: Place, result: Result, metric: Metric) -> None:
    images_seen = result.lead.val_images
    for number, epoch in enumerate(result.lead.epochs):
        share = (epoch.scores or {}).get("accuracy")
        if share is not None and images_seen:
            hits = share * images_seen
            said = f"stored {share!r}, which is no share of {images_seen} images"
            place.holds(f"epochs.{number}.scores.accuracy", abs(hits - round(hits)) < 1e-6 * images_seen, said)
    if result.best_epoch is not None:
        right = best_epoch(result.lead.epochs, metric)
        place.equal("best_epoch", result.best_epoch, right, by=f"the epochs' {metric.name}")
    images = sum(map(sum, result.confusion))
    if images and "accuracy" in result.test_scores:
        right_ones = sum(row[place_] for place_, row in enumerate(result.confusion) if place_ < len(row))
        right_share = right_ones / images
        place.equal("test_scores.accuracy", result.test_scores["accuracy"], right_share, by="the confusion matrix")


def _samples(place: Place, one: Samples, ranks: int) -> None:
    place.equal("ranks", len(one.ranks), ranks, by="the case's ranks")
    for number, rank in enumerate(one.ranks):
        works = (rank.case_us, rank.plain_us, rank.convolution_us, rank.product_us, rank.collective_us)
        rounds = {len(work) for work in works if work}
        place.holds(f"ranks.{number}", len(rounds) == 1, "its kinds of work have not as many rounds each")
        place.holds(f"ranks.{number}", all(time > 0 for work in works for time in work), "a round took no time")
        spent_s = sum(map(sum, works)) / 1e6
        said = f"stored {one.wall_s!r}, and the rounds of rank {number} alone took {spent_s!r}"
        place.holds("wall_s", spent_s <= one.wall_s, said)


def _telemetry(place: Place, told: Telemetry) -> None:
    at_s = [reading.at_s for reading in told.readings]
    place.holds("readings.at_s", _rises(at_s), "it is not in the order of time")
    for number in range(len(told.gpus)):
        counted = [r.gpus[number].energy_mj for r in told.readings if number < len(r.gpus)]
        known = [one for one in counted if one is not None]
        place.holds(f"gpus.{number}.energy_mj", _rises(known), "a counter runs backwards")
    for core in {core for reading in told.readings for core in reading.cores or ()}:
        for name in ("processes", "interrupts", "stolen"):
            ticks = [getattr(r.cores[core], name) for r in told.readings if r.cores and core in r.cores]
            place.holds(f"cores.{core}.{name}", _rises(ticks), "a counter runs backwards")
    if told.measured is not None:
        place.holds("measured", told.measured.begin_s <= told.measured.end_s, "it ends before it begins")


def _rises(values: Sequence[float]) -> bool:
    return all(after >= before for before, after in pairwise(values))
