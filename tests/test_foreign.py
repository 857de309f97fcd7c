"""A process of somebody else's on a GPU: the time that was measured beside it is not gated, and it is named."""

from __future__ import annotations

import os

import pytest

from harness.anatomy.telemetry import disturbance
from harness.gate.contrasts import Timed
from harness.gate.observations import observe
from harness.gate.policy import POLICIES
from harness.gate.timing import judge_time
from harness.machine.sampling import Sources, window
from tests.made import made_samples
from tests.test_sampling import Nvml, machine

__all__ = ["machine"]
FOREIGN = 9_000_003
"""Of the made table of processes; no descendant of this one."""


@pytest.fixture
def watched(machine):
    """Return a function that reads a GPU on which processes have a compute context."""
    proc, powercap = machine

    def read(*pids: int, name: str = ""):
        if name:
            (proc / str(FOREIGN) / "comm").write_text(name)
        # Nothing but other processes is to disturb it.
        nvml = Nvml(pids=pids, refused=("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetViolationStatus"))
        sources = Sources(nvml=nvml, proc=proc, powercap=powercap)
        with window(gpus=("GPU-a",), interval_s=None, sources=sources) as made:
            pass
        return made.telemetry

    return read


def _judged(*watched, slower=1.5):
    """Return the verdict on a case that got slower, each of its processes watched so, against quiet stored ones."""

    def process(seen, factor, number, stage="screen"):
        samples = made_samples(slower=factor * (1 + number / 1000), watched=seen, stage=stage)
        return observe(samples, lambda one: disturbance(one.watched) if one.watched else ())

    new = tuple(
        process(seen, slower, number, stage) for stage in ("screen", "confirm") for number, seen in enumerate(watched)
    )
    level = tuple(tuple(process(None, 1.0, number) for number in range(5)) for _ in range(4))
    return judge_time({"case": Timed(new=new, level=level, group="ddp 1")}, POLICIES["nightly"])["case"]


def test_a_foreign_process_on_the_gpu_makes_the_time_unjudged_and_is_named(watched):
    seen = watched(os.getpid(), FOREIGN)
    assert disturbance(seen) == (f"GPU 0: used by another process too: pid {FOREIGN} (name of {FOREIGN})",)
    verdict = _judged(*[seen] * 8)
    assert verdict.word == "unresolved"
    assert any(f"pid {FOREIGN} (name of {FOREIGN})" in reason for reason in verdict.reasons)


def test_without_it_the_same_times_are_judged(watched):
    quiet = watched(os.getpid(), 9_000_001, 9_000_002)  # this run's own, and what they started
    assert disturbance(quiet) == ()
    assert _judged(*[quiet] * 8).word == "regressed"


def test_a_name_that_steers_a_terminal_is_spelled_out(watched):
    (said,) = disturbance(watched(os.getpid(), FOREIGN, name="\x1b[2Jminer\n"))
    assert f"pid {FOREIGN} (\\x1b[2Jminer)" in said
    assert "\x1b" not in said
