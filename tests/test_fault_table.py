"""Every fault of the drill that lies in a rank: one failure that names it, nothing left, and the next case runs."""

from __future__ import annotations

import re
from itertools import product

import pytest

from harness.case import Case
from harness.errors import OutOfMemory, WorkerFailed
from harness.machine.leftovers import processes_of
from harness.proof import drill
from harness.proof.drill import FAULTS, Trial
from harness.running.plant import BREAKS

IN_RANKS = tuple(fault for fault in FAULTS if not fault.in_run)
HANG_S = 3.0


@pytest.fixture(scope="module")
def ranks(make_pipeline):
    return make_pipeline(case_timeout_s=100).ranks


def _case(strategy: str) -> Case:
    return Case(model="tiny_net", strategy=strategy, gpu_count=2, batch_size=4)


_AT_ONCE = {"kill", "stuck", "out_of_memory"}
"""Under the sharded strategy too, for there a rank waits in other collectives; the rest goes the same way."""


def _planted():
    for fault, strategy in product(IN_RANKS, ("ddp", "fsdp2")):
        slow = strategy == "fsdp2" and fault.name not in _AT_ONCE
        yield pytest.param(fault, strategy, id=f"{fault.name}-{strategy}", marks=[pytest.mark.slow] if slow else [])


def test_those_run_at_once_are_in_the_table():
    assert {fault.name for fault in IN_RANKS} >= _AT_ONCE


@pytest.mark.parametrize(("fault", "strategy"), list(_planted()))
def test_a_fault_is_one_failure_that_leaves_nothing_and_the_next_case_runs(ranks, fault, strategy):
    left = len(ranks.left)
    with pytest.raises(WorkerFailed) as failure:
        # Only where a hang is planted is so short a silence one: this machine may be busy.
        ranks.launch(_case(strategy), "planted", plant=fault.plant, hang_s=HANG_S if fault.hangs else 600.0)
    assert re.search(fault.says, str(failure.value)), str(failure.value)
    assert isinstance(failure.value, OutOfMemory) == (fault.name == "out_of_memory")
    assert [left for job in ranks.folder.glob("*/") for left in processes_of(job)] == []
    assert ranks.left[left:] == []
    reports, _ = ranks.launch(_case(strategy), "sound")
    assert len(reports) == 2


def test_every_fault_that_can_be_planted_is_in_the_table():
    assert {fault.plant for fault in FAULTS if fault.plant} == set(BREAKS)
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def _trial(**over) -> Trial:
    facts = {
        "fault": "kill",
        "strategy": "ddp",
        "told": "rank 1 of 2 was killed",
        "as_wanted": True,
        "report_s": 0.5,
        "hang_s": None,
        "processes_left": 0,
        "shared_left": 0,
        "next_s": 1.5,
    }
    return Trial(**(facts | over))


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"as_wanted": False}, "the cause is not told: rank 1"),
        ({"report_s": 31.0}, "told after 31.0 s"),
        ({"processes_left": 2}, "2 processes and 0 shared memories are left"),
        ({"shared_left": 1}, "0 processes and 1 shared memories are left"),
    ],
)
def test_a_trial_that_is_not_as_it_must_be_is_told(over, says):
    (sentence,) = drill.wrong(_trial(**over))
    assert says in sentence


def test_what_is_waited_for_a_hang_is_not_held_against_it():
    assert drill.wrong(_trial(report_s=62.0, hang_s=60.0)) == drill.wrong(_trial()) == []


def test_the_page_tells_each_trial_and_a_soak(tmp_path):
    found = drill.Drill(
        date="2026-11-21",
        versions={"torch": "2.15.0"},
        trials=(_trial(), _trial(fault="run_killed", told="", report_s=None, next_s=None)),
        soak=drill.Soak(
            case_id="tiny_net-ddp-2gpu-bs4",
            resident_bytes=(2**20,) * 40,
            agent_bytes=(2**21,) * 40,
            files=(9,) * 40,
            fixed_s=(0.3,) * 20 + (0.5,) * 20,
        ),
    )
    (tmp_path / "2-core-made").mkdir()
    (tmp_path / "2-core-made" / "faults.json").write_bytes(drill.packed(found))
    page = "\n".join(drill.page(tmp_path))
    assert "## 2-core-made, faults" in page
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    planted = "the last rank is killed in its second step"
    assert [planted, "ddp", "`rank 1 of 2 was killed`", "0.5 s", "0", "0", "passed in 1.5 s"] in rows
    assert ["SIGKILL to the run", "ddp", "nothing more", "n/a", "0", "0", "the run had ended"] in rows
    assert "fixed cost of a case: 0.300 s in the first half, 0.500 s in the second" in page
