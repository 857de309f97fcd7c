"""One agent on each of several nodes, joined to this process over TCP: what `slurm` and `torchrun` have in common.

On every node `python -m harness join` connects to this process, tells what the node is, and makes the connection the
standard input and output of an agent. The agents are asked and answer as the one of this machine does. That of the
first node opens the store in which the ranks meet, on the address that this process reaches it by; the others are told
where. Whichever end of a connection goes, the other ends what it started, so that no process outlives its run.

The nodes share a file system with the run's folder and the cache in it; a node proves it, and that it is the same
user's, by a secret that it reads there.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import CannotRun, WorkerFailed
from harness.launchers import _outcome
from harness.machine.nodes import Node, node_from_json
from harness.results import RankReport
from harness.running import job as jobs
from harness.running.job import Job
from harness.running.progress import read_progress
from harness.stored.cache import shared_folder

SECRET = "secret"
"""Name of the file in the run's folder that a node reads."""
HELLO_S = 10.0
"""Time in which who connects must have told who it is; a node reads a shared folder for it."""
_START_S = 300.0
"""Time an agent is given to import torch, on a slow disk too."""
_GRACE_S = 15.0
"""Time agents are given beyond a case's timeout, to end their ranks and answer."""
_PEERS_S = 5.0
"""Time in which the other nodes notice that a rank has failed; what still waits then is ended."""
_TOGETHER_S = 0.3
"""What is lost within this time is told together, in the order it was seen."""
_END_S = 10.0
"""Time in which what was started ends by itself, once its connection is gone."""
_AGAIN_S = 120.0
"""Time in which the nodes must have joined after one was lost, which may be for good."""
_GONE_S = 30.0
"""The same after they once did not: for each case that follows."""
_VISIBLE_S = 30.0
"""Time in which a file that another node wrote is seen here: NFS keeps what it knows of a folder so long."""


@dataclass(slots=True)
class Member:
    """One node that has joined."""

    name: str
    node: Node
    connection: socket.socket
    unread: bytes = b""
    ready: bool = False
    kept: list[dict[str, Any]] = field(default_factory=list)
    """Messages that came before they were waited for."""

    def send(self, message: dict[str, Any]) -> None:
        """Send a line; raises OSError where the node is gone."""
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def received(self) -> list[dict[str, Any]] | None:
        """Return the lines that have come in, or None at the end of the connection; waits for some to come."""
        try:
            chunk = self.connection.recv(65536)
        except OSError:
            chunk = b""
        if not chunk:
            return None
        *lines, self.unread = (self.unread + chunk).split(b"\n")
        return [json.loads(line) for line in lines]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How agents come to the nodes."""

    address: str
    """To listen on; empty is every address of this machine."""
    port: int
    """0 lets the system choose."""
    count: int
    """Nodes."""
    agent: str
    """Module of the agent."""
    start: Callable[[int, Path], subprocess.Popen[bytes]]
    """Given the port and a file for its output: start what connects, for all nodes or for the first."""
    wait_s: float
    """Time in which all nodes must have joined."""
    advice: str
    """What to do when they have not, a sentence's end."""


def joining(options: Sequence[str], log: Path, *, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start `python -m harness join` in a session of its own: Ctrl-C is pytest's to handle, which then closes this.

    Args:
        options: of it.
        log: for what it says.
        before: a program that starts it.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [*before, sys.executable, "-m", "harness", "join", *options, "--once"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_outcome.environment("cpu"),
            start_new_session=True,
        )


class NodesSession:
    """Talks to the agents of all nodes; has new ones started after one was lost."""

    conditions = ""

    def __init__(self, way: Way, device_kind: str, folder: Path) -> None:
        self._way = way
        self._device_kind = device_kind
        self._folder = folder
        self.members: list[Member] = []
        self._starter: subprocess.Popen[bytes] | None = None
        self._secret = secrets.token_hex(32)
        file = folder / SECRET
        file.touch(mode=0o600)
        file.write_text(self._secret)

    def launch(self, job: Job, *, timeout_s: float) -> Sequence[RankReport]:
        """Run one job in fresh processes and return one report per rank."""
        job_file = job.folder / "job.json"
        jobs.write(job, job_file)
        self.gather()
        per_node = job.ranks_per_node or job.ranks
        members = self.members[: job.ranks // per_node]
        request = {"job": str(job_file), "ranks": per_node, "timeout_s": timeout_s, "hang_s": job.hang_s}
        answers: dict[int, dict[str, Any]] = {}
        lost: list[int] = []
        more: dict[str, Any] = {}
        for number, member in enumerate(members):
            if len(members) > 1:
                more |= {"first": number * per_node, "world": job.ranks}
            try:
                member.send(request | more | {"remote": True})
            except OSError:
                lost.append(number)
                break
            if len(members) > 1 and number == 0:
                told = self._answers(members[:1], time.monotonic() + _START_S, "store", lost)
                if not told:
                    lost = lost or [0]  # it did not answer
                    break
                more |= {"store": told[0]["store"]}
        else:
            deadline_s = time.monotonic() + timeout_s + _GRACE_S + (0 if all(m.ready for m in members) else _START_S)
            answers = self._answers(members, deadline_s, "exits", lost)
        if lost:
            failure = self._lost(job, members, lost, per_node)
            self.close()
            self._way = replace(self._way, wait_s=min(self._way.wait_s, _AGAIN_S))
            raise failure
        if len(answers) < len(members):
            self.close()
        exits = {int(rank): int(status) for one in answers.values() for rank, status in one["exits"].items()}
        ended = next((one["ended"] for one in answers.values() if one["ended"]), "")
        _wait_until_visible(job, exits)
        return _outcome.collect(job, exits=exits, timed_out=bool(ended), hung=ended == "hang", timeout_s=timeout_s)

    def close(self) -> None:
        """Let every connection go, whereupon agents and ranks end, and wait until what was started here has."""
        joined = bool(self.members)
        for member in self.members:
            member.connection.close()
        self.members = []
        starter, self._starter = self._starter, None
        if starter is None:
            return
        if not joined:
            starter.terminate()  # it waits still: in Slurm's queue, say
        for end in (starter.terminate, starter.kill):
            try:
                starter.wait(timeout=_END_S)
                return
            except subprocess.TimeoutExpired:
                end()
        starter.wait()

    def gather(self) -> None:
        """Have all nodes join, if they have not.

        Raises:
            CannotRun: some did not, or one does not see the run's folder.
        """
        if self.members:
            return
        log = self._folder / "nodes.log"
        end_s = time.monotonic() + self._way.wait_s
        joined: dict[int, Member] = {}
        try:
            with contextlib.closing(_listen(self._way)) as listener:
                self._starter = starter = self._way.start(listener.getsockname()[1], log)
                while len(joined) < self._way.count:
                    if select.select([listener], [], [], 0.2)[0]:
                        self._admit(listener, joined)
                    elif starter.poll() is not None:
                        raise CannotRun(f"no agents on the nodes: they ended before they joined{_tail(log)}")
                    elif time.monotonic() > end_s:
                        waited_s = self._way.wait_s
                        self._way = replace(self._way, wait_s=min(waited_s, _GONE_S))
                        raise CannotRun(
                            f"{len(joined)} of {self._way.count} nodes joined within {waited_s:g} s; "
                            f"{self._way.advice}{_tail(log)}"
                        )
        except BaseException:
            self.members = list(joined.values())
            self.close()
            raise
        self.members = [joined[place] for place in sorted(joined)]

    def _admit(self, listener: socket.socket, joined: dict[int, Member]) -> None:
        """Let a node in that knows the secret; whoever else connects is let go without a word."""
        connection, _ = listener.accept()
        connection.settimeout(HELLO_S)
        try:
            hello = {"folder": str(self._folder), "agent": self._way.agent, "device_kind": self._device_kind}
            connection.sendall(json.dumps(hello).encode() + b"\n")
            # Bytes, for what a stranger sends may be no text.
            line = _line(connection)
            told = json.loads(line)
            if error := told.get("error"):
                raise CannotRun(f"node {told.get('name')}: {error}")
            if not hmac.compare_digest(str(told.get("secret", "")).encode(), self._secret.encode()):
                raise ValueError("it does not know the secret")
            place = told["place"]
            if place is None:
                place = next(n for n in range(self._way.count + 1) if n not in joined and n)
            member = Member(str(told["name"]), node_from_json(told["node"]), connection)
            if place >= self._way.count or place in joined:
                raise ValueError("there is no place for it")
            connection.sendall(b'{"place": %d}\n' % place)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            connection.close()
            return
        except CannotRun:
            connection.close()
            raise
        connection.settimeout(None)
        notice_silence(connection)
        joined[place] = member

    def _answers(
        self, members: Sequence[Member], deadline_s: float, wanted: str, lost: list[int]
    ) -> dict[int, dict[str, Any]]:
        """Return each node's message that has a field, as far as they come; note in `lost` whose connection ended.

        Once a node tells of a rank that failed the others have a few seconds left: their ranks wait for it.
        """
        answers: dict[int, dict[str, Any]] = {}
        for number, member in enumerate(members):
            for message in member.kept:
                if wanted in message:
                    answers[number] = message
            member.kept = []
        while waiting := {m.connection: n for n, m in enumerate(members) if n not in answers and n not in lost}:
            left_s = deadline_s - time.monotonic()
            readable = select.select(list(waiting), [], [], max(0.0, left_s))[0] if left_s > 0 else []
            if not readable:
                break
            for connection in readable:
                number = waiting[connection]
                messages = members[number].received()
                if messages is None:
                    lost.append(number)
                    deadline_s = min(deadline_s, time.monotonic() + _TOGETHER_S)
                for message in messages or ():
                    members[number].ready = True
                    if wanted in message:
                        answers[number] = message
                        if any(message.get("exits", {}).values()):
                            deadline_s = min(deadline_s, time.monotonic() + _PEERS_S)
                    else:
                        members[number].kept.append(message)
        return answers

    def _lost(self, job: Job, members: Sequence[Member], lost: Sequence[int], per_node: int) -> WorkerFailed:
        number = lost[0]
        ranks = range(number * per_node, (number + 1) * per_node)
        whose = f"rank {ranks[0]}" if per_node == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
        others = "".join(f", then node {members[n].name}" for n in lost[1:])
        return WorkerFailed(
            f"{job.case_id}: node {members[number].name} ({number + 1} of {len(members)}, {whose} of {job.ranks}) "
            f"disappeared {_phase(job, ranks[0])}{others}: the connection to its agent ended. All ranks were "
            f"ended, and the next case has the nodes join anew{_tail(self._folder / f'agent{number}.log')}"
        )


def _listen(way: Way) -> socket.socket:
    try:
        return socket.create_server((way.address, way.port))
    except OSError as error:
        raise CannotRun(
            f"cannot listen on {way.address}:{way.port}, where the nodes would join: {error.strerror}; "
            "name an address of this machine and a free port with --rdzv-endpoint"
        ) from error


def _line(connection: socket.socket) -> bytes:
    """Return a line of what was sent; a stranger gets no more than a few seconds and a few kilobytes."""
    end_s, line = time.monotonic() + HELLO_S, b""
    while not line.endswith(b"\n"):
        if len(line) > 2**20 or time.monotonic() > end_s:
            raise ValueError("no line")
        chunk = connection.recv(65536)
        if not chunk:
            raise ValueError("it hung up")
        line += chunk
    return line


def notice_silence(connection: socket.socket) -> None:
    """Have the kernel end a connection whose other end has lost its power, after 20 seconds (tcp(7))."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)


def _wait_until_visible(job: Job, exits: dict[int, int]) -> None:
    """Wait until the reports of ranks that ended well are seen here."""
    end_s = time.monotonic() + _VISIBLE_S
    ended = [f"rank{rank}.json" for rank, status in exits.items() if status == 0]
    # Listing a folder has NFS look again.
    while not {file.name for file in job.folder.iterdir()}.issuperset(ended) and time.monotonic() < end_s:
        if job.ranks_per_node is None:
            return
        time.sleep(0.1)


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-10:]
    except OSError:
        return ""
    return "".join(f"\n  | {line}" for line in lines)


def _phase(job: Job, rank: int) -> str:
    place = read_progress(job.folder, rank)
    return f"during {place[0]}" if place is not None else "before its ranks started"


def look(way: Way) -> tuple[Node, ...]:
    """Return what the nodes are that join in this way, and let them go.

    Raises:
        CannotRun: they did not join.
    """
    with tempfile.TemporaryDirectory(dir=shared_folder()) as folder:
        session = NodesSession(replace(way, agent=""), "cpu", Path(folder))
        try:
            session.gather()
            return tuple(member.node for member in session.members)
        finally:
            session.close()
