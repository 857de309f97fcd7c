"""The warm agent: one process per pytest run that starts the ranks of each case through torch elastic's fork server.

It reads one JSON request a line from standard input and answers each with one line on standard output. When standard
input ends, because pytest ended in whatever way, it kills the ranks it has and ends too.

    {"job": "<file>", "ranks": 2, "timeout_s": 120}  ->  {"exits": {"0": 0, "1": -9}, "timed_out": false}
"""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std, start_processes
from torch.distributed.elastic.multiprocessing.api import PContext, SignalException

from harness.worker import process
from harness.worker.rank import main as rank_main

_POLL_S = 0.02
"""How often the ranks are looked at: a poll costs about 20 microseconds, so a thousandth of a core."""
_SETTLE_S = 0.1
"""Time in which the ranks of a failed job end by themselves, before the rest is killed."""
_STACKS_S = 0.5
"""Time a rank that hangs is given to write its stacks."""


class ParentGone(Exception):
    """Standard input ended: nobody is left to report to."""


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Start the ranks of one job, wait for all, and return how each ended; none is left when this returns."""
    ranks = int(request["ranks"])
    store = _store(ranks)
    # What torchrun would set, so that a rank is the same under either.
    shared = {
        "MASTER_ADDR": store.host,
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
    }
    context = start_processes(
        name="rank",
        entrypoint=rank_main,
        args=dict.fromkeys(range(ranks), (request["job"],)),
        envs={r: shared | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(ranks)},
        # Each rank writes its own log, which also holds what it says after this pipe is gone.
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull, redirects=Std.NONE),
        start_method="forkserver",
    )
    try:
        return _wait(context, time.monotonic() + float(request["timeout_s"]))
    finally:
        context.close(signal.SIGKILL, timeout=5)


def _wait(context: PContext, deadline_s: float) -> dict[str, Any]:
    pids = context.pids()
    while True:
        if result := context.wait(0):
            exits = _exits(context) if result.failures else dict.fromkeys(pids, 0)
            return {"exits": exits, "timed_out": False}
        if time.monotonic() > deadline_s:
            for pid in pids.values():
                os.kill(pid, signal.SIGUSR1)
            time.sleep(_STACKS_S)
            return {"exits": {}, "timed_out": True}
        if select.select([sys.stdin.buffer], [], [], _POLL_S)[0]:
            # Requests come one at a time, so anything readable now is the end of the file.
            raise ParentGone


def _exits(context: PContext) -> dict[int, int]:
    """Return the exit status of every rank that has ended by itself.

    Elastic names one failure, which may be a rank that failed because its peer was gone; so all are looked at.
    """
    time.sleep(_SETTLE_S)
    started = context._pc  # type: ignore[attr-defined]  # no public way tells more than the first
    return {rank: p.exitcode for rank, p in enumerate(started.processes) if p.exitcode is not None}


def _store(ranks: int) -> TCPStore:
    """Return a store that listens on loopback alone, on a port the system chose, so none can be in use already."""
    listener = socket.create_server(("127.0.0.1", 0))
    return TCPStore(
        "127.0.0.1",
        listener.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        multi_tenant=False,
        master_listen_fd=listener.detach(),
    )


def serve(reply_fd: int) -> None:
    """Answer requests until standard input ends."""
    with os.fdopen(reply_fd, "w", buffering=1) as replies:
        print(json.dumps({"ready": True, "pid": os.getpid()}), file=replies)
        for line in iter(sys.stdin.buffer.readline, b""):
            print(json.dumps(run(json.loads(line))), file=replies)


def main() -> None:
    """Take standard output for the replies, so that no library's chatter gets between them, and serve."""
    process.die_with_parent()
    reply_fd = os.dup(1)
    os.dup2(2, 1)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM"
    multiprocessing.set_forkserver_preload(["harness.worker.preload"])
    # Started now, so that it preloads while pytest still collects.
    multiprocessing.get_context("forkserver").Process(target=_nothing).start()
    try:
        serve(reply_fd)
    except (ParentGone, SignalException, BrokenPipeError):
        os._exit(1)


def _nothing() -> None:
    """Make the fork server start."""


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
