"""`join`: makes this machine one of the nodes of a pytest run that was started on another with --rdzv-endpoint.

It connects, tells what this machine is, and lets an agent have the connection. When the connection ends, so do the
agent and all its ranks; a run may connect several times, so that it tries again for a while before it ends itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from harness.errors import CannotRun, HarnessError
from harness.launchers import _nodes, _outcome
from harness.machine import host

NAME = "join"
HELP = "make this machine a node of a pytest run on another one, which was given --nnodes and --rdzv-endpoint"
_AGENTS = ("", "harness.worker.agent", "harness.worker.cold")
"""What a run may ask for; nothing is for a look at the machine."""
_RETRY_S = 0.2
_BETWEEN_S = 60.0
"""Time in which a run that was there may come again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("endpoint", metavar="HOST:PORT", help="what --rdzv-endpoint says on the other machine")
    parser.add_argument(
        "--wait", type=float, default=600.0, metavar="SECONDS", help="for the run to be there (default: 600)"
    )
    # For the launchers: of which node, and that another connection is another process's.
    parser.add_argument("--place", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Serve a run until it is over.

    Raises:
        HarnessError: it was not there, this machine does not see its folder, or it had no place for this machine.
    """
    wait_s = arguments.wait
    while True:
        connection = _connect(arguments.endpoint, wait_s)
        if connection is None:
            if wait_s != arguments.wait:
                return 0
            raise HarnessError(f"nobody is at {arguments.endpoint}; start pytest there with --rdzv-endpoint, or --wait")
        with connection:
            _serve(connection, arguments.place)
        if arguments.once:
            return 0
        wait_s = _BETWEEN_S


def _connect(endpoint: str, wait_s: float) -> socket.socket | None:
    """Return a connection, or None where none is had in time."""
    name, _, port = endpoint.rpartition(":")
    # Slurm tells each task where its srun is.
    name = name or os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    if not port.isdigit():
        raise HarnessError(f"{endpoint!r} is no endpoint; write HOST:PORT")
    end_s = time.monotonic() + wait_s
    while True:
        try:
            return socket.create_connection((name, int(port)), timeout=_nodes.HELLO_S)
        except OSError:
            if time.monotonic() > end_s:
                return None
            time.sleep(_RETRY_S)


def _serve(connection: socket.socket, place: int | None) -> None:
    """Tell who this is, and let the agent that is asked for have the connection until it ends."""
    try:
        hello = _received(connection)
        folder, agent, device_kind = Path(hello["folder"]), hello["agent"], hello["device_kind"]
        if agent not in _AGENTS:
            raise CannotRun(f"it asks for {agent}, which is no agent of this suite: have the same version on all nodes")
        _send(connection, _introduction(folder, place))
        place = _received(connection)["place"]
    except (OSError, ValueError, KeyError):
        # The run is over, or has all its nodes; whether it comes again is seen by trying.
        time.sleep(_RETRY_S)
        return
    connection.settimeout(None)
    if not agent:
        with contextlib.suppress(OSError):
            connection.recv(1)  # until all nodes have been looked at
        return
    _nodes.notice_silence(connection)
    with (folder / f"agent{place}.log").open("ab") as log:
        subprocess.run(
            [sys.executable, "-m", agent],
            stdin=connection.fileno(),
            stdout=connection.fileno(),
            stderr=log,
            env=_outcome.environment(device_kind) | _way_of(connection),
            check=False,
        )


def _introduction(folder: Path, place: int | None) -> dict[str, Any]:
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    try:
        secret = (folder / _nodes.SECRET).read_text()
    except OSError as error:
        return {
            "name": name,
            "error": f"cannot read {folder}, where the run's files are ({error.strerror}): all nodes must share it; "
            "set SHARDBENCH_CACHE to a folder on a file system that they share",
        }
    if place is None and "SLURM_PROCID" in os.environ:
        place = int(os.environ["SLURM_PROCID"])
    return {"name": name, "place": place, "secret": secret, "node": asdict(host.probe_node())}


def _way_of(connection: socket.socket) -> dict[str, str]:
    """Return what the agent is told of the way to the other nodes: this end's address, and the interface that has it.

    A user who set GLOO_SOCKET_IFNAME knows a better one.
    """
    address = connection.getsockname()[0]
    interfaces = [name for name, known in psutil.net_if_addrs().items() if any(one.address == address for one in known)]
    chosen = os.environ.get("GLOO_SOCKET_IFNAME") or next(iter(interfaces), "")
    return {"SHARDBENCH_ADDRESS": address, "SHARDBENCH_INTERFACE": chosen}


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _received(connection: socket.socket) -> dict[str, Any]:
    """Return one line and not a byte more: what follows is the agent's."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise ValueError("it hung up")
        line += byte
    message: dict[str, Any] = json.loads(line)
    return message
