"""The strategies study: ResNet-50 on CIFAR-10 by every strategy: utilisation, loss, memory, power and time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from statistics import fmean

from harness.case import Case
from harness.evidence import claims, scores
from harness.evidence.claims import Claim
from harness.evidence.runs import Evidence, Run
from harness.evidence.tables import HERE, PUBLISHED, Cell, Table
from harness.figures.charts import Figure
from harness.plugins import Planned, Study
from harness.profiles import StudyProfile
from harness.published import FOLDER
from harness.registry import Registry
from harness.studies._overlay import MARKS, beside, marked, missing, overlaid, per_epoch

MODEL = "resnet50"
BATCH = 128
GPUS = 4
PRINTED_AS = {
    "dp": "dp",
    "ddp": "ddp",
    "fsdp1": "fsdp1",
    "fairscale_fsdp": "fairscale_fsdp",
    "zero1": "zero",
    "zero2": "zero",
    "zero3": "zero",
}
"""The study's strategies by this suite's names; its DeepSpeed means three stages at once."""
FIGURES = ("utilisation", "final_loss", "memory", "power", "training_s")


def _case(profile: StudyProfile, strategy: str) -> Case:
    (gpus,) = profile.study.gpu_counts or (GPUS,)
    return Case(
        model=profile.study.model(MODEL), strategy=strategy, gpu_count=gpus, batch_size=profile.study.batch(BATCH)
    )


def _plan(profile: StudyProfile, registry: Registry) -> Iterator[Planned]:
    for strategy in PRINTED_AS:
        yield Planned(case=_case(profile, strategy), timed=True, accounted=True)


def _figure(run: Run | None, name: str) -> float | None:
    """Return a figure in the study's unit; None where it could not be measured."""
    if run is None:
        return None
    machine = run.machine()
    gpus = machine.gpus if machine else ()
    busy = [100 * gpu.utilisation.mean for gpu in gpus if gpu.utilisation is not None]
    power = [gpu.power_w.mean for gpu in gpus if gpu.power_w is not None]
    found: dict[str, float | None] = {
        "utilisation": fmean(busy) if busy else None,
        "final_loss": run.last_loss,
        "memory": None if run.peak_bytes is None else run.peak_bytes / 1e9,
        "power": fmean(power) if power else None,
        "training_s": run.training_s,
    }
    return found[name]


def _tables(evidence: Evidence) -> Iterator[Table]:
    cases = [one.case for one in evidence.planned]
    rows: list[tuple[Cell, ...]] = []
    for case in cases:
        run, printed = evidence.run(case), PRINTED_AS[case.strategy]
        if run is not None:
            rows.append((marked(evidence, case), HERE, *(_figure(run, name) for name in FIGURES)))
        told = (evidence.published.value(name, strategy=printed) for name in FIGURES)
        rows.append((printed, PUBLISHED, *told))
    yield Table(
        name="strategies",
        title="the study's table",
        head=("case", "whose", "util %", "final loss", "memory GB", "power W", "training s"),
        rows=tuple(rows),
        notes=(MARKS, *_unmeasured(evidence), *missing(evidence, cases)),
    )
    yield per_epoch(evidence, cases, {"loss": lambda run: run.losses}, lambda case, figure: ())


def _unmeasured(evidence: Evidence) -> Iterator[str]:
    """Yield why figures are n/a, a sentence for each reason, and what a figure is here that may be another there."""
    told: dict[str, None] = {}
    for run in evidence.runs.values():
        telemetry = run.result.telemetry
        if telemetry is None:
            told["utilisation and power: no run of a case was accounted"] = None
        elif not telemetry.gpus:
            why = telemetry.missing.get("GPUs", "this machine has no GPU to read")
            told[f"utilisation and power: n/a, {why}"] = None
        else:
            told |= {f"{what}: n/a, {why}": None for what, why in telemetry.missing.items()}
    yield from told
    yield "utilisation and power: mean over GPUs and readings while plain steps ran; the study does not say its own"
    yield "memory: peak of the fullest device, on a CPU the resident set; 3.67 GB beside 13 are unequal set-ups"


def _claims(evidence: Evidence) -> Iterator[Claim]:
    told, profile = evidence.published, evidence.profile
    printed = {
        name: {strategy: told.value(name, strategy=printed) or 0.0 for strategy, printed in PRINTED_AS.items()}
        for name in FIGURES
    }
    seconds, memory, loss = (printed[name] for name in ("training_s", "memory", "final_loss"))
    for fast, slow in pairwise(sorted(PRINTED_AS, key=lambda strategy: seconds[strategy])):
        if seconds[fast] < seconds[slow]:
            text = f"{fast} trains faster than {slow}"
            cases = (_case(profile, fast), _case(profile, slow))
            yield claims.faster(evidence, text, cases, f"{seconds[fast]:g} < {seconds[slow]:g} s")
    others = [strategy for strategy in PRINTED_AS if strategy != "ddp"]
    for strategy in others:
        cases = (_case(profile, strategy), _case(profile, "ddp"))
        yield claims.ratio(evidence, f"{strategy} over ddp in images/s", cases, seconds["ddp"] / seconds[strategy])
    for strategy in others:
        lean, full = sorted((strategy, "ddp"), key=lambda one: memory[one])
        text = f"{lean} needs less memory than {full}"
        cases = (_case(profile, lean), _case(profile, full))
        noise = evidence.noise_of_memory()
        yield claims.less_memory(evidence, text, cases, noise, f"{memory[lean]:g} < {memory[full]:g} GB")
    for strategy in others:
        text = f"{strategy} ends with another loss than ddp"
        cases = (_case(profile, strategy), _case(profile, "ddp"))
        yield scores.differs(evidence, text, cases, loss[strategy] - loss["ddp"])


def _figures(evidence: Evidence) -> Iterator[Figure]:
    cases = [one.case for one in evidence.planned]
    yield overlaid(evidence, cases, lambda run: run.losses, name="loss", title="loss of each epoch", y_label="loss")
    units = {"utilisation": "%", "memory": "GB", "power": "W", "training_s": "s"}
    for name, unit in units.items():
        rows = [
            (
                case.strategy,
                _figure(evidence.run(case), name),
                evidence.published.value(name, strategy=PRINTED_AS[case.strategy]),
            )
            for case in cases
        ]
        title = name.removesuffix("_s")
        yield beside(name, title, f"{title}, {unit}", rows)


STRATEGIES = Study(
    name="strategies",
    about="ResNet-50 on CIFAR-10 over DP, DDP, FSDP, FairScale FSDP and ZeRO-1, 2, 3",
    plan=_plan,
    tables=_tables,
    claims=_claims,
    figures=_figures,
    published=FOLDER / "strategies.json",
)
