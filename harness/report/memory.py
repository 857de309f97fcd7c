"""The memory table: what the fullest rank of each accounted case held, and whether that is what it must keep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from statistics import median

from harness.anatomy.memory import STATE, MemoryFigures
from harness.report.lines import wrapped

_HEAD = ("par", "grad", "opt", "mast", "buf", "rest", "work", "peak", "rk", "state", "shard")
_LEGEND = (
    "MiB on the rank with the highest peak (rk), never summed over ranks. From step to step it keeps: parameters, "
    "gradients as the optimizer is given them, optimizer state, master copies, buffers, and the rest (buckets, "
    "staging). work: activations, gathered parameters and workspace at the peak; peak: all tensors at once while it "
    "trains. state: parameters, gradients, optimizer and master as predicted in closed form; =: every rank has what is "
    "predicted for it. shard: model state of the rank with the most x ranks / that of one plain process: 1 is sharded "
    "perfectly, the number of ranks not at all"
)


def render(cases: Iterable[MemoryFigures]) -> Iterator[str]:
    """Yield the lines of the section, none without cases."""
    by_model: dict[str, list[MemoryFigures]] = defaultdict(list)
    for figures in cases:
        by_model[figures.case.model].append(figures)
    if not by_model:
        return
    yield from wrapped(f"{_LEGEND}.")
    for model, of_model in by_model.items():
        yield ""
        yield from _table([(model, *_HEAD), *map(_cells, of_model)])
        for figures in of_model:
            yield from notes(figures)
        yield from wrapped(f"  {_cost(of_model)}")


def notes(figures: MemoryFigures) -> Iterator[str]:
    """Yield what is to be said of a case: what is wrong with its memory, why it is not predicted, what CUDA says."""
    name, driver = _name(figures), figures.account.driver
    for cause in figures.causes:
        yield from wrapped(f"  {name}: {cause}")
    if figures.unpredicted:
        yield from wrapped(f"  {name}: nothing is predicted, for {figures.unpredicted}")
    if figures.case.compiled:
        yield from wrapped(
            f"  {name}: torch.compile steps aside for the accounting, so work and peak would be those of eager code"
        )
    if driver is not None:
        yield from wrapped(
            f"  {name}: CUDA allocated {_mib(driver.peak_allocated_bytes)} MiB at most and reserved "
            f"{_mib(driver.peak_reserved_bytes)}, after {driver.allocation_retries} retries; the driver sees "
            f"{_mib(driver.used_bytes)} of {_mib(driver.total_bytes)} in use"
        )


def _cost(of_model: list[MemoryFigures]) -> str:
    slower = [median(f.account.ledger_s[1:]) / median(f.account.plain_s) for f in of_model]
    resident = [f.account.peak_resident_bytes for f in of_model if f.account.peak_resident_bytes is not None]
    beside = f"; the resident set grew by up to {_mib(max(resident))} MiB" if resident else ""
    return f"an accounted step takes {min(slower):.1f} to {max(slower):.1f} times a plain one{beside}"


def _cells(figures: MemoryFigures) -> tuple[str, ...]:
    held, peak = figures.held, figures.account.at_peak
    kept = (held.parameters, held.gradients, held.optimizer, held.master, held.buffers, held.rest)
    predicted = figures.predicted_state_bytes
    right = all(row.within for row in figures.rows if row.kind in STATE)
    return (
        _name(figures),
        *map(_mib, kept),
        *(("n/a", "n/a") if figures.case.compiled else (_mib(peak.work), _mib(peak.total))),
        str(figures.fullest),
        "n/a" if predicted is None else f"{_mib(predicted)}{'=' if right else '!'}",
        "n/a" if figures.sharded is None else f"{figures.sharded:.2f}",
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a table whose columns stand one space apart, as eleven of them leave no room for more."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *cells = rows
    for name, *row in (head, ["-" * width for width in widths], *cells):
        yield " ".join([name.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row, widths[1:], strict=True))])


def _name(figures: MemoryFigures) -> str:
    return figures.case.id.removeprefix(f"{figures.case.model}-")


def _mib(size: int) -> str:
    """Return bytes as MiB in four characters, as long as they do."""
    value = size / 2**20
    return "-" if not size else f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
