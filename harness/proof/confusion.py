"""The table of the live proof: what the gate said of cases whose truth is known, tonight and in all nights. Pure.

Trials of one night share a level and the machine's state, so they are less than independent; nights are not. A bound
that contradicts a goal after one night is worth a look at the machine before the gate is blamed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from harness.errors import StoreError
from harness.proof.rates import Count
from harness.running.plant import Plant, parse
from harness.stored import reading

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

FOUND = frozenset({"regressed", "caught"})
"""Words that report a fault: of the time layer, and of the exact ones."""
POWER = 0.99
"""Of a fault as large as the smallest effect that a verdict says it sees; that is what its MDE means."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Trial:
    """One case with a known truth, and what became of it; or several alike, with their number."""

    case: str
    plant: str
    """The fault; empty for none."""
    word: str
    """The verdict's, or `caught` or `missed` by an exact layer."""
    promised: bool = False
    """Whether the verdict says that it sees a change of this size."""
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Night:
    """The counts of one benchmark run."""

    date: str
    gate: str
    """Digest of the gate's code: what another gate did proves nothing about this one."""
    versions: dict[str, str]
    trials: tuple[Trial, ...]


_MEND = "move the file away to count anew"
_NIGHTS: TypeAdapter[tuple[Night, ...]] = TypeAdapter(tuple[Night, ...])


def counted(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """Return trials with those that are alike made one, in order of case and fault."""
    alike: Counter[tuple[str, str, str, bool]] = Counter()
    for one in trials:
        alike[one.case, one.plant, one.word, one.promised] += one.count
    return tuple(
        Trial(case=case, plant=plant, word=word, promised=promised, count=count)
        for (case, plant, word, promised), count in sorted(alike.items())
    )


def lines(tonight: Night, before: Sequence[Night]) -> list[str]:
    """Return the table, a line for each case and fault."""
    from tabulate import tabulate

    nights = _of_this_gate(tonight, before)
    now, ever = _rows(tonight.trials), _rows(one for night in nights for one in night.trials)
    table = []
    for (case, plant), trials in ever.items():
        found, promised = _found(trials), _found([one for one in trials if one.promised])
        here = _found(now.get((case, plant), []))
        table.append(
            (
                case,
                plant or "nothing",
                f"{here.events} of {here.of}",
                f"{found.events} of {found.of}",
                _between(found),
                f"{promised.events} of {promised.of}" if promised.of else "",
                _between(promised),
                _else(trials),
            )
        )
    count = f"{len(nights)} nights" if len(nights) > 1 else "1 night"
    headers = ("case", "planted", "tonight", count, "95 % bounds", "promised", "95 % bounds", "else")
    return [
        *tabulate(table, headers=headers, tablefmt="plain", disable_numparse=True).splitlines(),
        "faults found of those planted; promised: where the verdict says that it sees a change of that size",
    ]


def page(folder: Path) -> list[str]:
    """Return the lines of `docs/gate_live.md`: what the gate said of faults planted on each machine.

    Args:
        folder: has a folder for each machine, with the nights of each layer as `packed` has them.

    Raises:
        StoreError: a file holds something else.
    """
    found = [
        "# Planted faults, live",
        "",
        "Made by `python -m harness proof` from `docs/nights/`, which `pytest benches -k gate_proof` counted.",
        "Faults were planted in real cases, beside cases without any; this is what the gate said of each. One night",
        "proves little, as the exact bounds say; they narrow from night to night.",
    ]
    for file in sorted(folder.glob("*/*.json")):
        nights = unpacked(file.read_bytes(), str(file))
        last, host = nights[-1], file.parent.name
        versions = ", ".join(f"{name} {last.versions[name]}" for name in ("python", "torch") if name in last.versions)
        found += ["", f"## {host}, {file.stem} layer", "", f"Until {last.date}, gate {last.gate}, {versions}."]
        found += ["", "```", *lines(last, nights[:-1]), "```"]
    return found


def contradictions(tonight: Night, before: Sequence[Night]) -> list[str]:
    """Return what is not as stated, a sentence each: a false alarm or a missed exact fault tonight; little power.

    Power is too little where even the upper bound of what was found in all nights is below what was promised.
    """
    found = []
    for one in tonight.trials:
        if not one.plant and one.word in FOUND:
            found.append(f"{one.case}: nothing was planted, and it is called {one.word}, {one.count} times")
        if one.word == "missed":
            found.append(f"{one.case}: {one.plant} was planted, and no exact layer saw it")
    every = _rows(one for night in _of_this_gate(tonight, before) for one in night.trials)
    for (case, plant), trials in every.items():
        promised = _found([one for one in trials if one.promised])
        if plant and promised.of and _bounds(promised)[1] < POWER:
            found.append(
                f"{case}: {plant} was found {promised.events} times of {promised.of} where {POWER:.0%} was promised; "
                f"the power is at most {_bounds(promised)[1]:.0%}"
            )
    return found


def packed(nights: Sequence[Night]) -> bytes:
    """Return the nights as they are stored."""
    return _NIGHTS.dump_json(tuple(nights), indent=1)


def unpacked(content: bytes, where: str) -> tuple[Night, ...]:
    """Return stored nights.

    Raises:
        StoreError: it holds something else; the message names the file.
    """
    try:
        return _NIGHTS.validate_python(reading.parsed(content, where=where, kind="count of nights", mend=_MEND))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise StoreError(f"counts {where} cannot be read: {first['msg']}; {_MEND}") from error


def _of_this_gate(tonight: Night, before: Sequence[Night]) -> list[Night]:
    return [*(night for night in before if night.gate == tonight.gate), tonight]


def _rows(trials: Iterable[Trial]) -> dict[tuple[str, str], list[Trial]]:
    def place(one: Trial) -> tuple[str, str, float]:
        fault = parse(one.plant) if one.plant else Plant("", 0.0)
        return one.case, fault.name, fault.size

    rows: dict[tuple[str, str], list[Trial]] = {}
    for one in sorted(trials, key=place):
        rows.setdefault((one.case, one.plant), []).append(one)
    return rows


def _found(trials: Iterable[Trial]) -> Count:
    return sum((Count(one.count if one.word in FOUND else 0, one.count) for one in trials), Count())


def _bounds(count: Count) -> tuple[float, float]:
    """Return the two-sided 95 % interval: each of its ends errs in one case of forty."""
    return count.bounds(0.975)


def _between(count: Count) -> str:
    if not count.of:
        return ""
    low, high = _bounds(count)
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def _else(trials: Iterable[Trial]) -> str:
    """Return what else was said than that there is a fault."""
    words: Counter[str] = Counter()
    for one in trials:
        words[one.word] += one.count
    return ", ".join(f"{count} {word}" for word, count in sorted(words.items()) if word not in FOUND)
