"""The reference of certificates: one plain process that plays every rank in turn.

Each rank's batch goes through a module that shares its parameters with the others' and has buffers of its own; the
gradients are summed, divided by the number of ranks, clipped if the case asks for it, and applied by torch's optimizer.
It draws its samples by the definition of the data order, not through the loader that the ranks use. What must not
change a training (checkpointing, offload, fused or compiled kernels, memory format) it leaves out.

What rounding alone may do is measured: the same training again, with the last bits of every gradient changed.
"""

from __future__ import annotations

import copy
import functools
import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from harness.case import Case
from harness.certificate import Played, Spread, Watched, to_json
from harness.errors import StoreError
from harness.plugins import Batch
from harness.worker import options
from harness.worker.certifying import STEPS, be_deterministic, check_losses, enumerate_names, micro_batches, seed
from harness.worker.loading import collate, drawn, to_device
from harness.worker.purposes import Context
from harness.worker.watching import Watch, buffers_of, changed, difference, digest, squares, state_slots


def play(context: Context) -> dict[str, Any]:
    """Play every rank of the case, write the state to the job's file, and return `extra["played"]`."""
    job, case = context.job, context.case
    be_deterministic()
    if job.reference is None:
        raise StoreError("a reference needs a file to write its state to")
    with context.phases("data"):
        batches = list(_batches(context))
    with context.phases("build"):
        built = context.build()
        initial = built.module
    with context.phases("train"):
        uses = count_uses(initial, built.blocks)
        run = _train(context, initial, batches, case)
        used_once = set(uses.values()) <= {STEPS * case.gpu_count * case.accumulation}
        rounding, from_fp32 = None, None
        if not exact(case, run.terms, job.device_kind):
            nudged = _train(
                context,
                initial,
                batches,
                case,
                nudge=_nudge(case, run.terms),
                nudge_layers=_nudge_layers(case, run, job.device_kind),
            )
            rounding = _spread(run, nudged)
        if case.precision != "fp32":
            from_fp32 = _spread(run, _train(context, initial, batches, replace(case, precision="fp32")))
    with context.phases("compare"):
        state = {
            "parameters": run.parameters,
            "buffers": run.buffers,
            "changed": run.changed,
            "buffers_changed": run.buffers_changed,
        }
        torch.save(state, job.reference)
        record = Played(
            ranks=tuple(run.watched),
            unclipped_norms=tuple(run.unclipped),
            terms=run.terms,
            sizes=tuple(p.numel() for p in initial.parameters()),
            trained=sum(p.numel() for p in initial.parameters() if p.requires_grad),
            units=tuple(units_of(initial, built.blocks)) if used_once else (),
            rounding=rounding,
            from_fp32=from_fp32,
        )
    return {"extra": {"played": to_json(record)}}


def exact(case: Case, terms: int, device_kind: str) -> bool:
    """Return whether every sum has one order, so that nothing but the same bits will do.

    A sum of two rounds alike in either order, a division by one or two is exact, and a CPU kernel computes a tensor
    alike wherever it lies in memory. Three gradients that meet, three ranks, micro-batches that are reduced one by one,
    a norm to clip by, other kernels, or a GPU's choice of kernels by alignment leave the order open.
    """
    sums_of_two = case.gpu_count <= 2 and terms <= 2 and case.accumulation == 1
    same_kernels = not (other_kernels(case) or case.fused)
    return device_kind == "cpu" and sums_of_two and same_kernels and case.clipping is None


@dataclass(slots=True, kw_only=True)
class _Run:
    watched: list[Watched]
    unclipped: list[float]
    terms: int
    parameters: dict[str, torch.Tensor]
    buffers: list[dict[str, torch.Tensor]]
    changed: float
    buffers_changed: list[float]


def _train(
    context: Context,
    initial: nn.Module,
    batches: Sequence[Sequence[Batch]],
    case: Case,
    *,
    nudge: float = 0.0,
    nudge_layers: float = 0.0,
) -> _Run:
    """Train a copy of a module, playing all ranks.

    Args:
        context: for the optimizer, the loss and the schedule.
        initial: left as it is.
        batches: of each step, each rank's.
        case: whose precision, accumulation and clipping count.
        nudge: each rank's gradients are changed at random by at most this share, to see what rounding does.
        nudge_layers: so is what each module with parameters returns.
    """
    job, device = context.job, context.world.device
    plain = replace(case, fused=False, channels_last=False)
    module = copy.deepcopy(initial)
    ranks = [copy.deepcopy(initial) for _ in batches[0]]
    for replica in ranks:
        for own, shared in zip(replica.modules(), module.modules(), strict=True):
            own._parameters = shared._parameters
    optimizer = options.optimizer(job.optimizer.spec, plain).make(module.parameters())
    schedule = context.schedule(optimizer, len(context.open("train")))
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=case.precision == "fp16")
    watches = [Watch() for _ in ranks]
    applied = watches[0]
    applied.optimizer(optimizer)
    for watch, replica in zip(watches, ranks, strict=True):
        watch.modules(replica)
        if nudge_layers:
            _make_noisy(replica, nudge_layers)
    loss = options.loss(context.model.input, plain, device)
    trained = [p for p in module.parameters() if p.requires_grad]
    noise = torch.Generator(device).manual_seed(job.seed)
    losses: list[list[float]] = [[] for _ in ranks]
    unclipped: list[float] = []
    terms = 0
    for of_ranks in batches:
        optimizer.zero_grad()
        for rank, batch in enumerate(of_ranks):
            held = [p.grad for p in trained]
            for parameter in trained:
                parameter.grad = None
            watches[rank].begin_step()
            total = 0.0
            for number, part in enumerate(micro_batches(batch, case.accumulation)):
                draw = functools.partial(seed, job.seed, len(unclipped) + 1, rank, number)
                watched = watches[rank].loss(loss, draw)
                value = watched(ranks[rank], to_device(part, device)) / case.accumulation
                terms = terms or most_terms(value)
                scaler.scale(value).backward()  # type: ignore[no-untyped-call]
                total += float(value.detach())
            losses[rank].append(total)
            for parameter, before in zip(trained, held, strict=True):
                gradient = parameter.grad
                if gradient is not None and nudge:
                    ones = torch.rand(gradient.shape, generator=noise, device=device) * 2 - 1
                    gradient *= 1 + nudge * ones
                if gradient is not None and before is not None:
                    parameter.grad = before.add_(gradient)
                elif gradient is None:
                    parameter.grad = before
        for parameter in trained:
            if parameter.grad is not None:
                parameter.grad /= len(ranks)
        scaler.unscale_(optimizer)
        gradients = [p.grad for p in trained if p.grad is not None]
        norm = math.sqrt(sum(map(squares, gradients)))
        unclipped.append(norm)
        if case.clipping is not None and nudge:
            # Libraries take the norm in FP32 or FP64: what that changes belongs to the rounding.
            nn.utils.clip_grad_norm_(trained, case.clipping)
        elif case.clipping is not None and norm > case.clipping:
            for gradient in gradients:
                gradient *= case.clipping / norm
        scaler.step(optimizer)
        scaler.update()
        if schedule is not None:
            schedule.step()
    for values in losses:
        check_losses(values)
    slots, types, held_state = state_slots(optimizer, applied.untouched)
    fresh = {name: p.detach().cpu() for name, p in initial.named_parameters()}
    after = {name: p.detach().cpu() for name, p in module.named_parameters()}
    buffers = [dict(enumerate_names(buffers_of(replica))) for replica in ranks]
    fresh_buffers = dict(enumerate_names(buffers_of(initial)))
    return _Run(
        watched=[
            Watched(
                losses=tuple(losses[rank]),
                loss_gradients=tuple(watch.loss_gradients),
                samples=tuple(watch.samples),
                targets=tuple(watch.targets),
                gradient_squares=tuple(applied.squares),
                groups=applied.group_records(),
                slots=slots,
                live=tuple(sorted(watch.live)),
                compute=tuple(sorted(watch.compute)),
                master=tuple(sorted(applied.master)),
                gradient=tuple(sorted(applied.gradient)),
                # One process reduces nothing; sums over ranks are taken in the type of the gradients.
                reduction=tuple(sorted(applied.gradient)),
                state=tuple(sorted(types)),
                optimizer=type(optimizer).__name__,
                held_parameters=sum(p.numel() for p in module.parameters()),
                held_state=held_state,
                buffers=sum(map(digest, buffers[rank].values())),
                differences={},
            )
            for rank, watch in enumerate(watches)
        ],
        unclipped=unclipped,
        terms=terms,
        parameters=after,
        buffers=buffers,
        changed=changed(fresh, after),
        buffers_changed=[changed(fresh_buffers, own) for own in buffers],
    )


def _batches(context: Context) -> Iterator[list[Batch]]:
    """Yield each step's batches, one a rank, by the definition of the data order.

    Of an epoch's permutation, step s takes the s-th stretch of a global batch; of it, rank r of n has samples
    r, r + n, r + 2n, ... An augmented sample is what the seed, the epoch and its index make of it.
    """
    job, case = context.job, context.case
    dataset = context.open("train")
    stack = collate(context.model.input)
    whole = case.global_batch_size
    per_epoch = len(dataset) // whole
    for step in range(STEPS):
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(job.seed + epoch)).tolist()
        samples = order[place * whole : (place + 1) * whole]
        item = dataset.__getitem__
        if job.data.augment != "none":
            item = functools.partial(drawn, dataset, seed=job.seed, epoch=epoch)
        yield [stack([item(i) for i in samples[rank :: case.gpu_count]]) for rank in range(case.gpu_count)]


def _spread(run: _Run, other: _Run) -> Spread:
    """Return how far another run of the reference is from the first."""
    pairs = list(zip(run.watched, other.watched, strict=True))
    return Spread(
        losses=tuple(
            max(abs(a.losses[step] - b.losses[step]) / (abs(a.losses[step]) or 1.0) for a, b in pairs)
            for step in range(STEPS)
        ),
        gradient_norms=tuple(
            abs(math.sqrt(b / a) - 1.0) if a else 0.0
            for a, b in zip(run.watched[0].gradient_squares, other.watched[0].gradient_squares, strict=True)
        ),
        parameters=difference(other.parameters, run.parameters, run.changed).share,
        buffers=max(
            difference(b, a, c).share for a, b, c in zip(run.buffers, other.buffers, run.buffers_changed, strict=True)
        ),
    )


def _nudge(case: Case, terms: int) -> float:
    """Return how far gradients may be apart, relatively, that were added up in another order.

    The rounding errors of a sum of n terms, of either sign, grow as the square root of n (Higham, Accuracy and
    Stability of Numerical Algorithms, section 2.6); n counts micro-batches, ranks and places of use. Autocast adds the
    gradients of what is used in several places in the lower precision.
    """
    return _ROUNDOFF[case.precision if terms > 2 else "fp32"] * math.sqrt(terms + case.gpu_count * case.accumulation)


def _nudge_layers(case: Case, run: _Run, device_kind: str) -> float:
    """Return how far the results of a layer may be apart, relatively, that other kernels computed; 0 with the same.

    They order its inner products otherwise, whose rounding errors, of either sign, grow as the square root of their
    length.
    """
    if not other_kernels(case) and device_kind == "cpu":
        return 0.0
    return _ROUNDOFF["fp32"] * math.sqrt(max(p.numel() // len(p) for p in run.parameters.values() if p.ndim))


_ROUNDOFF = {"fp32": 2.0**-24, "bf16": 2.0**-8, "fp16": 2.0**-11}
"""Half a unit in the last place of 1: 24, 8 and 11 bits of significand."""


def _make_noisy(module: nn.Module, share: float) -> None:
    """Change what each module with parameters returns at random, by at most a share."""

    def after(module: nn.Module, _: Any, output: Any) -> Any:
        if not isinstance(output, torch.Tensor):
            return output
        # Seeded alike in every forward of the run, and apart from what the model draws.
        noise = torch.rand(output.shape, generator=generator, device=output.device, dtype=torch.float32)
        return output * (1 + share * (2 * noise - 1)).to(output.dtype)

    generator = torch.Generator(next(module.parameters()).device).manual_seed(0)
    for own in module.modules():
        if any(True for _ in own.parameters(recurse=False)):
            own.register_forward_hook(after)


def other_kernels(case: Case) -> bool:
    """Return whether an option has other kernels compute the layers."""
    return case.compiled or case.channels_last


def most_terms(loss: torch.Tensor) -> int:
    """Return the most gradients that backward adds up at one place: the largest in-degree of the autograd graph."""
    incoming: dict[Any, int] = {}
    waiting: deque[Any] = deque([loss.grad_fn])
    seen = {loss.grad_fn}
    while waiting:
        for following, slot in waiting.popleft().next_functions:
            if following is None:
                continue
            incoming[following, slot] = incoming.get((following, slot), 0) + 1
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return max(incoming.values(), default=1)


def units_of(module: nn.Module, blocks: tuple[type[nn.Module], ...]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Yield the shapes of the parameters of each unit, as `harness.plugins.Unit` says; units without any left out."""
    taken: set[nn.Parameter] = set()
    # Later and so inner blocks go first, and take what is theirs.
    for owner in reversed([m for m in module.modules() if isinstance(m, blocks) or m is module]):
        own = [p for p in owner.parameters() if p not in taken]
        taken.update(own)
        if own:
            yield tuple(tuple(p.shape) for p in own)


def count_uses(module: nn.Module, blocks: tuple[type[nn.Module], ...]) -> Counter[str]:
    """Return how often each block is called from now on, in the module or a copy of it."""
    uses: Counter[str] = Counter()

    def count(name: str, *_: Any) -> None:
        uses[name] += 1

    for name, block in module.named_modules():
        if isinstance(block, blocks) and block is not module:
            uses[name] = 0
            block.register_forward_hook(functools.partial(count, name))
    return uses
