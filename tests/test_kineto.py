"""Reading traces of torch's profiler: one recorded of two gloo ranks, and one of NCCL in the documented form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.records import kineto
from harness.records.spans import length

DATA = Path(__file__).parent / "data"


def _read(name):
    return json.loads((DATA / name).read_text())


def test_a_recorded_gloo_run_has_its_two_collectives():
    calls = kineto.calls(_read("gloo_trace_rank0.json")["traceEvents"])
    # 300 x 200 + 200 weights and biases, 200 x 10 + 10.
    assert [(call.backend, call.kind, call.type, call.elements) for call in calls] == [
        ("gloo", "all_reduce", "fp32", 62_210)
    ] * 2
    assert [round(1e6 * (call.end_s - call.begin_s), 3) for call in calls] == [2119.121, 1234.194]


def test_steps_of_a_recorded_gloo_run_are_told_on_the_callers_clock():
    trace = _read("gloo_trace_rank0.json")
    begins_us = [347.147, 5482.854]
    steps = kineto.steps(trace, marked_s=[100 + at * 1e-6 for at in begins_us], queued_s=[0.001, None])
    first, second = steps
    assert first.begin_s == pytest.approx(100.000347147, abs=1e-7)
    # A step ends where the next begins: the 6 microseconds of the loop in between belong to it.
    assert first.end_s == second.begin_s == pytest.approx(100.005482854, abs=1e-7)
    assert second.end_s == pytest.approx(100.010656517, abs=1e-7)
    assert (first.queued_s, second.queued_s) == (0.001, None)
    assert [len(step.calls) for step in steps] == [1, 1]
    assert first.data == pytest.approx((100.000347147, 100.002552661), abs=1e-7)


def test_compute_on_a_cpu_is_the_operators_of_the_update():
    trace = _read("gloo_trace_rank0.json")
    step, _ = kineto.steps(trace, marked_s=[0, 0.005135707], queued_s=[None, None])
    data_us, update_us = (347.147, 2205.514), (2567.196, 2909.502)
    microseconds = set()
    for event in trace["traceEvents"]:
        # Counted another way: microsecond by microsecond, by the events' own names.
        if event["name"].split("::")[0] in ("aten", "torch") and "autograd" not in event["name"]:
            microseconds |= set(range(round(event["ts"]), round(event["ts"] + event["dur"])))
    own = {at for at in microseconds if update_us[0] <= at < update_us[0] + update_us[1]}
    assert not any(data_us[0] <= begin * 1e6 + 347.147 < sum(data_us) for begin, _ in step.compute)
    assert 1e6 * length(step.compute) == pytest.approx(len(own), rel=0.03)


def test_nccl_is_read_from_kernels_whatever_they_are_called():
    calls = kineto.calls(_read("nccl_trace.json")["traceEvents"])
    assert [(c.backend, c.kind, c.type, c.elements, round(c.begin_s * 1e6), round(c.end_s * 1e6)) for c in calls] == [
        ("nccl", "all_reduce", "fp32", 1000, 1700, 1900),
        ("nccl", "reduce_scatter", "bf16", 4000, 1950, 2050),
        ("nccl", "all_gather", "fp16", 250, 2100, 2200),
    ]


def test_a_step_on_a_gpu_ends_with_its_last_kernel_though_the_host_runs_ahead():
    first, second = kineto.steps(_read("nccl_trace.json"), marked_s=[0.001, 0.0016], queued_s=[None, None])
    assert (first.begin_s, first.end_s) == pytest.approx((0.001, 0.0025))
    assert (second.begin_s, second.end_s) == pytest.approx((0.0025, 0.004))
    # Copy 50, product 600, memset and optimizer 300 in one stretch; no collective's kernel is among them.
    assert [round(1e6 * (end - begin)) for begin, end in first.compute] == [50, 600, 300]
    assert [len(step.calls) for step in (first, second)] == [3, 0]


def test_a_trace_without_its_marks_is_refused():
    trace = _read("gloo_trace_rank0.json")
    with pytest.raises(ValueError, match="2 data and 2 update marks of 3 steps"):
        kineto.steps(trace, marked_s=[0, 1, 2], queued_s=[None] * 3)


def test_a_collective_whose_size_was_not_noted_is_refused_and_not_taken_for_a_flag():
    trace = _read("gloo_trace_rank0.json")
    events = [event for event in trace["traceEvents"] if event["name"] == "gloo:all_reduce"]
    del events[1]["args"]["Input Dims"]
    with pytest.raises(ValueError, match="did not note what gloo:all_reduce was given"):
        kineto.calls(events)
    # A barrier is given nothing.
    (barrier,) = kineto.calls([{**events[1], "name": "gloo:barrier"}])
    assert barrier.kind == "barrier"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("allreduce", "all_reduce"),
        ("all_reduce", "all_reduce"),
        ("allreduce_coalesced", "all_reduce"),
        ("_allgather_base", "all_gather"),
        ("allgather_into_tensor_coalesced", "all_gather"),
        ("reduce_scatter_tensor_coalesced", "reduce_scatter"),
        ("_reduce_scatter_base", "reduce_scatter"),
        ("broadcast", "broadcast"),
        ("reduce", "reduce"),
        ("all_to_all", "all_to_all"),
        ("barrier", "barrier"),
    ],
)
def test_one_kind_has_one_name_whatever_the_interface(name, kind):
    event = {"ph": "X", "cat": "kernel", "name": "k", "ts": 0, "dur": 1, "args": {"Collective name": name}}
    assert [call.kind for call in kineto.calls([event])] == [kind]
