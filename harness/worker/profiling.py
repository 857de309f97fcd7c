"""torch's profiler, as the certificate and the traced run look through it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity

_NOTED_S = 0.1
"""Far more than a thread that has nothing else to do takes to be given a core."""


@contextmanager
def profiled(activities: Iterable[ProfilerActivity] | None = None) -> Iterator[torch.profiler.profile]:
    """Profile the block, with the shapes of what operators and collectives are given.

    Args:
        activities: what to look at; None is all that this machine has.
    """
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        yield profiler
        # Gloo wakes whoever waits for a collective just before it notes its end, and the profiler knows the shapes of
        # none that has not ended: on torch 2.11 one in ten was without them.
        time.sleep(_NOTED_S)
