"""Ranks under each launcher: what goes wrong is told and nothing stays; of more faults `test_fault_table.py` knows."""

from __future__ import annotations

import os

import psutil
import pytest

from harness.case import Case
from harness.errors import CannotRun, WorkerFailed
from tests.waiting import soon


def _case(strategy: str, gpus: int = 2) -> Case:
    return Case(model="tiny_net", strategy=strategy, gpu_count=gpus, batch_size=4)


def _ranks_alive(pipeline) -> list[psutil.Process]:
    """Return the processes that hold a rank's log in this run's folder open; another run's are not its affair."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(path.startswith(f"{pipeline.ranks.folder}/") and "/rank" in path for path in _open_files(process)):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _open_files(process):
    folder = f"/proc/{process.pid}/fd"
    return [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]  # noqa: PTH115, PTH208


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("raises", ["rank 1 of 2 failed during train", "RuntimeError: planted: this rank raises", "in _raise"]),
        ("silent", ["rank 1 of 2 left no valid report", "no report rank1.json"]),
    ],
)
def test_a_failing_rank_is_named_with_its_cause_and_the_next_case_runs(pipeline, strategy, said):
    with pytest.raises(WorkerFailed) as failure:
        pipeline.measure(_case(strategy))
    for words in said:
        assert words in str(failure.value)
    assert _ranks_alive(pipeline) == []
    result = pipeline.measure(_case("ddp"))
    assert len(result.ranks) == 2


@pytest.mark.slow
def test_a_rank_that_hangs_is_ended_at_the_timeout_with_the_stacks_of_all(make_pipeline):
    pipeline = make_pipeline(case_timeout_s=12)
    with pytest.raises(WorkerFailed) as failure:
        pipeline.measure(_case("hangs"))
    message = str(failure.value)
    assert "not finished after 12 s" in message
    assert "no report from rank 0, 1 of 2" in message
    assert "rank 1 during train" in message
    # The rank that waits shows where: in the backward of a step, for its peer.
    assert "backward" in message
    assert _ranks_alive(pipeline) == []
    pipeline.close()


def test_a_library_that_is_there_but_does_not_import_is_a_reason_to_skip(pipeline):
    with pytest.raises(CannotRun, match=r"unimportable needs plugins_that_fail.*planted"):
        pipeline.measure(_case("unimportable", gpus=1))


def test_closing_leaves_no_process(make_pipeline):
    pipeline = make_pipeline()
    pipeline.measure(_case("ddp", gpus=1))
    agent = psutil.Process(pipeline.ranks.start()._agent.pid)
    family = [agent, *agent.children(recursive=True)]
    assert len(family) >= 2
    pipeline.close()
    assert not any(process.is_running() for process in family)


def test_torchrun_measures_the_same_case_and_names_a_killed_rank(make_pipeline):
    pipeline = make_pipeline(launcher="torchrun")
    cold = pipeline.measure(_case("ddp"))
    assert [r.rank for r in cold.ranks] == [0, 1]
    assert cold.launcher == "torchrun"
    with pytest.raises(WorkerFailed, match=r"rank 1 of 2 was killed by SIGKILL during train"):
        pipeline.measure(_case("killed"))
    assert soon(lambda: not _ranks_alive(pipeline))


def test_warm_and_cold_ranks_train_alike(make_pipeline, pipeline):
    cold = make_pipeline(launcher="torchrun").measure(_case("ddp"))
    warm = pipeline.measure(_case("ddp"))
    assert [r.loss for r in cold.ranks] == [r.loss for r in warm.ranks]
