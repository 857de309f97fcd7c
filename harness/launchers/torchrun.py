"""The cold launcher: `torchrun` for each case, about ten seconds of imports a case, nothing kept between cases.

Over several machines without a scheduler, one torchrun on each:

    pytest benches -k "hsdp and pernode4" --launcher torchrun --nnodes 2 --rdzv-endpoint node0:29400
    python -m harness join node0:29400        # on every other machine, before or after
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness.errors import HarnessError
from harness.launchers import _nodes
from harness.launchers._nodes import NodesSession, Way
from harness.launchers.warm import WarmSession
from harness.machine import host as hosts
from harness.machine.host import Host
from harness.machine.nodes import Joining
from harness.plugins import Launcher, Session

AGENT = "harness.worker.cold"
_JOIN_S = 600.0
"""Time in which all machines must have joined, as long as torchrun waits for its peers."""


def _way(joining: Joining) -> Way:
    address, _, port = joining.rdzv_endpoint.rpartition(":")
    if not (address and port.isdigit()):
        raise HarnessError(
            f"--nnodes {joining.nodes} needs --rdzv-endpoint HOST:PORT: a name or address of this machine that the "
            f"others reach it by, and a free port; it is {joining.rdzv_endpoint!r}"
        )

    def start(port: int, log: Path) -> subprocess.Popen[bytes]:
        return _nodes.joining([f"{address}:{port}", "--place", "0"], log)

    return Way(
        address=address,
        port=int(port),
        count=joining.nodes,
        agent=AGENT,
        start=start,
        wait_s=_JOIN_S,
        advice=f"run `python -m harness join {joining.rdzv_endpoint}` on each of the others",
    )


def _probe(joining: Joining) -> Host:
    if (joining.nodes or 1) == 1:
        return hosts.probe()
    return hosts.of_nodes(_nodes.look(_way(joining)), joining)


def _open(host: Host, folder: Path) -> Session:
    if host.nodes:
        return NodesSession(_way(host.joining), host.device_kind, folder)
    return WarmSession(host, folder, agent=AGENT)


TORCHRUN = Launcher(name="torchrun", open=_open, probe=_probe)
