"""Stored runs: pytest-benchmark's own JSON files under `baselines/<host>/`, sealed, and written whole or not at all.

Each benchmark's `extra_info` holds the result under `shardbench`, raw samples included, its certificate, its verdict,
and the result of the reference its speedup was taken against. The seal is a digest of the whole file: no key protects
it, so it keeps nobody from forging a run, but no figure is changed by accident or in passing without being seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytest_benchmark.storage.file import FileStorage
from pytest_benchmark.utils import safe_dumps

from harness import certificate as certificates
from harness.case import Case
from harness.certificate import Certificate
from harness.errors import CaseError, StoreError
from harness.results import SCHEMA, Result, result_from_json, result_to_json
from harness.stored import reading
from harness.stored.writing import probe, whole

KEY = "shardbench"
SEAL = "seal"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
MEND = "restore it from version control, or delete it and record again with --benchmark-save"
"""What to do about a damaged file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One case of a stored run."""

    where: str
    """The file, as messages name it."""
    result: Result
    reference: Result | None
    certificate: Certificate | None = None
    verdict: str
    """What that run said of it, in a word."""
    reasons: tuple[str, ...] | None = None
    """And why, a sentence each; None of a run that was stored before they were."""
    commit: str = ""
    """Of the code that was run; nothing where no commit holds it."""


class BaselineStorage(FileStorage):  # type: ignore[misc]
    """pytest-benchmark's folder of numbered files, with a host's name as the folder and no half-written files."""

    def refuse_unwritable(self) -> None:
        """Let nothing be measured that could not be stored.

        Raises:
            StoreError: the folder cannot be made, or nothing can be written there.
        """
        folder = Path(self.path, self.default_machine_id)
        try:
            probe(folder)
        except OSError as error:
            raise StoreError(
                f"this run could not be stored in {folder}: {error.strerror}; free or change the folder "
                "(--benchmark-storage), or leave out what stores it"
            ) from error

    def save(self, output_json: Mapping[str, Any], save: str) -> None:
        """Seal a run and write it under the next free number.

        Raises:
            StoreError: the file cannot be written; what was stored before is untouched.
        """
        text = safe_dumps(sealed(output_json), ensure_ascii=True, indent=1)
        file = self.get(f"{self._next_num}_{save}.json")
        part = file.with_suffix(f".{os.getpid()}.part")
        try:
            part.write_bytes(text.encode())
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
        """Yield path and content of the files that match; the path as seen from the folder of all hosts, or absolute.

        Raises:
            StoreError: a file is no stored run, or lies in another host's folder.
        """
        for file in map(Path.absolute, self.query(*(globs_or_files or ("[0-9][0-9][0-9][0-9]_",)))):
            own = file.is_relative_to(self.path)
            yield (file.relative_to(self.path), read_baseline(file)) if own else (file, read_run(file))


def sealed(output_json: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run as a file holds it, with its seal.

    Raises:
        StoreError: a figure is NaN or infinite, which is no measurement, or what it holds could not be read again.
    """
    try:
        plain: dict[str, Any] = json.loads(safe_dumps(output_json, allow_nan=False))
    except ValueError as error:
        raise StoreError(
            f"this run is not stored, for a figure in it is no number ({error}): nothing could be compared with it; "
            "find the test that recorded it, and let it say None instead"
        ) from error
    try:
        reading.refuse_unreadable(plain)
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"this run is not stored, for it could not be read again ({error}): find the test that recorded it"
        ) from error
    return plain | {SEAL: _digest(plain)}


def write_run(file: Path, output_json: Mapping[str, Any]) -> None:
    """Write a run where --benchmark-json names a file, sealed, and whole or not at all.

    Raises:
        OSError: the file cannot be written; one that was there is untouched.
        StoreError: what the run holds cannot be stored.
    """
    content = safe_dumps(sealed(output_json), ensure_ascii=True, indent=4).encode()
    if file.exists() and not file.is_file():
        file.write_bytes(content)  # a pipe or a device, which a rename would put a file in place of
    else:
        whole(file, content)


def _digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything but the seal, as JSON of one spelling."""
    rest = {key: value for key, value in content.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def read_baseline(file: Path) -> dict[str, Any]:
    """Return the content of a stored run that lies in a host's folder.

    Raises:
        StoreError: it is no stored run, or one of another host.
    """
    content = read_run(file)
    folder = file.absolute().parent
    if (found := host_of(content)) != folder.name:
        raise StoreError(
            f"{file} was recorded on {found!r} and lies among the runs of {folder.name!r}: "
            f"move it to {folder.parent.name}/{found}/, or delete it"
        )
    return content


def host_of(content: Mapping[str, Any]) -> str:
    """Return the name of the machine that recorded a run."""
    machine = content.get("machine_info")
    return str(machine.get("node")) if isinstance(machine, dict) else "an unknown machine"


def read_run(file: Path) -> dict[str, Any]:
    """Return the content of a stored run; of a file that did not change since, what was read before.

    Raises:
        StoreError: the file cannot be read, is truncated, is no JSON or none that this suite writes, has no seal or
            one that does not fit, is of another schema, or has a case without a verdict.
    """
    try:
        now = file.stat()
        return _read(file.absolute(), now.st_mtime_ns, now.st_size)
    except OSError as error:
        raise StoreError(f"{file} cannot be read ({error.strerror}); make it readable, or {MEND}") from error


@lru_cache(maxsize=32)
def _read(file: Path, changed_ns: int, size: int) -> dict[str, Any]:
    """Return the content of a file as it is at a time and size, which stand for its content."""
    content = reading.read(file, kind="stored run", mend=MEND)
    if not isinstance(content, dict):
        raise StoreError(f"{file} is no stored run: it holds no table; {MEND}")
    _refuse_other_schema(file, content)
    if not seal_fits(content):
        raise StoreError(f"{file} was changed after it was written: its seal does not fit what it holds; {MEND}")
    for bench in _cases(file, content):
        if not isinstance(bench["extra_info"][KEY].get("verdict"), str):
            raise StoreError(f"{file} holds {bench['fullname']} without a verdict; {MEND}")
    return content


def seal_fits(content: Mapping[str, Any]) -> bool:
    """Return whether a run is what was sealed."""
    return content.get(SEAL) == _digest(content)


def _refuse_other_schema(file: Path, content: Mapping[str, Any]) -> None:
    """Raise for what another suite, or another version of this one, wrote; it may seal otherwise, or not at all."""
    for bench in _cases(file, content):
        result = bench["extra_info"][KEY].get("result")
        version = result.get("schema_version") if isinstance(result, dict) else None
        if version != SCHEMA:
            raise StoreError(
                f"{file} holds a result of schema {version!r}, and this suite reads schema {SCHEMA}; "
                "delete it and record again with --benchmark-save"
            )
    if SEAL not in content:
        raise StoreError(f"{file} has no seal: an older suite wrote it, or something else; {MEND}")


def _cases(file: Path, content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the benchmarks that are cases of this suite.

    Raises:
        StoreError: what pytest-benchmark itself reads is missing; it would leave the file out with a warning.
    """
    benchmarks = content.get("benchmarks")
    if not isinstance(benchmarks, list):
        raise StoreError(f"{file} is no stored run: it has no list of benchmarks; {MEND}")
    for place, bench in enumerate(benchmarks):
        if not (isinstance(bench, dict) and isinstance(bench.get("fullname"), str)):
            raise StoreError(f"{file} is no stored run: benchmark {place} has no name; {MEND}")
        stats = bench.get("stats")
        if not (isinstance(stats, dict) and isinstance(stats.get("mean"), float)):
            raise StoreError(f"{file} is no stored run: {bench['fullname']} has no mean; {MEND}")
        extra = bench.get("extra_info")
        if isinstance(extra, dict) and KEY in extra:
            if not isinstance(extra[KEY], dict):
                raise StoreError(f"{file} holds no result of {bench['fullname']}; {MEND}")
            yield bench


def pack(
    result: Result,
    reference: Result | None,
    certificate: Certificate | None,
    *,
    verdict: str,
    reasons: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what goes into a benchmark's `extra_info`; a reference is given only if it is certified."""
    return {
        KEY: {
            "result": result_to_json(result),
            "reference": None if reference is None else result_to_json(reference),
            "certificate": None if certificate is None else certificates.to_json(certificate),
            "verdict": verdict,
            "reasons": list(reasons),
        }
    }


def commit_of(content: Mapping[str, Any]) -> str:
    """Return the commit whose code a stored run was made with; nothing where no commit holds that code."""
    told = content.get("commit_info")
    found = told.get("id") if isinstance(told, dict) and told.get("dirty") is False else None
    # What git is asked for is a digest and nothing else, whatever a file says.
    return found if isinstance(found, str) and _COMMIT.fullmatch(found) else ""


def unpack(benchmark: Mapping[str, Any], *, where: str, commit: str = "") -> Stored | None:
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
    reference, certificate, verdict = packed.get("reference"), packed.get("certificate"), packed.get("verdict")
    result = _named(result_from_json(packed["result"], where=where), where)
    if not isinstance(verdict, str):
        raise StoreError(f"{where} holds no verdict under extra_info.{KEY}; record it again with --benchmark-save")
    reasons = packed.get("reasons")
    if reasons is not None and not (isinstance(reasons, list) and all(isinstance(one, str) for one in reasons)):
        raise StoreError(f"{where} holds reasons that are no texts under extra_info.{KEY}; {MEND}")
    return Stored(
        where=where,
        result=result,
        reference=None if reference is None else _named(result_from_json(reference, where=where), where),
        certificate=None if certificate is None else certificates.certificate(certificate, where=where),
        verdict=verdict,
        reasons=None if reasons is None else tuple(reasons),
        commit=commit,
    )


def _named(result: Result, where: str) -> Result:
    """Return the result, whose case becomes a name of files and tests, if it is one that a case can have."""
    try:
        Case.parse(result.case_id)
    except CaseError as error:
        raise StoreError(f"{where} holds no valid result: {error}; {MEND}") from error
    return result
