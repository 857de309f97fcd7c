"""Stored runs as people ask for them: one by its name or commit, and every run that holds a case, oldest first."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.case import Case
from harness.errors import StoreError
from harness.stored import store
from harness.stored.baselines import MOST_AUTOSAVED, is_autosaved
from harness.stored.store import KEY, Stored

RUNS = "[0-9][0-9][0-9][0-9]_*.json"
"""How pytest-benchmark names the files of stored runs."""
_LEAST_COMMIT = 7
"""Digits of a commit that name it, as git writes them in short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A stored run, and the cases that it holds."""

    file: Path
    host: str
    at: datetime
    commit: str
    """Whose code was run; empty where no commit holds it."""
    machine: Mapping[str, Any]
    """pytest-benchmark's `machine_info`, as the file has it."""
    cases: Mapping[Case, Stored]
    tests: Mapping[Case, str]
    """Node id of each case's test."""

    @property
    def name(self) -> str:
        """The file as messages name it, without its ending."""
        return f"{self.file.absolute().parent.name}/{self.file.stem}"


def read(file: Path, *, only: Collection[str] | None = None) -> StoredRun:
    """Return a stored run.

    Args:
        file: as --benchmark-save or --benchmark-json wrote it.
        only: ids of the cases that are looked at; None looks at all.

    Raises:
        StoreError: there is no such file, it is no stored run, or is damaged.
    """
    if file.is_dir():
        raise StoreError(f"{file} is a folder; name one of the files in it, for example 0001_accepted.json")
    if not file.exists():
        raise StoreError(f"there is no file {file}; stored runs are in baselines/<host>/")
    content = store.read_run(file)
    machine = content.get("machine_info")
    where, commit = f"{file.absolute().parent.name}/{file.name}", store.commit_of(content)
    cases, tests = {}, {}
    for benchmark in content["benchmarks"]:
        if only is not None and _case_id(benchmark) not in only:
            continue
        stored = store.unpack(benchmark, where=where, commit=commit)
        if stored is not None:
            case = Case.parse(stored.result.case_id)
            cases[case], tests[case] = stored, benchmark["fullname"]
    return StoredRun(
        file=file,
        host=store.host_of(content),
        at=_time(content, file),
        commit=commit,
        machine=machine if isinstance(machine, dict) else {},
        cases=cases,
        tests=tests,
    )


def find(text: str, folder: Path) -> Path:
    """Return the file of a stored run: by its path, by its name or number below `folder`, or by its commit.

    Raises:
        StoreError: none is named so, or several are.
    """
    if (path := Path(text)).suffix == ".json" or path.exists():
        return path
    known = sorted(folder.rglob(RUNS))
    found = [file for file in known if text.removeprefix(f"{file.parent.name}/") in (file.stem, file.stem[:4])]
    if not found and len(text) >= _LEAST_COMMIT:
        found = [file for file in known if store.commit_of(store.read_run(file)).startswith(text)]
    if len(found) == 1:
        return found[0]
    names = [f"{file.parent.name}/{file.stem}" for file in found or known]
    if found:
        raise StoreError(f"{text!r} is {len(found)} stored runs: {', '.join(names[-8:])}; name one of them")
    near = difflib.get_close_matches(text, [*names, *(file.stem for file in known)], n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"below {folder} there are: {', '.join(names[-8:]) or 'none'}"
    raise StoreError(f"no stored run {text!r}, by file, name, number or commit; {hint}")


def of_host(folder: Path, host: str) -> list[Path]:
    """Return the files of a host's runs, oldest first: all that were accepted, and the newest of the others."""
    files = sorted((folder / host).glob(RUNS), key=lambda file: file.name)
    autosaved = [file for file in files if is_autosaved(file)]
    left_out = set(autosaved[:-MOST_AUTOSAVED])
    return [file for file in files if file not in left_out]


def of_cases(cases: Iterable[Case], files: Iterable[Path]) -> dict[Case, tuple[Stored, ...]]:
    """Return what stored runs hold of each case, in the order of the files; a case that none holds is left out.

    Raises:
        StoreError: a file is damaged.
    """
    ids = {case.id for case in cases}
    found: dict[Case, list[Stored]] = {}
    for file in files:
        for case, stored in read(file, only=ids).cases.items():
            found.setdefault(case, []).append(stored)
    return {case: tuple(records) for case, records in found.items()}


def case_ids(files: Iterable[Path]) -> set[str]:
    """Return the ids of all cases that stored runs hold.

    Raises:
        StoreError: a file is damaged.
    """
    return {name for file in files for one in store.read_run(file)["benchmarks"] for name in _case_ids(one)}


def _case_ids(benchmark: Mapping[str, Any]) -> Iterator[str]:
    if (name := _case_id(benchmark)) is not None:
        yield name


def _case_id(benchmark: Mapping[str, Any]) -> str | None:
    """Return the id that a stored benchmark gives itself, whatever else it holds; None where it is no case."""
    extra = benchmark.get("extra_info")
    packed = extra.get(KEY) if isinstance(extra, dict) else None
    result = packed.get("result") if isinstance(packed, dict) else None
    name = result.get("case_id") if isinstance(result, dict) else None
    return name if isinstance(name, str) else None


def _time(content: Mapping[str, Any], file: Path) -> datetime:
    try:
        return datetime.fromisoformat(content["datetime"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{file} does not say when it was run ({error}); {store.MEND}") from error
