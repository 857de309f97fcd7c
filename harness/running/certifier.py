"""Certificates of one run: kept ones where they still hold, else made by training a few steps beside the reference."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import certificate as certificates
from harness.case import Case
from harness.certificate import Certificate, Played
from harness.gate.evidence import Evidence
from harness.gate.sameness import judge
from harness.plugins import Strategy
from harness.registry import Registry
from harness.results import RankReport
from harness.source import file_of, source_of

_HARNESS = Path(__file__).parents[1]
_OTHERS = frozenset(
    [
        *("accounting", "agent", "breaking", "ceilings", "elastic", "faults", "fitting", "flight", "frozen", "keeping"),
        *("ledger", "loaders", "cold", "overhead", "replicate", "saving", "scoring", "serving", "tracing"),
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
    "certificate.py",
    "running/certifier.py",
    "running/job.py",
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
            file = self._file(case, key)
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
        if case in self.known:
            return True
        return not self.recertify and self._file(case, self._key(case, facts)).exists()

    def _file(self, case: Case, key: str) -> Path:
        return self.kept / f"{case}-{key}.json"

    def _make(self, case: Case, key: str) -> Certificate:
        strategy: Strategy = self.registry.find("strategies", case.strategy)
        reference, file = self._reference(case)
        reports, seconds = self.launch(case, f"{case}: certificate", purpose="certify", reference=file)
        evidence = Evidence(
            case=case,
            strategy=strategy,
            reference=reference,
            ranks=[certificates.watched(report.extra["watched"]) for report in reports],
        )
        return judge(evidence, key=key, seconds=seconds, unix_time=time.time())

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


def _texts(files: Iterable[Path]) -> Iterable[bytes]:
    return (file.read_bytes() for file in files)
