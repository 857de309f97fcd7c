"""Step boundaries in time: CUDA events on GPUs, so that nothing synchronises in between, a monotonic clock on CPU."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Protocol

import torch

from harness.plugins import Batch


class StepClock(Protocol):
    """Collects boundaries; the steps of a stretch lie between its boundaries."""

    def start(self) -> None:
        """Mark the boundary before the first step of a stretch."""

    def mark(self) -> None:
        """Mark the boundary after a step."""

    def fetch(self, batches: Iterator[Batch]) -> Batch:
        """Return a step's batch, and take note of how long the device had nothing to do for want of it."""

    def step_s(self) -> list[float]:
        """Return the seconds of every step so far; may synchronise."""

    def wait_s(self) -> list[float]:
        """Return how long each step so far waited for its batch, seconds; may synchronise."""


class HostClock:
    """For CPU ranks, whose work is done when the call returns."""

    def __init__(self) -> None:
        self._steps: list[float] = []
        self._waits: list[float] = []
        self._last = 0.0

    def start(self) -> None:
        """Mark the boundary before the first step of a stretch."""
        self._last = time.perf_counter()

    def mark(self) -> None:
        """Mark the boundary after a step."""
        now = time.perf_counter()
        self._steps.append(now - self._last)
        self._last = now

    def fetch(self, batches: Iterator[Batch]) -> Batch:
        """Return a step's batch, and take note of how long that took."""
        asked = time.perf_counter()
        batch = next(batches)
        self._waits.append(time.perf_counter() - asked)
        return batch

    def step_s(self) -> list[float]:
        """Return the seconds of every step so far."""
        return list(self._steps)

    def wait_s(self) -> list[float]:
        """Return how long each step so far waited for its batch, seconds."""
        return list(self._waits)


class CudaClock:
    """For CUDA ranks: events on the current stream, read once at the end."""

    def __init__(self) -> None:
        self._stretches: list[list[torch.cuda.Event]] = []
        self._fed: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> None:
        """Mark the boundary before the first step of a stretch."""
        self._stretches.append([self._event()])

    def mark(self) -> None:
        """Mark the boundary after a step."""
        self._stretches[-1].append(self._event())

    def fetch(self, batches: Iterator[Batch]) -> Batch:
        """Return a step's batch, and take note of how long the device waited for it.

        Not how long the host did: while it waits, the device may still be busy with the steps before.
        """
        done = self._stretches[-1][-1]
        batch = next(batches)
        self._fed.append((done, self._event()))
        return batch

    def wait_s(self) -> list[float]:
        """Return how long each step so far waited for its batch, seconds, after waiting for the device."""
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in self._fed]

    def step_s(self) -> list[float]:
        """Return the seconds of every step so far, after waiting for the device."""
        torch.cuda.synchronize()
        return [
            before.elapsed_time(after) / 1e3  # elapsed_time is in milliseconds
            for stretch in self._stretches
            for before, after in itertools.pairwise(stretch)
        ]

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def clock_for(device: str) -> StepClock:
    """Return the clock that suits a device."""
    return CudaClock() if device.startswith("cuda") else HostClock()
