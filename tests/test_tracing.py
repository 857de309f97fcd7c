"""The traced run on real gloo ranks, with faults planted: a slow rank, loader or host, and an extra all-reduce."""

from __future__ import annotations

import functools
import time

import pytest

from harness.anatomy.budget import budgets
from harness.anatomy.communication import figures, straggler
from harness.records.trace import RankTrace
from tests.ranks import run_ranks

SLEEP_S = 0.1
"""Long beside all that such a small net does, on any machine."""
PARAMETERS = 300 * 200 + 200 + 200 * 10 + 10


def _traced(rank: int, fault: str) -> tuple:
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn import functional as F
    from torch.nn.parallel import DistributedDataParallel

    from harness.plugins import Trainee
    from harness.worker.tracing import traced

    torch.set_num_threads(1)
    module = DistributedDataParallel(nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 10)))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)

    def step(batch):
        optimizer.zero_grad()
        if fault == "slow rank" and rank == 1:
            time.sleep(SLEEP_S)
        loss = F.cross_entropy(module(batch[0]), batch[1])
        loss.backward()
        if fault == "extra all-reduce":
            dist.all_reduce(torch.zeros(5000))
        optimizer.step()
        if fault == "slow host":
            time.sleep(SLEEP_S)
        return loss.detach()

    def batches():
        while True:
            if fault == "slow loader":
                time.sleep(SLEEP_S)
            yield torch.randn(8, 300), torch.zeros(8, dtype=torch.long)

    trainee = Trainee(module=module, step=step, full_state=dict, optimizer=optimizer, applied=optimizer)
    endless = batches()
    for _ in range(2):  # DDP orders its buckets anew in the second step
        step(next(endless))
    return traced(trainee, endless, "cpu", count=2)


@functools.cache
def _ranks(fault: str) -> list[RankTrace]:
    return [RankTrace(device="cpu", steps=steps, plain_s=(1.0,)) for steps in run_ranks(_traced, 2, fault)]


def test_a_step_is_seen_whole():
    traces = _ranks("none")
    (found,) = figures(traces)
    assert (found.kind, found.calls, found.size_bytes) == ("all_reduce", 1, 4 * PARAMETERS)
    for trace, budget in zip(traces, budgets(traces), strict=True):
        assert len(trace.steps) == 2
        assert all(step.compute and step.data[0] == pytest.approx(step.begin_s, abs=1e-6) for step in trace.steps)
        assert budget.compute_s > 0
        assert budget.host_s > 0


def test_ranks_tell_time_by_one_clock():
    begins = [trace.steps[0].begin_s for trace in _ranks("slow rank")]
    now = time.monotonic()
    assert all(0 < now - begin < 600 for begin in begins)
    for step, other in zip(*(trace.steps for trace in _ranks("slow rank")), strict=True):
        # No rank can be done with a collective before the other began it.
        assert max(step.calls[0].begin_s, other.calls[0].begin_s) < min(step.calls[0].end_s, other.calls[0].end_s)


def test_a_slow_rank_is_named():
    traces = _ranks("slow rank")
    rank, waited_s = straggler(traces)
    assert rank == 1
    assert waited_s > 0.8 * SLEEP_S
    waits, sleeps = budgets(traces)
    assert waits.bound == "communication"
    assert waits.late_s > 0.8 * SLEEP_S
    assert sleeps.host_s > 0.8 * SLEEP_S


def test_a_slow_loader_is_named():
    for budget in budgets(_ranks("slow loader")):
        assert budget.bound == "data"
        assert budget.data_s > 0.8 * SLEEP_S


def test_a_slow_host_is_named():
    for budget in budgets(_ranks("slow host")):
        assert budget.bound == "host"
        assert budget.host_s > 0.8 * SLEEP_S


def test_an_extra_all_reduce_is_counted_to_the_byte():
    (found,) = figures(_ranks("extra all-reduce"))
    assert (found.calls, found.size_bytes) == (2, 4 * (PARAMETERS + 5000))
