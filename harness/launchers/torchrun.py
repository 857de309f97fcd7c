"""The cold launcher: `torchrun` for each case, about ten seconds of imports a case, nothing kept between cases."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import job as jobs
from harness.host import Host
from harness.job import Job
from harness.launchers import _outcome
from harness.plugins import Launcher
from harness.results import RankReport


class TorchrunSession:
    """Starts one torchrun per job."""

    conditions = ""

    def __init__(self, host: Host, folder: Path) -> None:
        self._host = host
        self._running: subprocess.Popen[bytes] | None = None

    def launch(self, job: Job, *, timeout_s: float) -> Sequence[RankReport]:
        """Run one job in fresh processes and return one report per rank."""
        job_file = job.folder / "job.json"
        jobs.write(job, job_file)
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "0"),
            *("--nproc-per-node", str(job.ranks), "-m", "harness.worker", str(job_file)),
        ]
        log_file = job.folder / "torchrun.log"
        with log_file.open("wb") as log:
            self._running = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_outcome.environment(self._host.device_kind),
                start_new_session=True,
            )
        try:
            self._running.wait(timeout=timeout_s)
            timed_out = False
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            self.close()
        exits = _exits(log_file.read_text(errors="replace"))
        return _outcome.collect(job, exits=exits, timed_out=timed_out, timeout_s=timeout_s)

    def close(self) -> None:
        """End torchrun; each rank asked the kernel to end with it."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()
            self._running = None


def _exits(log: str) -> dict[int, int]:
    """Return the exit status of the rank that torchrun names as failed, from its closing summary."""
    ranks = re.findall(r"^\s*rank\s+: (\d+) \(local_rank", log, re.MULTILINE)
    codes = re.findall(r"^\s*exitcode\s+: (-?\d+)", log, re.MULTILINE)
    return {int(rank): int(code) for rank, code in zip(ranks, codes, strict=False)}


TORCHRUN = Launcher(name="torchrun", open=TorchrunSession)
