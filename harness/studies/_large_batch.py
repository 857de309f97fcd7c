"""The data-parallel study's large batch: what accuracy it costs, and how much of that the learning rate gives back."""

from __future__ import annotations

from collections.abc import Iterator

from harness.case import Case, combine
from harness.evidence import scores
from harness.evidence.claims import Claim
from harness.evidence.runs import Evidence
from harness.evidence.tables import Cell, Table
from harness.figures.charts import Figure
from harness.profiles import StudyProfile
from harness.registry import Registry
from harness.studies._overlay import label, last_loss, marked, missing, over, overlaid

MODEL = "resnet18"
GPUS = (1, 2, 4)
SMALL, LARGE = 128, 2048
CIFAR_IMAGES = 50_000


def counts_of(profile: StudyProfile) -> tuple[int, ...]:
    """Return the numbers of GPUs, ascending."""
    return tuple(sorted(profile.study.gpu_counts or GPUS))


def case_of(profile: StudyProfile, batch: int, gpus: int, strategy: str = "ddp", options: tuple[str, ...] = ()) -> Case:
    """Return the case that stands for a batch per GPU of the study."""
    return Case(
        model=profile.study.model(MODEL),
        strategy=strategy,
        gpu_count=gpus,
        batch_size=profile.study.batch(batch),
        **combine(options),
    )


def cases(profile: StudyProfile, registry: Registry) -> list[Case]:
    """Return the small batch, the large one, and the large one with the remedies."""
    settings = profile.settings(registry.find("models", profile.study.model(MODEL)))
    most = counts_of(profile)[-1]
    plain = case_of(profile, LARGE, most)
    updates = settings.epochs * ((settings.train_images or CIFAR_IMAGES) // plain.global_batch_size)
    warmup = f"warmup{max(2, updates // 5)}"
    remedies = (("lrscale",), (warmup, "lrscale"))
    return [case_of(profile, SMALL, 1), plain, *(case_of(profile, LARGE, most, options=tokens) for tokens in remedies)]


def table(evidence: Evidence) -> Table:
    """Return the table of the large batch."""
    small, large, *remedies = cases(evidence.profile, evidence.registry)
    published = {
        small: {"batch": SMALL, "gpus": 1},
        case_of(evidence.profile, LARGE, counts_of(evidence.profile)[-1], "dp"): {"batch": LARGE, "gpus": 4},
    }
    few, many = (_accuracy(evidence, case) for case in (small, large))
    gap = None if few is None or many is None else few - many
    rows: list[tuple[Cell, ...]] = []
    for case in (small, *list(published)[1:], large, *remedies):
        run, axes = evidence.run(case), published.get(case)
        own = _accuracy(evidence, case)
        closed = over(own - many, gap) if own is not None and many is not None and (gap or 0) > 0 else None
        names = ("loss_after_5_epochs", "accuracy_after_5_epochs")
        told = (evidence.published.value(name, **axes) if axes else None for name in names)
        rows.append((marked(evidence, case), last_loss(run), own, closed if case in remedies else None, *told))
    words = f"gap: accuracy of {label(small)} less that of {label(large)}"
    if gap is not None:
        words += f", {gap:+.3f} here" + ("; there is none to close" if gap <= 0 else "")
    times = large.global_batch_size / small.global_batch_size
    return Table(
        name="large_batch",
        title="the large batch, and how much of its gap the learning rate closes",
        head=("case", "loss", "accuracy", "gap closed", "pub. loss", "pub. accuracy"),
        rows=tuple(rows),
        notes=(
            words,
            f"lrscale: the learning rate times {large.gpu_count}, the GPUs; the global batch is {times:g} times larger",
            *missing(evidence, [small, large, *remedies]),
        ),
    )


def _accuracy(evidence: Evidence, case: Case) -> float | None:
    run = evidence.certified(case)
    return run.last_score("accuracy") if run else None


def judged(evidence: Evidence) -> Iterator[Claim]:
    """Yield what the study says of the large batch, and asks."""
    told = evidence.published
    small, large, *remedies = cases(evidence.profile, evidence.registry)
    accuracy = {
        place: told.value("accuracy_after_5_epochs", **axes) or 0.0
        for place, axes in (("small", {"batch": SMALL, "gpus": 1}), ("large", {"batch": LARGE, "gpus": 4}))
    }
    gap = accuracy["small"] - accuracy["large"]
    yield scores.differs(
        evidence,
        f"batch {large.global_batch_size} ends less accurate than {small.global_batch_size}",
        (large, small),
        -gap,
        score="accuracy",
        same_training=False,
    )
    for case in remedies:
        text = f"{'-'.join(case.options)} makes the large batch more accurate"
        yield scores.differs(evidence, text, (case, large), gap, score="accuracy", same_training=False, asked=True)


def figure(evidence: Evidence) -> Figure:
    """Return accuracies by epoch."""
    return overlaid(
        evidence,
        cases(evidence.profile, evidence.registry),
        lambda run: run.scores("accuracy"),
        name="large_batch",
        title="accuracy after each epoch by batch",
        y_label="accuracy",
    )
