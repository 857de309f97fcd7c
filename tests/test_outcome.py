"""What ranks left behind becomes all reports or one cause, whichever rank was first to see it."""

from __future__ import annotations

import dataclasses
import signal

import pytest

from harness.errors import CannotRun, OutOfMemory, WorkerFailed
from harness.job import DataSettings, Job, OptimizerSettings
from harness.launchers._outcome import collect
from harness.results import Failure, write_report
from harness.worker.rank import is_out_of_memory
from tests.made import made_report


@pytest.fixture
def job(tmp_path):
    return Job(
        case_id="resnet18-ddp-2gpu-bs8",
        ranks=2,
        device_kind="cpu",
        backend="gloo",
        data=DataSettings(name="digits", root=tmp_path, image_size=8),
        epochs=1,
        warmup_steps=0,
        measured_steps=1,
        optimizer=OptimizerSettings(name="sgd"),
        folder=tmp_path,
    )


def _write(job, rank, **failure):
    facts = {"kind": "RuntimeError", "message": "m", "phase": "train", "traceback": "t", "expected": True}
    failed = Failure(**(facts | failure)) if failure else None
    write_report(made_report(rank, 2, failure=failed), job.folder / f"rank{rank}.json")


def _cause(job, exits, *, timed_out=False):
    with pytest.raises(WorkerFailed) as failure:
        collect(job, exits=exits, timed_out=timed_out, timeout_s=9)
    return str(failure.value)


def test_all_reports_are_returned_in_the_order_of_ranks(job):
    for rank in (1, 0):
        _write(job, rank)
    assert [r.rank for r in collect(job, exits={0: 0, 1: 0}, timed_out=False, timeout_s=9)] == [0, 1]


def test_the_first_reported_failure_is_the_cause(job):
    _write(job, 0, message="my peer is gone", unix_time=2.0)
    _write(job, 1, message="I broke", unix_time=1.0)
    assert "rank 1 of 2 failed during train: I broke" in _cause(job, {0: 1, 1: 1})


def test_a_rank_that_died_without_a_word_comes_before_what_its_peers_report(job):
    _write(job, 0, message="my peer is gone", unix_time=1.0)
    assert "rank 1 of 2 was killed by SIGKILL before it started" in _cause(job, {0: 1, 1: -signal.SIGKILL})


def test_a_rank_that_was_ended_because_another_failed_is_not_the_cause(job):
    _write(job, 1, message="I broke", unix_time=1.0)
    assert "rank 1 of 2 failed during train: I broke" in _cause(job, {0: -signal.SIGTERM, 1: 1})


def test_a_rank_ended_by_somebody_else_is_named_when_nothing_else_went_wrong(job):
    _write(job, 1)
    assert "rank 0 of 2 was killed by SIGTERM" in _cause(job, {0: -signal.SIGTERM, 1: 0})


def test_after_the_timeout_the_ranks_without_a_report_are_named(job):
    _write(job, 0)
    (job.folder / "rank1.progress").write_text("train 1 2 3 40\n")
    (job.folder / "rank1.log").write_text("a stack\n")
    cause = _cause(job, {}, timed_out=True)
    assert "not finished after 9 s" in cause
    assert "no report from rank 1 of 2" in cause
    assert "rank 1 during train, epoch 1 of 2, step 3 of 40" in cause
    assert "| a stack" in cause


def test_a_missing_library_is_told_apart(job):
    _write(job, 0, kind="CannotRun", message="zero1 needs deepspeed", unix_time=1.0)
    with pytest.raises(CannotRun, match="zero1 needs deepspeed"):
        collect(job, exits={0: 1}, timed_out=False, timeout_s=9)


def test_a_rank_out_of_memory_is_the_cause_whatever_its_peers_reported_before(job):
    _write(job, 0, message="my peer is gone", unix_time=1.0)
    _write(job, 1, kind="OutOfMemory", message="tried to allocate 3 bytes\nmore", expected=False, unix_time=2.0)
    with pytest.raises(
        OutOfMemory, match=r"rank 1 of 2 failed during train: out of memory: tried to allocate 3 bytes$"
    ):
        collect(job, exits={0: 1, 1: 1}, timed_out=False, timeout_s=9)


@pytest.mark.parametrize(
    ("status", "last_words"),
    [
        (-signal.SIGABRT, "terminate called after throwing an instance of 'std::bad_alloc'"),
        (127, "cannot allocate memory for thread-local data: ABORT"),
    ],
)
def test_a_process_that_ended_below_python_for_lack_of_memory_is_out_of_memory(job, status, last_words):
    (job.folder / "rank0.log").write_text(f"{last_words}\n")
    with pytest.raises(OutOfMemory, match="rank 0 of 2 ran out of memory before it started; --device-memory leaves"):
        collect(
            dataclasses.replace(job, device_memory_bytes=2**20),
            exits={0: status},
            timed_out=False,
            timeout_s=9,
        )


def test_an_abort_for_another_reason_is_no_lack_of_memory(job):
    (job.folder / "rank0.log").write_text("terminate called after throwing an instance of 'std::logic_error'\n")
    with pytest.raises(WorkerFailed, match="killed by SIGABRT") as failure:
        collect(job, exits={0: -signal.SIGABRT}, timed_out=False, timeout_s=9)
    assert not isinstance(failure.value, OutOfMemory)


def test_memory_refused_in_the_middle_of_something_else_is_a_lack_of_memory_where_it_was_limited(job):
    try:
        try:
            raise MemoryError
        except MemoryError as refused:
            raise ImportError("cannot import a module") from refused
    except ImportError as error:
        assert is_out_of_memory(error, dataclasses.replace(job, device_memory_bytes=2**20))
        assert not is_out_of_memory(error, job)
