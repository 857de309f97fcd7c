"""What `--resume` keeps of the cases that a run has finished, so that the next run goes on where this was interrupted.

One file a case, written when the case has been judged and read once: a run that comes to its end forgets its own.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness import certificate as certificates
from harness.case import Case
from harness.certificate import Certificate
from harness.errors import StoreError
from harness.gate.timing import TimeVerdict
from harness.results import Result, result_from_json, result_to_json
from harness.stored import reading
from harness.stored.writing import whole

SCHEMA = 1
_TIME: TypeAdapter[TimeVerdict | None] = TypeAdapter(TimeVerdict | None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a case came to, as far as it cannot be derived again."""

    unix_time: float
    result: Result
    certificate: Certificate
    reference: Result | None
    reference_note: str
    time: TimeVerdict | None
    speedup: float | None
    """As the gate holds it to other machines'."""


@dataclass(slots=True, kw_only=True)
class FinishedCases:
    """Those of a run, and of the interrupted one before it."""

    folder: Path | None
    """None keeps and finds nothing."""
    facts: Callable[[Case], dict[str, Any]]
    """What a case's outcome depends on: under others it is run again."""
    kept: dict[Case, Finished] = field(default_factory=dict)
    """Cases of the interrupted run that need not be run again."""
    said: list[str] = field(default_factory=list)
    """Why cases that were finished are run again, and what could not be kept."""
    _looked: set[Case] = field(default_factory=set)
    _written: set[Case] = field(default_factory=set)

    def find(self, case: Case) -> Finished | None:
        """Return what the interrupted run found of a case, if that still holds."""
        if self.folder is None:
            return None
        if case not in self._looked:
            self._looked.add(case)
            try:
                packed = reading.read(self._file(case), kind="finished case", mend="its case is run again")
                self._take(case, packed)
            except FileNotFoundError:
                pass
            except (OSError, ValueError, KeyError, TypeError, StoreError, ValidationError) as error:
                self.said.append(f"{case} is run again: what is kept of it cannot be read: {type(error).__name__}")
        return self.kept.get(case)

    def keep(self, case: Case, found: Finished) -> None:
        """Keep what a case came to; where that is not possible it is said, and the run goes on."""
        if self.folder is None:
            return
        packed = {
            "schema_version": SCHEMA,
            "facts": self._facts(case),
            "unix_time": found.unix_time,
            "result": result_to_json(found.result),
            "certificate": certificates.to_json(found.certificate),
            "reference": None if found.reference is None else result_to_json(found.reference),
            "reference_note": found.reference_note,
            "time": _TIME.dump_python(found.time, mode="json"),
            "speedup": found.speedup,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            whole(self._file(case), json.dumps(packed).encode(), durable=True)
            self._written.add(case)
        except OSError as error:
            self.said.append(f"{case} is not kept for --resume: {error.strerror}; free or change SHARDBENCH_CACHE")

    def forget(self) -> None:
        """Delete what is kept of this run's cases: it came to its end."""
        for case in self._written | set(self.kept):
            with contextlib.suppress(OSError):
                self._file(case).unlink()

    def sentence(self) -> str:
        """Return how many cases were not run again; nothing where all were."""
        if not self.kept:
            return ""
        last = max(found.unix_time for found in self.kept.values())
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(last))
        cases = "case was" if len(self.kept) == 1 else "cases were"
        return f"{len(self.kept)} {cases} finished by the interrupted run, until {when}, and not run again"

    def without(self, cases: Iterable[Case]) -> list[Case]:
        """Return the cases that are still to be run."""
        return [case for case in cases if self.find(case) is None]

    def _take(self, case: Case, packed: dict[str, Any]) -> None:
        facts, where = self._facts(case), str(self._file(case))
        theirs = packed["facts"]
        if others := [name for name in facts | theirs if facts.get(name) != theirs.get(name)]:
            self.said.append(f"{case} is run again: since it was finished its {others[0]} changed")
            return
        reference = packed["reference"]
        self.kept[case] = Finished(
            unix_time=float(packed["unix_time"]),
            result=result_from_json(packed["result"], where=where),
            certificate=certificates.certificate(packed["certificate"], where=where),
            reference=None if reference is None else result_from_json(reference, where=where),
            reference_note=str(packed["reference_note"]),
            time=_TIME.validate_python(packed["time"], strict=False),
            speedup=packed["speedup"],
        )

    def _facts(self, case: Case) -> dict[str, Any]:
        facts = self.facts(case) | {"schema": SCHEMA}
        known: dict[str, Any] = json.loads(json.dumps(facts, sort_keys=True, default=str))
        return known

    def _file(self, case: Case) -> Path:
        assert self.folder is not None
        return self.folder / f"{case}.json"
