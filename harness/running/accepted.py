"""The accepted code, laid out beside the candidate's from its commit, so that both can be measured in turns.

What the machine does to a run it then does to both. Only the suite's own code is taken from the commit: libraries,
data and weights are those of the run, so other versions of libraries, and plug-ins, which no commit of the suite
holds, leave nothing to be learned from it.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

from harness.case import Case
from harness.errors import HarnessError
from harness.launchers._outcome import ROOT
from harness.launchers.warm import WarmSession
from harness.machine.host import Host
from harness.plugins import Launcher
from harness.profiles import Profile
from harness.registry import Registry
from harness.running.ranks import Ranks, RunOptions, Watch
from harness.running.sampler import Sampler
from harness.stored.store import Stored

NAME = "accepted"
_PART = "harness"
"""Of the commit: all that ranks need."""
_GIT_S = 60


class NoAcceptedCode(HarnessError):
    """The accepted code cannot be measured beside the candidate; the message completes "unpaired: ..."."""


def chosen(level: Sequence[Stored]) -> Stored | None:
    """Return the run whose code a case is measured beside: of its level, newest first, the oldest that a commit holds.

    Beside the newest one, what creeps from run to run would always have just happened before. Where no commit holds
    any, the newest says so.
    """
    return next((stored for stored in reversed(level) if stored.commit), level[0] if level else None)


def refuse(stored: Stored | None, *, software: Mapping[str, str], options: RunOptions) -> None:
    """Raise where code beside the candidate would say nothing of it.

    Args:
        stored: the run whose code it is; None where nothing is stored.
        software: versions of this run's libraries.
        options: of the run.

    Raises:
        NoAcceptedCode: why.
    """
    if stored is None:
        raise NoAcceptedCode("nothing is stored")
    if not stored.commit:
        raise NoAcceptedCode(f"{stored.where} was recorded with changes that no commit holds")
    if options.plugins:
        raise NoAcceptedCode("no commit of this suite holds the plug-ins")
    if options.launcher != "warm":
        raise NoAcceptedCode(f"launcher {options.launcher} starts one code alone")
    theirs = stored.result.versions
    if differ := sorted(name for name in theirs.keys() & software.keys() if theirs[name] != software[name]):
        name = differ[0]
        raise NoAcceptedCode(f"{stored.where} was recorded with {name} {theirs[name]}, this run has {software[name]}")


def lay_out(stored: Stored, folder: Path, *, root: Path = ROOT) -> Path:
    """Write the suite's code of the commit that a stored run was made with into a folder, and return that.

    Args:
        stored: the run whose code it is.
        folder: where to.
        root: the suite's own folder, in a git repository.

    Raises:
        NoAcceptedCode: the commit is not there, or the folder cannot be written.
    """
    command = ["git", "-C", str(root), "archive", "--format=tar", stored.commit, _PART]
    try:
        archive = subprocess.run(command, capture_output=True, timeout=_GIT_S, check=True).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise NoAcceptedCode(f"git has no commit {stored.commit[:12]} of {stored.where}: {said}") from error
    except (OSError, subprocess.SubprocessError, tarfile.TarError) as error:
        raise NoAcceptedCode(f"commit {stored.commit[:12]} cannot be laid out: {error}") from error
    return folder


class AcceptedCode:
    """Samplers of accepted code, one for each commit, opened when they are first asked for."""

    def __init__(
        self,
        *,
        host: Host,
        registry: Registry,
        profile: Profile,
        options: RunOptions,
        watch: Watch,
        level: Callable[[Case], Sequence[Stored]],
        order: random.Random,
    ) -> None:
        """Take what the run is made of; `level` has the stored runs that a case is held to, newest first."""
        self._host, self._registry, self._profile = host, registry, profile
        self._options, self._watch = options, watch
        self._level = level
        self._order = order
        self._ranks: list[Ranks] = []
        self._folders: list[Path] = []
        self._samplers: dict[str, Sampler | NoAcceptedCode] = {}

    def of(self, case: Case) -> Sampler:
        """Return what takes processes of the code that a case was accepted with.

        Raises:
            NoAcceptedCode: there is none, or its time would say nothing.
        """
        stored = chosen(self._level(case))
        commit = stored.commit if stored is not None else ""
        if commit not in self._samplers:
            try:
                self._samplers[commit] = self._open(stored)
            except NoAcceptedCode as reason:
                self._samplers[commit] = reason
        known = self._samplers[commit]
        if isinstance(known, NoAcceptedCode):
            raise known
        return known

    def close(self) -> None:
        """End every process, and delete what was laid out."""
        for ranks in self._ranks:
            ranks.close()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _open(self, stored: Stored | None) -> Sampler:
        refuse(stored, software=self._host.software, options=self._options)
        assert stored is not None, "it would have been refused"
        self._folders.append(Path(tempfile.mkdtemp(prefix="shardbench-accepted-")))
        root = lay_out(stored, self._folders[-1])
        launcher = Launcher(name=NAME, open=partial(WarmSession, root=root))
        ranks = Ranks(
            host=self._host,
            registry=replace(self._registry, launchers={NAME: launcher}),
            profile=self._profile,
            # A planted fault is the candidate's alone.
            options=replace(self._options, launcher=NAME, plant=""),
            watch=self._watch,
        )
        self._ranks.append(ranks)
        return Sampler(launch=ranks.launch, sampled=ranks.sampled, order=self._order, renew=ranks.renew)
