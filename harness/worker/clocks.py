"""Step boundaries in time: CUDA events on GPUs, so that nothing synchronises in between, a monotonic clock on CPU."""

from __future__ import annotations

import itertools
import time
from typing import Protocol

import torch


class StepClock(Protocol):
    """Collects boundaries; the steps of a stretch lie between its boundaries."""

    def start(self) -> None:
        """Mark the boundary before the first step of a stretch."""

    def mark(self) -> None:
        """Mark the boundary after a step."""

    def step_s(self) -> list[float]:
        """Return the seconds of every step so far; may synchronise."""


class HostClock:
    """For CPU ranks, whose work is done when the call returns."""

    def __init__(self) -> None:
        self._steps: list[float] = []
        self._last = 0.0

    def start(self) -> None:
        """Mark the boundary before the first step of a stretch."""
        self._last = time.perf_counter()

    def mark(self) -> None:
        """Mark the boundary after a step."""
        now = time.perf_counter()
        self._steps.append(now - self._last)
        self._last = now

    def step_s(self) -> list[float]:
        """Return the seconds of every step so far."""
        return list(self._steps)


class CudaClock:
    """For CUDA ranks: events on the current stream, read once at the end."""

    def __init__(self) -> None:
        self._stretches: list[list[torch.cuda.Event]] = []

    def start(self) -> None:
        """Mark the boundary before the first step of a stretch."""
        self._stretches.append([self._event()])

    def mark(self) -> None:
        """Mark the boundary after a step."""
        self._stretches[-1].append(self._event())

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
