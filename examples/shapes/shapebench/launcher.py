"""`nice`: starts every rank as a process of low priority, so that whoever sits at the machine does not notice."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness.launchers import _outcome
from harness.machine.host import Host
from harness.plugins import Launcher
from harness.results import RankReport
from harness.running import job as jobs
from harness.running.job import Job

_NICENESS = 10
_POLL_S = 0.05


class NiceSession:
    """Starts the ranks of one job after another."""

    conditions = f"ranks of niceness {_NICENESS}"
    """Results of other conditions are never compared with these."""

    def __init__(self, host: Host, folder: Path) -> None:
        self._host = host
        self._ranks: list[subprocess.Popen[bytes]] = []

    def launch(self, job: Job, *, timeout_s: float) -> Sequence[RankReport]:
        """Run one job in fresh processes and return one report per rank."""
        job_file = job.folder / "job.json"
        jobs.write(job, job_file)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._ranks = []
        deadline_s = time.monotonic() + timeout_s
        try:
            for rank in range(job.ranks):
                self._start(job, job_file, rank, port)
            while self._running() and not self._failed() and time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
            timed_out = self._running() and not self._failed()
            # Taken before the rest are ended, so that those are not blamed.
            exits = {rank: code for rank, one in enumerate(self._ranks) if (code := one.poll()) is not None}
        finally:
            self.close()
        # What the ranks left behind becomes their reports, or one error that names the rank and the cause.
        return _outcome.collect(job, exits=exits, timed_out=timed_out, timeout_s=timeout_s)

    def close(self) -> None:
        """End every process that was started."""
        for process in self._ranks:
            process.kill()
            process.wait()

    def _start(self, job: Job, job_file: Path, rank: int, port: int) -> None:
        place = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(job.ranks),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(job.ranks),
            "GROUP_RANK": "0",  # of the node
        }
        self._ranks.append(
            subprocess.Popen(
                ["nice", "-n", str(_NICENESS), sys.executable, "-m", "harness.worker", str(job_file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # each rank has a log of its own
                stderr=subprocess.DEVNULL,
                env=_outcome.environment(self._host.device_kind) | place,
                start_new_session=True,
            )
        )

    def _running(self) -> bool:
        return any(process.poll() is None for process in self._ranks)

    def _failed(self) -> bool:
        return any(process.poll() for process in self._ranks)


NICE = Launcher(name="nice", open=NiceSession)
