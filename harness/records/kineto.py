"""Reads a trace of torch's profiler (Kineto's chrome trace): collectives, compute, and this suite's own marks.

Backends are told apart by where their events lie, never by the name of one kernel. Gloo runs a collective on a thread
of its own, as an annotation `gloo:<kind>` with the shapes of its inputs. NCCL runs it as a kernel on the device, whose
arguments hold `Collective name`, `In msg nelems` and `dtype` (Kineto, output_json.cpp).
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from harness.records.spans import Span, inside, merged, without
from harness.records.trace import Call, TracedStep, packed

DATA, UPDATE = "shardbench.data", "shardbench.update"
"""The marks of a traced step, by `torch.profiler.record_function`."""

Event = Mapping[str, Any]

_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_TYPES = {
    "float": "fp32",
    "c10::bfloat16": "bf16",
    "bfloat16": "bf16",
    "c10::half": "fp16",
    "half": "fp16",
    "double": "fp64",
    "long": "long int",
    "int": "int",
}
_NO_TENSOR = ("", "Scalar", "ScalarList")
_KINDS = {
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "reducescatter": "reduce_scatter",
    "broadcast": "broadcast",
    "reduce": "reduce",
    "alltoall": "all_to_all",
}
_NO_OPERATORS = ("c10d::", "autograd::", "torch::autograd::")
"""Name spaces of events that only hold others, or that communicate."""


def written(profiler: Any) -> dict[str, Any]:
    """Return the trace of a `torch.profiler.profile` that is over."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(file))
        read: dict[str, Any] = json.loads(file.read_text())
    return read


def calls(events: Iterable[Event]) -> list[Call]:
    """Return the collectives among events, in order of their begin, in seconds since the trace's origin.

    Raises:
        ValueError: the trace does not hold what a collective was given.
    """
    found = (_gloo(event) or _nccl(event) for event in events if event.get("ph") == "X")
    return sorted((call for call in found if call), key=lambda call: call.begin_s)


def steps(trace: Mapping[str, Any], *, marked_s: Sequence[float], queued_s: Sequence[float | None]) -> list[TracedStep]:
    """Return the traced steps of one rank.

    Args:
        trace: what `export_chrome_trace` wrote.
        marked_s: the clock that the steps are to be told by, read as each step began.
        queued_s: of each step, as in `TracedStep`.

    Raises:
        ValueError: the trace does not hold as many marked steps, or not what a collective was given.
    """
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    data, updates = _marks(events, "user_annotation", DATA), _marks(events, "user_annotation", UPDATE)
    if not len(data) == len(updates) == len(marked_s):
        raise ValueError(f"the trace holds {len(data)} data and {len(updates)} update marks of {len(marked_s)} steps")
    on_device = any(event.get("cat") == "kernel" for event in events)
    ends = [begin for begin, _ in data[1:]] + [updates[-1][1]]
    if on_device and len(done := _marks(events, "gpu_user_annotation", UPDATE)) == len(updates):
        # The host runs ahead of the device: a step is over when the last kernel it asked for is.
        ends = [end for _, end in done]
    begins = [data[0][0], *ends[:-1]]
    computing = _device_spans(events) if on_device else without(_operator_spans(events), data)
    communicating = calls(events)
    zero_s = median(clock - begin for clock, (begin, _) in zip(marked_s, data, strict=True))

    def moved(span: Span) -> Span:
        return (round(span[0] + zero_s, 7), round(span[1] + zero_s, 7))

    made = []
    for begin, end, waited, update, queued in zip(begins, ends, data, updates, queued_s, strict=True):
        own = [call for call in communicating if begin <= call.begin_s < end]
        made.append(
            TracedStep(
                begin_s=moved((begin, end))[0],
                end_s=moved((begin, end))[1],
                data=moved(waited),
                update=moved(update),
                computing_us=packed(inside(computing, (begin, end)), begin),
                calls=tuple(_later(call, zero_s) for call in own),
                queued_s=queued,
            )
        )
    return made


def _later(call: Call, seconds: float) -> Call:
    return Call(
        backend=call.backend,
        kind=call.kind,
        type=call.type,
        elements=call.elements,
        begin_s=round(call.begin_s + seconds, 7),
        end_s=round(call.end_s + seconds, 7),
    )


def _span(event: Event) -> Span:
    """Return when an event was, seconds: the trace tells microseconds."""
    begin = float(event["ts"]) * 1e-6
    return begin, begin + float(event["dur"]) * 1e-6


def _marks(events: Iterable[Event], category: str, name: str) -> list[Span]:
    return sorted(_span(event) for event in events if event.get("cat") == category and event["name"] == name)


def _device_spans(events: Iterable[Event]) -> list[Span]:
    own = [event for event in events if event.get("cat") in _ON_DEVICE and not _nccl(event)]
    return merged([_span(event) for event in own if not str(event["name"]).startswith("nccl")])


def _operator_spans(events: Iterable[Event]) -> list[Span]:
    """Return when operators ran on any thread that does not carry out collectives."""
    by_thread = defaultdict(list)
    for event in events:
        by_thread[event.get("tid")].append(event)
    spans = []
    for own in by_thread.values():
        if not any(map(_gloo, own)):
            spans += [_span(event) for event in own if event.get("cat") == "cpu_op" and _is_operator(event["name"])]
    return merged(spans)


def _is_operator(name: str) -> bool:
    """Return whether a CPU event is an operator; compiled code shows as one event of the compiler."""
    return ("::" in name and not name.startswith(_NO_OPERATORS)) or "CompiledFxGraph" in name


def _gloo(event: Event) -> Call | None:
    backend, _, kind = str(event.get("name", "")).partition(":")
    if backend != "gloo" or kind.startswith(":"):
        return None
    inputs = event.get("args", {})
    type_ = next((t for t in inputs.get("Input type", ()) if t not in _NO_TENSOR), "")
    call = _call(event, backend, kind, type_, _elements(inputs.get("Input Dims", ())))
    if "Input Dims" not in inputs and call.kind in _KINDS.values():
        raise ValueError(f"the profiler did not note what {event['name']} was given; run it again")
    return call


def _nccl(event: Event) -> Call | None:
    inputs = event.get("args", {})
    if event.get("cat") != "kernel" or "Collective name" not in inputs:
        return None
    return _call(event, "nccl", inputs["Collective name"], inputs.get("dtype", ""), int(inputs.get("In msg nelems", 0)))


def _call(event: Event, backend: str, name: str, type_: str, elements: int) -> Call:
    plain = name.strip("_").replace("_", "").removesuffix("base").removesuffix("coalesced")
    plain = plain.replace("intotensor", "").replace("tensor", "")
    begin_s, end_s = _span(event)
    return Call(
        backend=backend,
        kind=_KINDS.get(plain, name.strip("_")),
        type=_TYPES.get(type_.lower(), type_),
        elements=elements,
        begin_s=begin_s,
        end_s=end_s,
    )


def _elements(shapes: Any) -> int:
    """Return how many elements the tensors of a call have; a list of tensors has a list of shapes."""
    if all(isinstance(size, int) for size in shapes):
        return math.prod(shapes)
    return sum(_elements(shape) for shape in shapes)
