"""The default launcher: one warm agent per run, so that starting the ranks of a case costs a fraction of a second."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from harness.errors import WorkerFailed
from harness.launchers import _outcome
from harness.machine.host import Host
from harness.plugins import Launcher
from harness.results import RankReport
from harness.running import job as jobs
from harness.running.job import Job

_START_S = 300.0
"""Time the agent is given to import torch, on a slow disk too."""
_GRACE_S = 15.0
"""Time the agent is given beyond a case's timeout, to end its ranks and answer."""


class WarmSession:
    """Talks to one agent; starts another when it dies."""

    conditions = ""

    def __init__(
        self, host: Host, folder: Path, root: Path = _outcome.ROOT, agent: str = "harness.worker.agent"
    ) -> None:
        """Start the agent of the suite in `root`: this one, unless another's code is to be measured."""
        self._host = host
        self._folder = folder
        self._root = root
        self._module = agent
        self._agent: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._unread = b""
        self._start()

    def launch(self, job: Job, *, timeout_s: float) -> Sequence[RankReport]:
        """Run one job in fresh processes and return one report per rank."""
        job_file = job.folder / "job.json"
        jobs.write(job, job_file)
        if self._agent is None or self._agent.poll() is not None:
            self._start()
        if not self._ready:
            self._reply(_START_S)
            self._ready = True
        request = {"job": str(job_file), "ranks": job.ranks, "timeout_s": timeout_s, "hang_s": job.hang_s}
        reply = self._ask(request, timeout_s + _GRACE_S)
        exits = {int(rank): int(status) for rank, status in reply["exits"].items()}
        # An agent of accepted code of before it looked for hangs says `timed_out`.
        ended = reply.get("ended", "timeout" if reply.get("timed_out") else "")
        return _outcome.collect(job, exits=exits, timed_out=bool(ended), hung=ended == "hang", timeout_s=timeout_s)

    def close(self) -> None:
        """End the agent and everything it started."""
        agent, self._agent = self._agent, None
        if agent is None:
            return
        family = _family(agent.pid)
        assert agent.stdin is not None
        assert agent.stdout is not None
        # The end of its standard input tells the agent to end its ranks, wherever it is.
        with contextlib.suppress(BrokenPipeError):
            agent.stdin.close()
        try:
            agent.wait(timeout=3)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()
        agent.stdout.close()
        _end(family)

    def _start(self) -> None:
        self.close()
        self._ready = False
        self._unread = b""
        with (self._folder / "agent.log").open("ab") as log:
            self._agent = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_outcome.environment(self._host.device_kind, self._root),
                # Where a module is looked for first.
                cwd=self._root,
                # Ctrl-C is pytest's to handle; it then closes the agent.
                start_new_session=True,
            )

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert self._agent is not None
        assert self._agent.stdin is not None
        try:
            self._agent.stdin.write(json.dumps(request).encode() + b"\n")
            self._agent.stdin.flush()
        except BrokenPipeError:
            raise self._gone("is gone") from None
        return self._reply(timeout_s)

    def _reply(self, timeout_s: float) -> dict[str, Any]:
        assert self._agent is not None
        assert self._agent.stdout is not None
        fd = self._agent.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise self._gone(f"did not answer within {timeout_s:g} s")
            chunk = os.read(fd, 65536)
            if not chunk:
                raise self._gone("ended")
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _gone(self, what: str) -> WorkerFailed:
        log = self._folder / "agent.log"
        agent = self._agent
        self.close()
        status = agent.returncode if agent else None
        if status is not None and status < 0:
            what += f" (killed by {signal.Signals(-status).name})"
        lines = log.read_text(errors="replace").splitlines()[-10:] if log.exists() else []
        tail = "\n".join(f"  | {line}" for line in lines)
        return WorkerFailed(
            f"the agent that starts the ranks {what}; its ranks were ended and the next case starts a new one\n{tail}"
        )


def _family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants."""
    try:
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _end(processes: Sequence[psutil.Process]) -> None:
    """Kill those that still live, and wait until they are gone.

    The tracker of what Python shares between processes comes last: it deletes that once all others have ended.
    """
    trackers = [process for process in processes if "resource_tracker" in _command(process)]
    for process in set(processes) - set(trackers):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=5)
    for process in trackers:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


WARM = Launcher(name="warm", open=WarmSession)
