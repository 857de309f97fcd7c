"""The raw data that a page carries: the numbers of every figure in full, and every result as it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.report.html.panels import ModelPanels
from harness.report.reported import Run
from harness.results import result_to_json

SCHEMA = 1


def of_run(run: Run, models: Sequence[ModelPanels]) -> dict[str, Any]:
    """Return plain JSON values: the run, its figures by name with head and rows, its results with their raw samples."""
    return {
        "schema": SCHEMA,
        "host": run.host,
        "profile": run.profile,
        "commit": run.commit,
        "command": run.command,
        "figures": {
            figure.name: {"title": figure.title, "head": figure.head, "rows": figure.rows}
            for model in models
            for figure in model.figures
        },
        "results": [{"verdict": one.verdict.word, "result": result_to_json(one.result)} for one in run.outcomes],
    }
