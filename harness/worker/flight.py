"""A rank's last collectives, written beside its log when it is asked for its stacks: it may hang in one of them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

from harness.running import flight
from harness.running.flight import Call, Flight
from harness.stored.writing import whole

_LAST = 8
"""Of each group, so many are told."""


def tell_when_asked(path: Path) -> None:
    """Write the last collectives to a file on SIGUSR1, from a thread of their own: the main one may never come back.

    Python's own handler would run in the main thread alone; what it is woken by, `signal.set_wakeup_fd`, reaches any.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_answer, args=(reader, path), name="flight", daemon=True).start()


def _answer(reader: int, path: Path) -> None:
    while True:
        if signal.SIGUSR1 in os.read(reader, 512):
            with contextlib.suppress(OSError):
                whole(path, flight.packed(recorded()))


def recorded() -> Flight:
    """Return the last collectives of each group of ranks, as torch's flight recorder has them."""
    import torch

    names = ["_dump_fr_trace_json"]  # of gloo
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        names.append("_dump_nccl_trace_json")
    module = torch._C._distributed_c10d
    calls: list[Call] = []
    for name in names:
        dump = getattr(module, name, None)
        if dump is None:
            return Flight(why_not=f"this torch has no {name}")
        try:
            calls += _calls(json.loads(dump(True, False)))
        except Exception as error:  # it is nobody's interface yet
            return Flight(why_not=f"torch's flight recorder: {type(error).__name__}: {error}")
    return Flight(calls=tuple(calls)) if calls else Flight(why_not="torch's flight recorder holds none")


def _calls(dumped: dict[str, Any]) -> list[Call]:
    from torch.distributed import distributed_c10d

    groups: dict[str, list[Call]] = {}
    # The recorder of gloo does not know whose the groups are.
    world: Any = distributed_c10d._world
    members = {world.pg_names[group]: tuple(sorted(ranks)) for group, ranks in world.pg_group_ranks.items()}
    for entry in dumped.get("entries", ()):
        name, about = entry["process_group"]
        if not entry["is_p2p"]:
            groups.setdefault(name, []).append(
                Call(
                    group=name if about in ("", "undefined") else about,
                    members=members.get(name, ()),
                    number=entry["collective_seq_id"],
                    name=entry["profiling_name"],
                    elements=sum(math.prod(sizes) for sizes in entry["input_sizes"]),
                    done=entry["retired"] or entry["state"] == "completed",
                )
            )
    return [call for calls in groups.values() for call in calls[-_LAST:]]
