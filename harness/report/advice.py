"""The summary table of a study and what it recommends, as lines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from tabulate import tabulate

from harness.anatomy.advice import TOLD_APART, Advice, Candidate, Effort, fits, gib

_NOT_MEASURED = "n/a"
_WIDTH = 80


def render(
    advices: Sequence[Advice], *, efforts: Mapping[str, Effort], memory_bytes: int | None, slowdown: float
) -> Iterator[str]:
    """Yield the lines: a table and its sentences for each group, then what strategies take to use.

    Args:
        advices: one of each model, GPU count and global batch.
        efforts: by strategy; those whose source is not at hand are left out.
        memory_bytes: the limit that was asked for.
        slowdown: the share that was asked for.
    """
    limit = "no memory limit" if memory_bytes is None else f"at most {gib(memory_bytes)} a GPU"
    yield from _broken(f"{limit}; leanest: at most {slowdown:.0%} slower than the fastest")
    for advice in advices:
        gpus = f"{advice.gpu_count} GPU{'s' if advice.gpu_count > 1 else ''}"
        yield ""
        yield f"{advice.model} on {advice.dataset}, {gpus}, global batch {advice.global_batch_size}"
        if advice.counted:
            yield from _table(advice, memory_bytes)
        for sentence in advice.sentences:
            yield from _broken(f"  {sentence}")
        for one, why in advice.refused:
            yield from _broken(f"  not counted: {one.name}: {why}")
    yield ""
    yield from _broken(f"{TOLD_APART} Pareto: no other that fits is as good in time, memory and accuracy together.")
    names = sorted({one.case.strategy for advice in advices for one in advice.counted})
    if names:
        yield ""
        yield from _efforts(names, efforts)


def _table(advice: Advice, limit_bytes: int | None) -> Iterator[str]:
    first = advice.counted[0].step_s or 0.0
    rows = [_row(one, advice, first, limit_bytes) for one in advice.counted]
    yield from _plain(["strategy", "step", "against", "peak mem", "accuracy", "Pareto", "fits"], rows)


def _row(one: Candidate, advice: Advice, first_s: float, limit_bytes: int | None) -> list[str]:
    step_s = one.step_s or 0.0
    return [
        one.name + ("*" if one.oversubscribed else "!" if one.disturbed else ""),
        f"{step_s * 1e3:.1f} ms",
        f"{step_s / first_s - 1:+.0%}" if first_s else _NOT_MEASURED,
        _NOT_MEASURED if one.memory_bytes is None else gib(one.memory_bytes),
        _NOT_MEASURED if one.accuracy is None else f"{one.accuracy:.3f}",
        "yes" if one in advice.pareto else "",
        "yes" if fits(one, limit_bytes) else "no" if one.memory_bytes is not None else _NOT_MEASURED,
    ]


def _efforts(names: Sequence[str], efforts: Mapping[str, Effort]) -> Iterator[str]:
    rows = []
    for name in names:
        effort = efforts.get(name)
        rows.append(
            [name, _NOT_MEASURED, _NOT_MEASURED, _NOT_MEASURED]
            if effort is None
            else [
                name,
                str(effort.lines),
                ", ".join(effort.requires) or "torch alone",
                ", ".join(effort.refuses) or "nothing",
            ]
        )
    yield from _plain(["effort", "lines", "needs", "refuses"], rows, left=(0, 2, 3))
    yield from _broken("  lines: of this suite's code that puts the library to use; refuses: options of a case")


def _plain(head: Sequence[str], cells: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    rows = [list(head), ["-" * width for width in widths], *map(list, cells)]
    align = ["left" if i in left else "right" for i in range(len(head))]
    return tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=align).splitlines()


def _broken(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, _WIDTH, subsequent_indent=indent + "  ", break_on_hyphens=False)
