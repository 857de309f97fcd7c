"""What a job leaves is found whatever became of its parents, ended, and told; what is another's is left alone."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from harness.machine import leftovers
from harness.machine.leftovers import clear, look, processes_of


@pytest.fixture
def patience(monkeypatch):
    monkeypatch.setattr(leftovers, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(leftovers, "_GPU_PATIENCE_S", 0.1)


def _orphan(folder, program: str) -> None:
    """Start a process whose parent is gone, as a rank's child is once its rank was killed."""
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {program!r}], start_new_session=True)"
    with (folder / "rank1.log").open("ab") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, stderr=log, check=True)


def test_a_process_whose_parents_are_gone_is_ended_and_told(tmp_path, patience):
    before = look()
    _orphan(tmp_path, "import time; time.sleep(600)")
    (process,) = processes_of(tmp_path)
    (told,) = clear(tmp_path, before)
    assert told == f"{tmp_path.name} left process {process.pid} ({process.name()}), which was ended"
    assert process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
    assert clear(tmp_path, before) == []


def test_one_that_ends_by_itself_is_waited_for_and_nothing_is_said(tmp_path):
    _orphan(tmp_path, "import time; time.sleep(0.2)")
    assert clear(tmp_path, look()) == []


def test_a_process_of_another_job_is_left_alone(tmp_path, patience):
    ours, theirs = tmp_path / "job-1", tmp_path / "job-10"
    for folder in (ours, theirs):
        folder.mkdir()
    with (theirs / "rank0.log").open("ab") as log:
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=log)
    try:
        assert clear(ours, look()) == []
        assert other.poll() is None
        assert [process.pid for process in processes_of(theirs)] == [other.pid]
    finally:
        other.kill()
        other.wait()


def test_shared_memory_that_nobody_uses_any_more_is_deleted_and_the_rest_stays(tmp_path, patience):
    shared = tmp_path / "shm"
    shared.mkdir()
    (shared / "nccl-before").touch()
    before = look(shared=shared)
    for name in ("nccl-abc", "torch_1_2", "torch_in_use", "somebody_elses"):
        (shared / name).touch()
    with (shared / "torch_in_use").open():
        told = clear(tmp_path, before, shared=shared)
    assert sorted(entry.name for entry in shared.iterdir()) == ["nccl-before", "somebody_elses", "torch_in_use"]
    assert [sentence.split()[4] for sentence in told] == [f"{shared}/nccl-abc,", f"{shared}/torch_1_2,"]


def test_a_semaphore_that_another_run_just_made_is_left_alone(patience):
    before = look()
    # Its maker has it mapped under a name that it had for a moment; the ranks to come will open it by its own.
    semaphore = multiprocessing.get_context("spawn").Semaphore()
    name = f"sem.{semaphore._semlock.name.removeprefix('/')}"
    assert name in look().shared - before.shared
    assert clear(Path("job"), before) == []
    assert name in look().shared


def test_a_gpu_that_stays_fuller_than_before_is_told_once_it_had_time(tmp_path, patience):
    used = [[5 * 2**30, 7 * 2**30], [5 * 2**30, 9 * 2**30]]
    before = look(lambda: used[0])
    (told,) = clear(tmp_path, before, gpu_bytes=lambda: used[1])
    assert "left GPU 1 with 2.00 GiB more in use than before, 0.1 s after its last process ended" in told
    assert clear(tmp_path, before, gpu_bytes=lambda: used[0]) == []


def test_a_driver_is_given_time_to_take_memory_back(tmp_path):
    readings = iter([[2**30], [2**29], [0]])
    assert clear(tmp_path, look(lambda: [0]), gpu_bytes=lambda: next(readings)) == []


def test_a_driver_that_does_not_tell_is_no_failure():
    def refuses():
        raise RuntimeError("driver/library version mismatch")

    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=len(handle)),
    )
    assert list(leftovers.gpu_memory(["a", "bc"], nvml)()) == [1, 2]
    nvml.nvmlInit = refuses
    assert list(leftovers.gpu_memory(["a"], nvml)()) == []
    assert list(leftovers.gpu_memory([])()) == []


def test_the_folder_of_a_run_that_was_killed_is_deleted_and_no_other(tmp_path):
    for name in ("running", "failed", "killed", "somebody_elses"):
        (tmp_path / name).mkdir()
    with leftovers.own(tmp_path / "running"):
        for name in ("failed", "killed"):
            leftovers.own(tmp_path / name).close()
        leftovers.keep(tmp_path / "failed")
        leftovers.sweep(tmp_path.iterdir())
        assert sorted(folder.name for folder in tmp_path.iterdir()) == ["failed", "running", "somebody_elses"]
