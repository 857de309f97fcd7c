"""The faults of `harness.running.plant` that end or stop a rank: what the other ranks, and the run, must survive.

Planted in the last rank, in its second step or in what it does at its end; whatever the strategy.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import nn

from harness.plugins import Batch, Trainee, Workload, World
from harness.results import RankReport, write_report

_STEP = 2
"""The first step sets libraries up, and a fault in it would be one of theirs."""
STATUS = 7
"""That a rank exits with."""


def plant(
    name: str, strategy: Callable[[Workload, World], Trainee], workload: Workload, world: World, folder: Path
) -> Trainee:
    """Return what a strategy makes of a workload, with a fault in the last rank.

    Args:
        name: the fault, of `BREAKS`.
        strategy: its `shard`.
        workload: what it is to shard.
        world: this rank's place.
        folder: the job's.
    """
    lonely: Any = dist.new_group() if name == "stuck" else None  # made by all ranks, and entered by one
    broken = world.rank == world.size - 1
    sick = threading.Event()
    if name == "nan" and broken:
        workload.loss = _sick(workload.loss, sick)
    trainee = strategy(workload, world)
    if not broken:
        return trainee
    faults: dict[str, Callable[[], object]] = {
        "raise": _raise,
        "exit": lambda: os._exit(STATUS),
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "hang": threading.Event().wait,
        "stuck": lambda: dist.all_reduce(torch.zeros(1, device=world.device), group=lonely),
        "freeze": lambda: os.kill(os.getpid(), signal.SIGSTOP),
        "out_of_memory": lambda: torch.empty(2**60, dtype=torch.uint8, device=world.device),
        "nan": sick.set,
        "cut_report": _cut_report,
        "full_disk": lambda: _fill(folder, world.rank),
        "kill_agent": _kill_agent,
    }
    sound, steps = trainee.step, 0

    def step(batch: Batch) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == _STEP:
            (folder / "planted").touch()  # its time is that of the fault
            faults[name]()
        return sound(batch)

    trainee.step = step
    return trainee


def _raise() -> None:
    raise RuntimeError("planted: this rank raises")


def _sick(
    loss: Callable[[nn.Module, Batch], torch.Tensor], sick: threading.Event
) -> Callable[[nn.Module, Batch], torch.Tensor]:
    def planted(module: nn.Module, batch: Batch) -> torch.Tensor:
        value = loss(module, batch)
        return value * math.nan if sick.is_set() else value

    return planted


def _cut_report() -> None:
    """Let this rank's report end in its middle, as a file system may leave it that lost the machine."""
    from harness.worker import rank

    def write(report: RankReport, path: Path) -> None:
        write_report(report, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    vars(rank)["write_report"] = write


def _fill(folder: Path, rank: int) -> None:
    """Let the disk be full (full(4)) where this rank's report is written to."""
    (folder / f".rank{rank}.json.{os.getpid()}.part").symlink_to("/dev/full")


def _kill_agent() -> None:
    """Kill the process whose fork server this rank is a child of, or, where there is none, its parent."""
    server = psutil.Process().parent()
    assert server is not None
    agent = server.parent() if "forkserver" in " ".join(server.cmdline()) else server
    assert agent is not None
    agent.kill()
    threading.Event().wait()
