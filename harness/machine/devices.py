"""One run at a time on a device: a lock for each GPU, or core, that ranks are to use, for all users of a machine.

Two runs on one device slow each other, and neither would say so. The lock is the kernel's (flock(2)), on a file that
stays. When its holder ends, in whatever way, the kernel takes it back, so none is ever stale; and the kernel tells who
holds it (`/proc/locks`, proc(5)), so nothing that is told of the holder can be out of date.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from harness.errors import DevicesBusy, StoreError
from harness.machine.host import Host
from harness.stored.escaping import escaped

if TYPE_CHECKING:
    from filelock import BaseFileLock

FOLDER = "SHARDBENCH_LOCKS"
"""Variable of the environment that moves the locks; it must be alike in all runs that are to see each other."""
_POLL_S = 0.5
_LOCKS = Path("/proc/locks")
_MOST_SHOWN = 120
"""Characters of a command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who has a device."""

    pid: int | None
    """None where the kernel names no process that this one can see, as from inside a container."""
    user: str = ""
    since: str = ""
    """When its process began."""
    command: str = ""

    def __str__(self) -> str:
        if self.pid is None:
            return "a process that cannot be seen from here, as in another container"
        return f"pid {self.pid} of {self.user or 'n/a'}, since {self.since or 'n/a'}: {self.command or 'n/a'}"


def used(host: Host, most_ranks: int) -> tuple[str, ...]:
    """Return the names of the devices that ranks of cases with at most so many take."""
    if host.gpus:
        return tuple(f"gpu-{gpu.uuid or number}" for number, gpu in enumerate(host.gpus[:most_ranks]))
    return tuple(f"core-{core}" for core in host.cores[:most_ranks])


class Devices:
    """Devices that one run is to have for itself."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = sorted(names)
        self._held: list[BaseFileLock] = []

    def take(self, *, wait_s: float, tell: Callable[[str], None]) -> None:
        """Take all of them, or none.

        What a process has that this one was started by, however indirectly, is this run's too.

        Args:
            wait_s: how long others may have them before it is given up.
            tell: is called with a line for a person whenever it is another that is waited for.

        Raises:
            DevicesBusy: others have one of them still.
            StoreError: the locks cannot be used.
        """
        began = time.monotonic()
        told = ""
        while busy := self._try():
            said = "; ".join(f"{name} is held by {holder}" for name, holder in _grouped(busy))
            left_s = wait_s - (time.monotonic() - began)
            if left_s <= 0:
                waited = f"after {wait_s:g} s of waiting " if wait_s else ""
                raise DevicesBusy(
                    f"{waited}{said}: two runs on one device would slow each other; wait until it is done, "
                    "give it longer with --wait-for-devices, or choose other GPUs with CUDA_VISIBLE_DEVICES"
                )
            if said != told:
                told = said
                tell(f"waiting, for {left_s:.0f} s at most (--wait-for-devices): {said}")
            time.sleep(min(_POLL_S, left_s))
        if told:
            tell(f"waited {time.monotonic() - began:.0f} s for devices")

    def give_back(self) -> None:
        """Let others have them."""
        while self._held:
            self._held.pop().release()

    def _try(self) -> dict[str, Holder]:
        """Take all that are free; returns who has the others, and then has taken none."""
        from filelock import FileLock, Timeout

        busy: dict[str, Holder] = {}
        folder = lock_folder()
        for name in self._names:
            file = folder / f"{name}.lock"
            # For all users, whatever the umask: who made the file says nothing about who may wait for it.
            lock = FileLock(file, mode=0o666)
            try:
                lock.acquire(timeout=0)
                self._held.append(lock)
            except Timeout:
                holder = _holder(file)
                if holder.pid not in _family():
                    busy[name] = holder
            except OSError as error:
                self.give_back()
                raise StoreError(
                    f"lock {file} cannot be used: {error.strerror}; let its owner delete it while nothing runs, "
                    f"or set {FOLDER} to a folder that all users of the machine may write to"
                ) from error
        if busy:
            self.give_back()
        return busy


def lock_folder() -> Path:
    """Return the folder of this machine's locks, made if it is not there; it does not depend on who asks.

    Raises:
        StoreError: it cannot be made, or is a link.
    """
    folder = Path(os.environ.get(FOLDER) or _common() / "shardbench")
    try:
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o1777)  # any user makes files there, and deletes none of another's
        if folder.is_symlink() or not folder.is_dir():
            raise StoreError(f"the folder of locks {folder} is a link or no folder; delete it, or set {FOLDER}")
    except OSError as error:
        raise StoreError(f"the folder of locks {folder} cannot be made: {error.strerror}; set {FOLDER}") from error
    return folder


def _common() -> Path:
    """Return a folder that every user of the machine may write to, and that is the same for all: no TMPDIR."""
    run = Path("/run/lock")
    with suppress(OSError):
        if run.stat().st_mode & stat.S_IWOTH:
            return run
    return Path("/tmp")


def _family() -> set[int | None]:
    """Return this process and those that it was started by."""
    try:
        return {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    except psutil.Error:
        return {os.getpid()}


def _holder(lock: Path) -> Holder:
    """Return who holds a lock, as the kernel tells."""
    try:
        number = lock.stat().st_ino
        lines = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return Holder(pid=None)
    for line in lines:
        # "1: FLOCK ADVISORY WRITE 1234 08:01:5678 0 EOF"; who only waits has an arrow before the kind.
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(number):
            return _named(int(words[4]))
    return Holder(pid=None)


def _named(pid: int) -> Holder:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            command = escaped(" ".join(process.cmdline()).replace("\n", " ")) or process.name()
            began = datetime.fromtimestamp(process.create_time())
            user = process.username()
    except psutil.AccessDenied:
        return Holder(pid=pid)
    except (psutil.Error, ValueError):
        return Holder(pid=None)
    shown = command if len(command) <= _MOST_SHOWN else f"{command[:_MOST_SHOWN]}..."
    return Holder(pid=pid, user=user, since=f"{began:%Y-%m-%d %H:%M:%S}", command=shown)


def _grouped(busy: dict[str, Holder]) -> list[tuple[str, Holder]]:
    """Return the devices of each holder together."""
    of: dict[Holder, list[str]] = {}
    for name, holder in busy.items():
        of.setdefault(holder, []).append(name.replace("-", " ", 1))
    return [(", ".join(names), holder) for holder, names in of.items()]
