"""The data-parallel study: ResNet-18 on CIFAR-10 by batch and GPUs, its communication, and what large batches cost."""

from __future__ import annotations

from collections.abc import Iterator

from harness.case import Case
from harness.evidence import claims
from harness.evidence.claims import Claim
from harness.evidence.runs import Evidence, Run
from harness.evidence.tables import HERE, PUBLISHED, Cell, Table
from harness.figures.charts import Figure, Series, bars, lines
from harness.plugins import Planned, Study
from harness.profiles import StudyProfile
from harness.published import FOLDER
from harness.registry import Registry
from harness.studies import _large_batch
from harness.studies._large_batch import CIFAR_IMAGES, GPUS, LARGE, case_of, counts_of
from harness.studies._overlay import MARKS, label, marked, missing, over

SWEEP = (32, 128, 512, 2048)
SCALING = (32, 128, 512, 1024)
PARTS = (32, 128, 512)
STRATEGIES = ("dp", "ddp")


def _plan(profile: StudyProfile, registry: Registry) -> Iterator[Planned]:
    cases: dict[Case, bool] = {}
    sweep = [case_of(profile, batch, 1) for batch in SWEEP]
    cases |= dict.fromkeys(sweep, False)
    for strategy in STRATEGIES:
        for batch in SCALING:
            for gpus in counts_of(profile):
                cases[case_of(profile, batch, gpus, strategy)] = gpus > 1 and batch in PARTS
    cases[case_of(profile, LARGE, counts_of(profile)[-1], "dp")] = False
    for case in _large_batch.cases(profile, registry):
        cases.setdefault(case, False)
    for case, traced in cases.items():
        # What the study compares: batches on one GPU, and DataParallel on several.
        yield Planned(case=case, timed=case in sweep or case.strategy == "dp", traced=traced)


def _epoch_s(run: Run | None) -> float | None:
    """Return the seconds of an epoch by the median step, so that the first epoch's start is not in it."""
    return None if run is None or run.step_s is None or not run.steps_of_epoch else run.step_s * run.steps_of_epoch


def _tables(evidence: Evidence) -> Iterator[Table]:
    yield _sweep(evidence)
    yield _scaling(evidence)
    yield _parts(evidence)
    yield _large_batch.table(evidence)


def _sweep(evidence: Evidence) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for batch in SWEEP:
        case = case_of(evidence.profile, batch, 1)
        run = evidence.run(case)
        rate = over(case.batch_size, run.step_s) if run else None
        told = evidence.published.value("sweep_epoch_s", batch=batch, gpus=1)
        rows.append((marked(evidence, case), _epoch_s(run), rate, batch, told))
    return Table(
        name="batch_sweep",
        title="seconds of an epoch on one GPU by batch",
        head=("case", "here s", "images/s", "published batch", "published s"),
        rows=tuple(rows),
        notes=missing(evidence, [case_of(evidence.profile, batch, 1) for batch in SWEEP]),
    )


def _scaling(evidence: Evidence) -> Table:
    profile = evidence.profile
    rows: list[tuple[Cell, ...]] = []
    for strategy in STRATEGIES:
        for batch in SCALING:
            one = evidence.certified(case_of(profile, batch, 1, strategy))
            for gpus in counts_of(profile):
                case = case_of(profile, batch, gpus, strategy)
                run = evidence.certified(case)
                told = _told(evidence, batch, gpus) if strategy == "dp" else (None, None, None)
                rows.append((marked(evidence, case), _epoch_s(run), over(_epoch_s(one), _epoch_s(run)), batch, *told))
    small = [case for case in evidence.cases if case.batch_size != profile.study.batch(LARGE)]
    return Table(
        name="scaling",
        title="seconds of an epoch by batch per GPU and GPUs, over one GPU",
        head=("case", "here s", "x", "pub. batch", "pub. s", "pub. x", "recomputed"),
        rows=tuple(rows),
        notes=(
            "published (pub.) with DataParallel alone; DDP is beside it here",
            MARKS,
            *missing(evidence, small),
        ),
    )


def _told(evidence: Evidence, batch: int, gpus: int) -> tuple[float | None, float | None, float | None]:
    """Return the published seconds of an epoch, the speedup as it was printed, and as it is."""
    axes: dict[str, str | int] = {"batch": batch, "gpus": gpus}
    told = evidence.published
    return told.value("epoch_s", **axes), told.value("speedup", **axes), told.right("speedup", **axes)


def _parts(evidence: Evidence) -> Table:
    profile = evidence.profile
    rows: list[tuple[Cell, ...]] = []
    for strategy in STRATEGIES:
        for gpus in counts_of(profile)[1:]:
            for batch in PARTS:
                case = case_of(profile, batch, gpus, strategy)
                run = evidence.run(case)
                found = run.parts() if run else None
                if found is not None:
                    rate = found.bandwidth_bytes_per_s
                    rows.append(
                        (
                            marked(evidence, case),
                            HERE,
                            found.compute_s,
                            found.communication_s,
                            found.moved_s,
                            None if rate is None else rate / 1e9,
                        )
                    )
                if strategy == "dp":
                    compute, communication, bandwidth = (
                        evidence.published.value(name, batch=batch, gpus=gpus)
                        for name in ("compute_s", "communication_s", "bandwidth")
                    )
                    rows.append((f"dp, batch {batch}, {gpus} GPUs", PUBLISHED, compute, None, communication, bandwidth))
    return Table(
        name="communication",
        title="compute and communication seconds of an epoch",
        head=("case", "whose", "compute", "not hidden", "moving", "GB/s"),
        rows=tuple(rows),
        notes=(
            "here: of traced steps; moving: transfers, hidden ones too; GB/s: algbw of nccl-tests, bytes over moving",
            f"published GB/s x communication s on 2 GPUs: {_implied(evidence)} GB a step, where gradients are the same",
            MARKS,
        ),
    )


def _implied(evidence: Evidence) -> str:
    """Return how much the published bandwidths say that a step moves, by batch: it should be the same."""
    sizes = []
    for batch in PARTS:
        rate, seconds = (
            evidence.published.value(name, batch=batch, gpus=2) for name in ("bandwidth", "communication_s")
        )
        sizes.append((rate or 0.0) * (seconds or 0.0) / (CIFAR_IMAGES / batch / 2))
    return ", ".join(f"{size:.2f}" for size in sizes)


def _claims(evidence: Evidence) -> Iterator[Claim]:
    told, profile = evidence.published, evidence.profile
    for fast, slow in ((128, 32), (512, 128), (512, 2048)):
        seconds = [told.value("sweep_epoch_s", batch=batch, gpus=1) for batch in (fast, slow)]
        cases = (case_of(profile, fast, 1), case_of(profile, slow, 1))
        text = f"on one GPU batch {cases[0].batch_size} trains faster than {cases[1].batch_size}"
        yield claims.faster(evidence, text, cases, f"{seconds[0]:g} < {seconds[1]:g} s")
    for batch in SCALING:
        for gpus in counts_of(profile)[1:]:
            printed, right = (of("speedup", batch=batch, gpus=gpus) for of in (told.value, told.right))
            if printed is None or right is None:
                continue
            # The study's speedup is of seconds of an epoch, and a DataParallel epoch on N GPUs has all of the images.
            cases = (case_of(profile, batch, gpus, "dp"), case_of(profile, batch, 1, "dp"))
            words = f"{printed:g}x" + ("" if abs(printed - right) < 0.01 else f", is {right:.2f}x")
            yield claims.ratio(evidence, f"dp on {gpus} GPUs over 1, batch {batch} per GPU", cases, right, words)
    yield from _large_batch.judged(evidence)


def _figures(evidence: Evidence) -> Iterator[Figure]:
    profile = evidence.profile
    sweep = [(batch, evidence.run(case_of(profile, batch, 1))) for batch in SWEEP]
    yield lines(
        name="batch_sweep",
        title="seconds of an epoch on one GPU by the study's batch",
        x_label=f"batch of the study (here over {profile.study.batch_divisor})",
        y_label="s",
        series=(
            Series(label=HERE, x=SWEEP, y=tuple(_epoch_s(run) for _, run in sweep), strategy="ddp"),
            Series(
                label=PUBLISHED,
                x=SWEEP,
                y=tuple(evidence.published.value("sweep_epoch_s", batch=batch, gpus=1) for batch in SWEEP),
                strategy="dp",
                published=True,
            ),
        ),
        log_x=True,
        log_y=True,
    )
    counts = counts_of(profile)
    for batch in SCALING:
        series = []
        for strategy in STRATEGIES:
            runs = [evidence.certified(case_of(profile, batch, gpus, strategy)) for gpus in counts]
            y = tuple(over(_epoch_s(runs[0]), _epoch_s(run)) for run in runs)
            series.append(Series(label=strategy, x=counts, y=y, strategy=strategy))
        y = (1.0, *(evidence.published.right("speedup", batch=batch, gpus=gpus) for gpus in GPUS[1:]))
        series.append(Series(label="dp, published", x=GPUS, y=y, strategy="dp", published=True))
        yield lines(
            name=f"speedup_bs{batch}",
            title=f"speedup of an epoch, the study's batch {batch} per GPU",
            x_label="GPUs",
            y_label="x",
            series=series,
            ideal=Series(label="ideal", x=counts, y=tuple(float(gpus) for gpus in counts)),
        )
    traced = [(case, parts) for case in evidence.cases if (run := evidence.run(case)) and (parts := run.parts())]
    yield bars(
        name="communication",
        title="compute and communication seconds of an epoch",
        y_label="s",
        groups=[label(case) for case, _ in traced],
        series={
            "compute": [parts.compute_s for _, parts in traced],
            "communication, not hidden": [parts.communication_s for _, parts in traced],
        },
        stacked=True,
    )
    yield _large_batch.figure(evidence)


DATAPARALLEL = Study(
    name="dataparallel",
    about="ResNet-18 on CIFAR-10: batches on one GPU, DataParallel and DDP on several, and large batches",
    plan=_plan,
    tables=_tables,
    claims=_claims,
    figures=_figures,
    published=FOLDER / "dataparallel.json",
)
