"""A real Slurm of two nodes on this machine: its own munged, slurmctld and two slurmd, and none of them left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sinfo", "setpriv")
_START_S = 60.0

_CONF = """\
ClusterName=shardbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/builtin
SelectType=select/linear
ReturnToService=2
KillWait=2
SlurmdTimeout=30
MinJobAge=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={one} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={two} CPUs=1 State=UNKNOWN
PartitionName=both Nodes=n1,n2 Default=YES State=UP
"""


def why_not() -> str:
    """Return why no Slurm can be started here; empty where it can."""
    if missing := [name for name in _PROGRAMS if _program(name) is None]:
        return f"needs {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "needs root to start slurmd"


@dataclass(frozen=True)
class Cluster:
    """A Slurm that runs."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]]

    def of_node(self, name: str) -> list[psutil.Process]:
        """Return what the tasks on a node have started, themselves included."""
        return [process for process, told in _of(self.folder) if told.get("SLURMD_NODENAME") == name]

    def left(self) -> list[psutil.Process]:
        """Return the processes that belong to it."""
        return [process for process, _ in _of(self.folder)]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Start a Slurm whose files are in a folder, and set SLURM_CONF to it; end it all after."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    for name in ("munge", "state"):
        (folder / name).mkdir()
    (folder / "plugstack.conf").touch()
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    control, one, two = _free_ports(3)
    conf.write_text(_CONF.format(host=socket.gethostname(), folder=folder, control=control, one=one, two=two))
    environment = os.environ | {"SLURM_CONF": str(conf)}

    def start(name: str, *command: str) -> None:
        with (folder / f"{name}.out").open("wb") as log:
            processes[name] = subprocess.Popen(
                # Should this process be killed, they end with it.
                ["setpriv", "--pdeathsig", "KILL", _program(command[0]), *command[1:]],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    munge = {name: folder / "munge" / name for name in ("socket", "pid", "log", "seed")}
    files = [f"--{option}={munge[name]}" for option, name in _MUNGE.items()]
    try:
        start("munged", "munged", "--foreground", "--force", f"--key-file={key}", *files)
        _until(munge["socket"].exists, "munged", folder)
        start("slurmctld", "slurmctld", "-D")
        start("n1", "slurmd", "-D", "-N", "n1")
        start("n2", "slurmd", "-D", "-N", "n2")
        _until(lambda: _idle(environment) == 2, "both nodes", folder)
        with _set("SLURM_CONF", str(conf)):
            yield Cluster(folder=folder, processes=processes)
    finally:
        family = [process for process, _ in _of(folder)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for started in processes.values():
            started.wait()
        psutil.wait_procs(family, timeout=10)


_MUNGE = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


@contextlib.contextmanager
def _set(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _idle(environment: dict[str, str]) -> int:
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%N %t"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    return sum(line.endswith(" idle") for line in done.stdout.splitlines())


def _until(ready, what: str, folder: Path) -> None:
    end = time.monotonic() + _START_S
    while not ready():
        if time.monotonic() > end:
            logs = "\n".join(f"{file.name}: {file.read_text()[-2000:]}" for file in sorted(folder.glob("*.out")))
            raise TimeoutError(f"{what} of Slurm not there after {_START_S:g} s\n{logs}")
        time.sleep(0.05)


def _of(folder: Path) -> list[tuple[psutil.Process, dict[str, str]]]:
    """Return the processes that were started with this Slurm's configuration, however their parents ended, and their
    environments; not this process, which has set it for itself.
    """
    conf = str(folder / "slurm.conf")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            told = process.environ()
            if told.get("SLURM_CONF") == conf and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process, told))
    return found
