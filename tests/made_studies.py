"""A study's evidence made by hand: processes, losses and scores that a person can check in the head."""

from __future__ import annotations

from pathlib import Path

from harness import profiles
from harness.case import Case
from harness.evidence.runs import Evidence, Run
from harness.results import EpochReport
from harness.studying import study_run
from tests.made import made_report, made_result, made_samples

PROFILES = Path(__file__).parents[1] / "benches" / "profiles.toml"


def made_run(case_id, step_ms=10.0, *, scatter=0.01, processes=3, scores=(0.5,), loss=1.0, score="accuracy", **over):
    """Return a run whose processes take so many milliseconds a step, a share of scatter up and down around it.

    Args:
        case_id: of the case.
        step_ms: mean step of the processes.
        scatter: how far processes are from it, as a share.
        processes: how many there are.
        scores: of seeds 0, 1, ... after the last epoch.
        loss: of every step.
        score: name of the scores.
        **over: fields of the run or of its result that are to be others.
    """
    case = Case.parse(case_id)
    sides = [1 + scatter * (place - (processes - 1) / 2) for place in range(processes)]
    reports = [
        made_report(
            rank,
            case.gpu_count,
            step_s=(5.0, *(step_ms / 1e3,) * 4),
            loss=(loss,) * 5,
            epochs=tuple(EpochReport(seconds=1.0, steps=2, scores={score: scores[0]}) for _ in range(2)),
            **over.pop("report", {}),
        )
        for rank in range(case.gpu_count)
    ]
    own = {name: over.pop(name) for name in ("uncertified", "untimed") if name in over}
    facts = {
        "samples": tuple(made_samples(slower=step_ms / 10 * side, ranks=case.gpu_count) for side in sides),
        "repeats": tuple(
            {"seed": seed, "epochs": (EpochReport(seconds=1.0, steps=2, scores={score: value}),)}
            for seed, value in enumerate(scores[1:], start=1)
        ),
    }
    return Run(case=case, result=made_result(case_id, *reports, **(facts | over)), **own)


def made_study(name, registry, profile="smoke", file=PROFILES):
    """Return a study under one of the suite's profiles."""
    return study_run(name, profiles.load(file)[profile], registry, report=None)


def made_evidence(study, *runs, missing="not chosen in this run"):
    """Return the evidence of a study of which these runs are all there is."""
    known = {run.case: run for run in runs}
    return Evidence(
        study=study.study.name,
        profile=study.profile,
        registry=study.registry,
        published=study.published,
        planned=study.planned,
        runs=known,
        missing={case: missing for case in study.cases if case not in known},
    )
