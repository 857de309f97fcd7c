"""What a command line names of the matrix beyond its plain cases: options, and cases by their id.

Each option doubles the matrix, so a case has one only where it is named: as a word of -k, as an axis in -m, in
--options, or in the id of a test to run.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.case import OPTION_WORDS, OPTIONS, Case, check, combine, kind_of, spell
from harness.errors import CaseError, unknown
from harness.registry import Registry

Tokens = tuple[str, ...]
"""Option tokens of one case, in the order of its id."""

# In -k and -m, as pytest reads them; what is said after "not" is not asked for.
_WORD = re.compile(r"(?:\b(not)\s+)?([^\s()]+)")
_BENCH = re.compile(r"(?:\b(not)\s+)?\bbench\s*\(([^)]*)\)")
_AXIS = re.compile(r"(\w+)\s*=\s*('[^']*'|\"[^\"]*\"|[^\s,]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a run is to have of the matrix."""

    variants: tuple[Tokens, ...] = ((),)
    """Each cell of the matrix is a case with each of these."""
    cases: tuple[tuple[Path, Case], ...] = ()
    """Bench files and cases named by id, which may be in no cell."""
    named: str = ""
    """What -k and -m say."""


def select(keyword: str, markexpr: str, options: Sequence[str], *, names: Collection[str]) -> tuple[Tokens, ...]:
    """Return the sets of option tokens that a run's cases are made with.

    What is wrong in -k and -m is passed over here: they may be about other tests. `refuse_unknown` looks at them.

    Args:
        keyword: what -k says.
        markexpr: what -m says.
        options: what each --options says; a run without it begins from the plain case.
        names: of models and strategies; a word that is one of them is no option.

    Raises:
        CaseError: --options names what is no option, or what cannot be together.
    """
    named = {word for asked, word in _words(keyword) if asked and word not in names and _is_option(word)}
    named |= {spell(axis, value) for asked, axis, value in _axes(markexpr) if asked and not _fault(axis, value)}
    tokens = sorted(named - {""})
    # Without an "or" all that is named is wanted at once, so parts of it would be made in vain.
    least = 1 if re.search(r"\bor\b", f"{keyword} {markexpr}") else len(tokens)
    sizes = range(max(least, 1), len(tokens) + 1)
    wanted = [(), *itertools.chain.from_iterable(itertools.combinations(tokens, size) for size in sizes)]
    try:
        bases = [_ordered(text.split("-") if text else ()) for text in options] or [()]
    except CaseError as error:
        raise CaseError(f"--options: {error}") from error
    variants = []
    for base, more in itertools.product(bases, wanted):
        try:
            variants.append(_ordered(dict.fromkeys(base + more)))
        except CaseError:  # two of one axis: no case has both
            continue
    return tuple(dict.fromkeys(variants))


def named_cases(
    arguments: Iterable[str], *, start: Path, benches: Path, registry: Registry
) -> Iterator[tuple[Path, Case]]:
    """Yield the bench file and the case of each test that is named by a case's id.

    Args:
        arguments: files, folders and tests, as given to pytest.
        start: where relative ones begin.
        benches: folder of the bench files; what is elsewhere is not looked at.
        registry: what can be named.

    Raises:
        CaseError: an id is of no possible case.
        PluginError: there is no such model or strategy.
    """
    for argument in arguments:
        test, _, rest = argument.partition("[")
        file = (start / test.partition("::")[0]).resolve()
        if benches.resolve() in file.parents and re.search(r"gpu-bs\d", rest):
            case = Case.parse(rest.removesuffix("]"))
            registry.find("models", case.model)
            registry.find("strategies", case.strategy)
            yield file, case


def refuse_unknown(keyword: str, markexpr: str, *, cases: Sequence[Case], tests: Iterable[str]) -> None:
    """Refuse a word of -k or an axis of -m that no test has, rather than run nothing for it.

    Args:
        keyword: what -k says.
        markexpr: what -m says.
        cases: all that were made.
        tests: ids of all tests that were collected.

    Raises:
        CaseError: something named cannot be; the message suggests what was meant.
    """
    everything = " ".join(tests).lower()
    unseen = [word for _, word in _words(keyword) if word not in everything]
    for word in unseen:
        if kind_of(word) not in (*OPTIONS, "fp32"):
            known = {token for case in cases for token in case.id.split("-")}
            raise CaseError(f"-k: {unknown('case with', word, {*known, *OPTION_WORDS})}")
    # Two of one axis are unseen as well, and wrong where both are wanted at once.
    together = [unseen] if not re.search(r"\b(or|not)\b", keyword) else [[word] for word in unseen]
    for words in together:
        try:
            combine(dict.fromkeys(words))
        except CaseError as error:
            raise CaseError(f"-k: {error}") from error
    for _, axis, value in _axes(markexpr):
        if fault := _fault(axis, value):
            raise CaseError(f"-m: {fault}")
        known = {getattr(case, axis) for case in cases}
        if axis in ("model", "strategy") and value not in known:
            raise CaseError(f"-m: {unknown(axis, value, known)}")
        if isinstance(value, float):
            raise CaseError(f"-m: pytest reads no fraction there; name the option instead: -k {spell(axis, value)}")


def _ordered(tokens: Iterable[str]) -> Tokens:
    return tuple(spell(axis, value) for axis, value in combine(tokens).items())


def _words(keyword: str) -> Iterator[tuple[bool, str]]:
    """Yield the parts of ids that -k has, and whether each is asked for."""
    for negated, word in _WORD.findall(keyword.lower()):
        if word not in ("and", "or", "not"):
            # An id, or a piece of one, is a word of pytest's too.
            for part in re.findall(r"[\w.]+", word):
                yield not negated, part


def _axes(markexpr: str) -> Iterator[tuple[bool, str, Any]]:
    """Yield the axes that -m names, the value of each, and whether it is asked for."""
    for negated, inside in _BENCH.findall(markexpr):
        for axis, text in _AXIS.findall(inside):
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):  # nor can pytest read it, and it says so
                continue
            yield not negated, axis, value


def _is_option(word: str) -> bool:
    try:
        combine([word])
    except CaseError:
        return False
    return True


def _fault(axis: str, value: Any) -> str | None:
    """Return why no case has this value on this axis."""
    try:
        check(axis, value)
    except CaseError as error:
        return str(error)
    return None
