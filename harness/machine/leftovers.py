"""What the ranks of a job leave behind on this machine: found after every job, ended or deleted, and told.

A rank's output goes to its log from its first breath, and whatever it starts inherits that. So a process that holds a
log of the job's folder open as its output is the job's, whatever became of its parents.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import psutil

from harness.errors import WorkerFailed

_SHARED = Path("/dev/shm")  # where POSIX shared memory is, shm_overview(7)
_MADE_BY_LIBRARIES = ("nccl-", "torch_", "sem.", "psm_", "cuda.shm.")
"""Begin the names of shared memory that a rank's libraries make: NCCL, torch, multiprocessing, CUDA."""
_PATIENCE_S = 2.0
"""Time in which what still ends by itself may do so, and in which what is killed is gone."""
_GPU_PATIENCE_S = 10.0
"""Time in which a driver gives back what an ended process held."""
_GPU_SLACK_BYTES = 64 * 2**20
_POLL_S = 0.01
_IN_USE, _KEPT = "in_use", "kept"
"""Files in a run's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What there was before a job began."""

    shared: frozenset[str]
    """Names of shared memory."""
    gpu_bytes: tuple[int, ...]
    """Memory in use of each GPU."""


def gpu_memory(uuids: Sequence[str], nvml: Any = None) -> Callable[[], Sequence[int]]:
    """Return what tells the bytes in use of each of some GPUs; nothing where the driver does not tell.

    Args:
        uuids: of the GPUs, as NVML names them.
        nvml: a module like `pynvml`, which None imports.
    """

    @cache
    def known() -> tuple[Any, list[Any]]:
        library = nvml or importlib.import_module("pynvml")
        library.nvmlInit()
        return library, [library.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]

    def used() -> Sequence[int]:
        try:
            library, handles = known()
            return [int(library.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles]
        except Exception:  # a driver may refuse in ways of its own, and no case fails for it
            return ()

    return used if uuids else tuple


def look(gpu_bytes: Callable[[], Sequence[int]] = tuple, shared: Path = _SHARED) -> Before:
    """Return what there is now."""
    return Before(shared=_names(shared), gpu_bytes=tuple(gpu_bytes()))


def clear(
    folder: Path,
    before: Before,
    *,
    gpu_bytes: Callable[[], Sequence[int]] = tuple,
    shared: Path = _SHARED,
) -> list[str]:
    """End and delete what the ranks of a job left; return a sentence on each thing that had to be.

    Args:
        folder: the job's.
        before: what there was when it began.
        gpu_bytes: tells the memory in use of each GPU.
        shared: where shared memory is.

    Raises:
        WorkerFailed: a process cannot be ended; what would be measured beside it says nothing.
    """
    found = [f"{folder.name} left {told}, which was ended" for told in _end(folder)]
    lost = abandoned(_names(shared) - before.shared, shared)
    # Python's tracker of such deletes them once the last process that may use them has ended.
    if lost:
        _soon(lambda: not any((shared / name).exists() for name in lost), _PATIENCE_S)
    for name in lost:
        with contextlib.suppress(OSError):
            (shared / name).unlink()
            found.append(f"{folder.name} left shared memory {shared / name}, which was deleted")
    return found + [f"{folder.name} left {told}" for told in _held(before.gpu_bytes, gpu_bytes)]


def own(folder: Path) -> IO[bytes]:
    """Let other runs see that a run's folder is in use until what is returned is closed, or its process ends."""
    part = folder / f"{_IN_USE}.part"
    lock = part.open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    part.rename(folder / _IN_USE)  # so that nobody sees it unlocked
    return lock


def keep(folder: Path) -> None:
    """Let no other run delete a run's folder: a person may want to look at it."""
    with contextlib.suppress(OSError):  # of a full disk more is told elsewhere
        (folder / _KEPT).touch()


def sweep(folders: Iterable[Path]) -> None:
    """Delete those folders of runs that were killed, and so could not do it themselves."""
    for folder in folders:
        with contextlib.suppress(OSError), (folder / _IN_USE).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (folder / _KEPT).exists():
                shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes whose output goes to a file in a folder; one that has ended has none."""
    within = f"{folder.resolve()}/"
    found = []
    for pid in psutil.pids():
        for number in (1, 2):
            with contextlib.suppress(OSError, psutil.Error):
                if os.readlink(f"/proc/{pid}/fd/{number}").startswith(within):  # noqa: PTH115
                    found.append(psutil.Process(pid))
                    break
    return found


def _end(folder: Path) -> list[str]:
    if not _soon(lambda: not processes_of(folder), _PATIENCE_S):
        left = processes_of(folder)
        told = [f"process {process.pid} ({_name(process)})" for process in left]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not _soon(lambda: not processes_of(folder), _PATIENCE_S):
            numbers = ", ".join(str(process.pid) for process in processes_of(folder))
            raise WorkerFailed(
                f"{folder.name}: process {numbers} was killed and does not end; what runs beside it cannot be "
                "measured: end it, or start the machine anew"
            )
        return told
    return []


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return "ended meanwhile"


def _names(shared: Path) -> frozenset[str]:
    try:
        return frozenset(entry for entry in os.listdir(shared) if entry.startswith(_MADE_BY_LIBRARIES))  # noqa: PTH208
    except OSError:
        return frozenset()


def abandoned(names: Iterable[str], shared: Path = _SHARED) -> list[str]:
    """Return those that are this user's and that no process has open or mapped: another run may have made some."""
    own = [name for name in sorted(names) if _owner(shared / name) == os.getuid()]
    if not own:
        return []
    used = _in_use()
    return [name for name in own if _identity(shared / name) not in used]


def _owner(file: Path) -> int | None:
    try:
        return file.stat().st_uid
    except OSError:
        return None


def _identity(file: Path) -> tuple[int, int] | None:
    """Return device and inode of a file: names do not tell, for a semaphore is mapped under the one it had first."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _in_use() -> set[tuple[int, int] | None]:
    """Return device and inode of what processes have mapped (proc(5), maps) or open; None is always among them."""
    found: set[tuple[int, int] | None] = {None}
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
                major, minor = line.split(maxsplit=4)[3].split(":")
                found.add((os.makedev(int(major, 16), int(minor, 16)), int(line.split(maxsplit=5)[4])))
        with contextlib.suppress(OSError):
            found |= {_identity(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    return found


def _held(before: Sequence[int], gpu_bytes: Callable[[], Sequence[int]]) -> list[str]:
    """Return a sentence on each GPU that holds more than before, though every process of the job has ended."""

    def more() -> dict[int, int]:
        grown = {number: now - then for number, (now, then) in enumerate(zip(gpu_bytes(), before, strict=False))}
        return {number: count for number, count in grown.items() if count > _GPU_SLACK_BYTES}

    if not before or _soon(lambda: not more(), _GPU_PATIENCE_S):
        return []
    return [
        f"GPU {number} with {count / 2**30:.2f} GiB more in use than before, {_GPU_PATIENCE_S:g} s after its last "
        "process ended: its driver's, or another process's"
        for number, count in more().items()
    ]


def _soon(condition: Callable[[], bool], patience_s: float) -> bool:
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True
