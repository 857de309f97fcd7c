"""How near each case comes to its machine's ceilings, and what those are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from harness.anatomy.roofline import roof
from harness.case import Case
from harness.records.ceilings import Ceilings
from harness.report import ceilings as report
from harness.report.lines import table, wrapped
from harness.results import Result

_HEAD = ("GFLOP", "GFLOP/s", "MFU", "GB", "GB/s", "of copy", "loader/s", "used")
_LEGEND = (
    "per GPU and timed step. GFLOP: of matrix products and convolutions, by torch's counter, recomputation left out. "
    "MFU: of the best matrix product. GB: operators' inputs and outputs, each moved once. loader/s: images that the "
    "loaders of all ranks give with nothing trained; used: by the timed steps. What computes is bound by memory where "
    "its GB take longer at the copy's rate than its GFLOP at the matrix product's"
)


def render(results: Iterable[Result]) -> Iterator[str]:
    """Yield the lines of the section, none without ceilings."""
    by_model: dict[str, list[Result]] = defaultdict(list)
    known: dict[int, Ceilings] = {}
    for result in results:
        if result.ceilings is not None:
            by_model[Case.parse(result.case_id).model].append(result)
            known[result.ceilings.ranks] = result.ceilings
    if not by_model:
        return
    yield from report.render([one for _, one in sorted(known.items())])
    yield ""
    yield from wrapped(f"{_LEGEND}.")
    for model, of_model in by_model.items():
        rows = [_row(result) for result in of_model]
        head = [model, *_HEAD]
        yield ""
        yield from table(head, rows, optional=(4, 6))
        for result in of_model:
            found = roof(result)
            if found and found.loader_share is not None and found.loader_share > 1:
                name = _short(Case.parse(result.case_id))
                yield from wrapped(
                    f"  {name}: the loader is the bottleneck: steps take {found.loader_share:.1f} times what it gives"
                )


def _row(result: Result) -> list[str]:
    found = roof(result)
    name = _short(Case.parse(result.case_id))
    if found is None:
        return [name, *["n/a"] * len(_HEAD)]
    per_s = [None if one is None else one / found.step_s / 1e9 for one in (found.flops, found.op_bytes)]
    return [
        name,
        _number(None if found.flops is None else found.flops / 1e9),
        _number(per_s[0]),
        _share(found.mfu),
        _number(None if found.op_bytes is None else found.op_bytes / 1e9),
        _number(per_s[1]),
        _share(found.memory_share),
        _number(found.loader_images_per_s),
        _share(found.loader_share),
    ]


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.0%}"


def _short(case: Case) -> str:
    return case.id.removeprefix(f"{case.model}-")
