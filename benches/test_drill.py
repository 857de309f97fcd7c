"""The faults that a run must survive, planted for real, under a plain and a sharded strategy: told, timed, cleared.

What became of each is kept in the cache, in `drills/<machine>/faults.json`; as a file of `docs/drills/` it is shown by
`docs/faults.md`.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import psutil
import pytest

from harness.case import Case
from harness.errors import HarnessError
from harness.machine.leftovers import abandoned, look, processes_of
from harness.proof.drill import FAULTS, STRATEGIES, Drill, Trial, packed, wrong
from harness.running.ranks import cache_folder
from harness.session.recording import ReplayClock
from harness.stored.writing import whole

pytestmark = pytest.mark.when_named("drill")

MODEL = "vit_tiny"
HANG_S = 10.0
"""A hang is waited for here; its detection is the same after any time."""
MOST_S = 200.0
"""For a run that is interrupted to come to train, and for one to end."""
ENDED_S = 10.0
"""After which no process of a run may be left."""


@pytest.mark.benchmark(timer=ReplayClock())
def test_drill(cost, request):
    """Fails where a fault is not told with its cause, or too late, where anything is left, or the next case fails."""
    ranks, host, root = cost.pipeline.ranks, cost.pipeline.host, request.config.rootpath
    folder = cache_folder() / "drills" / host.name
    folder.mkdir(parents=True, exist_ok=True)
    trials = []
    # Those in ranks come first: one agent serves them all.
    for fault, strategy in product(sorted(FAULTS, key=lambda one: one.in_run), STRATEGIES):
        case = Case(model=MODEL, strategy=strategy, gpu_count=2, batch_size=16)
        trials.append(_in_run(fault, case, root) if fault.in_run else _in_rank(fault, case, ranks))
        date = datetime.now(UTC).date().isoformat()
        whole(folder / "faults.json", packed(Drill(date=date, versions=host.versions, trials=tuple(trials))))
    seconds = [one.report_s - (one.hang_s or 0.0) for one in trials if one.report_s is not None]
    cost.record(
        f"{len(trials)} planted faults: told after {max(seconds):.1f} s at most, beyond the wait for hangs; "
        f"{sum(one.processes_left for one in trials)} processes left; kept in {folder}",
        seconds,
    )
    faults = [sentence for one in trials for sentence in wrong(one)]
    assert not faults, "\n".join(faults)


def _in_rank(fault, case, ranks):
    before, hang_s = look(), HANG_S if fault.hangs else None
    told = ""
    try:
        ranks.launch(case, f"{case}: {fault.name}", plant=fault.plant, hang_s=hang_s or 600.0)
    except HarnessError as failure:
        told = str(failure)
    told_at = time.time()
    left = sum(len(processes_of(job)) for job in ranks.folder.glob("*/"))  # the agent's own log lies beside them
    (planted,) = ranks.folder.glob("*/planted")
    report_s = told_at - planted.stat().st_mtime
    planted.unlink()
    began = time.monotonic()
    ranks.launch(case, f"{case}: after {fault.name}")
    return Trial(
        fault=fault.name,
        strategy=case.strategy,
        told=_cause(told),
        as_wanted=re.search(fault.says, told) is not None,
        report_s=report_s,
        hang_s=hang_s,
        processes_left=left,
        shared_left=len(abandoned(look().shared - before.shared)),
        next_s=time.monotonic() - began,
    )


def _in_run(fault, case, root):
    before = look()
    command = [sys.executable, "-m", "pytest", "benches", "-p", "no:cacheprovider", "-m", _exactly(case)]
    command += [*fault.options, *(("--gate-plant", fault.plant) if fault.plant else ())]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        # Of what is stored the time would be looked at first, by processes in which nobody trains.
        if not any(option.startswith("--benchmark-storage") for option in fault.options):
            command.append(f"--benchmark-storage=file://{folder}/stored")
        if fault.takes is not None:
            taken = stack.enter_context(socket.socket())
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", fault.takes))
            taken.listen()
        environment = os.environ | {name: value.format(folder=folder) for name, value in fault.environment.items()}
        if fault.first:
            subprocess.run([sys.executable, "-c", fault.first], cwd=root, env=environment, check=False)
        beside = None
        if fault.beside:
            beside = subprocess.Popen(
                [sys.executable, *fault.beside], cwd=root, env=environment, stdout=subprocess.DEVNULL
            )
            stack.callback(_end, beside)
        run = stack.enter_context(
            subprocess.Popen(
                command,
                cwd=root,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )
        stack.callback(run.kill)
        family = _once_training(run, beside)
        asked = time.monotonic()
        if beside is not None:
            _end(beside)
        for number, sent in enumerate(fault.sends):
            time.sleep(0.3 * number)
            run.send_signal(sent)
        told, _ = run.communicate(timeout=MOST_S)
        seconds = time.monotonic() - asked if (fault.sends and fault.says) or beside else None
    _, alive = psutil.wait_procs(family, timeout=ENDED_S)
    found = re.search(fault.says, told)
    return Trial(
        fault=fault.name,
        strategy=case.strategy,
        told=_cause(found[0]) if found else "",
        as_wanted=found is not None and run.returncode in fault.exits,
        report_s=seconds,
        hang_s=None,
        processes_left=len(alive),
        shared_left=len(abandoned(look().shared - before.shared)),
        next_s=None,
    )


def _exactly(case):
    return f"bench(model='{case.model}', strategy='{case.strategy}', gpu_count={case.gpu_count})"


def _end(process):
    """Kill a process with its children."""
    for one in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else ():
        one.kill()
    process.wait()


def _once_training(*begun):
    """Return the processes of a run, and of what runs beside it, once two ranks train, or once it has ended."""
    until, family = time.monotonic() + MOST_S, []
    heads = [psutil.Process(one.pid) for one in begun if one is not None]
    while time.monotonic() < until and heads[0].status() != psutil.STATUS_ZOMBIE:
        family = [child for head in heads for child in head.children(recursive=True)]
        if sum(map(_trains, family)) == 2:
            break
        time.sleep(0.05)
    return family


def _trains(process):
    try:
        links = [link.readlink() for link in Path(f"/proc/{process.pid}/fd").iterdir()]
        return any(one.suffix == ".progress" and one.read_text().startswith("train") for one in links)
    except OSError:
        return False


def _cause(told):
    """Return what tells the cause, in one line."""
    lines = told.splitlines()
    late = [line.strip() for line in lines if line.lstrip().startswith(("late:", "all inside:"))]
    error = [line.strip(" |") for line in lines[1:] if "No space left" in line][-1:]
    return "; ".join([*lines[:1], *late[:1], *error])[:300]
