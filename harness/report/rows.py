"""A run as a table for other programs: one row a case, with units in the names of columns, as CSV or Parquet.

Every case of the run has a row, those too that were skipped, failed or found no room; what was not measured is missing.
A column is there, and of one type, whatever a run holds, so that the files of many runs can be read as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import frames
from harness.case import Case
from harness.errors import CaseError
from harness.gate.observations import View
from harness.report import answer
from harness.report.reported import Run
from harness.running.pipeline import Outcome
from harness.stored.store import Stored
from harness.stored.writing import whole

if TYPE_CHECKING:
    from pandas import DataFrame

_WHOLE = ("gpus", "batch_per_gpu", "parameters", "train_images", "val_images", "epochs", "processes")
_TRUTHS = ("certified", "oversubscribed")
_WORDS = (
    *("case", "model", "strategy", "options", "dataset", "profile", "host", "verdict", "reason", "certificate"),
    *("reference", "baseline", "commit", "torch", "test"),
)
_PARTS = {"change": "estimate", "change_low": "low", "change_high": "high", "sees": "mde"}
_VIEWS: tuple[View, ...] = ("same work", "machine", "speedup")
_FIGURES = (
    *("step_ms", "images_per_s", "speedup", "efficiency_percent", "peak_memory_gib", "loss", "busy_percent", "power_w"),
    *("wall_s", "started_unix_s"),
    *(f"{view.replace(' ', '_')}_{part}_percent" for view in _VIEWS for part in _PARTS),
)
_FORMULA = re.compile(r"^(?=[=+\-@\t\r])")
"""How a text begins that a spreadsheet would compute; a leading apostrophe keeps it a text."""


def write(run: Run, file: Path) -> None:
    """Write the table as the file's ending says.

    Raises:
        OSError: the file cannot be written.
    """
    table = frame(run)
    if file.suffix.lower() == ".parquet":
        whole(file, lambda opened: table.to_parquet(opened, index=False))
        return
    for name in _WORDS:
        table[name] = table[name].str.replace(_FORMULA, "'", regex=True)
    whole(file, table.to_csv(index=False, lineterminator="\n").encode())


def frame(run: Run) -> DataFrame:
    """Return the table."""
    import pandas

    rows = [*_rows(run)]
    scores = [f"val_{metric.name}" for metric in run.registry.metrics.values() if metric.scores is not None]
    types = dict.fromkeys(_WORDS, "string") | dict.fromkeys(_WHOLE, "Int64") | dict.fromkeys(_TRUTHS, "boolean")
    types |= dict.fromkeys((*_FIGURES, *scores), "float64")
    types |= {name: "float64" for row in rows for name in row if name not in types}  # scores of the test split
    return pandas.DataFrame(rows, columns=[*types]).astype(types)


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    for outcome in run.outcomes:
        yield _measured(outcome) | {"commit": run.commit, "test": run.tests.get(outcome.case, "")}
    others = [(run.tests.get(case, ""), "out of memory", said) for case, said in run.out_of_memory.items()]
    full = {test for test, _, _ in others}
    others += [(test, "failed", said) for test, said in run.broken.items() if test not in full]
    others += [(test, "skipped", why) for test, why in run.skipped.items() if test not in full]
    for test, word, said in others:
        yield _unmeasured(run, test, word, said)


def _measured(outcome: Outcome) -> dict[str, Any]:
    result, newest, word = outcome.result, outcome.baseline.newest, outcome.verdict.word
    stored = Stored(where="", result=result, reference=outcome.reference, certificate=outcome.certificate, verdict=word)
    time = outcome.verdict.time
    effects = {effect.view: effect for effect in time.effects} if time is not None else {}
    return (
        frames.row(stored)
        | {
            "reason": "" if word in ("passed", "new") else answer.reason(outcome),
            "certificate": outcome.certificate.found,
            "reference": "" if outcome.reference is None else outcome.reference.case_id,
            "baseline": "" if newest is None else newest.where,
            "torch": result.versions.get("torch", ""),
            "processes": len(result.samples),
            "started_unix_s": result.started_unix_s,
        }
        | {
            f"{view.replace(' ', '_')}_{part}_percent": 100 * getattr(effects[view], of) if view in effects else None
            for view in _VIEWS
            for part, of in _PARTS.items()
        }
    )


def properties(outcome: Outcome) -> Iterator[tuple[str, str | float]]:
    """Yield what a test says of its case beside its outcome, as JUnit's properties: its row but for what is missing."""
    for name, value in _measured(outcome).items():
        if value is not None and value != "":
            yield name, value


def _unmeasured(run: Run, test: str, word: str, said: str) -> dict[str, Any]:
    row: dict[str, Any] = {"verdict": word, "reason": said, "host": run.host, "profile": run.profile, "test": test}
    try:
        case = Case.parse(test.partition("[")[2].removesuffix("]"))
    except CaseError:
        return row | {"case": test}
    return frames.axes(case) | row
