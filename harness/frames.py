"""Stored runs as tables for pandas: one row a case, or one a case and epoch, with the unit in each column's name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.anatomy.load import busy_share, power_w
from harness.case import Case
from harness.errors import StoreError
from harness.metrics.loss import epoch_losses, last_loss
from harness.metrics.memory import peak_bytes
from harness.metrics.timing import efficiency, images_per_s, speedup, step_s
from harness.results import Result
from harness.stored import store
from harness.stored.store import Stored

if TYPE_CHECKING:
    from pandas import DataFrame

_RUN = "[0-9][0-9][0-9][0-9]_*.json"
"""How pytest-benchmark names the files of stored runs."""


def runs(path: Path) -> DataFrame:
    """Return one row for each stored run, machine by machine, oldest first: its machine, time, cases and file.

    Args:
        path: a stored run, or a folder of them, which may have a folder for each machine.

    Raises:
        StoreError: there is none, or one is damaged.
    """
    import pandas

    found = sorted(path.rglob(_RUN)) if path.is_dir() else [path]
    if not found:
        raise StoreError(f"{path} holds no stored run; make one with pytest benches --benchmark-save=NAME")
    contents = [(file, store.read_run(file)) for file in found]
    rows = [
        {
            "host": store.host_of(content),
            "at": pandas.Timestamp(content["datetime"]),
            "cases": len(content["benchmarks"]),
            "file": file,
        }
        for file, content in contents
    ]
    return pandas.DataFrame(rows).sort_values("host", kind="stable", ignore_index=True)


def read(file: Path) -> list[Stored]:
    """Return the cases of a stored run.

    Raises:
        StoreError: it is none, or is damaged.
    """
    found = (store.unpack(benchmark, where=file.name) for benchmark in store.read_run(file)["benchmarks"])
    return [stored for stored in found if stored is not None]


def frame(cases: Iterable[Stored]) -> DataFrame:
    """Return one row for each case; what was not measured is missing.

    Columns are the case's axes, what it was run on, its figures, and as `val_<score>` and `test_<score>` whatever its
    model is scored by: after the last epoch, and on the test split.
    """
    import pandas

    return pandas.DataFrame([row(stored) for stored in cases])


def epochs(cases: Iterable[Stored]) -> DataFrame:
    """Return one row for each case and epoch: its loss, seconds of the slowest rank, and scores."""
    import pandas

    rows = []
    for stored in cases:
        result = stored.result
        case = Case.parse(result.case_id)
        for place, (epoch, loss) in enumerate(zip(result.lead.epochs, epoch_losses(result), strict=True)):
            rows.append(
                axes(case)
                | {
                    "epoch": place + 1,
                    "loss": loss,
                    "epoch_s": max(rank.epochs[place].seconds for rank in result.ranks),
                }
                | {f"val_{name}": score for name, score in (epoch.scores or {}).items()}
            )
    return pandas.DataFrame(rows)


def axes(case: Case) -> dict[str, Any]:
    """Return a case's own columns."""
    return {
        "case": case.id,
        "model": case.model,
        "strategy": case.strategy,
        "gpus": case.gpu_count,
        "batch_per_gpu": case.batch_size,
        "options": "-".join(case.options),
    }


def row(stored: Stored) -> dict[str, Any]:
    """Return a case's row; None where something was not measured."""
    result, certificate = stored.result, stored.certificate
    memory_bytes, share = peak_bytes(result), busy_share(result.telemetry)
    return (
        axes(Case.parse(result.case_id))
        | {
            "dataset": result.dataset,
            "profile": result.profile,
            "host": result.host,
            "verdict": stored.verdict,
            "certified": certificate is not None and certificate.granted,
            "oversubscribed": result.oversubscribed,
            "step_ms": _times(step_s(result), 1e3),
            "images_per_s": images_per_s(result),
            "speedup": speedup(result, stored.reference),
            "efficiency_percent": _times(efficiency(result, stored.reference), 100),
            "peak_memory_gib": _times(memory_bytes, 2**-30),
            "loss": last_loss(result),
            "busy_percent": _times(share, 100),
            "power_w": power_w(result.telemetry),
            "parameters": result.lead.parameters,
            "train_images": result.lead.train_images,
            "val_images": result.lead.val_images,
            "epochs": len(result.lead.epochs),
            "wall_s": result.wall_s,
        }
        | {f"val_{name}": score for name, score in _last_scores(result).items()}
        | {f"test_{name}": score for name, score in result.test_scores.items()}
    )


def _last_scores(result: Result) -> dict[str, float]:
    epochs = result.lead.epochs
    return (epochs[-1].scores or {}) if epochs else {}


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
