"""Which stored runs a case is judged by, on this machine and from others.

A *level* is the runs that a case is compared with together: from the newest back to the one that began it, whose
verdict says that something changed (new, improved, or a regression that was accepted). A run that was found bad is
history until it is saved by name, so that no failure becomes the baseline by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.machine.host import Host
from harness.stored import store
from harness.stored.store import KEY, Stored

ACCEPT = "--benchmark-save=accepted"
"""What makes a run's figures the ones that later runs are held to."""
MOST_RUNS = 10
"""A level's runs that are compared with: the newest, and the one that began it; more tell little."""
MOST_AUTOSAVED = 20
"""A host's newest autosaved runs that are looked at, lest a year of nightly runs be read each time."""

SAME_LEVEL = ("passed", "unresolved")
"""Verdicts of a run in which no change was shown."""
NEEDS_ACCEPTANCE = frozenset({"regressed", "uncertified", "mispredicted", "unresolved", "vanished", "incomparable"})
"""Verdicts with which a run is no baseline unless it was saved by name."""

_AUTOSAVED = re.compile(r"\d{4}_[^_]+_\d{8}_\d{6}(_uncommitted-changes)?")
"""How pytest-benchmark names what --benchmark-autosave stores: by commit and time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What a case is held to."""

    level: tuple[Stored, ...] = ()
    """Runs of this host and this set-up, newest first."""
    others: tuple[Stored, ...] = ()
    """Without a level: the newest certified record of the same set-up from each other machine, newest first."""
    incomparable: bool = False
    """Whether there is no level only because this host's name stands for other hardware in the stored runs."""
    note: str = ""
    """Without a level: why there is none."""

    @property
    def newest(self) -> Stored | None:
        """The newest run of the level."""
        return self.level[0] if self.level else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One case of a stored run, as far as it decides whether the rest is looked at."""

    file: Path
    place: int
    """Among the file's benchmarks."""
    fullname: str
    case_id: str
    identity: str
    conditions: str
    profile: str
    host: str
    hardware: str
    verdict: str
    reference: tuple[str, str] | None
    """Case id and identity of the reference stored with it."""

    @property
    def usable(self) -> bool:
        """Whether it may be a baseline."""
        return self.verdict not in NEEDS_ACCEPTANCE or not is_autosaved(self.file)


class Baselines:
    """The stored runs of all hosts, each read when it is first needed."""

    def __init__(self, folder: Path | None, host: Host) -> None:
        """Take the folder of all hosts' folders, or None where runs are stored in no folder."""
        self._folder = folder
        self._host = host
        self._only: tuple[Path, ...] | None = None
        self._entries: dict[Path, tuple[_Entry, ...]] = {}
        self._unpacked: dict[tuple[Path, int], Stored] = {}

    def restrict(self, files: Iterable[Path]) -> None:
        """Look from now on at these files alone, as --benchmark-compare=NAME chooses them.

        Args:
            files: absolute, or as seen from the folder of all hosts, as pytest-benchmark's `compared_mapping` has them.
        """
        folder = self._folder or Path()
        self._only = tuple(folder / file for file in files)

    def of(self, test: str, identity: str, *, conditions: str = "") -> Baseline:
        """Return what a case is held to.

        Args:
            test: the test's node id, or the case's id.
            identity: digest of the set-up, as `Result.identity`.
            conditions: what the launcher does to the machine, as `Result.conditions`.

        Raises:
            StoreError: a file that had to be read is damaged, or lies in another host's folder.
        """
        level: list[_Entry] = []
        apart: dict[str, str] = {}
        for entry in self._here():
            if test not in (entry.fullname, entry.case_id):
                continue
            kind, why = self._apart(entry, identity, conditions)
            if kind:
                apart.setdefault(kind, why)
                continue
            level.append(entry)
            if entry.verdict not in SAME_LEVEL:
                break
        if level:
            # The run that began it stays: what creeps is held to that one, however long ago.
            kept = level if len(level) <= MOST_RUNS else [*level[: MOST_RUNS - 1], level[-1]]
            return Baseline(level=tuple(map(self._stored, kept)))
        reasons = [apart[kind] for kind in _APART if kind in apart]
        return Baseline(
            others=self._others(test, identity, conditions),
            incomparable="hardware" in apart,
            note=reasons[0] if reasons else f"no stored run of {self._host.name} holds it",
        )

    def reference(self, case_id: str, identity: str, *, conditions: str = "") -> Stored | None:
        """Return the newest certified record of a case on this machine, measured for itself or as a reference, or None.

        Raises:
            StoreError: a file that had to be read is damaged, or lies in another host's folder.
        """
        wanted = (case_id, identity)
        for entry in self._here():
            if wanted not in ((entry.case_id, entry.identity), entry.reference):
                continue
            if entry.hardware != self._host.hardware_digest or entry.conditions != conditions or not entry.usable:
                continue
            stored = self._stored(entry)
            if stored.certificate is None or not stored.certificate.granted:
                continue
            result = stored.result if wanted == (entry.case_id, entry.identity) else stored.reference
            assert result is not None, "it was looked up by its reference"
            return Stored(where=stored.where, result=result, reference=None, verdict=stored.verdict)
        return None

    def held(self, profile: str) -> dict[str, tuple[str, str]]:
        """Return the cases that this host's runs hold and no accepted run saw vanish: where, by test and case id.

        A case is held by the newest run that says anything of it: that has it, or that was saved by name and lists it
        under `vanished`.

        Args:
            profile: name of the set-up whose cases are asked for; others have cases of their own.

        Raises:
            StoreError: a file is damaged, or lies in another host's folder.
        """
        found: dict[str, tuple[str, str]] = {}
        gone: set[str] = set()
        for file in self._files(self._host.name):
            for entry in self._read(file):
                if entry.profile == profile and entry.fullname not in gone:
                    found.setdefault(entry.fullname, (entry.case_id, self._where(file)))
            if not is_autosaved(file):
                gone.update(store.read_run(file).get("vanished", ()))
        return found

    def _apart(self, entry: _Entry, identity: str, conditions: str) -> tuple[str, str]:
        """Return what keeps a record of the case from being its baseline, as a word and in words; nothing if it may."""
        where = self._where(entry.file)
        if entry.identity != identity:
            return "set-up", f"{where} holds it with another set-up (profile, settings or data): not compared"
        if entry.conditions != conditions:
            names = (one or "the machine's own links" for one in (entry.conditions, conditions))
            return "conditions", f"{where} was run with {' and this run with '.join(names)}: not compared"
        if not entry.usable:
            return "verdict", f"{where} holds it as {entry.verdict}, which nobody accepted: not compared"
        if entry.hardware != self._host.hardware_digest:
            facts = self._facts(entry.file)
            return "hardware", f"{where} is of other hardware under this name{facts}: time not compared"
        return "", ""

    def _facts(self, file: Path) -> str:
        """Return in which facts the hardware of a stored run differs, where it tells them."""
        then, now = store.read_run(file)["machine_info"].get("hardware"), self._host.hardware
        if not isinstance(then, dict):
            return ""
        names = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
        changes = "; ".join(f"{name} {then.get(name, 'n/a')} then, {now.get(name, 'n/a')} now" for name in names)
        return f" ({changes})" if changes else ""

    def _others(self, test: str, identity: str, conditions: str) -> tuple[Stored, ...]:
        """Return the newest certified record from each other host, and of other hardware under this host's name."""
        own = (self._host.name, self._host.hardware_digest)
        found: dict[tuple[str, str], Stored] = {}
        for name in self._hosts():
            for entry in (entry for file in self._files(name) for entry in self._read(file)):
                machine = (entry.host, entry.hardware)
                if machine == own or machine in found or test not in (entry.fullname, entry.case_id):
                    continue
                if (entry.identity, entry.conditions) != (identity, conditions) or not entry.usable:
                    continue
                stored = self._stored(entry)
                if stored.certificate is not None and stored.certificate.granted:
                    found[machine] = stored
        return tuple(sorted(found.values(), key=lambda one: one.result.started_unix_s, reverse=True))

    def _here(self) -> Iterator[_Entry]:
        """Yield the cases of this host's runs, newest first, reading no file before it is reached."""
        for file in self._files(self._host.name):
            yield from self._read(file)

    def _hosts(self) -> list[str]:
        if self._only is not None:
            return sorted({store.host_of(store.read_run(file)) for file in self._only})
        if self._folder is None or not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if path.is_dir())

    def _files(self, host: str) -> list[Path]:
        """Return a host's files, newest first: all that were saved by name, and the newest of the autosaved ones."""
        if self._only is not None:
            files = [file for file in self._only if store.host_of(store.read_run(file)) == host]
        else:
            files = [] if self._folder is None else [*(self._folder / host).glob("[0-9][0-9][0-9][0-9]_*.json")]
        files.sort(key=lambda file: file.name, reverse=True)
        autosaved = [file for file in files if is_autosaved(file)]
        left_out = set(autosaved[MOST_AUTOSAVED:])
        return [file for file in files if file not in left_out]

    def _read(self, file: Path) -> tuple[_Entry, ...]:
        if file not in self._entries:
            inside = self._folder is not None and file.is_relative_to(self._folder)
            content = store.read_baseline(file) if inside else store.read_run(file)
            try:
                self._entries[file] = tuple(_entries(file, content))
            except (KeyError, TypeError) as error:
                raise StoreError(f"{file} holds no valid result (no {error}); {store.MEND}") from error
        return self._entries[file]

    def _stored(self, entry: _Entry) -> Stored:
        key = (entry.file, entry.place)
        if key not in self._unpacked:
            content = store.read_run(entry.file)
            packed = content["benchmarks"][entry.place]
            stored = store.unpack(packed, where=self._where(entry.file), commit=store.commit_of(content))
            assert stored is not None, "only cases are entered"
            self._unpacked[key] = stored
        return self._unpacked[key]

    def _where(self, file: Path) -> str:
        """Return how messages name a file: its host and its name."""
        return f"{file.parent.name}/{file.name}"


_APART = ("hardware", "conditions", "verdict", "set-up")
"""What may keep a record from being a baseline, the nearest miss first."""


def is_autosaved(file: Path) -> bool:
    """Return whether a stored run was kept by --benchmark-autosave, and so accepted by nobody."""
    return _AUTOSAVED.fullmatch(file.stem) is not None


def _entries(file: Path, content: dict[str, Any]) -> Iterator[_Entry]:
    for place, benchmark in enumerate(content["benchmarks"]):
        packed = benchmark.get("extra_info", {}).get(KEY)
        if packed is None:
            continue
        result, reference = packed["result"], packed["reference"]
        yield _Entry(
            file=file,
            place=place,
            fullname=benchmark["fullname"],
            case_id=result["case_id"],
            identity=result["identity"],
            conditions=result["conditions"],
            profile=result["profile"],
            host=result["host"],
            hardware=result["hardware"],
            verdict=packed["verdict"],
            reference=None if reference is None else (reference["case_id"], reference["identity"]),
        )
