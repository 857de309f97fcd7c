"""Ranks on the nodes of a Slurm cluster: one `srun` with a task on each node, which is an agent for all cases.

    pytest benches -k "hsdp and pernode4" --launcher slurm --nnodes 2 --srun="--partition=gpu --account=x"

Within an allocation (sbatch, salloc) srun runs in that, on its nodes; else it waits for one of its own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from harness.errors import CannotRun
from harness.launchers import _nodes
from harness.launchers._nodes import NodesSession, Way
from harness.machine import host as hosts
from harness.machine.host import Host
from harness.machine.nodes import Joining
from harness.plugins import Launcher

_QUEUE_S = 24 * 3600.0
"""Time in which Slurm must have given the nodes: a queue may be long."""


def _way(joining: Joining) -> Way:
    if shutil.which("srun") is None:
        raise CannotRun("the launcher slurm needs srun, which is not on PATH; run on a machine of the cluster")
    options = [
        *(f"--nodes={joining.nodes}", f"--ntasks={joining.nodes}", "--ntasks-per-node=1"),
        # A node that is lost is told by its connection; srun would end the others before they can say more.
        *("--no-kill", "--kill-on-bad-exit=0", "--wait=0"),
        # The agent shares its node's cores among its ranks itself.
        "--cpu-bind=none",
    ]
    if "SLURM_CPUS_PER_TASK" in os.environ:
        # srun no longer takes it over from sbatch by itself.
        options.append(f"--cpus-per-task={os.environ['SLURM_CPUS_PER_TASK']}")
    options += shlex.split(joining.srun)

    def start(port: int, log: Path) -> subprocess.Popen[bytes]:
        return _nodes.joining([f":{port}"], log, before=["srun", *options])

    return Way(
        address="",
        port=0,
        count=joining.nodes,
        agent="harness.worker.agent",
        start=start,
        wait_s=_QUEUE_S,
        advice="see `squeue` for what Slurm waits for, and give srun's options with --srun",
    )


def _allocated(joining: Joining) -> int:
    """Return the nodes that are asked for: all of the allocation, unless told."""
    told = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    return joining.nodes or (int(told) if told.isdigit() else 1)


def _probe(joining: Joining) -> Host:
    from dataclasses import replace

    joining = replace(joining, nodes=_allocated(joining))
    return hosts.of_nodes(_nodes.look(_way(joining)), joining)


def _open(host: Host, folder: Path) -> NodesSession:
    return NodesSession(_way(host.joining), host.device_kind, folder)


SLURM = Launcher(name="slurm", open=_open, probe=_probe)
