"""The faults that a run must survive, as one list; what became of each, as `docs/faults.md` shows it.

Each is planted for real: in a rank of a case under a plain and under a sharded strategy, or in the run around it.
`benches/test_drill.py` tries them all, `tests/test_fault_table.py` the quick ones.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic import dataclasses as stored

from harness.errors import StoreError
from harness.running.plant import BREAKS
from harness.running.progress import HANG_S
from harness.stored import reading

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_MEND = "delete it and run `pytest benches -k drill` again"
STRATEGIES = ("ddp", "zero3")
"""A plain one, and one that shards, by a library of its own."""
BOUND_S = 30.0
"""Within which a fault must be told, beyond the time that a hang is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault, and what must be told of it; without a `plant` it lies in the run and not in a rank."""

    name: str
    about: str
    says: str
    """A pattern that what is told must have."""
    plant: str = ""
    """Of `harness.running.plant`."""
    hangs: bool = False
    """Whether it is found only by waiting."""
    sends: tuple[signal.Signals, ...] = ()
    """To the run, once its ranks train."""
    options: tuple[str, ...] = ()
    """Of the run."""
    environment: dict[str, str] = field(default_factory=dict)
    """`{folder}` stands for one that is its own."""
    takes: int | None = None
    """A port of this machine that somebody else listens on meanwhile."""
    exits: tuple[int, ...] = (1,)
    """The run's exit status; negative for a signal."""
    first: str = ""
    """A program in Python that is run, and ends, before."""
    beside: tuple[str, ...] = ()
    """Arguments of a Python that runs beside it, and is killed with its children once ranks train."""

    @property
    def in_run(self) -> bool:
        """Whether it needs a run of its own."""
        return not self.plant or bool(self.sends or self.beside)


_ENDPOINT = "127.0.0.1:29411"


def _planted(plant: str, says: str, *, hangs: bool = False) -> Fault:
    return Fault(name=plant, about=BREAKS[plant], plant=plant, says=says, hangs=hangs)


FAULTS = (
    _planted("raise", r"rank 1 of 2 failed during train: RuntimeError: planted: this rank raises"),
    _planted("exit", r"rank 1 of 2 exited with status 7 during train"),
    _planted("kill", r"rank 1 of 2 was killed by SIGKILL during train"),
    _planted("out_of_memory", r"rank 1 of 2 failed during train: out of memory: "),
    _planted("nan", r"rank 1 of 2 failed during train: the loss became nan at step 2"),
    _planted("cut_report", r"rank 1 of 2 left no valid report: report rank1\.json is no report"),
    _planted("full_disk", r"(?s)rank 1 of 2 exited with status 1 during report.*No space left on device"),
    _planted("kill_agent", r"the agent that starts the ranks ended \(killed by SIGKILL\)"),
    _planted("hang", r"(?s)late: rank 0 in \S+ \d+ .*, which rank 1 did not enter.*stack of rank 1.*wait", hangs=True),
    _planted(
        "stuck", r"(?s)late: rank 1 in \S+ 1 .*, which rank 0 did not enter.*stack of rank 1.*all_reduce", hangs=True
    ),
    _planted(
        "freeze", r"(?s)rank 1 during train.*; it is stopped, by SIGSTOP or a debugger.*stack of rank 1", hangs=True
    ),
    Fault(
        name="ctrl_c",
        about="Ctrl-C while ranks train",
        plant="hang",
        sends=(signal.SIGINT,),
        says=r"interrupted by SIGINT while \S+-2gpu-bs\d+(: \w+)? ran",
        exits=(2,),
    ),
    Fault(
        name="ctrl_c_twice",
        about="Ctrl-C twice, the second while the first is being seen to",
        plant="hang",
        sends=(signal.SIGINT, signal.SIGINT),
        says=r"KeyboardInterrupt",
        exits=(2, 1, -signal.SIGINT),
    ),
    Fault(
        name="terminated",
        about="SIGTERM to the run, as a scheduler sends it",
        plant="hang",
        sends=(signal.SIGTERM,),
        says=r"interrupted by SIGTERM while \S+-2gpu-bs\d+(: \w+)? ran",
        exits=(2,),
    ),
    Fault(
        name="run_killed",
        about="SIGKILL to the run",
        plant="hang",
        sends=(signal.SIGKILL,),
        says=r"",  # it cannot say anything more
        exits=(-signal.SIGKILL,),
    ),
    Fault(
        name="unwritable_store",
        about="a file lies where the folder of stored runs belongs",
        options=("--benchmark-save=x", "--benchmark-storage=file:///dev/null/stored"),
        says=r"this run could not be stored in \S+: Not a directory",
        exits=(4,),
    ),
    Fault(
        name="full_store",
        about="the disk is full when the run is stored",
        options=("--benchmark-json=/dev/full",),
        says=r"NOT STORED: .*No space left on device",
    ),
    Fault(
        name="port_taken",
        about="the port that torch takes by default is another's, and named in the environment",
        environment={"MASTER_PORT": "29500"},
        takes=29500,
        says=r"1 passed",
        exits=(0,),
    ),
    Fault(
        name="stale_lock",
        about="a run that held the devices was killed before",
        first=(
            "import os, signal; from harness.machine import host; from harness.machine.devices import Devices, used; "
            "Devices(used(host.probe(), 99)).take(wait_s=0, tell=print); os.kill(os.getpid(), signal.SIGKILL)"
        ),
        # The locks of the run that drills are its own, so that these must be others.
        environment={"SHARDBENCH_LOCKS": "{folder}"},
        says=r"1 passed",
        exits=(0,),
    ),
    Fault(
        name="node_lost",
        about="one of two nodes disappears: its agent and ranks are killed",
        plant="hang",
        options=("--launcher", "torchrun", "--nnodes", "2", "--rdzv-endpoint", _ENDPOINT, "--options", "pernode1"),
        beside=("-m", "harness", "join", _ENDPOINT),
        says=r"rank \d of 2\) disappeared during train",
    ),
)


@stored.dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Trial:
    """What became of one fault under one strategy."""

    fault: str
    strategy: str
    told: str
    """The first sentence of it that names the cause."""
    as_wanted: bool
    """Whether that is what must be told."""
    report_s: float | None
    """From the fault to the telling, the wait for a hang included; None where no telling can be timed."""
    hang_s: float | None
    """Of a hang, how long was waited for a step."""
    processes_left: int
    """Of the case or of the run, once it was told."""
    shared_left: int
    """Names of shared memory that there were not before."""
    next_s: float | None
    """That the next case took to pass; None where the run had ended."""


@stored.dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Soak:
    """What many tiny cases in one run left in the processes that outlive a case; figures of each case."""

    case_id: str
    resident_bytes: tuple[int, ...]
    """Of the run's own process, after each case."""
    agent_bytes: tuple[int, ...]
    """Of the agent and its fork server."""
    files: tuple[int, ...]
    """That the run and the agent have open."""
    fixed_s: tuple[float, ...]
    """Of each case, beside building, training and evaluating."""


@stored.dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Drill:
    """The trials of one benchmark run, or its soak."""

    date: str
    versions: dict[str, str]
    trials: tuple[Trial, ...] = ()
    soak: Soak | None = None


_DRILL: TypeAdapter[Drill] = TypeAdapter(Drill)


def packed(drill: Drill) -> bytes:
    """Return a drill as it is stored."""
    return _DRILL.dump_json(drill, indent=1)


def unpacked(content: bytes, where: str) -> Drill:
    """Return a stored drill.

    Raises:
        StoreError: it holds something else; the message names the file.
    """
    try:
        return _DRILL.validate_python(reading.parsed(content, where=where, kind="drill", mend=_MEND))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise StoreError(f"drill {where} cannot be read: {first['msg']}; {_MEND}") from error


def wrong(trial: Trial) -> list[str]:
    """Return what of a trial is not as it must be, a sentence each."""
    name = f"{trial.fault} under {trial.strategy}"
    found = []
    if not trial.as_wanted:
        found.append(f"{name}: the cause is not told: {trial.told}")
    if trial.report_s is not None and trial.report_s - (trial.hang_s or 0.0) > BOUND_S:
        found.append(f"{name}: told after {trial.report_s:.1f} s")
    if trial.processes_left or trial.shared_left:
        found.append(f"{name}: {trial.processes_left} processes and {trial.shared_left} shared memories are left")
    return found


def page(folder: Path) -> Iterator[str]:
    """Yield the lines of `docs/faults.md`.

    Args:
        folder: has a folder for each machine, with `faults.json` and `soak.json`.

    Raises:
        StoreError: a file holds something else.
    """
    yield "# Faults, planted"
    yield ""
    yield (
        "Made by `python -m harness proof` from `docs/drills/`, which `pytest benches -k drill` and `-k soak` fill. "
        "Every fault was planted for real while two ranks trained, and the next case was run after it. Of each: what "
        "the run told, after how many seconds, and how many processes and shared memories were left then. A hang is "
        f"waited for as long as the table says; by default {HANG_S:g} s (`--hang-timeout`)."
    )
    for file in sorted(folder.glob("*/*.json")):
        drill = unpacked(file.read_bytes(), str(file))
        versions = ", ".join(f"{name} {drill.versions[name]}" for name in ("python", "torch") if name in drill.versions)
        yield from ("", f"## {file.parent.name}, {file.stem}", "", f"{drill.date}, {versions}.", "")
        if drill.trials:
            yield from _table(drill.trials)
        if drill.soak is not None:
            yield from _soaked(drill.soak)


def _table(trials: Sequence[Trial]) -> Iterator[str]:
    from tabulate import tabulate

    abouts = {fault.name: fault.about for fault in FAULTS}
    rows = [
        (
            abouts.get(one.fault, one.fault),
            one.strategy,
            f"`{one.told}`" if one.told else "nothing more",
            "n/a" if one.report_s is None else f"{one.report_s:.1f} s" + _of_which(one.hang_s),
            one.processes_left,
            one.shared_left,
            "the run had ended" if one.next_s is None else f"passed in {one.next_s:.1f} s",
        )
        for one in trials
    ]
    headers = ("fault", "strategy", "told", "after", "processes left", "shared memory left", "next case")
    yield from tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True).splitlines()


def _of_which(hang_s: float | None) -> str:
    return "" if hang_s is None else f", {hang_s:g} s of them waiting"


def _soaked(soak: Soak) -> Iterator[str]:
    yield f"A soak of {len(soak.fixed_s)} times {soak.case_id} in one run, the first tenth left out:"
    yield ""
    for name, values, unit in figures(soak):
        early, late = halves(values)
        yield f"- {name}: {unit(early)} in the first half, {unit(late)} in the second"


def figures(soak: Soak) -> list[tuple[str, Sequence[float], Callable[[float], str]]]:
    """Return the figures of a soak with how they are shown."""
    return [
        ("memory of the run", soak.resident_bytes, lambda value: f"{value / 2**20:.1f} MiB"),
        ("memory of the agent", soak.agent_bytes, lambda value: f"{value / 2**20:.1f} MiB"),
        ("open files", soak.files, lambda value: f"{value:.0f}"),
        ("fixed cost of a case", soak.fixed_s, lambda value: f"{value:.3f} s"),
    ]


def halves(values: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the first and the second half, the first tenth left out: caches fill then."""
    from statistics import median

    begun = values[len(values) // 10 :]
    return median(begun[: len(begun) // 2]), median(begun[len(begun) // 2 :])
