"""Which strategy to take: the fastest within a memory limit, the leanest within a slow-down, and what either costs.

Pure: from measured figures of certified cases to sentences. Cases of one model, dataset, GPU count and global batch are
held together, options and all, since they are ways to do the same training.
"""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

from harness.case import Case
from harness.gate import ranking
from harness.gate.ranking import LEVEL, Slower, Timing
from harness.plugins import Strategy

_FEWEST_STEPS = 4
"""Of which quartiles say something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What it takes to use a strategy, and what it cannot do."""

    lines: int
    """Of code that shards a model, without blank lines, comments and docstrings."""
    requires: tuple[str, ...]
    """Packages beside torch."""
    refuses: tuple[str, ...]
    """Options of a case that it cannot honour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One measured case."""

    case: Case
    dataset: str
    steps_s: tuple[float, ...]
    """Of each measured step, the slowest rank's."""
    memory_bytes: int | None
    """Peak of the fullest device."""
    accuracy: float | None
    """In whatever the model is scored by; more is better."""
    timing: Timing = field(default_factory=dict)
    """What its processes of the time layer say of its speed, where it has any."""
    disturbed: bool = False
    """Whether others used the machine, or clocks were held down, while it was timed."""
    oversubscribed: bool = False
    why_not: str = ""
    """Why it does not count; empty where it does."""

    @property
    def step_s(self) -> float | None:
        """Median step time."""
        return median(self.steps_s) if self.steps_s else None

    @property
    def name(self) -> str:
        """The strategy with its options."""
        return "-".join((self.case.strategy, *self.case.options))

    @property
    def at(self) -> str:
        """The same with its GPUs."""
        return f"{self.name} at {self.case.gpu_count} GPU{'s' if self.case.gpu_count > 1 else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """On one model, dataset, GPU count and global batch."""

    model: str
    dataset: str
    gpu_count: int
    global_batch_size: int
    counted: tuple[Candidate, ...]
    """Those that count, fastest first, whether or not they fit."""
    fastest: Candidate | None
    """None where nothing fits."""
    leanest: Candidate | None
    """None where nothing fits, or where no memory is known."""
    pareto: tuple[Candidate, ...]
    """Of those that fit, what no other is at least as good as in time, memory and accuracy, and better in one."""
    sentences: tuple[str, ...]
    """One for each recommendation, and what makes it unsure."""
    refused: tuple[tuple[Candidate, str], ...]
    """What does not count, and why."""


def advise(candidates: Iterable[Candidate], *, memory_bytes: int | None = None, slowdown: float = 0.1) -> list[Advice]:
    """Return the advice on each group of candidates that are alternatives to each other.

    Args:
        candidates: of one stored run.
        memory_bytes: what a device has; None is no limit.
        slowdown: how much slower than the fastest the leanest may be, as a share.
    """
    groups: dict[tuple[str, str, int, int], list[Candidate]] = defaultdict(list)
    for one in candidates:
        groups[one.case.model, one.dataset, one.case.gpu_count, one.case.global_batch_size].append(one)
    return [
        _advice(key, members, memory_bytes, slowdown)
        for key, members in sorted(groups.items(), key=lambda item: item[0])
    ]


def _advice(key: tuple[str, str, int, int], members: Sequence[Candidate], limit: int | None, slowdown: float) -> Advice:
    refused = [(one, one.why_not or "no step was measured") for one in members if one.why_not or one.step_s is None]
    counted = sorted((one for one in members if not one.why_not and one.step_s is not None), key=_time)
    fitting = [one for one in counted if fits(one, limit)]
    fastest = fitting[0] if fitting else None
    leanest = _leanest(fitting, slowdown)
    return Advice(
        model=key[0],
        dataset=key[1],
        gpu_count=key[2],
        global_batch_size=key[3],
        counted=tuple(counted),
        fastest=fastest,
        leanest=leanest,
        pareto=tuple(one for one in fitting if not any(_dominates(other, one) for other in fitting)),
        sentences=tuple(_sentences(counted, fitting, fastest, leanest, slowdown)),
        refused=tuple(refused),
    )


def fits(one: Candidate, limit_bytes: int | None) -> bool:
    """Return whether a case is known to stay within a device's memory."""
    return limit_bytes is None or (one.memory_bytes is not None and one.memory_bytes <= limit_bytes)


TOLD_APART = (
    f"Told apart: slower than the fastest by the processes of the time layer, with {LEVEL:.0%} confidence over all "
    "others together; where these were not timed, the middle halves of the step times lie apart, which says nothing of "
    "how runs differ."
)


def told_apart(one: Candidate, fastest: Candidate, *, others: int = 1) -> bool:
    """Return whether a case is beyond doubt slower than the fastest: by processes, or else by the spread of its steps.

    Args:
        one: the case.
        fastest: with the least median step.
        others: how many cases are held to the fastest.
    """
    known = ranking.slower(one.timing, fastest.timing, comparisons=others)
    if known is not None:
        return known.low > 0
    if min(len(one.steps_s), len(fastest.steps_s)) < _FEWEST_STEPS:
        return False
    return quantiles(one.steps_s, n=4)[0] > quantiles(fastest.steps_s, n=4)[2]


def slower(one: Candidate, fastest: Candidate, *, others: int = 1) -> str:
    """Return by how much a case is slower than the fastest, in words: with its interval where processes tell it."""
    known: Slower | None = ranking.slower(one.timing, fastest.timing, comparisons=others)
    if known is not None:
        return f"{known.estimate:.0%} ({known.low:.0%} to {known.high:.0%}, by processes) slower"
    return f"{_time(one) / _time(fastest) - 1:.0%} (by steps) slower" if _time(fastest) else "infinitely slower"


def _time(one: Candidate) -> float:
    return one.step_s if one.step_s is not None else float("inf")


def _leanest(fitting: Sequence[Candidate], slowdown: float) -> Candidate | None:
    if not fitting:
        return None
    within = [one for one in fitting if _time(one) <= _time(fitting[0]) * (1 + slowdown)]
    known = [(one.memory_bytes, _time(one), one) for one in within if one.memory_bytes is not None]
    return min(known, key=lambda entry: entry[:2])[2] if known else None


def _dominates(a: Candidate, b: Candidate) -> bool:
    """Return whether a is at least as good as b in all, and better in one; what is not known is worst."""
    worst = float("inf")
    one, other = (
        (
            _time(c),
            worst if c.memory_bytes is None else c.memory_bytes,
            worst if c.accuracy is None else -c.accuracy,
        )
        for c in (a, b)
    )
    return one != other and all(x <= y for x, y in zip(one, other, strict=True))


def _sentences(
    counted: Sequence[Candidate],
    fitting: Sequence[Candidate],
    fastest: Candidate | None,
    leanest: Candidate | None,
    slowdown: float,
) -> Iterable[str]:
    if fastest is None:
        known = [(one.memory_bytes, one) for one in counted if one.memory_bytes is not None]
        if known:
            size, least = min(known, key=lambda entry: entry[0])
            yield f"nothing fits: the least memory is {gib(size)}, of {least.at}"
        elif counted:
            yield "nothing is known to fit: no peak memory was measured"
        else:
            yield "nothing to recommend: no case here counts"
        return
    yield _fastest_sentence(fastest, fitting, len(counted) - len(fitting))
    if leanest is None:
        yield "leanest: n/a, no peak memory was measured"
    elif leanest is fastest:
        yield f"leanest: {leanest.at} too: nothing at most {slowdown:.0%} slower needs less memory"
    else:
        yield _leanest_sentence(leanest, fastest, others=len(fitting) - 1)
    if any(one.oversubscribed for one in fitting):
        yield "unsure: there were more ranks than cores, so that these times say little"
    if any(one.disturbed for one in fitting):
        yield "unsure: those marked ! were disturbed while they were timed, by others or by clocks held down"


def _fastest_sentence(fastest: Candidate, fitting: Sequence[Candidate], left_out: int) -> str:
    among = f" of the {len(fitting)} that fit" if left_out else ""
    head = f"fastest{among}: {fastest.at}, {_time(fastest) * 1e3:.1f} ms a step"
    others = len(fitting) - 1
    if not others:
        return f"{head}, the only one that {'fits' if left_out else 'counts'}"
    alike = [one.name for one in fitting[1:] if not told_apart(one, fastest, others=others)]
    if alike:
        return f"{head}, but not told apart from {', '.join(alike)}"
    return f"{head}; {fitting[1].name}, the next, is {slower(fitting[1], fastest, others=others)}"


def _leanest_sentence(leanest: Candidate, fastest: Candidate, *, others: int) -> str:
    told = f"{slower(leanest, fastest, others=others)} than {fastest.name}"
    if not told_apart(leanest, fastest, others=others):
        told += " (not told apart)"
    if fastest.memory_bytes is None or leanest.memory_bytes is None or not fastest.memory_bytes:
        return f"leanest: {leanest.at}: {told}"
    saved = 1 - leanest.memory_bytes / fastest.memory_bytes
    return f"leanest: {leanest.at}: {told}, but needs {saved:.0%} less memory ({gib(leanest.memory_bytes)})"


def gib(size_bytes: int) -> str:
    """Return a size as it is shown."""
    return f"{size_bytes / 2**30:.3f} GiB"


# ------------------------------------------------------------------------------------------------- effort


def effort(strategy: Strategy) -> Effort:
    """Return what it takes to use a strategy, from its own file."""
    function = inspect.unwrap(getattr(strategy.shard, "func", strategy.shard))
    return Effort(
        lines=lines_of_code(function, inspect.getsource(inspect.getmodule(function) or function)),
        requires=strategy.requires,
        refuses=tuple(strategy.refuses),
    )


def lines_of_code(function: Callable[..., Any], source: str) -> int:
    """Return the lines of a function and of what it uses of its own module.

    Blank lines, comments and docstrings do not count, nor does what other modules define.

    Args:
        function: as it is defined at the top of the module, or a partial of such.
        source: of the module.
    """
    while hasattr(function, "func"):
        function = function.func
    top: dict[str, ast.stmt] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            top[node.name] = node
        elif isinstance(node, ast.Assign):
            top |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    wanted, used = [getattr(function, "__name__", type(function).__name__)], set()
    while wanted:
        name = wanted.pop()
        if name in top and name not in used:
            used.add(name)
            wanted += [node.id for node in ast.walk(top[name]) if isinstance(node, ast.Name)]
    text = source.splitlines()
    numbers = set().union(*(_code(top[name], text) for name in used))
    return len(numbers)


def _code(top: ast.stmt, text: Sequence[str]) -> set[int]:
    """Return the numbers of the lines that hold code."""
    decorators = getattr(top, "decorator_list", [])
    lines = set(range(min([top.lineno, *(d.lineno for d in decorators)]), (top.end_lineno or top.lineno) + 1))
    for node in ast.walk(top):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return {number for number in lines if text[number - 1].strip() and not text[number - 1].strip().startswith("#")}
