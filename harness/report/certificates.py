"""The certificate table: how closely each case trains as the reference does, and by which regime."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from tabulate import tabulate

from harness.case import Case
from harness.certificate import Certificate
from harness.report.lines import table, wrapped

_LEGEND = (
    "bit-equal: losses, parameters, buffers and optimizer state are the reference's, bit for bit; a number: within "
    "rounding, the parameters differ by this share of what the training changed; NO: not the same training. "
    "sends: what a rank must send in a step for the collectives it was seen to make, by the best algorithms; "
    "=: they are exactly those that the strategy's closed form predicts"
)


def render(certificates: Iterable[Certificate], *, made: Sequence[Certificate], reference_s: float) -> Iterator[str]:
    """Yield the lines of the section.

    Args:
        certificates: of all cases of the run.
        made: those that this run paid for.
        reference_s: what their references cost, seconds.
    """
    by_model: dict[str, dict[Case, Certificate]] = defaultdict(dict)
    for certificate in certificates:
        case = Case.parse(certificate.case_id)
        by_model[case.model][case] = certificate
    if not by_model:
        return
    steps = next(iter(next(iter(by_model.values())).values())).steps
    yield from wrapped(f"{steps} steps of each case beside one process that plays every rank. {_LEGEND}.")
    for model, of_model in by_model.items():
        yield ""
        yield from _table(model, of_model)
        yield from _regimes(list(of_model.values()))
    yield ""
    count = sum(map(len, by_model.values()))
    cost = f", {sum(c.seconds for c in made):.0f} s, and {reference_s:.0f} s for their references" if made else ""
    yield from wrapped(f"{count} certificates: {count - len(made)} kept from earlier runs, {len(made)} made now{cost}")


def _table(model: str, of_model: dict[Case, Certificate]) -> Iterator[str]:
    counts = sorted({case.gpu_count for case in of_model})
    several = [count for count in counts if count > 1]
    rows: dict[str, dict[int, Certificate]] = defaultdict(dict)
    for case, certificate in of_model.items():
        rows["-".join((case.strategy, f"bs{case.batch_size}", *case.options))][case.gpu_count] = certificate
    head = [model, *(f"{count}gpu" for count in counts), *(f"{count}gpu sends" for count in several)]
    cells = [
        [
            name,
            *(cell(row[count]) if count in row else "" for count in counts),
            *(sends(row[count], count) if count in row else "" for count in several),
        ]
        for name, row in rows.items()
    ]
    # What is sent is said of the smaller counts too, so the last go first.
    yield from table(head, cells, left=range(len(counts) + 1), optional=range(len(head) - 1, len(counts), -1))


def sends(certificate: Certificate, ranks: int) -> str:
    """Return what a rank must send over its link in a step, and mark what was held to a prediction."""
    sent = [collective.wire_bytes(ranks) for collective in certificate.collectives]
    known = [size for size in sent if size is not None]
    if len(known) < len(sent) or not sent:
        return "n/a"
    predicted = any(row.fact == "communication" and row.same for row in certificate.regime)
    return f"{sum(known) / 2**20:.1f} MiB{'=' if predicted else ' '}"


def cell(certificate: Certificate) -> str:
    """Return how close a case is, in a word or a number."""
    if not certificate.granted:
        return "NO"
    if certificate.found == "bit-equal":
        return "bit-equal"
    return f"{next(f.difference for f in certificate.figures if f.name.startswith('parameters')):.1e}"


def _regimes(certificates: Sequence[Certificate]) -> Iterator[str]:
    """Say what all cases have in common, and what some have of their own."""
    by_text: dict[str, list[Certificate]] = defaultdict(list)
    for certificate in certificates:
        by_text[regime(certificate)].append(certificate)
    for text, alike in sorted(by_text.items(), key=lambda item: -len(item[1])):
        cases = ", ".join(map(_short, alike)) if len(alike) <= 3 else f"{len(alike)} cases"
        # One rank has nothing to reduce, and trains by the same regime.
        reduced = sorted({row.strategy for c in alike for row in c.regime if row.fact == "reduction"} - {"none seen"})
        whose = "" if len(by_text) == 1 else f" ({cases})"
        yield from wrapped(
            f"  regime{whose}: {text}" + (f"; reduced over ranks in {', '.join(reduced)}" if reduced else "")
        )
    for certificate in certificates:
        if certificate.from_fp32 is not None:
            yield from wrapped(f"  {_short(certificate)}: {certificate.from_fp32:.1e} from the same training in FP32")


def regime(certificate: Certificate) -> str:
    """Return the regime in words, as it was seen; rows that say "none seen" and what depends on the ranks left out."""
    rows = [row for row in certificate.regime if row.fact not in _OF_A_CASE and row.strategy != "none seen"]
    types: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        types[row.strategy].append(row.fact)
    return "; ".join(f"{', '.join(facts)} {text}" for text, facts in types.items())


_OF_A_CASE = ("global batch", "sharding", "BatchNorm", "reduction", "communication")


def _short(certificate: Certificate) -> str:
    case = Case.parse(certificate.case_id)
    return certificate.case_id.removeprefix(f"{case.model}-")


def refusal(certificate: Certificate) -> Iterator[str]:
    """Yield the lines that say why a case has no certificate, and its whole regime table."""
    yield from wrapped(f"{certificate.case_id}: not certified: it does not train as the reference does")
    for cause in certificate.causes:
        yield from wrapped(f"  cause   {cause}")
    yield ""
    rows = [[row.fact, row.strategy, row.reference, "" if row.same else "<-"] for row in certificate.regime]
    yield from tabulate(
        rows,
        headers=["regime", "this case", "the reference", ""],
        tablefmt="simple",
        disable_numparse=True,
        maxcolwidths=[None, 38, 38, None],
    ).splitlines()
