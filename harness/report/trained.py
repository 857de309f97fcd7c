"""What became of trainings beyond their time: taken up again, their best model scored on the test split, and saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from harness.plugins import Metric
from harness.report.lines import wrapped
from harness.results import Result


def render(results: Iterable[Result], *, metrics: Mapping[str, Metric], saved_to: Path | None) -> Iterator[str]:
    """Yield lines for each result that has anything to say.

    Args:
        results: of the run.
        metrics: by name, for the words of a score.
        saved_to: folder of the saved models; None saved none.
    """
    for result in results:
        said = list(_said(result, metrics, saved_to))
        if said:
            yield from wrapped(f"{result.case_id}: {'; '.join(said)}")


def _said(result: Result, metrics: Mapping[str, Metric], saved_to: Path | None) -> Iterator[str]:
    if result.resumed:
        yield result.resumed
    if result.best_epoch is None:
        return
    yield f"its best epoch is {result.best_epoch} of {len(result.lead.epochs)}"
    shown = [
        f"{metrics[name].title} {metrics[name].show(score)}"
        for name, score in result.test_scores.items()
        if name in metrics
    ]
    if shown:
        yield f"on the test split {', '.join(shown)}"
    known = [(share, place) for place, share in enumerate(result.class_accuracy) if share is not None]
    if known:
        (least, worst), (most, best) = min(known), max(known)
        yield f"from {100 * least:.1f} % of class {worst} to {100 * most:.1f} % of class {best}"
    if saved_to is not None:
        yield f"saved in {saved_to / result.case_id}"
