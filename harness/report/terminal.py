"""The table at the end of a run: one for each model, and in words what it was measured on."""

from __future__ import annotations

import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from tabulate import tabulate

from harness.anatomy.telemetry import disturbance
from harness.case import Case
from harness.host import Host
from harness.pipeline import Outcome, reference_of
from harness.plugins import Metric
from harness.profiles import Profile
from harness.results import Result

_SHARED = "*"
_DISTURBED = "!"
_WIDTH = 100
_LOADER_BOUND = 0.1
"""The share of a step from which on waiting for data is told; in a sound run it is a few hundredths."""


def plain_strike(text: str) -> str:
    """Return the text as struck through where nothing can be drawn."""
    return f"~~{text}~~"


def terminal_strike(text: str) -> str:
    """Return the text as a terminal strikes it through (ECMA-48, SGR 9)."""
    return f"\x1b[9m{text}\x1b[0m"


def _visible(text: str) -> int:
    return len(re.sub(r"\x1b\[\d+m", "", text))


def render(
    outcomes: Sequence[Outcome],
    *,
    extra: Mapping[str, Result],
    metrics: Iterable[Metric],
    profile: Profile,
    host: Host,
    out_of_memory: Mapping[Case, str] = MappingProxyType({}),
    strike: Callable[[str], str] = plain_strike,
) -> Iterator[str]:
    """Yield the lines of the summary.

    Args:
        outcomes: what was run, in the order it ran.
        extra: references that were run though no test asked for them.
        metrics: all metrics; those with a value anywhere in a model's table get a column.
        profile: the profile of the run.
        host: the machine.
        out_of_memory: cases that needed more memory than there was, and what they said.
        strike: strikes a figure through.
    """
    ordered = sorted(metrics, key=lambda metric: metric.order)
    by_model: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_model[outcome.case.model].append(outcome)
    for case in out_of_memory:
        by_model[case.model] += []
    yield from wrapped(f"profile {profile.name}: {profile.about}")
    yield from wrapped(f"machine {host.name}: {host.describe()}")
    rows: list[tuple[Case, Result, Result | None, str]]
    for model, of_model in by_model.items():
        full = {case: text for case, text in out_of_memory.items() if case.model == model}
        yield ""
        if of_model:
            first = of_model[0].result
            yield from wrapped(f"{model} on {first.dataset}: {_amount(first)}")
            yield from wrapped(f"  weights: {_weights([outcome.result for outcome in of_model])}")
        else:
            yield f"{model}: no case fits"
        rows = [(outcome.case, outcome.result, outcome.reference, outcome.verdict.word) for outcome in of_model]
        for case_id, result in extra.items():
            case = Case.parse(case_id)
            if case.model == model and case not in {row[0] for row in rows}:
                rows.append((case, result, result, "reference"))
        yield from _table(rows, ordered, full=full, strike=strike)
        yield from _notes(of_model)
        for text in full.values():
            yield from wrapped(f"  {text}")


def _table(
    rows: Sequence[tuple[Case, Result, Result | None, str]],
    metrics: Sequence[Metric],
    *,
    full: Iterable[Case],
    strike: Callable[[str], str],
) -> Iterator[str]:
    values = [[metric.value(result, reference) for metric in metrics] for _, result, reference, _ in rows]
    shown = [i for i in range(len(metrics)) if any(row[i] is not None for row in values)]
    head = ["case", *(metrics[i].title for i in shown), "verdict"]
    cells = []
    for (case, result, _, word), row in zip(rows, values, strict=True):
        line = [_short(case) + _mark(result)]
        for i in shown:
            value = row[i]
            text = "n/a" if value is None else metrics[i].show(value)
            # A speed that may not be compared is shown as one that does not count.
            if word == "uncertified" and metrics[i].timed and value is not None:
                text = strike(text)
            line.append(text)
        cells.append([*line, word])
    cells += [[_short(case), *("-" for _ in shown), "out of memory"] for case in full]
    # The rule is a row of its own: under a head of its own, tabulate makes every column two wider than it need be.
    widths = [max(map(_visible, column)) for column in zip(head, *cells, strict=True)]
    rule = ["-" * width for width in widths]
    align = ["left", *("right" for _ in shown), "left"]
    yield from tabulate([head, rule, *cells], tablefmt="plain", colalign=align, disable_numparse=True).splitlines()


def wrapped(line: str) -> list[str]:
    """Return the line broken between words to what a terminal shows, what follows indented."""
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, _WIDTH, subsequent_indent=indent + "  ", break_on_hyphens=False)


def _mark(result: Result) -> str:
    return _SHARED if result.oversubscribed else _DISTURBED if _disturbed(result) else ""


def _disturbed(result: Result) -> tuple[str, ...]:
    # Where ranks share cores nothing is gated anyway.
    watched = None if result.oversubscribed else result.watched
    return disturbance(watched) if watched else ()


def _short(case: Case) -> str:
    return case.id.removeprefix(f"{case.model}-")


def _notes(outcomes: Sequence[Outcome]) -> Iterator[str]:
    disturbed = [
        f"{_short(outcome.case)} ({'; '.join(why)})" for outcome in outcomes if (why := _disturbed(outcome.result))
    ]
    if disturbed:
        yield from wrapped(f"  {_DISTURBED} disturbed while it was timed: {', '.join(disturbed)}")
    waiting = [
        f"{share:.0%} of the step waits for data in {_short(outcome.case)}"
        for outcome in outcomes
        if (share := outcome.result.data_wait_share) is not None
        and share > _LOADER_BOUND
        and not outcome.result.oversubscribed
    ]
    if waiting:
        yield from wrapped(f"  loader-bound: {', '.join(waiting)}; raise loader_workers in the profile")
    if any(outcome.result.oversubscribed for outcome in outcomes):
        yield f"  {_SHARED} more ranks than cores: it ran, but its timing says little and is not gated"
    if any(outcome.verdict.word == "uncertified" for outcome in outcomes):
        yield "  struck through: not certified to do the same training, so its speed says nothing"
    for outcome in outcomes:
        exact = outcome.verdict.exact
        if exact is not None and exact.versions:
            changes = "; ".join((*exact.changes, *exact.versions))
            yield from wrapped(f"  {_short(outcome.case)}: changed, as versions did: {changes}")
    references = sorted({reference_of(outcome.case).id for outcome in outcomes if outcome.reference is not None})
    if references:
        yield from wrapped(
            f"  speedup against {', '.join(references)}; effic. = speedup / GPUs (batch per GPU kept: weak scaling)"
        )
    for note, count in Counter(outcome.reference_note for outcome in outcomes if outcome.reference_note).items():
        yield from wrapped(f"  {note}" + (f" ({count} cases)" if count > 1 else ""))


def _amount(result: Result) -> str:
    lead = result.lead
    epochs = len(lead.epochs)
    trained = lead.parameters and f", {lead.parameters / 1e6:.1f} M parameters"
    size = result.settings["image_size"]
    return (
        f"{lead.train_images} training and {lead.val_images} validation images"
        f"{f' of {size}x{size} pixels' if size else ''}, {epochs} epoch{'s' if epochs != 1 else ''}{trained or ''}"
    )


def _weights(results: Sequence[Result]) -> str:
    return "; ".join(sorted({result.lead.weights for result in results})) or "n/a"


def skipped(reasons: Iterable[str]) -> Iterator[str]:
    """Yield one line for each reason cases were skipped for, with their number, the most frequent first."""
    for reason, count in Counter(reasons).most_common():
        yield from wrapped(f"  {count:3d} x {reason}")
