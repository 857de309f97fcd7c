"""Runs as reports tell them, and stored runs as files, made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.case import Case
from harness.gate.limits import Verdict
from harness.gate.timing import Effect, TimeVerdict
from harness.registry import discover
from harness.report.reported import Run
from harness.results import Result
from harness.running.pipeline import Outcome, reference_of
from harness.stored.store import pack, sealed
from tests.made import made_baseline, made_certificate, made_report, made_result, made_samples

REGISTRY = discover()
SLOWER = Effect(
    view="same work",
    better="lower",
    estimate=0.052,
    low=0.041,
    high=0.063,
    mde=0.034,
    new_processes=25,
    stored_processes=5,
    stored_runs=1,
)


def node(case_id: str) -> str:
    """Return the node id of a case's test."""
    return f"benches/test_classification.py::test_train[{case_id}]"


def made_outcome(case_id: str, word: str = "passed", *, step_s: float = 0.2, **over: Any) -> Outcome:
    """Return what became of a case; one that regressed has a change of its time to show for it."""
    case = Case.parse(case_id)
    ranks = [made_report(rank, case.gpu_count, step_s=(9.0, *[step_s] * 4)) for rank in range(case.gpu_count)]
    result = made_result(case_id, *ranks)
    reasons = ("same work: +5.2% (95 % interval +4.1% to +6.3%), 25 processes against 5 of 1 stored runs",)
    time = TimeVerdict(word="regressed", effects=(SLOWER,), reasons=reasons) if word == "regressed" else None
    causes = ("clipping: to a norm of 1, the reference none seen",) if word == "uncertified" else ()
    facts: dict[str, Any] = {
        "case": case,
        "result": result,
        "reference": result if reference_of(case) == case else made_result(reference_of(case).id),
        "reference_note": "",
        "verdict": Verdict(word=word, time=time),  # type: ignore[arg-type]
        "certificate": made_certificate(case_id, causes=causes),
        "baseline": made_baseline(result),
    }
    return Outcome(**(facts | over))


def made_run(*outcomes: Outcome, **over: Any) -> Run:
    """Return a run as its reports tell it."""
    facts: dict[str, Any] = {
        "command": "pytest benches",
        "exit_code": 0,
        "started_unix_s": 1_700_000_000.0,
        "host": "2-core-made",
        "machine": "a machine made by hand",
        "software": {"python": "3.11.7", "torch": "2.15.0"},
        "profile": "smoke",
        "about": "small images",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "policy": "pr",
        "options": {},
        "registry": REGISTRY,
        "outcomes": outcomes,
        "tests": {outcome.case: node(outcome.case.id) for outcome in outcomes},
    }
    return Run(**(facts | over))


def made_stored(
    case_id: str = "resnet18-ddp-1gpu-bs8", *, slower: float = 1.0, processes: int = 10, **over: Any
) -> Result:
    """Return a result with processes of its time, of which each has a layout of its own that makes it differ a little.

    Args:
        case_id: of the case.
        slower: how many times as long as the plain loop its step takes.
        processes: of the time layer.
        over: fields of the result.
    """
    gpus = Case.parse(case_id).gpu_count
    samples = tuple(made_samples(slower=slower * (1 + 0.002 * (n % 5)), ranks=gpus) for n in range(processes))
    ranks = tuple(made_report(rank, gpus) for rank in range(gpus))
    return made_result(case_id, *ranks, **({"samples": samples, "hardware": "made"} | over))


def write_run(file: Path, *results: Result, **over: Any) -> Path:
    """Write a stored run, as --benchmark-save does, into a folder that is made if need be.

    Args:
        file: to write.
        results: of its cases.
        over: `commit`, `at`, `verdict`, `reasons`, `certificate`: of all of them; `host`: of the machine.
    """
    commit, host = over.get("commit", ""), over.get("host", "2-core-made")
    benchmarks = []
    for result in results:
        certificate = over.get("certificate", made_certificate(result.case_id))
        reference = made_result(reference_of(Case.parse(result.case_id)).id)
        packed = pack(
            result, reference, certificate, verdict=over.get("verdict", "new"), reasons=over.get("reasons", ())
        )
        benchmarks.append({"fullname": node(result.case_id), "stats": {"mean": 0.2}, "extra_info": packed})
    content = {
        "machine_info": {"node": host, "hardware": {"cpu": "made by hand"}},
        "commit_info": {"id": commit, "dirty": not commit},
        "datetime": over.get("at", "2026-01-02T03:04:05+00:00"),
        "benchmarks": benchmarks,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(sealed(content)))
    return file
