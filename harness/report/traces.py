"""Traced cases as files that trace viewers open (ui.perfetto.dev, chrome://tracing): what each rank did when.

The events are those that the run stored, in the Trace Event Format; the profiler's own files are far larger.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.records.spans import Span
from harness.records.trace import RankTrace
from harness.report.reported import Run
from harness.stored.writing import whole

_ROWS = ("step", "compute", "communication")
"""What a rank's events are parted into, one below the other."""


def write(run: Run, report: Path) -> dict[str, str]:
    """Write a file for each traced case beside a report.

    Args:
        run: that is told.
        report: its file; the traces lie in a folder of its name.

    Returns:
        Of each traced case, by its id, the file as seen from the report's folder.

    Raises:
        OSError: a file cannot be written.
    """
    traced = [one for one in run.outcomes if one.result.traces]
    folder = report.with_name(f"{report.stem}_traces")
    if traced:
        folder.mkdir(exist_ok=True)
    written = {}
    for outcome in traced:
        file = folder / f"{outcome.case}.json"
        events = [event for rank, trace in enumerate(outcome.result.traces) for event in _events(rank, trace)]
        whole(file, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}).encode())
        written[outcome.case.id] = f"{folder.name}/{file.name}"
    return written


def _events(rank: int, trace: RankTrace) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank} on {trace.device}"}}
    for row, name in enumerate(_ROWS):
        yield {"ph": "M", "name": "thread_name", "pid": rank, "tid": row, "args": {"name": name}}
    for number, step in enumerate(trace.steps):
        yield _event(rank, 0, f"step {number}", (step.begin_s, step.end_s))
        yield _event(rank, 0, "wait for data", step.data)
        yield _event(rank, 0, "update", step.update)
        for span in step.compute:
            yield _event(rank, 1, "compute", span)
        for call in step.calls:
            more = {"elements": call.elements, "type": call.type, "backend": call.backend}
            yield _event(rank, 2, call.kind, (call.begin_s, call.end_s)) | {"args": more}


def _event(rank: int, row: int, name: str, span: Span) -> dict[str, Any]:
    begin_s, end_s = span
    return {"ph": "X", "name": name, "pid": rank, "tid": row, "ts": begin_s * 1e6, "dur": (end_s - begin_s) * 1e6}
