"""A study at the end of its run: tables beside what was published, and what was found of each claim; in files too."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from harness.errors import StoreError
from harness.evidence.claims import Claim
from harness.evidence.runs import Evidence
from harness.evidence.tables import Cell, Table, shown
from harness.machine.host import Host
from harness.plugins import Study
from harness.published import Mistake, Published
from harness.results import result_to_json
from harness.stored.writing import whole

WIDTH = 80
_NARROWEST = 14
SCHEMA = 1


def heading(study: Study, evidence: Evidence) -> Iterator[str]:
    """Yield the lines that say which study this is, and whether in small."""
    settings, published = evidence.profile.study, evidence.published
    yield from _wrapped(f"study {study.name}: {study.about}")
    if settings.as_published:
        yield from _wrapped(f"profile {evidence.profile.name}: as it was published")
    else:
        yield from _wrapped(f"IN SMALL, profile {evidence.profile.name}: {settings.about or evidence.profile.about}")
        yield from _wrapped("what is found below is of these small runs on this machine, not of the published set-up")
    yield from _wrapped(f"published: {published.title}; {published.hardware}; source: {published.source}")
    yield from _wrapped("seconds are shown and never gated: they do not travel between machines")
    ran, planned = len(evidence.runs), len(evidence.planned)
    if ran < planned:
        yield from _wrapped(f"{ran} of its {planned} cases ran; the others are named with their reasons")


def mistakes(published: Published) -> Iterator[str]:
    """Yield the lines on what was printed and cannot be right."""
    found: Sequence[Mistake] = published.mistakes()
    derived = sum(1 for one in published.figures if one.ratio or one.part_of or one.same_as)
    if not derived:
        return
    yield ""
    if not found:
        yield from _wrapped(f"published arithmetic: all {derived} derived figures recomputed, none is wrong")
        return
    yield from _wrapped(f"published arithmetic: {derived} derived figures recomputed, {len(found)} cannot be right")
    for one in found:
        yield from _wrapped(f"  {one.what}: {one.why}")


def tables(several: Iterable[Table]) -> Iterator[str]:
    """Yield the lines of tables."""
    for table in several:
        yield ""
        yield from _wrapped(table.title)
        yield from _table(table) if table.rows else ["  no row"]
        for note in table.notes:
            yield from _wrapped(f"  {note}")


def _table(table: Table) -> Iterator[str]:
    rows: list[Sequence[Cell]] = [*table.rows]
    if table.shown is not None and len(rows) > 2 * table.shown:
        gap = tuple("..." for _ in table.head)
        rows = [*rows[: table.shown], gap, *rows[-table.shown :]]
    cells = [list(table.head), *([shown(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    # What is too wide for a terminal is its names: they are broken over lines.
    first = max(_NARROWEST, WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1))
    cells = [["\n".join(_broken(row[0], first)), *row[1:]] for row in cells]
    widths[0] = min(widths[0], first)
    right = [
        all(not isinstance(row[place], str) or row[place] == "..." for row in rows) for place in range(len(widths))
    ]
    align = ["right" if number and place else "left" for place, number in enumerate(right)]
    rule = ["-" * width for width in widths]
    lines = tabulate([cells[0], rule, *cells[1:]], tablefmt="plain", colalign=align, disable_numparse=True)
    yield from (line.rstrip() for line in lines.splitlines())


def _broken(name: str, width: int) -> list[str]:
    return textwrap.wrap(name, width, subsequent_indent="  ") or [""]


def claims(several: Sequence[Claim]) -> Iterator[str]:
    """Yield the lines on what was found of each claim."""
    if not several:
        return
    counts = Counter(one.word for one in several)
    yield ""
    words = ", ".join(f"{counts[word]} {word}" for word in ("confirmed", "contradicted", "cannot tell") if counts[word])
    yield from _wrapped(f"what the study says or asks, by this machine's certified runs: {words}")
    yield from _wrapped(
        "  intervals are 95 % of each claim for itself, over processes or seeds; an ordering needs them apart"
    )
    width = max(len(one.word) for one in several)
    for one in (one for one in several if not one.because):
        sides = [f"{name} {text}" for name, text in (("published", one.published), ("here", one.here)) if text]
        lines = [one.text, "; ".join(sides), one.reason]
        head = one.word.ljust(width)
        for line in filter(None, lines):
            for part in textwrap.wrap(line, WIDTH - width - 4, break_on_hyphens=False):
                yield f"  {head}  {part}"
                head = " " * width
    yield from _unmeasured([one for one in several if one.because])


def _unmeasured(several: Sequence[Claim]) -> Iterator[str]:
    """Yield the claims of which nothing was measured, by the reason."""
    for reason in dict.fromkeys(one.because for one in several):
        yield from _wrapped(f"  cannot tell, {reason}:")
        for one in several:
            if one.because == reason:
                yield from _wrapped(f"    {one.text}" + (f" (published {one.published})" if one.published else ""))


def _wrapped(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent + "  ", break_on_hyphens=False)


def write(
    folder: Path, study: Study, evidence: Evidence, host: Host, several: Sequence[Table], judged: Sequence[Claim]
) -> list[Path]:
    """Write what a study found: all of it and its raw results as JSON, its tables as CSV, and its figures.

    Tables and figures have a folder each, for a figure has the name of the table that it draws and its numbers as CSV.

    Raises:
        StoreError: a file cannot be written; those written before are whole.
    """
    from harness.figures import charts

    content = {
        "schema_version": SCHEMA,
        "study": study.name,
        "profile": evidence.profile.name,
        "in_small": not evidence.profile.study.as_published,
        "machine": host.name,
        "versions": host.versions,
        "published": asdict(evidence.published) | {"mistakes": [asdict(one) for one in evidence.published.mistakes()]},
        "tables": [asdict(one) for one in several],
        "claims": [asdict(one) for one in judged],
        "missing": {str(case): why for case, why in evidence.missing.items()},
    }
    results = {case.id: result_to_json(run.result) for case, run in evidence.runs.items()}
    files: dict[str, str] = {f"tables/{table.name}.csv": _csv(table) for table in several}
    files |= {f"{study.name}.json": _json(content), "results.json": _json(results)}
    try:
        for within in ("tables", "figures"):
            (folder / within).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            whole(folder / name, text.encode())
    except OSError as error:
        raise StoreError(
            f"study report {folder} cannot be written: {error.strerror}; free or change the folder"
        ) from error
    return [*(folder / name for name in files), *charts.write(list(study.figures(evidence)), folder / "figures")]


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table.head)
    writer.writerows(["" if cell is None else cell for cell in row] for row in table.rows)
    return text.getvalue()


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1)
