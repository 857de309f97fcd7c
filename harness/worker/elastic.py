"""The ranks of one job, forked by torch elastic from a server that has their libraries in memory already."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std, start_processes
from torch.distributed.elastic.multiprocessing.api import PContext

from harness.running.progress import HANG_S, ask, hangs
from harness.worker.rank import main as rank_main
from harness.worker.serving import heed_parent, part_of

_POLL_S = 0.02
"""How often the ranks are looked at: a poll costs about 20 microseconds, so a thousandth of a core."""
_SETTLE_S = 0.1
"""Time in which the ranks of a failed job end by themselves, before the rest is killed."""
_LOOK_S = 1.0
"""How often it is looked whether the ranks still move."""


def run(request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Start the ranks of one job, wait for all, and return how each ended; none is left when this returns."""
    part = part_of(request, tell)
    store = None if part.listener is None else _store(part.listener)
    ranks = range(part.local)
    # What torchrun would set, so that a rank is the same under either.
    shared = {
        "MASTER_ADDR": part.host,
        "MASTER_PORT": str(part.port),
        "WORLD_SIZE": str(part.world),
        "LOCAL_WORLD_SIZE": str(part.local),
        "GROUP_RANK": str(part.node),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        **part.environment,
    }
    context = start_processes(
        name="rank",
        entrypoint=rank_main,
        args=dict.fromkeys(ranks, (request["job"],)),
        envs={local: shared | {"RANK": str(part.first + local), "LOCAL_RANK": str(local)} for local in ranks},
        # Each rank writes its own log, which also holds what it says after this pipe is gone.
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull, redirects=Std.NONE),
        start_method="forkserver",
    )
    try:
        return _wait(context, request, part.first)
    finally:
        context.close(signal.SIGKILL, timeout=5)
        del store


def _wait(context: PContext, request: dict[str, Any], first: int) -> dict[str, Any]:
    pids = {first + local: pid for local, pid in context.pids().items()}
    folder = Path(request["job"]).parent
    deadline_s = time.monotonic() + float(request["timeout_s"])
    hang_s = float(request.get("hang_s", HANG_S))
    look_s = time.monotonic() + _LOOK_S
    while True:
        if result := context.wait(0):
            exits = _exits(context, first) if result.failures else dict.fromkeys(pids, 0)
            return {"exits": exits, "ended": ""}
        now_s = time.monotonic()
        hung = False
        if now_s > look_s:
            look_s, hung = now_s + _LOOK_S, hangs(folder, pids, hang_s)
        if hung or now_s > deadline_s:
            ask(pids.values())
            return {"exits": {}, "ended": "hang" if hung else "timeout"}
        heed_parent(_POLL_S)


def _exits(context: PContext, first: int) -> dict[int, int]:
    """Return the exit status of every rank that has ended by itself.

    Elastic names one failure, which may be a rank that failed because its peer was gone; so all are looked at.
    """
    time.sleep(_SETTLE_S)
    started = context._pc  # type: ignore[attr-defined]  # no public way tells more than the first
    return {first + local: p.exitcode for local, p in enumerate(started.processes) if p.exitcode is not None}


def _store(listener: socket.socket) -> TCPStore:
    """Return a store that listens on a socket."""
    host, port = listener.getsockname()[:2]
    return TCPStore(
        host,
        port,
        is_master=True,
        wait_for_workers=False,
        multi_tenant=False,
        master_listen_fd=listener.detach(),
    )
