"""The cold agent: like the warm one in what it is asked and answers, but each job is one torchrun of fresh processes.

torchrun would have the ranks meet in a store that listens on every address of the machine. So its own process,
`python -m harness.worker.cold FD ...`, makes the store first, on the one address and port of a socket that it is given;
torchrun's static rendezvous then finds the store of that port there and opens no other.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from harness.running.progress import HANG_S, ask, hangs
from harness.worker import process
from harness.worker.serving import ParentGone, heed_parent, part_of, serve, take_output

_POLL_S = 0.05
_LOOK_S = 1.0
"""How often it is looked whether the ranks still move."""


def run(request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Start the ranks of one job, wait for all, and return how each ended; none is left when this returns."""
    part = part_of(request, tell)
    listening = [part.listener.fileno()] if part.listener else []
    command = [
        *(sys.executable, "-m", "harness.worker.cold", ",".join(map(str, listening))),
        *("--rdzv-backend", "static", "--rdzv-endpoint", f"{part.host}:{part.port}", "--max-restarts", "0"),
        *("--nnodes", str(part.nodes), "--node-rank", str(part.node), "--nproc-per-node", str(part.local)),
        *("-m", "harness.worker", request["job"]),
    ]
    log_file = Path(request["job"]).parent / f"torchrun{part.node}.log"
    with log_file.open("wb") as log:
        torchrun = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | part.environment,
            pass_fds=listening,
        )
    if part.listener:
        part.listener.close()
    ranks = range(part.first, part.first + part.local)
    try:
        ended = _wait(torchrun, request, ranks)
    finally:
        torchrun.kill()  # each rank asked the kernel to end with it
        torchrun.wait()
    if torchrun.returncode == 0:
        return {"exits": dict.fromkeys(ranks, 0), "ended": ended}
    return {"exits": _exits(log_file.read_text(errors="replace")), "ended": ended}


def _wait(torchrun: subprocess.Popen[bytes], request: dict[str, Any], ranks: range) -> str:
    deadline_s = time.monotonic() + float(request["timeout_s"])
    look_s, hung = time.monotonic() + _LOOK_S, False
    while torchrun.poll() is None:
        now_s = time.monotonic()
        if now_s > look_s:
            look_s = now_s + _LOOK_S
            hung = hangs(Path(request["job"]).parent, ranks, float(request.get("hang_s", HANG_S)))
        if hung or now_s > deadline_s:
            ask(child.pid for child in psutil.Process(torchrun.pid).children())
            return "hang" if hung else "timeout"
        heed_parent(_POLL_S)
    return ""


def _exits(log: str) -> dict[int, int]:
    """Return the exit status of the rank that torchrun names as failed, from its closing summary."""
    ranks = re.findall(r"^\s*rank\s+: (\d+) \(local_rank", log, re.MULTILINE)
    codes = re.findall(r"^\s*exitcode\s+: (-?\d+)", log, re.MULTILINE)
    return {int(rank): int(code) for rank, code in zip(ranks, codes, strict=False)}


def be_torchrun(listening: str, arguments: list[str]) -> None:
    """Be torchrun, with the store on a socket that listens, if this is the node that has it."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.run import main as torchrun

    process.die_with_parent()
    store = None
    if listening:
        listener = socket.socket(fileno=int(listening))
        host, port = listener.getsockname()[:2]
        store = TCPStore(
            host, port, is_master=True, wait_for_workers=False, multi_tenant=True, master_listen_fd=listener.detach()
        )
    torchrun(arguments)
    del store


if __name__ == "__main__":
    if len(sys.argv) > 1:
        be_torchrun(sys.argv[1], sys.argv[2:])
    else:
        with contextlib.suppress(ParentGone, BrokenPipeError):
            serve(run, take_output())
