"""A device is in one run's hands at a time: others wait, or are told who has it, and a dead holder holds nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.errors import DevicesBusy, StoreError
from harness.machine import devices
from harness.machine.devices import Devices, Holder, lock_folder, used
from harness.machine.host import Gpu
from tests.made import GIB, made_host

ROOT = Path(__file__).parents[1]
HOLDING = """
import sys
from harness.machine.devices import Devices
held = Devices(sys.argv[1:])
held.take(wait_s=0, tell=print)
print("holding", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(devices.FOLDER, str(tmp_path / "locks"))
    return tmp_path / "locks"


@pytest.fixture
def other():
    """Return a function that lets another process take devices, and returns that process."""
    started = []

    def take(*names: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDING, *names], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "holding\n"
        return process

    yield take
    for process in started:
        process.kill()
        process.communicate()


def _take(*names: str, wait_s: float = 0) -> tuple[Devices, list[str]]:
    told: list[str] = []
    taken = Devices(names)
    taken.take(wait_s=wait_s, tell=told.append)
    return taken, told


def test_devices_are_named_by_what_they_are_on_every_run_alike():
    assert used(made_host(cores=4), 2) == ("core-0", "core-1")
    assert used(made_host(cores=4), 9) == ("core-0", "core-1", "core-2", "core-3")
    gpus = tuple(Gpu(name="a", memory_bytes=GIB, uuid=f"GPU-{n}") for n in (7, 3))
    assert used(made_host(gpus=2), 2) == ("gpu-0", "gpu-1")
    assert used(replace(made_host(), gpus=gpus), 2) == ("gpu-GPU-7", "gpu-GPU-3")


def test_who_has_a_device_is_named(other):
    holder = other("core-0", "core-1")
    with pytest.raises(DevicesBusy) as busy:
        _take("core-1", "core-0", "core-2")
    user, said = psutil.Process(holder.pid).username(), str(busy.value)
    assert said.startswith(f"core 0, core 1 is held by pid {holder.pid} of {user}, since 20")
    assert f"{sys.executable} -c" in said
    assert "\n" not in said
    assert "--wait-for-devices" in said
    # Of those that were free none is kept.
    taken, told = _take("core-2")
    taken.give_back()
    assert told == []


def test_others_devices_are_no_matter(other):
    other("core-0")
    taken, told = _take("core-1")
    assert told == []
    taken.give_back()


@pytest.mark.parametrize("ending", ["kill", "terminate"])
def test_a_run_waits_and_goes_on_when_the_holder_ends_in_whatever_way(other, ending):
    holder = other("core-0")
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        getattr(holder, ending)()  # as soon as it is waited for

    taken = Devices(["core-0"])
    taken.take(wait_s=120, tell=tell)
    assert len(told) == 2
    assert told[0].startswith(f"waiting, for 120 s at most (--wait-for-devices): core 0 is held by pid {holder.pid} ")
    assert told[1].startswith("waited ")
    taken.give_back()


def test_waiting_has_an_end(other):
    other("core-0")
    began = time.monotonic()
    with pytest.raises(DevicesBusy, match=r"^after 0\.7 s of waiting core 0 is held by"):
        _take("core-0", wait_s=0.7)
    assert time.monotonic() - began >= 0.7


def test_what_a_dead_process_left_holds_nothing(other, folder):
    other("core-0").kill()
    other_file = folder / "core-1.lock"
    other_file.write_text("pid 1")
    deadline = time.monotonic() + 60
    taken, _ = _take("core-0", "core-1", wait_s=60)
    assert time.monotonic() < deadline
    taken.give_back()


def test_a_run_inside_a_run_has_its_devices(other):
    """As this suite's tests, or a benchmark of the harness, start `pytest benches` in a process of their own."""
    outer, _ = _take("core-0", "core-1")
    inner = other("core-0", "core-1", "core-2")
    inner.kill()
    outer.give_back()


def test_what_was_given_back_is_free(other):
    outer, _ = _take("core-0")
    outer.give_back()
    holder = other("core-0")
    holder.kill()
    again, _ = _take("core-0", wait_s=60)
    again.give_back()


def test_the_locks_are_for_every_user_of_the_machine(folder, monkeypatch):
    before = os.umask(0o077)
    try:
        taken, _ = _take("core-0")
    finally:
        os.umask(before)
    taken.give_back()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / "core-0.lock").stat().st_mode) == 0o666
    monkeypatch.delenv(devices.FOLDER)
    monkeypatch.setenv("TMPDIR", str(folder))
    assert devices._common() in (Path("/run/lock"), Path("/tmp"))  # where others look, whatever is one's own


def test_a_folder_that_is_a_trap_or_cannot_be_made_is_refused(folder, tmp_path):
    folder.symlink_to(tmp_path)
    with pytest.raises(StoreError, match="is a link or no folder; delete it, or set SHARDBENCH_LOCKS"):
        lock_folder()
    folder.unlink()
    folder.write_text("")
    with pytest.raises(StoreError, match="is a link or no folder"):
        lock_folder()


def test_a_lock_that_cannot_be_opened_is_told(folder):
    folder.mkdir()
    (folder / "core-0.lock").mkdir()
    with pytest.raises(StoreError, match=r"core-0\.lock cannot be used: .*SHARDBENCH_LOCKS"):
        _take("core-0")


def test_a_holder_that_cannot_be_seen_is_not_taken_for_none(other, monkeypatch, tmp_path):
    other("core-0")
    monkeypatch.setattr(devices, "_LOCKS", tmp_path / "none")
    with pytest.raises(DevicesBusy, match="core 0 is held by a process that cannot be seen from here"):
        _take("core-0")
    assert str(Holder(pid=7)) == "pid 7 of n/a, since n/a: n/a"
