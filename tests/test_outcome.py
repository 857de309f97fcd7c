"""What ranks left behind becomes all reports or one cause, whichever rank was first to see it."""

from __future__ import annotations

import dataclasses
import signal

import pytest

from harness.errors import CannotRun, OutOfMemory, WorkerFailed
from harness.launchers._outcome import collect
from harness.results import Failure, write_report
from harness.running import flight
from harness.running.flight import Call, Flight
from harness.running.job import DataSettings, Job, OptimizerSettings
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


def test_a_hang_is_told_with_the_late_collective_and_each_ranks_main_stack(job):
    for rank, step in ((0, 4), (1, 3)):
        (job.folder / f"rank{rank}.progress").write_text(f"train 1 2 {step} 40\n")
        (job.folder / f"rank{rank}.log").write_text(
            "a warning of before\n"
            'Thread 0x1 (most recent call first):\n  File "pool.py", line 1 in waits\n\n'
            f'Current thread 0x2 (most recent call first):\n  File "step.py", line {rank} in innermost\n'
            '  File "main.py", line 9 in main\n'
        )
        calls = tuple(
            Call(group="g", members=(0, 1), number=n, name="gloo:all_reduce", elements=9, done=n < 5)
            for n in range(1, step + 2)
        )
        flight.file_of(job.folder, rank).write_bytes(flight.packed(Flight(calls=calls)))
    (job.folder / "rank1.stopped").touch()
    with pytest.raises(WorkerFailed) as failure:
        collect(dataclasses.replace(job, hang_s=60.0), exits={}, timed_out=True, hung=True, timeout_s=9)
    head, *rest = str(failure.value).splitlines()
    assert head.startswith(
        "resnet18-ddp-2gpu-bs8: no rank finished a step for 60 s, so it was ended; no report from rank"
    )
    assert head.endswith("rank 0, 1 of 2; if it was only slow, give --hang-timeout")
    late = "rank 0 in gloo:all_reduce 5 of group g (9 elements), which rank 1 did not enter; came so far: rank 1 to 4"
    assert rest == [
        "  rank 0 during train, epoch 1 of 2, step 4 of 40",
        "  rank 1 during train, epoch 1 of 2, step 3 of 40; it is stopped, by SIGSTOP or a debugger",
        f"  late: {late}",
        "  stack of rank 0, the innermost call first:",
        '  |   File "step.py", line 0 in innermost',
        '  |   File "main.py", line 9 in main',
        "  stack of rank 1, the innermost call first:",
        '  |   File "step.py", line 1 in innermost',
        '  |   File "main.py", line 9 in main',
    ]


def test_a_crash_is_told_with_what_was_said_before_it_and_the_call_it_happened_in(job):
    calls = [f'  File "module.py", line {number} in state_dict' for number in range(40)]
    (job.folder / "rank1.log").write_text(
        "\n".join(
            [
                *(f"a warning, number {number}" for number in range(30)),
                "terminate called after throwing an instance of 'c10::Error'",
                "Fatal Python error: Aborted",
                "",
                "Thread 0x1 (most recent call first):",
                '  File "pool.py", line 1 in waits',
                "",
                "Current thread 0x2 (most recent call first):",
                '  File "hook.py", line 3 in copies',
                *calls,
                "",
                "Extension modules: numpy, torch",
            ]
        )
    )
    head, *rest = _cause(job, {1: -signal.SIGABRT}).splitlines()
    assert head.endswith("rank 1 of 2 was killed by SIGABRT before it started")
    assert rest == [
        "  end of rank 1's log (80 lines):",
        *(f"  | a warning, number {number}" for number in (27, 28, 29)),
        "  | terminate called after throwing an instance of 'c10::Error'",
        "  | Fatal Python error: Aborted",
        '  |   File "hook.py", line 3 in copies',
        *(f"  | {call}" for call in calls[:19]),
    ]


@pytest.mark.parametrize(("steps", "named"), [((3, 2), 1), ((2, 2), 0), ((3, None), 0)], ids=str)
def test_of_losses_that_are_no_number_the_first_by_its_step_is_the_cause_and_not_the_first_to_tell(job, steps, named):
    for rank, step in enumerate(steps):
        _write(job, rank, message="the loss became nan", unix_time=float(rank), step=step)
    assert f"rank {named} of 2 failed during train: the loss became nan" in _cause(job, {0: 1, 1: 1})


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
        (-signal.SIGSEGV, ""),
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


def test_a_crash_where_memory_was_not_limited_is_one(job):
    with pytest.raises(WorkerFailed, match="killed by SIGSEGV") as failure:
        collect(job, exits={0: -signal.SIGSEGV}, timed_out=False, timeout_s=9)
    assert not isinstance(failure.value, OutOfMemory)
