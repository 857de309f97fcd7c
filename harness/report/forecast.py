"""The forecast in lines: a table for each case, everything that it assumes, and how far forecasts were off."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from tabulate import tabulate

from harness.anatomy.forecast import Error, Forecast, Row
from harness.anatomy.published import comparisons

_WIDTH = 80
_HEAD = ("GPUs", "step ms", "95% ms", "speedup", "effic.", "comm ms", "exposed", "memory")
_NOT_KNOWN = "n/a"

_ALWAYS = """\
the batch per GPU is kept, so the global batch grows; speedup is throughput over that of 1 GPU in the same table
every rank has a device, cores, memory bandwidth and a loader of its own, like the measured ones: compute, data and \
host seconds stay what they are (a sharded optimizer has less to update on more GPUs, which is not counted)
exposed is communication that nothing hides: communication less what a step can hide, but no less than one call of \
each kind, which no compute is left to hide; what was measured of it is the traced run's
collectives come one after another; a message takes latency + size / bandwidth; within a node they are rings, over \
nodes rings in each and a ring or (all-reduce) a tree between them, whichever is faster; nobody else uses the links, \
and communication does not slow the compute that hides it
the size of a collective is the model's, and does not depend on the number of GPUs but for padding
the interval holds the median of the measured steps with 95 %, widened where it is not known how much a step can hide; \
errors of the model are not in it""".splitlines()


def render(forecasts: Sequence[Forecast]) -> Iterator[str]:
    """Yield the lines of the section: a table for each forecast, then what all of them assume."""
    if not forecasts:
        return
    for one in forecasts:
        yield from _wrapped(f"{one.measured.name}, from {_measured(one)}, over {one.fabric.words}")
        yield from _table(one.rows)
        for note in _notes(one):
            yield from _wrapped(f"  {note}")
        yield ""
    yield "assumed:"
    for assumption in _ALWAYS:
        yield from _wrapped(f"  - {assumption}")


def _measured(one: Forecast) -> str:
    ranks, steps = one.measured.ranks, len(one.measured.step_s)
    return f"{steps} step{'s' if steps != 1 else ''} on {ranks} GPU{'s' if ranks != 1 else ''}"


def _table(rows: Iterable[Row]) -> list[str]:
    cells = [[*_cells(row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(_HEAD, *cells, strict=True)]
    return tabulate(
        [_HEAD, ["-" * width for width in widths], *cells],
        tablefmt="plain",
        disable_numparse=True,
        colalign=["right"] * len(_HEAD),
    ).splitlines()


def _cells(row: Row) -> Iterator[str]:
    yield str(row.gpus)
    yield _ms(row.step_s)
    yield _NOT_KNOWN if row.low_s is None or row.high_s is None else f"{_ms(row.low_s)}-{_ms(row.high_s)}"
    yield _NOT_KNOWN if row.speedup is None else f"{row.speedup:.2f}"
    yield _NOT_KNOWN if row.efficiency is None else f"{row.efficiency:.0%}"
    yield _ms(row.communication_s)
    yield _ms(row.exposed_s)
    yield _NOT_KNOWN if row.memory_bytes is None else _size(row.memory_bytes)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.{1 if seconds >= 0.01 else 2}f}"


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.2f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.1f} MiB"


def _notes(one: Forecast) -> Iterator[str]:
    """Say what is assumed of this case alone."""
    can, measured = one.hideable, one.measured
    if can.known == "unknown":
        yield (
            "overlap: not seen on 1 GPU; none is assumed, and the interval reaches down to all that the step's "
            f"{_ms(can.most_s)} ms could hide"
        )
    elif can.known == "limit":
        yield f"overlap: a step hides {_ms(can.likely_s)} ms, for more than that was moved and the rest was exposed"
    else:
        yield (
            f"overlap: all but the last calls was hidden, {_ms(can.least_s)} ms; a step is taken to hide up to "
            f"{_ms(can.likely_s)} ms, its compute beside the calls; at the interval's upper end no more than was seen"
        )
    if measured.rank_sd_s is None:
        yield "slowest rank: its being slower among more is left out, for the spread of a rank's own steps is not known"
    else:
        yield (
            f"slowest rank: a rank's own step varies by {_ms(measured.rank_sd_s)} ms (sd), normally and apart from "
            f"others'; the expected maximum adds {_ms(one.rows[-1].late_s)} ms at {one.rows[-1].gpus} GPUs"
        )
    if measured.memory_bytes is not None:
        yield (
            "memory: measured peak, with the model state that the strategy's closed form gives for each number of GPUs"
        )


def validation(title: str, errors: Sequence[Error], *, unit: str) -> Iterator[str]:
    """Yield the lines that hold predictions against measurements.

    Args:
        title: what was predicted from what.
        errors: one for each line.
        unit: of both figures, as the head of the columns says it; empty where the names say it.
    """
    if not errors:
        return
    yield from _wrapped(title)
    yield from _errors(errors, unit)
    worst = max(errors, key=lambda error: abs(error.relative))
    yield from _wrapped(f"  largest error {worst.relative:+.1%} ({worst.name})")


def _errors(errors: Iterable[Error], unit: str) -> list[str]:
    head = ["", f"predicted {unit}".strip(), f"measured {unit}".strip(), "error"]
    rows = [[f"  {e.name}", f"{e.predicted:.4g}", f"{e.measured:.4g}", f"{e.relative:+.1%}"] for e in errors]
    return tabulate(
        [head, *rows], tablefmt="plain", disable_numparse=True, colalign=["left", *["right"] * 3]
    ).splitlines()


def published() -> Iterator[str]:
    """Yield the lines that hold the model against published scaling: each study forecast from its first row."""
    for comparison in comparisons():
        yield from _wrapped(f"{comparison.study}; assumed: {comparison.assumed}")
        yield from _errors(comparison.errors, "")
        yield from _wrapped(f"  {comparison.finding}")
        yield ""


def _wrapped(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip(" -")))
    return textwrap.wrap(line, _WIDTH, subsequent_indent=indent or "  ", break_on_hyphens=False)
