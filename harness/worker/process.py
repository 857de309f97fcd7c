"""What a rank is as a process: its cores, its log, its end with its parent, its peak memory."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from harness.errors import CannotRun

_PR_SET_PDEATHSIG = 1


def die_with_parent(*_: object) -> None:
    """Ask the kernel to kill this process when its parent ends, however that ends (Linux prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def log_to(path: Path) -> TextIO:
    """Send this process's output, that of C code included, to a file, and every thread's stack there on SIGUSR1."""
    log = path.open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    faulthandler.enable(log)
    faulthandler.register(signal.SIGUSR1, log, all_threads=True, chain=True)
    return log


def pin(cores: Sequence[int], local_rank: int) -> tuple[int, ...]:
    """Keep this process, and the threads it starts from now on, to one of `cores`; return the cores it has.

    Another node may have others than the first: then it is one of those that this process may run on.
    """
    own = os.sched_getaffinity(0)
    if cores:
        usable = [core for core in cores if core in own] or sorted(own)
        os.sched_setaffinity(0, {usable[local_rank % len(usable)]})
    return tuple(sorted(os.sched_getaffinity(0)))


def limit_memory(limit_bytes: int, *, on_cuda: bool) -> None:
    """Let this process allocate no more from now on: of its GPU's memory, or of its own on a CPU.

    On a CPU the limit is on private writable memory (setrlimit(2), RLIMIT_DATA), the stacks of further threads
    included. What is refused fails where it was asked for, as on a GPU.
    """
    if on_cuda:
        import torch

        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / torch.cuda.mem_get_info()[1]))
        return
    held = _status("VmData")
    if held is None:
        raise CannotRun("memory cannot be limited here: /proc/self/status does not tell VmData")
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (held + limit_bytes, most))


class ResidentPeak:
    """Peak resident set of this process above what it was when this object was made, bytes (proc(5)).

    Pages of files are left out: how much of a library is mapped depends on the page cache, by 70 MB from one
    installation to the next. The kernel keeps the high-water mark of all pages alone, so those of files are taken as
    they are in the end; they only grow, so the figure is at most too low by what was mapped after the peak.
    """

    def __init__(self) -> None:
        # 5 resets the high-water mark, which a forked process would otherwise inherit.
        self._reset = _try_write(Path("/proc/self/clear_refs"), "5")
        self._before = _own()

    def peak_bytes(self) -> int | None:
        """The peak, or None where the system does not tell."""
        peak, files = _status("VmHWM"), _status("RssFile")
        if not self._reset or self._before is None or peak is None or files is None:
            return None
        return max(0, peak - files - self._before)


def _own() -> int | None:
    """Return the resident pages that are no file's."""
    total, files = _status("VmRSS"), _status("RssFile")
    return None if total is None or files is None else total - files


def _try_write(path: Path, text: str) -> bool:
    try:
        path.write_text(text)
    except OSError:
        return False
    return True


def _status(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return None


class Progress:
    """Where a rank is, kept in a small file that the parent reads: `<phase> <epoch> <epochs> <step> <steps>`.

    One `pwrite` of a fixed length: about 2 microseconds, no locks, and a reader never sees half a line.
    """

    LENGTH = 64

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        self.phase = "start"
        self.show()

    def show(self, epoch: int = 0, epochs: int = 0, step: int = 0, steps: int = 0) -> None:
        """Write where the rank is."""
        line = f"{self.phase} {epoch} {epochs} {step} {steps}"
        os.pwrite(self._fd, line.ljust(self.LENGTH - 1)[: self.LENGTH - 1].encode() + b"\n", 0)
