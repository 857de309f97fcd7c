"""A stored run as its reports tell it: what its file holds, beside what else is stored of its machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.anatomy import memory
from harness.case import Case
from harness.errors import StoreError
from harness.gate.limits import Verdict, Word
from harness.registry import Registry
from harness.report.reported import Run
from harness.running.pipeline import Outcome, reference_of
from harness.stored import history
from harness.stored.baselines import Baseline
from harness.stored.history import StoredRun
from harness.stored.store import Stored

_WORD_ALONE = "that run was stored without its reasons; for what differs: python -m harness compare"


def of_stored(file: Path, registry: Registry) -> Run:
    """Return the run that a file holds.

    Args:
        file: as --benchmark-save wrote it; the other files of its folder are the machine's history.
        registry: of the metrics and strategies that the run may have used.

    Raises:
        StoreError: it is no stored run, is damaged, or holds no case that can be told.
    """
    run = history.read(file)
    if not run.cases:
        raise StoreError(f"{file} holds no case of this suite; store a run with pytest benches --benchmark-save")
    runs = sorted({*file.absolute().parent.glob(history.RUNS), file.absolute()}, key=lambda one: one.name)
    past = history.of_cases(run.cases, runs)
    outcomes, untold = [], {}
    for case, stored in run.cases.items():
        if stored.certificate is None:
            untold[run.tests[case]] = "stored without a certificate, so that nothing it says counts"
        else:
            outcomes.append(_outcome(case, stored, past[case], registry))
    first = next(iter(run.cases.values())).result
    named = {case.id for case in run.cases}
    return Run(
        command=f"python -m harness report {file}",
        exit_code=None,
        started_unix_s=min(stored.result.started_unix_s for stored in run.cases.values()),
        host=run.host,
        machine=_machine(run),
        software=first.versions,
        profile=first.profile,
        about="",
        commit=run.commit,
        policy="",
        options={},
        registry=registry,
        outcomes=tuple(outcomes),
        extra={
            one.reference.case_id: one.reference
            for one in run.cases.values()
            if one.reference is not None and one.reference.case_id not in named
        },
        tests=run.tests,
        skipped=untold,
        history=past,
    )


def _outcome(case: Case, stored: Stored, past: tuple[Stored, ...], registry: Registry) -> Outcome:
    result, strategy = stored.result, registry.strategies.get(case.strategy)
    before = [one for one in past if one.result.started_unix_s < result.started_unix_s]
    alike = [one for one in before if (one.result.identity, one.result.hardware) == (result.identity, result.hardware)]
    assert stored.certificate is not None, "a case without one is left out"
    word: Word = stored.verdict  # type: ignore[assignment]
    outcome = Outcome(
        case=case,
        result=result,
        reference=result if reference_of(case) == case else stored.reference,
        reference_note="" if stored.reference is not None else "no reference is stored with it",
        verdict=Verdict(
            word=word,
            note=_WORD_ALONE if stored.reasons is None else "as that run judged it",
            reasons=stored.reasons or (),
        ),
        certificate=stored.certificate,
        baseline=Baseline(level=tuple(reversed(alike)), note="" if alike else "no earlier run of it is stored beside"),
    )
    if not result.accounts or strategy is None:
        return outcome
    return replace(outcome, memory=memory.figures(case, strategy, result.accounts))


def _machine(run: StoredRun) -> str:
    """Return a line for a person, from the facts that the file has; a file from elsewhere may hold anything."""
    facts = run.machine.get("hardware")
    told = [f"{name} {value}" for name, value in facts.items()] if isinstance(facts, dict) else []
    return ", ".join(told) or "no facts are stored of it"
