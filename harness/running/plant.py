"""Faults that can be planted in every case of a run, as `name[:size]`: whoever doubts the gate can see it find them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harness.errors import HarnessError, unknown

_Kind = Literal["share", "count", "none"]


@dataclass(frozen=True, slots=True)
class _Fault:
    """What a fault is."""

    about: str
    kind: _Kind = "none"
    """Of its size."""
    default: float = 1.0
    """Its size where none is given."""
    breaks: bool = False
    """Whether it ends or stops the last rank, rather than to make a figure wrong."""


_FAULTS = {
    "burn": _Fault("matrix products that take this share of a step more", "share", 0.05),
    "sleep": _Fault("the host sleeps for this share of a step", "share", 0.05),
    "all_reduce": _Fault("so many further all-reduces of the model's size in a step", "count"),
    "no_overlap": _Fault("ddp reduces all gradients at once, after the backward pass"),
    "optimizer_copy": _Fault("the optimizer keeps one more tensor for each parameter"),
    "wrong_lr": _Fault("the learning rate is higher by this share", "share", 0.05),
    "double_image": _Fault("one validation image is scored twice"),
    "lost_image": _Fault("one validation image is not scored"),
    "leak": _Fault("a tensor is kept with every step"),
    "raise": _Fault("the last rank raises in its second step", breaks=True),
    "exit": _Fault("the last rank exits in its second step", breaks=True),
    "kill": _Fault("the last rank is killed in its second step", breaks=True),
    "hang": _Fault("the last rank stops before its second step, which the others wait for", breaks=True),
    "stuck": _Fault("the last rank waits for ever in a collective that no other enters", breaks=True),
    "freeze": _Fault("the last rank is stopped by SIGSTOP", breaks=True),
    "out_of_memory": _Fault("the last rank asks for more memory than there is", breaks=True),
    "nan": _Fault("the last rank's loss is no number", breaks=True),
    "cut_report": _Fault("the last rank's report ends in its middle", breaks=True),
    "full_disk": _Fault("the disk is full when the last rank writes its report", breaks=True),
    "kill_agent": _Fault("what started the ranks is killed", breaks=True),
}
"""By name; what they do is in `harness.worker.faults`, and in `harness.worker.breaking` for those that break."""
_MOST_CALLS = 1000

NAMES = tuple(name for name, fault in _FAULTS.items() if not fault.breaks)
BREAKS = {name: fault.about for name, fault in _FAULTS.items() if fault.breaks}
"""What each of these faults is."""


@dataclass(frozen=True, slots=True)
class Plant:
    """A fault and how large it is."""

    name: str
    size: float
    """A share, so that .05 is 5 %, or a number of calls; 1 where the fault has no size."""

    def __str__(self) -> str:
        """Return what parses to this."""
        kind = _FAULTS[self.name].kind
        shown = {"share": f":{100 * self.size:.12g}%", "count": f":{self.size:.0f}", "none": ""}
        return self.name + shown[kind]


def parse(text: str) -> Plant:
    """Return the fault that a text such as `burn:5%`, `burn:0.05`, `all_reduce:2` or `leak` names.

    Raises:
        HarnessError: there is no such fault, or it has no such size.
    """
    name, given, size = (part.strip() for part in text.partition(":"))
    if name not in _FAULTS:
        raise HarnessError(f"{unknown('fault to plant', name, _FAULTS)}; they are {', '.join(_FAULTS)}")
    fault = _FAULTS[name]
    if not given:
        return Plant(name, fault.default)
    if fault.kind == "none":
        raise HarnessError(f"the fault {name} ({fault.about}) has no size, so not {size!r}; write {name}")
    if fault.kind == "count":
        if not (size.isascii() and size.isdigit() and 1 <= int(size) <= _MOST_CALLS):
            raise HarnessError(
                f"{text!r}: {size!r} is no whole number of 1 to {_MOST_CALLS} ({fault.about}); write {name}:1"
            )
        return Plant(name, float(size))
    share = _share(size)
    if not 0 < share <= 1:
        raise HarnessError(
            f"{text!r}: {size!r} is no share above 0 % and up to 100 % ({fault.about}); write {name}:5% or {name}:0.05"
        )
    return Plant(name, share)


def _share(text: str) -> float:
    """Return a share, given as a number or in percent; NaN where it is neither."""
    number = text.removesuffix("%")
    try:
        return float(number) / (100 if number != text else 1)
    except ValueError:
        return math.nan
