"""A clock tells how long a device waited for its batch: not how long the host did, where the device was still busy."""

from __future__ import annotations

import itertools

import pytest

from harness.worker import clocks


class Machine:
    """A host's clock, and a device that does what it is given one after another; milliseconds."""

    def __init__(self) -> None:
        self.now = self.free_at = 0.0

    def work(self, ms: float) -> None:
        self.free_at = max(self.free_at, self.now) + ms

    def batches(self, *waits_ms: float):
        for wait in waits_ms:
            self.now += wait
            yield "batch"


@pytest.fixture
def machine(monkeypatch):
    import torch

    made = Machine()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = max(made.now, made.free_at)

        def elapsed_time(self, other) -> float:
            return other.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return made


def _steps(clock, machine, *, waits_ms, dispatch_ms, device_ms):
    batches = machine.batches(*waits_ms)
    clock.start()
    for _ in waits_ms:
        assert clock.fetch(batches) == "batch"
        machine.work(device_ms)
        machine.now += dispatch_ms
        clock.mark()


def test_a_gpu_that_is_busy_while_the_host_waits_does_not_wait(machine):
    clock = clocks.CudaClock()
    _steps(clock, machine, waits_ms=[0, 80, 80, 80], dispatch_ms=10, device_ms=100)
    assert clock.wait_s() == pytest.approx([0, 0, 0, 0])
    assert clock.step_s() == pytest.approx([0.1] * 4)


def test_a_gpu_waits_for_as_long_as_it_has_nothing_to_do(machine):
    clock = clocks.CudaClock()
    _steps(clock, machine, waits_ms=[30, 130, 130], dispatch_ms=10, device_ms=100)
    # From the second batch on, the host comes with work 140 ms after it did before.
    assert clock.wait_s() == pytest.approx([0.03, 0.04, 0.04])
    assert clock.step_s() == pytest.approx([0.13, 0.14, 0.14])


def test_each_stretch_begins_anew(machine):
    clock = clocks.CudaClock()
    for _ in range(2):
        machine.now = machine.free_at = max(machine.now, machine.free_at) + 5000
        _steps(clock, machine, waits_ms=[7, 0], dispatch_ms=1, device_ms=10)
    assert clock.wait_s() == pytest.approx([0.007, 0, 0.007, 0])


def test_on_a_cpu_it_is_the_time_until_the_batch_is_there(monkeypatch):
    now = itertools.chain([0.0, 1.0, 3.5, 4.0], itertools.repeat(9.0))
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: next(now))
    clock = clocks.HostClock()
    clock.start()
    assert clock.fetch(iter(["batch"])) == "batch"
    clock.mark()
    assert (clock.wait_s(), clock.step_s()) == ([2.5], [4.0])
