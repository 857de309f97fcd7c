"""Certificates of one run: kept ones where they still hold, else made by training a few steps beside the reference."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from harness import certificate as certificates
from harness.case import Case
from harness.certificate import Certificate, Played, Row
from harness.gate.evidence import Evidence
from harness.gate.sameness import judge
from harness.plugins import Strategy, Traffic, Unit
from harness.registry import Registry
from harness.results import RankReport
from harness.source import file_of, source_of

_HARNESS = Path(__file__).parent
_OTHERS = frozenset(
    [
        *("accounting", "agent", "breaking", "ceilings", "faults", "fitting", "flight", "frozen", "keeping", "ledger"),
        *("loaders", "cold", "overhead", "replicate", "saving", "scoring", "serving", "tracing"),
    ]
)
"""Of the worker, what only other runs than the certified steps go through, or, for faults, those that say so."""
_SOURCES = (
    "worker/*.py",
    "datasets/*.py",
    "strategies/_*.py",
    "models/_*.py",
    "gate/causes.py",
    "gate/evidence.py",
    "gate/regime.py",
    "gate/sameness.py",
    "*ertif*.py",
    "job.py",
    "plugins.py",
)
"""What every certificate depends on, beside the modules of its strategy and model."""


@dataclass(slots=True, kw_only=True)
class Certifier:
    """Finds or makes the certificates of cases."""

    registry: Registry
    kept: Path
    """Folder of the certificates of earlier runs."""
    folder: Path
    """Folder for the states of references, which are as large as their models and belong to this run alone."""
    facts: dict[str, Any]
    """What certificates of this run depend on, whatever the case: versions, the machine, plug-in modules."""
    launch: Callable[..., tuple[Sequence[RankReport], float]]
    """Given a case, a title and fields of its job: start the ranks; returns their reports and the seconds it took."""
    recertify: bool = False
    made: list[Certificate] = field(default_factory=list)
    """Certificates that this run paid for."""
    reference_s: float = 0.0
    """Seconds that references took."""
    known: dict[Case, Certificate] = field(default_factory=dict)
    """Of every case that was asked for, references of speedups included."""
    _references: dict[Case, tuple[Played, Path]] = field(default_factory=dict)

    def certificate(self, case: Case, facts: dict[str, Any]) -> Certificate:
        """Return the certificate of a case, granted or not.

        Args:
            case: what is to be certified.
            facts: what it depends on beside the run's own facts: settings, data, weights.

        Raises:
            WorkerFailed: the strategy, or the reference, could not train these steps.
        """
        if case not in self.known:
            key = self._key(case, facts)
            file = self.kept / f"{case}-{key}.json"
            found = None if self.recertify else certificates.read(file)
            if found is None:
                found = self._make(case, key)
                self.made.append(found)
                if found.granted:
                    certificates.write(found, file)
            self.known[case] = found
        return self.known[case]

    def keeps(self, case: Case, facts: dict[str, Any]) -> bool:
        """Return whether a certificate need not be made; arguments as for `certificate`."""
        file = self.kept / f"{case}-{self._key(case, facts)}.json"
        return case in self.known or (not self.recertify and file.exists())

    def _make(self, case: Case, key: str) -> Certificate:
        strategy: Strategy = self.registry.find("strategies", case.strategy)
        reference, file = self._reference(case)
        reports, seconds = self.launch(case, f"{case}: certificate", purpose="certify", reference=file)
        evidence = Evidence(
            case=case,
            strategy=_laid_out(strategy, case),
            reference=reference,
            ranks=[certificates.watched(report.extra["watched"]) for report in reports],
        )
        found = judge(evidence, key=key, seconds=seconds, unix_time=time.time())
        return _held_within_nodes(found, strategy, evidence) if strategy.hierarchy else found

    def _reference(self, case: Case) -> tuple[Played, Path]:
        """Return what the reference did, and its state: the same for every strategy."""
        any_strategy = replace(case, strategy="any", offload="none", checkpointing=False, gpus_per_node=None)
        if any_strategy not in self._references:
            self.folder.mkdir(exist_ok=True)
            file = self.folder / f"{any_strategy}.pt"
            title = f"{case.model} on {case.gpu_count} ranks: reference"
            reports, seconds = self.launch(case, title, purpose="play", reference=file, ranks=1)
            self.reference_s += seconds
            self._references[any_strategy] = certificates.played(reports[0].extra["played"]), file
        return self._references[any_strategy]

    def _key(self, case: Case, facts: dict[str, Any]) -> str:
        strategy, model = self.registry.find("strategies", case.strategy), self.registry.find("models", case.model)
        digest = hashlib.sha256(json.dumps([case.id, self.facts, facts], sort_keys=True, default=str).encode())
        files = [file for pattern in _SOURCES for file in sorted(_HARNESS.glob(pattern)) if file.stem not in _OTHERS]
        files += [file for name in self.facts.get("plugins", ()) if (file := file_of(name)) is not None]
        for text in (source_of(strategy.shard), source_of(model.build), *_texts(files)):
            digest.update(text)
        return digest.hexdigest()[:16]


def _laid_out(strategy: Strategy, case: Case) -> Strategy:
    """Return a strategy for several nodes with what it moves over those of a case.

    gloo reports a reduce-scatter as an all-reduce of the whole, so the two are told as one kind.
    """
    hierarchy, per_node = strategy.hierarchy, case.gpus_per_node
    if hierarchy is None or per_node is None:
        return strategy

    def traffic(units: Sequence[Unit], ranks: int) -> Sequence[Traffic]:
        found: dict[Any, list[Traffic]] = {}
        for moved in hierarchy.traffic(units, ranks, per_node):
            found.setdefault("all_reduce" if moved.kind == "reduce_scatter" else moved.kind, []).append(moved)
        return [
            Traffic(
                kind=kind,
                elements=sum(one.elements for one in of_kind),
                calls=None if any(one.calls is None for one in of_kind) else sum(one.calls or 0 for one in of_kind),
            )
            for kind, of_kind in found.items()
        ]

    return replace(strategy, traffic=traffic)


def _held_within_nodes(found: Certificate, strategy: Strategy, evidence: Evidence) -> Certificate:
    """Return a certificate with what a rank keeps held to what it must where a node has copies of its own."""
    case, sizes, ranks = evidence.case, evidence.reference.sizes, evidence.ranks
    assert strategy.hierarchy is not None
    shares = strategy.hierarchy.held(case.gpu_count, case.gpus_per_node or case.gpu_count)
    small = sum(size for size in sizes if size < strategy.whole_below)
    wholes = sum(sizes), evidence.played[0].held_state
    held = fmean(rank.held_parameters for rank in ranks), fmean(rank.held_state for rank in ranks)
    wanted = shares[0] * wholes[0] + small, shares[1] * wholes[1]
    # Padding, as `harness.gate.regime` allows it.
    same = all(0.9 * most - 1024 <= own <= 1.1 * most + 1024 for own, most in zip(held, wanted, strict=True))

    def words(parameters: float, state: float) -> str:
        return f"a rank keeps {parameters:,.0f} elements of parameters and {state:,.0f} of the optimizer's state"

    row = Row(fact="sharding", strategy=words(*held), reference=words(*wanted), same=same)
    if same:
        row = replace(row, reference=row.strategy)
    causes = () if same else (f"{row.fact}: {row.strategy}, must be {row.reference}",)
    others = tuple(one for one in found.regime if one.fact != row.fact)
    return replace(found, regime=(*others, row), causes=(*found.causes, *causes))


def _texts(files: Iterable[Path]) -> Iterable[bytes]:
    return (file.read_bytes() for file in files)
