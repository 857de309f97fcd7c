"""Ranks on hosts of their own, made on this machine: a network namespace each, joined by links of a known speed.

    SHARDBENCH_LINK=100mbit pytest benches -k "ddp and 2gpu" --launcher namespaces

A case of several nodes has a namespace for each with all its ranks, and its ranks reach each other there without a
link; any other has one for each rank. Every namespace has one veth into a bridge (ip-netns(8), veth(4)); what it sends
is shaped by a token bucket (tc-tbf(8)) to SHARDBENCH_LINK, such as `100mbit` or `2.5gbit`, and unlimited without it. So
a step's communication can be held to arithmetic: of every 1514 bytes on the link, Ethernet, IP and TCP take 66. A job
of one rank talks to nobody and runs outside, where it can download. Ranks start cold, as torchrun's do. Needs root and
iproute2.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import psutil

from harness.errors import CannotRun, HarnessError
from harness.launchers import _outcome
from harness.machine import host as hosts
from harness.machine.host import Host
from harness.machine.nodes import Joining
from harness.plugins import Launcher
from harness.results import RankReport
from harness.running import job as jobs
from harness.running.job import Job
from harness.running.progress import ask, hangs

LINK = "SHARDBENCH_LINK"
_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_NAMED = Path("/run/netns")
_NAME = re.compile(r"shardbench-(\d+)-\w+")
_INTERFACE = "link0"
_PORT = 29500
"""Of rank 0's store; its namespace is new, so nobody else has taken it."""
_BURST_S = 0.002
"""The bucket holds what the link carries in this time, more than a busy machine is late to refill it, and little beside
a large collective: what is smaller passes at once."""
_LEAST_BURST_BYTES = 2 * 1514
_QUEUE_S = 0.2
"""What may wait for the link: long, so that TCP's window and not lost packets slow the sender down."""
_POLL_S = 0.02
_LOOK_S = 1.0
"""How often it is looked whether the ranks still move."""
_SETTLE_S = 0.5
"""Time in which the ranks of a failed job end by themselves."""


def link_bits_per_s() -> float | None:
    """Return what SHARDBENCH_LINK asks for, bits per second; None is unlimited.

    Raises:
        HarnessError: it is no rate.
    """
    text = os.environ.get(LINK, "").strip().lower()
    if text in ("", "unlimited"):
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)", text)
    rate = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if rate < _UNITS["kbit"]:
        raise HarnessError(f"{LINK} is {text!r}, no rate of a link; write it like 100mbit or 2.5gbit, or leave it out")
    return rate


class NamespacesSession:
    """Makes the namespaces of each job, runs a rank in each, and removes them."""

    def __init__(self, host: Host, folder: Path) -> None:
        if host.device_kind == "cuda":
            raise CannotRun(
                "the launcher namespaces joins gloo ranks; NCCL would pass its links by; use another --launcher"
            )
        if missing := why_not():
            raise CannotRun(f"the launcher namespaces {missing}")
        self._host = host
        self._rate = link_bits_per_s()
        self.conditions = f"links of {os.environ[LINK].strip()}" if self._rate else "links without a limit"
        self._ranks: dict[int, subprocess.Popen[bytes]] = {}
        remove_stale()

    def launch(self, job: Job, *, timeout_s: float) -> Sequence[RankReport]:
        """Run one job in fresh processes and return one report per rank."""
        job_file = job.folder / "job.json"
        jobs.write(job, job_file)
        with contextlib.ExitStack() as stack:
            each = job.ranks_per_node or 1
            names = stack.enter_context(joined(job.ranks // each, self._rate)) if job.ranks > 1 else [None]
            stack.callback(self.close)
            for rank in range(job.ranks):
                self._start(job, job_file, rank, names[rank // each])
            ended = self._wait(job, time.monotonic() + timeout_s)
            exits = {rank: p.returncode for rank, p in self._ranks.items() if p.poll() is not None}
        return _outcome.collect(job, exits=exits, timed_out=bool(ended), hung=ended == "hang", timeout_s=timeout_s)

    def close(self) -> None:
        """End every rank; their namespaces go when `launch` returns or raises."""
        for process in self._ranks.values():
            process.kill()
        for process in self._ranks.values():
            process.wait()
        self._ranks = {}

    def _start(self, job: Job, job_file: Path, rank: int, name: str | None) -> None:
        place = {
            "MASTER_ADDR": "127.0.0.1" if name is None else _address(0),
            "MASTER_PORT": "0" if name is None else str(_PORT),
            "WORLD_SIZE": str(job.ranks),
            "RANK": str(rank),
            # The hosts share this machine's cores, so each rank takes its own as on one host.
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(job.ranks),
            "GROUP_RANK": str(rank // (job.ranks_per_node or job.ranks)),
        }
        if name is not None:
            place["GLOO_SOCKET_IFNAME"] = _INTERFACE
        enter = [] if name is None else ["ip", "netns", "exec", name]
        with (job.folder / f"rank{rank}.log").open("ab") as log:
            self._ranks[rank] = subprocess.Popen(
                [*enter, sys.executable, "-m", "harness.worker", str(job_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**_outcome.environment(self._host.device_kind), **place},
                start_new_session=True,
            )

    def _wait(self, job: Job, deadline_s: float) -> Literal["", "timeout", "hang"]:
        """Wait until all have ended, or one failed and the rest had time to tell; return why they are to be ended."""
        ranks, look_s, hung = self._ranks.values(), time.monotonic() + _LOOK_S, False
        while any(process.poll() is None for process in ranks):
            if any(process.returncode for process in ranks):
                _wait_for(ranks, _SETTLE_S)
                return ""
            now_s = time.monotonic()
            if now_s > look_s:
                look_s, hung = now_s + _LOOK_S, hangs(job.folder, self._ranks, job.hang_s)
            if hung or now_s > deadline_s:
                ask(process.pid for process in ranks)
                return "hang" if hung else "timeout"
            time.sleep(_POLL_S)
        return ""


def why_not() -> str:
    """Return why this machine cannot make namespaces, completing "the launcher namespaces ..."; empty where it can."""
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        return f"needs {' and '.join(missing)} of iproute2; install it (Debian: apt-get install iproute2)"
    if os.geteuid() != 0:
        return "needs root to make network namespaces; run it as root, or use another --launcher"
    name = f"shardbench-{os.getpid()}-probe"
    try:
        _ip(f"netns add {name}", f"link add {_INTERFACE} netns {name} type bridge")
        _shape(name, _UNITS["mbit"])
    except CannotRun as error:
        return str(error).removeprefix("the launcher namespaces ")
    finally:
        _remove(name)
    return ""


@contextmanager
def joined(count: int, bits_per_s: float | None) -> Iterator[list[str]]:
    """Make as many namespaces, each with a link of that rate into one bridge; yield their names, remove them after."""
    bridge, *names = (f"shardbench-{os.getpid()}-{part}" for part in ("bridge", *range(count)))
    try:
        _ip(
            f"netns add {bridge}",
            f"-n {bridge} link add hub type bridge",
            f"-n {bridge} link set hub up",
        )
        for rank, name in enumerate(names):
            _ip(
                f"netns add {name}",
                f"link add {_INTERFACE} netns {name} type veth peer name port{rank} netns {bridge}",
                f"-n {bridge} link set port{rank} master hub up",
                f"-n {name} addr add {_address(rank)}/16 dev {_INTERFACE}",
                f"-n {name} link set {_INTERFACE} up",
                f"-n {name} link set lo up",
            )
            if bits_per_s is not None:
                _shape(name, bits_per_s)
        yield names
    finally:
        for name in (bridge, *names):
            _remove(name)


def remove_stale() -> None:
    """Remove the namespaces of runs that were killed: their names tell whose they were."""
    for path in _NAMED.glob("shardbench-*"):
        found = _NAME.fullmatch(path.name)
        if found and not psutil.pid_exists(int(found[1])):
            _remove(path.name)


def _address(rank: int) -> str:
    return f"10.77.{(rank + 1) // 256}.{(rank + 1) % 256}"


def _shape(name: str, bits_per_s: float) -> None:
    burst = max(_LEAST_BURST_BYTES, round(bits_per_s / 8 * _BURST_S))
    _call(
        *("tc", "-n", name, "qdisc", "add", "dev", _INTERFACE, "root", "tbf", "rate", f"{bits_per_s:.0f}bit"),
        *("burst", f"{burst}b", "latency", f"{_QUEUE_S * 1e3:.0f}ms"),
    )


def _ip(*commands: str) -> None:
    for command in commands:
        _call("ip", *command.split())


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise CannotRun(f"the launcher namespaces cannot make its links: {' '.join(command)}: {done.stderr.strip()}")


def _remove(name: str) -> None:
    """Remove a namespace; its interfaces go with it."""
    if (_NAMED / name).exists():
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _wait_for(processes: Iterable[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait until all have ended, at most so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(process.poll() is None for process in processes):
        time.sleep(_POLL_S)


def _probe(joining: Joining) -> Host:
    return replace(hosts.probe(), made_nodes=True)


NAMESPACES = Launcher(name="namespaces", open=NamespacesSession, probe=_probe)
