"""Stored cases that the suite no longer offers, as tests of their own that fail: a rename must not pass silently.

They are added to what is collected before anything is deselected, under the name and the marks they had, so that -k, -m
and the rest choose among them as among the others.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.case import Case
from harness.errors import CaseError
from harness.stored.baselines import ACCEPT, Baselines


@dataclass(frozen=True, slots=True, kw_only=True)
class Vanished:
    """A case that a stored run of this host holds and this run cannot have."""

    fullname: str
    """Node id of its test when it was stored."""
    case_id: str
    where: str
    """The stored run."""
    skipped: str = ""
    """Why it is skipped now; empty where there is no such case any more."""
    nearest: str = ""
    """Id of the case that it may be named now."""

    def message(self) -> str:
        """Return what, against what, and what to do."""
        now = f"it is skipped now: {self.skipped}" if self.skipped else "the suite no longer offers it"
        lines = [f"{self.case_id}: vanished: {self.where} holds it, and {now}"]
        if self.nearest:
            lines.append(f"  nearest  {self.nearest}")
        return "\n".join([*lines, f"  accept   pytest benches {ACCEPT}"])


def vanished(
    offered: Mapping[str, Collection[str]],
    skipped: Mapping[str, str],
    baselines: Baselines,
    *,
    profile: str,
    root: Path,
) -> list[Vanished]:
    """Return the stored cases that this run cannot have, of the bench files it looks at.

    A case with options is made only where they are named, so it is there as long as its model and strategy are. A
    bench file that was deleted is looked at with the others of its folder.

    Args:
        offered: ids of all cases that each bench file makes, chosen or not; those that are skipped too.
        skipped: why, of each case that is.
        baselines: the stored runs.
        profile: name of this run's; cases stored under another one are not its own.
        root: what bench files are named from.

    Raises:
        StoreError: a stored run is damaged, or lies in another host's folder.
    """
    there = {case_id for ids in offered.values() for case_id in ids}
    made = [case for case in map(_parsed, there) if case]
    pairs = {(case.model, case.strategy) for case in made}
    # With --options the same cells are made with other options than they were stored with.
    cells = {(case.model, case.strategy, case.gpu_count, case.batch_size) for case in made}
    folders = {Path(file).parent for file in offered}
    found = []
    for fullname, (case_id, where) in baselines.held(profile).items():
        file = fullname.partition("::")[0]
        if file not in offered and (Path(file).parent not in folders or (root / file).exists()):
            continue
        case = _parsed(case_id)
        if case_id in skipped:
            found.append(Vanished(fullname=fullname, case_id=case_id, where=where, skipped=skipped[case_id]))
        elif case_id not in there and not (
            case
            and (
                (case.model, case.strategy, case.gpu_count, case.batch_size) in cells
                or (case.options and (case.model, case.strategy) in pairs)
            )
        ):
            near = difflib.get_close_matches(case_id, sorted(there), n=1)
            found.append(Vanished(fullname=fullname, case_id=case_id, where=where, nearest=near[0] if near else ""))
    return found


def _parsed(case_id: str) -> Case | None:
    try:
        return Case.parse(case_id)
    except CaseError:
        return None


class VanishedItem(pytest.Item):
    """The test of a vanished case: it fails, or, where the run does not ask for that, is skipped with the reason."""

    fixturenames = ("benchmark",)
    """As pytest-benchmark knows its own, so that --benchmark-only and --benchmark-skip hold for it."""

    def __init__(self, *, case: Vanished, fails: bool, **rest: Any) -> None:
        super().__init__(**rest)
        self.case = case
        self.fails = fails
        self.user_properties.append(("verdict", "vanished"))

    def runtest(self) -> None:
        """Fail, or say the same as a skip."""
        if self.fails:
            pytest.fail(self.case.message(), pytrace=False)
        pytest.skip(self.case.message().partition("\n")[0])

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Name it as its test was named."""
        return self.path, None, self.name


def add(
    items: list[pytest.Item],
    baselines: Baselines,
    *,
    arguments: Iterable[str],
    profile: str,
    root: Path,
    fails: bool,
) -> None:
    """Add a test for each vanished case to what was collected, before anything is deselected.

    A file of which the command line names single tests is not looked at: of it the others are not even made.

    Args:
        items: all that were collected; a test that is skipped although it is stored is replaced.
        baselines: the stored runs.
        arguments: files, folders and tests, as given to pytest.
        profile: name of this run's.
        root: what bench files are named from.
        fails: whether they fail: in a run that compares, unless it is saved by name, which accepts that they are gone.

    Raises:
        StoreError: a stored run is damaged, or lies in another host's folder.
    """
    in_part = {Path(argument.partition("::")[0]).name for argument in arguments if "::" in argument}
    offered: dict[str, set[str]] = {}
    skipped: dict[str, str] = {}
    parents: dict[str, pytest.Item] = {}
    when_named: dict[str, str] = {}
    for item in items:
        bench, skip, named = map(item.get_closest_marker, ("bench", "skip", "when_named"))
        if bench is None or item.path.name in in_part:
            continue
        file, case_id = item.nodeid.partition("::")[0], item.name.partition("[")[2].removesuffix("]")
        parents[file] = item
        offered.setdefault(file, set()).add(case_id)
        if skip is not None:
            skipped[case_id] = skip.kwargs.get("reason", "")
        if named is not None:
            when_named[bench.kwargs["model"]] = named.args[0]
    found = vanished(offered, skipped, baselines, profile=profile, root=root)
    if not found:
        return
    gone = {one.fullname for one in found}
    others = [item for item in items if item.nodeid not in gone]
    others += [_test(one, parents, when_named, root=root, fails=fails) for one in found]
    items[:] = others


def _test(
    one: Vanished, beside: Mapping[str, pytest.Item], when_named: Mapping[str, str], *, root: Path, fails: bool
) -> VanishedItem:
    """Return the test of a vanished case, among its file's others and with the marks it had."""
    file, _, name = one.fullname.partition("::")
    rest: dict[str, Any] = {"case": one, "fails": fails}
    parent = beside[file].parent if file in beside else None
    if parent is not None:
        test = VanishedItem.from_parent(parent, name=name, **rest)
    else:
        session = next(iter(beside.values())).session
        test = VanishedItem.from_parent(session, name=one.fullname, nodeid=one.fullname, path=root / file, **rest)
    case = _parsed(one.case_id)
    if case is not None:
        test.add_marker(pytest.mark.bench(**case.axes))
        if case.model in when_named:
            test.add_marker(pytest.mark.when_named(when_named[case.model]))
    return test


def names(items: Iterable[pytest.Item]) -> list[str]:
    """Return the vanished cases among the tests that are to run: a run that is saved by name accepts these alone."""
    return [item.nodeid for item in items if isinstance(item, VanishedItem)]
