"""How an agent is asked and answers, on this machine or as one of several nodes; imports no torch.

A request may be of one node's part of a job: `first` is the number of its first rank, `world` that of all ranks. The
agent that is not told where the `store` is, address and port, opens it, and tells before it starts its ranks.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.worker import process

_LOOPBACK = "127.0.0.1"

Run = Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], dict[str, Any]]
"""Given a request, and what sends a message beforehand: how the job ended."""


class ParentGone(Exception):
    """Standard input ended: nobody is left to report to."""


@dataclass(slots=True, kw_only=True)
class Part:
    """This node's part of a job."""

    local: int
    """Ranks to start here."""
    first: int
    """Number of the first of them."""
    world: int
    """Ranks over all nodes."""
    host: str = ""
    port: int = 0
    listener: socket.socket | None = None
    """Where the ranks' store is to listen, if it is this node's."""
    environment: dict[str, str] = field(default_factory=dict)
    """Of the ranks, beyond this process's own."""

    @property
    def nodes(self) -> int:
        """Nodes that have a part."""
        return self.world // self.local

    @property
    def node(self) -> int:
        """This one's number."""
        return self.first // self.local


def part_of(request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> Part:
    """Return what a request asks this node for, with a socket that listens if the store is to be here.

    It listens on loopback alone unless there are other nodes, on a port that the system chose, so that none can be in
    use already.
    """
    local = int(request["ranks"])
    part = Part(local=local, first=int(request.get("first", 0)), world=int(request.get("world", local)))
    if "store" in request:
        part.host, part.port = request["store"]
    else:
        address = os.environ["SHARDBENCH_ADDRESS"] if part.nodes > 1 else _LOOPBACK
        part.listener = socket.create_server((address, 0))
        part.host, part.port = part.listener.getsockname()[:2]
        if part.nodes > 1:
            tell({"store": [part.host, part.port]})
    if part.nodes > 1:
        part.environment["GLOO_SOCKET_IFNAME"] = os.environ["SHARDBENCH_INTERFACE"]
    if request.get("remote"):
        # Clocks of other machines began at other times.
        part.environment["SHARDBENCH_ASKED_S"] = str(time.monotonic())
    return part


def heed_parent(poll_s: float) -> None:
    """Wait so long, and raise ParentGone if standard input has ended."""
    if select.select([sys.stdin.buffer], [], [], poll_s)[0]:
        # Requests come one at a time, so anything readable before the answer is the end of the file.
        raise ParentGone


def serve(run: Run, reply_fd: int) -> None:
    """Answer requests until standard input ends."""
    with os.fdopen(reply_fd, "w", buffering=1) as replies:

        def tell(message: dict[str, Any]) -> None:
            print(json.dumps(message), file=replies)

        tell({"ready": True, "pid": os.getpid()})
        for line in iter(sys.stdin.buffer.readline, b""):
            tell(run(json.loads(line), tell))


def take_output() -> int:
    """Return a descriptor of standard output for the replies; whatever libraries print goes to standard error."""
    process.die_with_parent()
    reply_fd = os.dup(1)
    os.dup2(2, 1)
    return reply_fd
