"""What each rank of an accounted case held, beside what its strategy must keep, and what is wrong if they part. Pure.

Every figure is of one device: of several ranks the fullest counts, never their sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.case import Case
from harness.plugins import Footprint, Share, Strategy
from harness.records.account import Account, Held

TOLERANCE = 0.01
"""Share of what is predicted. The closed forms are exact for today's libraries; a new version may pad otherwise."""
_LEAST_BYTES = 256
"""A few single numbers more or less are no model state."""
_LEAST_REST_BYTES = 1024
_FP32 = 4

STATE = ("parameters", "gradients", "optimizer", "master")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of memory of one rank."""

    kind: str
    rank: int
    measured_bytes: int
    predicted_bytes: int

    @property
    def ratio(self) -> float:
        """Measured over predicted; infinite where nothing is predicted."""
        return self.measured_bytes / self.predicted_bytes if self.predicted_bytes else math.inf

    @property
    def within(self) -> bool:
        """Whether they agree."""
        least = _LEAST_REST_BYTES if self.kind == "rest" else _LEAST_BYTES
        return abs(self.measured_bytes - self.predicted_bytes) <= max(least, TOLERANCE * self.predicted_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """A case's memory."""

    case: Case
    fullest: int
    """The rank with the highest peak in the accounted steps."""
    account: Account
    """Of that rank."""
    held: Held
    """Of that rank: what it keeps, with the gradients as the optimizer is given them, on its device and on the host."""
    rows: tuple[Row, ...]
    """Of every rank; empty where nothing is predicted."""
    unpredicted: str
    """Why nothing is, or empty."""
    sharded: float | None
    """Model state of the rank with the most x ranks / that of one plain process: 1 is sharded perfectly, the number of
    ranks not at all. Padding, master copies and what stays whole make it more. None where it was not measured."""
    causes: tuple[str, ...]
    """What is wrong, in words; such a case fails."""

    @property
    def predicted_state_bytes(self) -> int | None:
        """Model state that the fullest rank must keep."""
        of_rank = [row.predicted_bytes for row in self.rows if row.rank == self.fullest and row.kind in STATE]
        return sum(of_rank) if of_rank else None


def figures(case: Case, strategy: Strategy, accounts: Sequence[Account]) -> MemoryFigures:
    """Return the figures of a case.

    Args:
        case: what was accounted.
        strategy: the case's.
        accounts: of every rank, in order.
    """
    fullest = max(range(len(accounts)), key=lambda rank: accounts[rank].at_peak.total)
    unpredicted = _unpredicted(strategy, accounts)
    rows = () if unpredicted else tuple(_rows(case, strategy, accounts))
    held = [kept(account) for account in accounts]
    measured = all(account.at_update for account in accounts)
    return MemoryFigures(
        case=case,
        fullest=fullest,
        account=accounts[fullest],
        held=held[fullest],
        rows=rows,
        unpredicted=unpredicted,
        sharded=max(h.state for h in held) * len(accounts) / unsharded_bytes(accounts[0]) if measured else None,
        causes=(*_leaks(accounts), *_causes(rows, accounts)),
    )


def kept(account: Account) -> Held:
    """Return what a rank keeps from step to step, with the gradients as the optimizer is given them."""
    moments = account.kept, account.at_update or account.kept, account.offloaded or Held()
    end, update, host = (moment.by_kind() for moment in moments)
    return Held(
        **{kind: (update if kind == "gradients" else end)[kind] + host[kind] for kind in (*STATE, "buffers", "rest")}
    )


def unsharded_bytes(account: Account) -> int:
    """Return the model state of one process that trains the model plainly in FP32."""
    elements = sum(map(math.prod, account.shapes))
    counters = len(account.shapes) if account.counters else 0
    return _FP32 * (elements + account.trained * (1 + account.slots) + counters)


def predict(case: Case, strategy: Strategy, account: Account, *, rank: int, ranks: int) -> Footprint | None:
    """Return what a rank must keep, or None where the strategy does not say."""
    if strategy.memory is None:
        return None
    return strategy.memory(
        Share(
            units=account.units,
            shapes=account.shapes,
            ranks=ranks,
            rank=rank,
            slots=account.slots,
            counters=account.counters,
            offload=case.offload == "cpu",
            ranks_per_node=case.gpus_per_node,
        )
    )


def _unpredicted(strategy: Strategy, accounts: Sequence[Account]) -> str:
    if strategy.memory is None:
        return f"{strategy.name} does not say what it keeps"
    whole = sum(map(math.prod, accounts[0].shapes))
    if accounts[0].trained < whole:
        return f"{whole - accounts[0].trained:,} of {whole:,} parameters are frozen"
    if not all(account.at_update for account in accounts):
        return "no optimizer step was made: every gradient overflowed"
    return ""


def _rows(case: Case, strategy: Strategy, accounts: Sequence[Account]) -> Iterator[Row]:
    for rank, account in enumerate(accounts):
        wanted = predict(case, strategy, account, rank=rank, ranks=len(accounts))
        assert wanted is not None
        held = kept(account).by_kind()
        # On CUDA libraries stage otherwise, and offload into pinned memory: only what is model state is predicted.
        rest = {"rest": wanted.rest} if account.driver is None else {}
        predicted = {kind: getattr(wanted, kind) for kind in STATE} | {"buffers": account.buffer_bytes} | rest
        for kind, size in predicted.items():
            yield Row(kind=kind, rank=rank, measured_bytes=held[kind], predicted_bytes=size)


def _causes(rows: Sequence[Row], accounts: Sequence[Account]) -> Iterator[str]:
    for kind in dict.fromkeys(row.kind for row in rows):
        wrong = [row for row in rows if row.kind == kind and not row.within]
        if not wrong:
            continue
        worst = max(wrong, key=lambda row: abs(row.measured_bytes - row.predicted_bytes))
        where = "on every rank" if len(wrong) == len(accounts) else f"on rank {worst.rank}"
        times = f"{worst.ratio:.1f} times, " if worst.predicted_bytes else ""
        of_rank = {row.kind: row for row in rows if row.rank == worst.rank}
        yield (
            f"{kind} {mib(worst.measured_bytes)} MiB {where}, predicted {mib(worst.predicted_bytes)} MiB: "
            f"{times}{_pattern(worst, of_rank['gradients'], accounts)}"
        )


def _pattern(row: Row, gradients: Row, accounts: Sequence[Account]) -> str:
    """Return what the ratio of measured to predicted looks like; `gradients` are those of the same rank."""
    slots, ranks = accounts[row.rank].slots, len(accounts)
    patterns = []
    if row.kind in STATE and ranks > 1 and _near(row.ratio, ranks):
        wrong = "a module that is not wrapped" if row.kind == "parameters" else "a stage that shards nothing"
        patterns.append(f"as if it were not sharded over the {ranks} ranks ({wrong})")
    for more in (1, 2):
        if row.kind == "optimizer" and slots and _near(row.ratio, 1 + more / slots):
            patterns.append(f"state of {slots + more} elements for each parameter, where the optimizer has {slots}")
    if len(patterns) == 2 and gradients.predicted_bytes < _FP32 * accounts[row.rank].trained:
        # With two ranks both look the same, but then gradients tell whether what the optimizer works on is sharded.
        return patterns[gradients.within]
    if patterns:
        return ", or ".join(patterns)
    if row.kind == "rest" and row.measured_bytes > row.predicted_bytes:
        return "more than the strategy is known to keep beside model state: a copy, or a buffer that is never freed"
    if row.measured_bytes > row.predicted_bytes:
        return "more than the strategy is known to keep"
    return "less than the strategy must keep: something is not trained, or lies where it was not looked for"


def _near(value: float, other: float) -> bool:
    return abs(value - other) <= 2 * TOLERANCE * other


def _leaks(accounts: Sequence[Account]) -> Iterator[str]:
    """Say what grows from step to step, once for all ranks on which it does."""
    found: dict[str, list[int]] = {}
    for rank, account in enumerate(accounts):
        *_, before, middle, last = (0, 0, *account.ends_bytes)
        texts = [
            f"{mib(g.bytes_per_step)} MiB more every step: {g.type} {list(g.shape)} of {g.operator} at {g.place}"
            for g in account.growth
        ]
        if not texts and min(last - middle, middle - before) >= _LEAST_REST_BYTES and len(account.ends_bytes) > 2:
            texts = [f"{mib(last - middle)} MiB more after the last step, in no one place"]
        for text in texts:
            found.setdefault(text, []).append(rank)
    for text, on in found.items():
        yield f"leak {'on every rank' if len(on) == len(accounts) else f'on rank {on[0]}'}: {text}"


def mib(size: int) -> str:
    """Return bytes in MiB, to three places where there is less than one."""
    return f"{size / 2**20:.1f}" if size >= 2**20 else f"{size / 2**20:.3g}"
