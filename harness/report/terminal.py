"""The table at the end of a run: one for each model, and in words what it was measured on.

It is as wide as the terminal: where that is narrow, columns that nothing is gated by go first, and are named.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from harness.anatomy.telemetry import disturbance
from harness.case import Case
from harness.certificate import Certificate
from harness.machine.host import Host
from harness.plugins import Metric
from harness.profiles import Profile
from harness.report.lines import table, wrapped
from harness.results import Result
from harness.running.pipeline import Outcome, reference_of

_SHARED = "*"
_DISTURBED = "!"
SAME = "same: trains as one plain process does, = bit for bit, ~ within rounding, NO not at all"
_LEGEND = f"effic.: speedup / GPUs (the batch per GPU is kept: weak scaling). {SAME}"
_NAMED = 3
"""More cases that something holds for are counted."""
_LOADER_BOUND = 0.1
"""The share of a step from which on waiting for data is told; in a sound run it is a few hundredths."""


def plain_strike(text: str) -> str:
    """Return the text as struck through where nothing can be drawn."""
    return f"~~{text}~~"


def terminal_strike(text: str) -> str:
    """Return the text as a terminal strikes it through (ECMA-48, SGR 9)."""
    return f"\x1b[9m{text}\x1b[0m"


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
    for model, of_model in by_model.items():
        full = {case: text for case, text in out_of_memory.items() if case.model == model}
        yield ""
        if of_model:
            first = of_model[0].result
            yield from wrapped(f"{model} on {first.dataset}: {_amount(first)}")
            yield from wrapped(f"  weights: {_weights([outcome.result for outcome in of_model])}")
        else:
            yield f"{model}: no case fits"
        rows = [Row(one.case, one.result, one.reference, one.verdict.word, same(one.certificate)) for one in of_model]
        for case_id, result in extra.items():
            case = Case.parse(case_id)
            if case.model == model and case not in {row.case for row in rows}:
                rows.append(Row(case, result, result, "reference", ""))
        yield from _table(rows, ordered, full=full, strike=strike)
        yield from _notes(of_model)
        for text in full.values():
            yield from wrapped(f"  {text}")
    if outcomes:
        yield ""
        yield from wrapped(_LEGEND)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a model's table."""

    case: Case
    result: Result
    reference: Result | None
    word: str
    """Its verdict."""
    same: str
    """Whether it trains as the reference does, as `same` says it."""


def same(certificate: Certificate) -> str:
    """Return in a sign how closely a case trains as the reference does; the notes explain it."""
    if not certificate.granted:
        return "NO"
    return "=" if certificate.found == "bit-equal" else "~"


def _table(
    rows: Sequence[Row], metrics: Sequence[Metric], *, full: Collection[Case], strike: Callable[[str], str]
) -> Iterator[str]:
    values = [[metric.value(row.result, row.reference) for metric in metrics] for row in rows]
    shown = [i for i in range(len(metrics)) if any(row[i] is not None for row in values)]
    cells = [
        [
            _short(row.case) + _mark(row.result),
            *(_cell(metrics[i], of[i], row, strike) for i in shown),
            row.same,
            row.word,
        ]
        for row, of in zip(rows, values, strict=True)
    ]
    cells += [[_short(case), *("-" for _ in shown), "", "out of memory"] for case in full]
    head = ["case", *(metrics[i].title for i in shown), "same", "verdict"]
    # What nothing is gated by goes first, of either kind the last column first, and what the clock is gated by never.
    places = [(metrics[i].layer is not None, -place) for place, i in enumerate(shown, 1) if metrics[i].layer != "time"]
    optional = [-place for _, place in sorted(places)]
    yield from table(head, cells, left=(0, len(head) - 2, len(head) - 1), optional=optional)


def _cell(metric: Metric, value: float | None, row: Row, strike: Callable[[str], str]) -> str:
    if value is None:
        return "n/a"
    # A speed that may not be compared is shown as one that does not count.
    return strike(metric.show(value)) if row.word == "uncertified" and metric.timed else metric.show(value)


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
        more = f" and {len(disturbed) - _NAMED} more" if len(disturbed) > _NAMED else ""
        yield from wrapped(f"  {_DISTURBED} disturbed while it was timed: {', '.join(disturbed[:_NAMED])}{more}")
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
        yield from wrapped(f"  {_SHARED} more ranks than cores: it ran, but its timing says little and is not gated")
    if any(outcome.verdict.word == "uncertified" for outcome in outcomes):
        yield from wrapped("  struck through: not certified to do the same training, so its speed says nothing")
    for outcome in outcomes:
        exact = outcome.verdict.exact
        if exact is not None and exact.versions:
            changes = "; ".join((*exact.changes, *exact.versions))
            yield from wrapped(f"  {_short(outcome.case)}: changed, as versions did: {changes}")
    references = sorted({reference_of(outcome.case).id for outcome in outcomes if outcome.reference is not None})
    if references:
        yield from wrapped(f"  speedup against {', '.join(references)}")
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
