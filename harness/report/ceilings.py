"""What the machine can do at most, in a few lines: what the shares in the other sections are shares of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.anatomy import ceilings as anatomy
from harness.case import Precision
from harness.records.ceilings import Ceilings
from harness.report.lines import table, wrapped

_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")


def render(measured: Sequence[Ceilings]) -> Iterator[str]:
    """Yield the lines of the section; `measured` is of one machine, for each number of ranks."""
    if not measured:
        return
    yield from wrapped(
        "measured in this run, all ranks at work at once, median of the repetitions' slowest rank. matrix product: of "
        "a rank, by its best size; copy: bytes of a rank read and written; busbw: nccl-tests', best of all sizes; "
        "latency: of a line fitted to the sizes, and how far the worst of them is from it"
    )
    yield ""
    head = ["ranks", *(f"{name} product" for name in _PRECISIONS), "memory copy"]
    rows = [
        [str(one.ranks), *(_flops(anatomy.peak_flops_per_s(one, name)) for name in _PRECISIONS), _copy(one)]
        for one in measured
    ]
    yield from table(head, rows, left=())
    rows = [row for one in measured for row in _sweeps(one)]
    if rows:
        yield ""
        yield from table(["ranks", "collective", "busbw", "at", "latency", "off by"], rows, left=(1,))


def _sweeps(ceilings: Ceilings) -> Iterator[list[str]]:
    for sweep in ceilings.sweeps:
        line = anatomy.fitted(sweep)
        best = max(sweep.points, key=anatomy.algbw_bytes_per_s)
        yield [
            str(ceilings.ranks),
            f"{ceilings.backend} {sweep.kind}",
            _rate(anatomy.busbw_bytes_per_s(sweep.kind, best, ceilings.ranks)),
            f"{best.size_bytes / 2**20:.3g} MiB",
            f"{line.latency_s * 1e6:.0f} us",
            f"{line.worst_error:.0%}",
        ]


def _copy(ceilings: Ceilings) -> str:
    return _rate(anatomy.copy_bytes_per_s(ceilings))


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.3g} GB/s"


def _flops(per_s: float | None) -> str:
    return "n/a" if per_s is None else f"{per_s / 1e9:.4g} GFLOP/s"
