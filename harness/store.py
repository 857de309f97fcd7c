"""Stored runs: pytest-benchmark's own JSON files under `baselines/<host>/`, written whole or not at all.

Each benchmark's `extra_info` holds the result under `shardbench`, raw samples included, its certificate, and the
result of the reference its speedup was taken against.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_benchmark.storage.file import FileStorage
from pytest_benchmark.utils import safe_dumps

from harness import certificate as certificates
from harness.certificate import Certificate
from harness.errors import StoreError
from harness.results import Result, result_from_json, result_to_json

KEY = "shardbench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One case of a stored run."""

    where: str
    """The file, as messages name it."""
    result: Result
    reference: Result | None
    certificate: Certificate | None = None


class BaselineStorage(FileStorage):  # type: ignore[misc]
    """pytest-benchmark's folder of numbered files, with a host's name as the folder and no half-written files."""

    def save(self, output_json: Mapping[str, Any], save: str) -> None:
        """Write a run under the next free number.

        Raises:
            StoreError: the file cannot be written; what was stored before is untouched.
        """
        file = self.get(f"{self._next_num}_{save}.json")
        part = file.with_suffix(f".{os.getpid()}.part")
        try:
            part.write_bytes(safe_dumps(output_json, ensure_ascii=True, indent=1).encode())
            # A link refuses to replace, so that two runs that chose one number cannot lose a file.
            os.link(part, file)
        except OSError as error:
            raise StoreError(
                f"this run cannot be stored as {file}: {error.strerror}; nothing stored before is touched: "
                "free or change the folder (--benchmark-storage) and run again"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
        self.logger.info(f"stored this run in {file}")

    def load(self, *globs_or_files: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield path and content of the files that match.

        Raises:
            StoreError: a file is no stored run.
        """
        for file in self.query(*(globs_or_files or ("[0-9][0-9][0-9][0-9]_",))):
            read_run(file)
        yield from super().load(*globs_or_files)


def read_run(file: Path) -> dict[str, Any]:
    """Return the content of a stored run.

    Raises:
        StoreError: the file cannot be read, or is no stored run.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        benchmarks = content["benchmarks"]
        for bench in benchmarks:
            # What pytest-benchmark itself reads; a file it cannot read it would leave out with a warning.
            if not (isinstance(bench["fullname"], str) and isinstance(bench["stats"]["mean"], float)):
                raise TypeError("a benchmark has no name or no mean")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{file} is no stored run ({type(error).__name__}: {error}); restore it from version control or delete it"
        ) from error
    return dict(content)


def pack(result: Result, reference: Result | None, certificate: Certificate | None) -> dict[str, Any]:
    """Return what goes into a benchmark's `extra_info`; a reference is given only if it is certified."""
    return {
        KEY: {
            "result": result_to_json(result),
            "reference": None if reference is None else result_to_json(reference),
            "certificate": None if certificate is None else certificates.to_json(certificate),
        }
    }


def unpack(benchmark: Mapping[str, Any], *, where: str) -> Stored | None:
    """Return the case a stored benchmark holds, or None where it is no case of this suite.

    Raises:
        StoreError: it is one, but of another schema or damaged.
    """
    extra = benchmark.get("extra_info", {})
    packed = extra.get(KEY) if isinstance(extra, dict) else extra
    if packed is None and extra is not None:
        return None
    if not isinstance(packed, dict) or "result" not in packed:
        raise StoreError(f"{where} holds no result under extra_info.{KEY}; record it again with --benchmark-save")
    reference, certificate = packed.get("reference"), packed.get("certificate")
    return Stored(
        where=where,
        result=result_from_json(packed["result"], where=where),
        reference=None if reference is None else result_from_json(reference, where=where),
        certificate=None if certificate is None else certificates.certificate(certificate, where=where),
    )


def recall(runs: Mapping[Any, Mapping[str, Any]], fullname: str) -> Stored | None:
    """Return the newest of the compared runs' records of a test, or None.

    Args:
        runs: as pytest-benchmark keeps them: benchmarks by full name, by path, oldest first.
        fullname: the test's node id.
    """
    for path, benchmarks in reversed(list(runs.items())):
        if fullname in benchmarks:
            return unpack(benchmarks[fullname], where=str(path))
    return None


def newest(folder: Path, *, case_id: str, identity: str) -> Stored | None:
    """Return the newest certified record of a case with that identity under a host's folder, or None.

    Raises:
        StoreError: a file that had to be read is damaged.
    """
    for file in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.json"), reverse=True):
        for benchmark in read_run(file)["benchmarks"]:
            stored = unpack(benchmark, where=file.name)
            if stored is None or stored.certificate is None or not stored.certificate.granted:
                continue
            for result in (stored.result, stored.reference):
                if result is not None and (result.case_id, result.identity) == (case_id, identity):
                    return Stored(where=file.name, result=result, reference=None)
    return None
