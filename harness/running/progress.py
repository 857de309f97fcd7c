"""Where the ranks of a job are, as each tells in a small file beside its log, and whether they still move."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

Place = tuple[str, int, int, int, int]
"""Phase, epoch, epochs, step and steps of a rank."""

_ANSWER_S = 0.5
"""Time that ranks are given to answer when they are asked where they are."""
_AWAKE_S = 0.05
_STOPPED = ".stopped"
HANG_S = 600.0
"""Time without a step of any rank after which a training is taken to hang: NCCL's own limit for a collective."""


def file_of(folder: Path, rank: int) -> Path:
    """Return the file in which a rank tells where it is."""
    return folder / f"rank{rank}.progress"


def read_progress(folder: Path, rank: int) -> Place | None:
    """Return where a rank is, or None where it has not started."""
    try:
        phase, *numbers = file_of(folder, rank).read_text().split()
        epoch, epochs, step, steps = (int(number) for number in numbers)
    except (OSError, ValueError):
        return None
    return phase, epoch, epochs, step, steps


def hangs(folder: Path, ranks: Iterable[int], hang_s: float) -> bool:
    """Return whether some rank trains and none has told anything for so long.

    Other phases tell of no steps, so that their silence means nothing: the case's timeout ends those.
    """
    places = {rank: read_progress(folder, rank) for rank in ranks}
    if not any(place is not None and place[0] == "train" for place in places.values()):
        return False
    told = [_changed_s(file_of(folder, rank)) for rank, place in places.items() if place is not None]
    return time.time() - max(told) > hang_s


def ask(pids: Iterable[int]) -> None:
    """Let ranks that are to be ended write their stacks and last collectives.

    One that was stopped is noted as that, and runs for a moment to tell, while the others no longer do.
    """
    pids = tuple(pids)
    stopped = [pid for pid in pids if _state(pid) in ("T", "t")]
    for pid in pids:
        _signal(pid, signal.SIGUSR1)
    time.sleep(_ANSWER_S)
    if not stopped:
        return
    for pid in stopped:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/fd/1").readlink().with_suffix(_STOPPED).touch()  # beside its log
    for pid in set(pids) - set(stopped):
        _signal(pid, signal.SIGSTOP)
    for sent in (signal.SIGCONT, signal.SIGSTOP):
        for pid in stopped:
            _signal(pid, sent)
        time.sleep(_AWAKE_S)


def was_stopped(folder: Path, rank: int) -> bool:
    """Return whether a rank that was asked had been stopped, by SIGSTOP or a debugger."""
    return (folder / f"rank{rank}").with_suffix(_STOPPED).exists()


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _state(pid: int) -> str:
    """Return a process's state as proc(5) has it, `T` for a stopped one; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _changed_s(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return time.time()
