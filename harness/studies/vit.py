"""The ViT study: the public ViT-B/16 fine-tuned on CIFAR-100, by standard and by sharded training, and with options."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.case import Case, combine
from harness.evidence import claims, scores
from harness.evidence.claims import Claim, Pair
from harness.evidence.runs import Evidence, Run
from harness.evidence.tables import Cell, Table
from harness.figures.charts import Figure, matrix
from harness.plugins import Metric, Planned, Study
from harness.profiles import StudyProfile
from harness.published import FOLDER
from harness.registry import Registry
from harness.studies._overlay import (
    MARKS,
    beside,
    gib,
    label,
    last_score,
    marked,
    missing,
    ms,
    over,
    overlaid,
    per_epoch,
    step_s,
)

MODEL = "vit_b16"
BATCH = 64
GPUS = (1, 2, 4)
STANDARD, SHARDED = "ddp", "zero3"
OPTIONS = {
    STANDARD: ("bf16", "ckpt"),
    SHARDED: ("bf16", "fp16", "offload", "ckpt", "cosine-warmup10", "bf16-offload-ckpt"),
}
"""Beside the plain training, on the second of the GPU counts."""
FIGURES = {"loss": lambda run: run.losses, "accuracy": lambda run: run.scores("accuracy")}
MOST_CLASSES = 5
"""Shown of each end; all of them are in the files."""


def _counts(profile: StudyProfile) -> tuple[int, ...]:
    return tuple(sorted(profile.study.gpu_counts or GPUS))


def _case(profile: StudyProfile, strategy: str, gpus: int, options: str = "") -> Case:
    return Case(
        model=profile.study.model(MODEL),
        strategy=strategy,
        gpu_count=gpus,
        batch_size=profile.study.batch(BATCH),
        **combine(options.split("-") if options else ()),
    )


def _sharded_on(profile: StudyProfile) -> int:
    """Return the GPUs that the options are tried on: the fewest on which anything is sharded."""
    counts = _counts(profile)
    return next((gpus for gpus in counts if gpus > 1), counts[0])


def _main(profile: StudyProfile) -> list[Case]:
    return [_case(profile, strategy, gpus) for strategy in (STANDARD, SHARDED) for gpus in _counts(profile)]


def _with_options(profile: StudyProfile) -> list[Case]:
    gpus = _sharded_on(profile)
    return [_case(profile, strategy, gpus, tokens) for strategy, several in OPTIONS.items() for tokens in several]


def _plan(profile: StudyProfile, registry: Registry) -> Iterator[Planned]:
    asked = {case for pair in (_pair(profile), *_faster(profile)) for case in pair}
    for case in (*_main(profile), *_with_options(profile)):
        yield Planned(case=case, timed=case in asked)


def _pair(profile: StudyProfile) -> Pair:
    """Return standard and sharded training on the GPUs that options are tried on."""
    gpus = _sharded_on(profile)
    return _case(profile, STANDARD, gpus), _case(profile, SHARDED, gpus)


def _faster(profile: StudyProfile) -> list[Pair]:
    """Return each lower precision, sharded, and the same without."""
    sharded = _pair(profile)[1]
    return [(_case(profile, SHARDED, sharded.gpu_count, options), sharded) for options in ("bf16", "fp16")]


def _tables(evidence: Evidence) -> Iterator[Table]:
    yield per_epoch(evidence, evidence.cases, FIGURES, lambda case, figure: ())
    yield _sharding(evidence)
    yield _options(evidence)
    yield _accuracy(evidence)
    yield _classes(evidence)


def _sharding(evidence: Evidence) -> Table:
    profile, rows = evidence.profile, []
    for gpus in _counts(profile):
        standard, sharded = (_case(profile, strategy, gpus) for strategy in (STANDARD, SHARDED))
        one = evidence.certified(_case(profile, SHARDED, _counts(profile)[0]))
        plain, run = evidence.certified(standard), evidence.certified(sharded)
        row: tuple[Cell, ...] = (marked(evidence, sharded), ms(plain), ms(run), over(ms(run), ms(plain)))
        speedup = over(step_s(one), step_s(run))
        scaled = None if speedup is None else speedup * gpus / _counts(profile)[0]
        rows.append((*row, gib(plain), gib(run), over(gib(run), gib(plain)), scaled))
    return Table(
        name="sharding",
        title=f"sharded ({SHARDED}) against standard ({STANDARD}) training, and its scaling",
        head=("sharded", "std ms", "ms", "x", "std GiB", "GiB", "x", "speedup"),
        rows=tuple(rows),
        notes=(
            "std: standard; x: sharded over standard, in the median step and in peak memory",
            f"speedup: images/s over those of {_counts(profile)[0]} GPU; published: the study printed no figures",
            MARKS,
            *missing(evidence, _main(profile)),
        ),
    )


def _options(evidence: Evidence) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for case in _with_options(evidence.profile):
        run = evidence.run(case)
        plain = evidence.certified(_case(evidence.profile, case.strategy, case.gpu_count))
        if run is not None:
            sizes = (ms(run), over(ms(run), ms(plain)), gib(run), over(gib(run), gib(plain)))
            rows.append((marked(evidence, case), *sizes, last_score(run, "accuracy")))
    return Table(
        name="options",
        title="precision, offload, checkpointing and schedule against the same strategy without",
        head=("case", "step ms", "x plain", "GiB", "x plain", "accuracy"),
        rows=tuple(rows),
        notes=missing(evidence, _with_options(evidence.profile)),
    )


def _accuracy(evidence: Evidence) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for case in evidence.cases:
        run = evidence.run(case)
        if run is not None:
            accuracy = run.last_score("accuracy")
            rows.append((marked(evidence, case), accuracy, run.test_score("accuracy")))
    told = [one for one in evidence.published.figures if one.name == "accuracy"]
    rows += [(f"published: {one.axes['training']}", None, one.values[0]) for one in told]
    return Table(
        name="accuracy",
        title="accuracy on validation and test images",
        head=("case", "validation", "test"),
        rows=tuple(rows),
        notes=(f"published: {evidence.published.source}",),
    )


def _confused(evidence: Evidence) -> Run | None:
    """Return the run whose confusion is shown: the sharded one on most GPUs that has any."""
    cases = [_case(evidence.profile, SHARDED, gpus) for gpus in reversed(_counts(evidence.profile))]
    runs = (evidence.certified(case) for case in cases)
    return next((run for run in runs if run is not None and run.confusion), None)


def _classes(evidence: Evidence) -> Table:
    run = _confused(evidence)
    shares = _shares(run) if run else []
    return Table(
        name="classes",
        title="test accuracy by class" + (f" of {run.case}" if run else ""),
        head=("class", "right", "of", "accuracy"),
        rows=tuple((number, right, images, over(right, images)) for number, right, images in shares),
        notes=() if run else ("n/a: no run scored its test images by class",),
        shown=MOST_CLASSES,
    )


def _shares(run: Run) -> list[tuple[int, int, int]]:
    """Return class, images that were predicted right, and images, from the worst class on."""
    found = [(true, row[true], sum(row)) for true, row in enumerate(run.confusion)]
    return sorted(found, key=lambda one: over(one[1], one[2]) or 0.0)


def _otherwise(evidence: Evidence, case: Case) -> str:
    run = evidence.run(case)
    if run is None:
        return ""
    apart = [
        f"{what} {own} instead of {theirs}"
        for what, own, theirs in (
            ("model", case.model, MODEL),
            ("dataset", run.result.dataset, "cifar100"),
            ("weights", re.split(r" from | \(", run.result.lead.weights)[0], "google/vit-base-patch16-224"),
        )
        if own != theirs
    ]
    return f"another experiment: {', '.join(apart)}" if apart else ""


def _claims(evidence: Evidence) -> Iterator[Claim]:
    profile, told, gpus = evidence.profile, evidence.published, _sharded_on(evidence.profile)
    standard, sharded = _pair(profile)
    band = [told.value("accuracy", training=f"full, {end}") or 0.0 for end in ("least", "most")]
    text = "fine-tuned, it reaches the accuracy that others published"
    apart = _otherwise(evidence, standard)
    yield scores.reaches(evidence, text, standard, score="accuracy", least=band[0], most=band[1], otherwise=apart)
    on = f"on {gpus} GPUs"
    yield claims.faster(evidence, f"standard training is faster than sharded {on}", (standard, sharded))
    noise = evidence.noise_of_memory()
    yield claims.less_memory(evidence, f"sharded training needs less memory {on}", (sharded, standard), noise)
    for options in ("bf16", "offload", "ckpt"):
        case = _case(profile, SHARDED, gpus, options)
        text = f"{options} needs less memory than without, sharded {on}"
        yield claims.less_memory(evidence, text, (case, sharded), noise)
    for pair in _faster(profile):
        yield claims.faster(evidence, f"{pair[0].precision} is faster than FP32, sharded {on}", pair)
    metric: Metric = evidence.registry.find("metrics", "accuracy")
    margin = metric.limit.absolute if metric.limit else 0.0
    yield scores.alike(
        evidence,
        f"sharded and standard end equally accurate {on}",
        (sharded, standard),
        score="accuracy",
        margin=margin,
    )


def _figures(evidence: Evidence) -> Iterator[Figure]:
    for figure, of in FIGURES.items():
        yield overlaid(
            evidence, _main(evidence.profile), of, name=figure, title=f"{figure} of each epoch", y_label=figure
        )
    yield overlaid(
        evidence,
        _with_options(evidence.profile),
        FIGURES["loss"],
        name="loss_options",
        title="loss of each epoch with options",
        y_label="loss",
    )
    runs = [(label(case), evidence.run(case)) for case in evidence.cases]
    yield beside("step", "median step", "ms", [(name, ms(run), None) for name, run in runs])
    yield beside("memory", "peak memory", "GiB", [(name, gib(run), None) for name, run in runs])
    if (run := _confused(evidence)) is not None:
        counts = run.confusion
        yield matrix(
            name="confusion",
            title=f"test images by true and predicted class, {label(run.case)}",
            labels=[str(number) for number in range(len(counts))],
            counts=counts,
            x_label="predicted",
            y_label="true",
        )


VIT = Study(
    name="vit",
    about="the public ViT-B/16 fine-tuned on CIFAR-100, standard training against ZeRO-3",
    plan=_plan,
    tables=_tables,
    claims=_claims,
    figures=_figures,
    tested=True,
    published=FOLDER / "vit.json",
)
