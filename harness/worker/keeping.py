"""What a rank keeps of a training between two steps, and how fresh ranks take it up, to the last bit.

The same for every strategy, through the seam that all share: the tensors that hold a rank's part of the model, the ones
that its optimizer writes and their state, and numbers. They are those of after a step, before anything is evaluated:
an evaluation may leave a library with gathered parameters, and is made again instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from harness.errors import StoreError
from harness.plugins import Trainee, World
from harness.results import EpochReport, Memory
from harness.running.job import Job
from harness.stored import checkpoints
from harness.stored.checkpoints import Kept, facts_of
from harness.worker.training import TrainingLoop
from harness.worker.watching import local

State = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Keeper:
    """Keeps one rank's training in the folder of its job, and takes it up from there."""

    job: Job
    world: World
    trainee: Trainee
    schedule: LRScheduler | None

    def keep(self, past: Kept) -> None:
        """Write the state after the last of the epochs that `past` has.

        Raises:
            StoreError: it cannot be written.
        """
        assert self.job.checkpoints is not None, "asked to keep a training nowhere"
        state = state_of(self.trainee, self.schedule, self.world)
        checkpoints.write(
            checkpoints.folder_of(self.job.checkpoints, len(past.epochs)),
            self.world.rank,
            lambda digest: replace(past, sha256=digest),
            lambda file: torch.save(state, file),
        )

    def take_up(self, folder: Path, *, to_train: bool = True) -> Kept:
        """Give this rank's training the state in a folder, and return what was measured until then.

        Args:
            folder: what the ranks kept after an epoch.
            to_train: whether it will be trained on, and not evaluated alone.

        Raises:
            StoreError: there is none for this rank, or it is of another model.
        """
        past = checkpoints.read(folder, self.world.rank)
        if past is None:
            raise StoreError(f"{folder} has nothing of rank {self.world.rank}; leave out --resume to begin anew")
        try:
            file = folder / f"rank{self.world.rank}.pt"
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            restore(state, self.trainee, self.schedule, self.world, to_train=to_train)
        except Exception as error:  # torch names a dozen types for a file that is not what it should be
            raise StoreError(f"{folder} cannot be taken up: {error}; leave out --resume to begin anew") from error
        return past


def nothing(job: Job) -> Kept:
    """Return what is known of a training that has not begun."""
    facts = facts_of(job) if job.checkpoints is not None else {}
    return Kept(facts=facts, sha256="", step_s=(), data_wait_s=(), loss=(), began=(), epochs=())


def with_steps(past: Kept, loop: TrainingLoop, epochs: Sequence[EpochReport], memory: Memory) -> Kept:
    """Return what is known of a training with the steps that a loop of this process has made since."""
    steps = tuple(loop.clock.step_s())
    return replace(
        past,
        step_s=past.step_s + steps,
        data_wait_s=past.data_wait_s + tuple(loop.clock.wait_s()),
        loss=past.loss + tuple(loop.losses()),
        began=(*past.began, len(past.step_s)) if steps else past.began,
        epochs=tuple(epochs),
        memory=_larger(past.memory, memory),
    )


def unmeasured(known: Kept, warmup_steps: int) -> int:
    """Return how many steps at the start are not measured: all but those of the last process that made some.

    Its own warm-up too, where it made more steps than that.
    """
    began = known.began[-1] if known.began else 0
    return began + warmup_steps if began == 0 or began + warmup_steps < len(known.step_s) else began


def _larger(one: Memory, other: Memory) -> Memory:
    def larger(name: str) -> int | None:
        known = [getattr(memory, name) for memory in (one, other) if getattr(memory, name) is not None]
        return max(known, default=None)

    return Memory(**{name: larger(name) for name in Memory.__dataclass_fields__})


def state_of(trainee: Trainee, schedule: LRScheduler | None, world: World) -> State:
    """Return everything that the next step of a rank depends on, as tensors where they lie, numbers and text."""
    written = list(_written(trainee))
    return {
        "kept": [local(tensor).detach() for tensor in _kept(trainee)],
        "buffers": [buffer.detach() for buffer in trainee.module.buffers()],
        "written": [local(tensor).detach() for tensor in written],
        "slots": [_slots(trainee.applied.state.get(tensor, {})) for tensor in written],
        "groups": [_groups(optimizer) for optimizer in (trainee.optimizer, trainee.applied)],
        "schedule": None if schedule is None else schedule.state_dict(),
        "scaler": None if trainee.scaler is None else trainee.scaler.state_dict(),
        "random": _random(world),
    }


@torch.no_grad()
def restore(state: State, trainee: Trainee, schedule: LRScheduler | None, world: World, *, to_train: bool) -> None:
    """Give a rank that was just sharded the state of another that went before it.

    Raises:
        StoreError: its tensors are others than those of the state.
    """
    _copy("parameters", _kept(trainee), state["kept"])
    _copy("buffers", trainee.module.buffers(), state["buffers"])
    if not to_train:
        return
    written = list(_written(trainee))
    _copy("updated tensors", written, state["written"])
    trainee.applied.state.clear()
    for tensor, slots in zip(written, state["slots"], strict=True):
        if slots:
            trainee.applied.state[tensor] = {name: _slot(tensor, *saved) for name, saved in slots.items()}
    for optimizer, groups in zip((trainee.optimizer, trainee.applied), state["groups"], strict=True):
        for group, settings in zip(optimizer.param_groups, groups, strict=True):
            group.update(settings)
    for holder, saved in ((schedule, state["schedule"]), (trainee.scaler, state["scaler"])):
        if holder is not None:
            holder.load_state_dict(saved)
    _set_random(state["random"], world)


def _kept(trainee: Trainee) -> Iterable[torch.Tensor]:
    return trainee.kept() if trainee.kept is not None else trainee.module.parameters()


def _written(trainee: Trainee) -> Iterable[torch.Tensor]:
    if trainee.written is not None:
        return trainee.written()
    return (parameter for group in trainee.applied.param_groups for parameter in group["params"])


def _copy(what: str, targets: Iterable[torch.Tensor], saved: Sequence[torch.Tensor]) -> None:
    held = [local(target) for target in targets]
    if len(held) != len(saved):
        raise StoreError(f"{len(saved)} {what} were kept, and {len(held)} are there")
    for target, tensor in zip(held, saved, strict=True):
        if target.numel() == 0:
            continue  # not yet gathered, for nothing ran so far: it will be, from the parts that are restored
        if target.shape != tensor.shape or target.dtype != tensor.dtype:
            shapes = [f"{tuple(one.shape)} of {one.dtype}" for one in (tensor, target)]
            raise StoreError(f"{what} of {shapes[0]} were kept, and {shapes[1]} are there")
        target.copy_(tensor)


def _groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def _slots(slots: Mapping[str, Any]) -> dict[str, tuple[Any, str, bool]]:
    """Return an optimizer's state of a tensor: of each slot its value, where it lies, and whether it is sharded."""
    return {
        name: (local(value).detach(), value.device.type, hasattr(value, "to_local"))
        if isinstance(value, torch.Tensor)
        else (value, "", False)
        for name, value in slots.items()
    }


def _slot(of: torch.Tensor, value: Any, device: str, sharded: bool) -> Any:
    if not device:
        return value
    if not sharded:
        # A copy: what was loaded lies in the file.
        return value.to(of.device if device == of.device.type else device, copy=True)
    made = torch.empty_like(of)
    local(made).copy_(value)
    return made


def _random(world: World) -> State:
    """Return where the generators stand that this suite seeds; those of Python and numpy it leaves to chance."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if world.on_cuda else None}


def _set_random(state: State, world: World) -> None:
    torch.set_rng_state(state["cpu"].clone())
    if world.on_cuda:
        torch.cuda.set_rng_state(state["cuda"].clone())
