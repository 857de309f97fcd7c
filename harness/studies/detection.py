"""The detection study: Faster R-CNN on COCO under DDP, FSDP and ZeRO at 2 and 4 GPUs, and what it left open."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from harness.anatomy.advice import effort
from harness.case import Case, combine
from harness.evidence import claims, scores
from harness.evidence.claims import Claim
from harness.evidence.runs import Evidence
from harness.evidence.tables import Cell, Table
from harness.figures.charts import Figure
from harness.plugins import Planned, Study
from harness.profiles import StudyProfile
from harness.published import FOLDER
from harness.registry import Registry
from harness.studies._overlay import (
    beside,
    gib,
    label,
    last_loss,
    last_score,
    marked,
    missing,
    ms,
    over,
    overlaid,
    per_epoch,
    step_s,
)

MODEL = "fasterrcnn_r50"
STRATEGIES = ("ddp", "fsdp1", "zero1", "zero2", "zero3", "fsdp2")
PUBLISHED_STRATEGIES = ("ddp", "fsdp1", "zero1")
BATCH = 8
GPUS = (2, 4)
OPEN_OPTIONS = {
    "ddp": ("bf16", "ckpt", "cosine-warmup10"),
    "fsdp2": ("bf16", "ckpt"),
    "zero1": ("bf16", "offload"),
    "zero3": ("offload",),
}
"""Mixed precision, activation checkpointing, CPU offload and schedules, on the fewest GPUs."""
OPEN_MODELS = ("fasterrcnn_r101", "maskrcnn_r50", "fasterrcnn_swin_t")
"""Larger backbones, masks, and a transformer, under DDP on the fewest GPUs."""
FIGURES = {
    "loss": lambda run: run.losses,
    "seconds": lambda run: run.epoch_s,
    "mAP": lambda run: run.scores("map"),
}
_PUBLISHED_AS = {"loss": "loss", "seconds": "epoch_s", "mAP": "map"}


def _counts(profile: StudyProfile) -> tuple[int, ...]:
    return tuple(sorted(profile.study.gpu_counts or GPUS))


def _case(profile: StudyProfile, strategy: str, gpus: int, options: str = "", model: str = MODEL) -> Case:
    return Case(
        model=profile.study.model(model),
        strategy=strategy,
        gpu_count=gpus,
        batch_size=profile.study.batch(BATCH),
        **combine(options.split("-") if options else ()),
    )


def _main(profile: StudyProfile) -> Iterator[Case]:
    for strategy in STRATEGIES:
        for gpus in _counts(profile):
            yield _case(profile, strategy, gpus)


def _open(profile: StudyProfile, registry: Registry) -> Iterator[Case]:
    least = _counts(profile)[0]
    for strategy, several in OPEN_OPTIONS.items():
        for options in several:
            yield _case(profile, strategy, least, options)
    for model in OPEN_MODELS:
        if profile.study.model(model) in registry.models:
            yield _case(profile, "ddp", least, model=model)


def _plan(profile: StudyProfile, registry: Registry) -> Iterator[Planned]:
    for case in _main(profile):
        yield Planned(case=case, timed=case.strategy in PUBLISHED_STRATEGIES)
    for case in _open(profile, registry):
        yield Planned(case=case)


def _plan_full(profile: StudyProfile, registry: Registry) -> Iterator[Planned]:
    for case in _main(profile):
        yield Planned(case=case, timed=True)


def _as_published(evidence: Evidence) -> bool:
    """Return whether the figures that were published are of such cases."""
    return evidence.study == DETECTION.name and _counts(evidence.profile) == GPUS


def _published(evidence: Evidence, case: Case, figure: str) -> tuple[float, ...]:
    if not _as_published(evidence):
        return ()
    return evidence.published.row(_PUBLISHED_AS[figure], strategy=case.strategy, gpus=case.gpu_count)


def _tables(evidence: Evidence) -> Iterator[Table]:
    main = list(_main(evidence.profile))
    yield per_epoch(evidence, main, FIGURES, lambda case, figure: _published(evidence, case, figure))
    yield _speedups(evidence)
    yield _summary(evidence)
    if evidence.study == DETECTION.name:
        yield _open_ends(evidence)


def _speedups(evidence: Evidence) -> Table:
    few, many = _counts(evidence.profile)[0], _counts(evidence.profile)[-1]
    rows: list[tuple[Cell, ...]] = []
    for strategy in STRATEGIES:
        small, large = (_case(evidence.profile, strategy, gpus) for gpus in (few, many))
        found = claims.throughput_ratio(evidence, (large, small))
        told = _told(evidence, "speedup_4_over_2", strategy=strategy)
        seconds = [_told(evidence, "epoch_s", strategy=strategy, gpus=gpus) for gpus in (few, many)]
        spread = f"{found.low:.2f} to {found.high:.2f}" if found else None
        rows.append((marked(evidence, large), _speedup(evidence, strategy), spread, told, over(*seconds)))
    return Table(
        name="speedups",
        title=f"speedup of {many} GPUs over {few}, batch per GPU kept",
        head=("case", "here", "95 % interval", "published", "of its seconds"),
        rows=tuple(rows),
        notes=("here: images/s by the median step; its interval: by mean steps of processes, of the published three",),
    )


def _told(evidence: Evidence, name: str, **axes: str | int) -> float | None:
    return evidence.published.value(name, **axes) if _as_published(evidence) else None


def _speedup(evidence: Evidence, strategy: str) -> float | None:
    few, many = _counts(evidence.profile)[0], _counts(evidence.profile)[-1]
    small, large = (evidence.certified(_case(evidence.profile, strategy, gpus)) for gpus in (few, many))
    ratio = over(step_s(small), step_s(large))
    return None if ratio is None else ratio * many / few


def _summary(evidence: Evidence) -> Table:
    many = _counts(evidence.profile)[-1]
    plain = gib(evidence.certified(_case(evidence.profile, "ddp", many)))
    rows: list[tuple[Cell, ...]] = []
    for strategy in STRATEGIES:
        case = _case(evidence.profile, strategy, many)
        run = evidence.certified(case)
        told = _published(evidence, case, "mAP")
        rows.append(
            (
                marked(evidence, case),
                _speedup(evidence, strategy),
                _told(evidence, "speedup_4_over_2", strategy=strategy),
                over(plain, gib(run)),
                last_score(run, "map"),
                told[-1] if told else None,
                effort(evidence.registry.find("strategies", strategy)).lines,
            )
        )
    return Table(
        name="summary",
        title="the study's summary",
        head=("case", f"{many}-GPU speedup", "published", "memory eff.", "mAP", "published", "effort"),
        rows=tuple(rows),
        notes=(
            "memory eff.: DDP's peak over this one's; published: n/a, the study printed no bytes",
            "effort: lines of code that shard a model with it, counted in this suite's file of the strategy",
        ),
    )


def _open_ends(evidence: Evidence) -> Table:
    cases = list(_open(evidence.profile, evidence.registry))
    rows: list[tuple[Cell, ...]] = []
    for case in cases:
        run = evidence.run(case)
        plain = evidence.certified(_case(evidence.profile, case.strategy, case.gpu_count))
        if run is None:
            continue
        name = f"{case.model}-{marked(evidence, case)}" if not case.options else marked(evidence, case)
        sizes = (ms(run), over(ms(run), ms(plain)), gib(run), over(gib(run), gib(plain)))
        rows.append((name, *sizes, last_score(run, "map"), last_score(run, "mask_map"), last_loss(run)))
    absent = [name for name in OPEN_MODELS if evidence.profile.study.model(name) not in evidence.registry.models]
    return Table(
        name="open_ends",
        title="what the study left open",
        head=("case", "step ms", "x plain", "GiB", "x plain", "mAP", "masks", "loss"),
        rows=tuple(rows),
        notes=(
            "x plain: over the same strategy of the study itself, without the option or with its own model",
            "mAP: of boxes; masks: the same of masks, where a model finds them",
            *missing(evidence, cases),
            *(f"{name}: this suite has no such model" for name in absent),
            "all 118k images and 8 or more GPUs: --study detection_full",
        ),
    )


def _claims(evidence: Evidence) -> Iterator[Claim]:
    if not _as_published(evidence):
        return
    told, profile = evidence.published, evidence.profile
    for strategy in PUBLISHED_STRATEGIES:
        speedup = told.right("speedup_4_over_2", strategy=strategy)
        if speedup is not None:
            cases = (_case(profile, strategy, 4), _case(profile, strategy, 2))
            yield claims.ratio(evidence, f"{strategy}: 4 GPUs over 2", cases, speedup, f"~{speedup:g}x")
    for gpus in GPUS:
        for fast, slow in (("zero1", "ddp"), ("ddp", "fsdp1")):
            seconds = (told.value("epoch_s", strategy=one, gpus=gpus) for one in (fast, slow))
            printed = " < ".join(f"{one:g}" for one in seconds if one is not None) + " s"
            cases = (_case(profile, fast, gpus), _case(profile, slow, gpus))
            yield claims.faster(evidence, f"{fast} is faster than {slow} on {gpus} GPUs", cases, printed)
    for figure, name, score in (("mAP", "map", "map"), ("loss", "loss", "")):
        for gpus in GPUS:
            for strategy in ("fsdp1", "zero1"):
                own, plain = (told.row(name, strategy=one, gpus=gpus) for one in (strategy, "ddp"))
                text = f"{strategy} ends with another {figure} than ddp on {gpus} GPUs"
                cases = (_case(profile, strategy, gpus), _case(profile, "ddp", gpus))
                yield scores.differs(evidence, text, cases, own[-1] - plain[-1], score=score)


def _figures(evidence: Evidence) -> Iterator[Figure]:
    for gpus in _counts(evidence.profile):
        cases = [case for case in _main(evidence.profile) if case.gpu_count == gpus]
        for figure, of in FIGURES.items():
            yield overlaid(
                evidence,
                cases,
                of,
                name=f"{figure.lower()}_{gpus}gpu",
                title=f"{figure} of each epoch on {gpus} GPUs",
                y_label=figure,
                published=partial(_published, evidence, figure=figure),
            )
    rows = [
        (strategy, _speedup(evidence, strategy), _told(evidence, "speedup_4_over_2", strategy=strategy))
        for strategy in STRATEGIES
    ]
    few, many = _counts(evidence.profile)[0], _counts(evidence.profile)[-1]
    yield beside("speedups", f"speedup of {many} GPUs over {few}", "speedup", rows)
    cases = [_case(evidence.profile, strategy, many) for strategy in STRATEGIES]
    peaks = [(label(case), gib(evidence.run(case)), None) for case in cases]
    yield beside("memory", f"peak memory on {many} GPUs", "GiB", peaks)


DETECTION = Study(
    name="detection",
    about="Faster R-CNN R50-FPN from COCO weights on 12,000 images of COCO 2017 under DDP, FSDP and ZeRO",
    plan=_plan,
    tables=_tables,
    claims=_claims,
    figures=_figures,
    published=FOLDER / "detection.json",
)

DETECTION_FULL = Study(
    name="detection_full",
    about="the detection study on all 118,287 images, with 4 to 16 GPUs",
    plan=_plan_full,
    tables=_tables,
    claims=_claims,
    figures=_figures,
    published=FOLDER / "detection.json",
)
