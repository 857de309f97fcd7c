"""DeepSpeed's ZeRO stages: `zero1` to `zero3`, and `zero3_hpz` over nodes; the one place that knows the spellings of
its configuration.

What changes the training is stated, so that all strategies train alike: no gradient clipping unless asked for
(DeepSpeed's default is 1.0), FP32 gradients and reductions under autocast, torch's own linear layer and optimizer. The
rest is DeepSpeed as it comes, except where noted:

- it computes the norm of all gradients in every step, clipping or not, and waits for it on the host;
- ZeRO-3 leaves parameters of fewer than 100,000 elements whole on every rank;
- ZeRO-3 keeps a gathered parameter from forward to backward if it is used again within 1e9 elements, so a model of
  less than half of that is gathered once a step and is whole on every rank at the peak of memory;
- `zero3_hpz` (ZeRO++'s hierarchical partitioning) drops a parameter after forward instead, and gathers it for backward
  from a copy that is spread over the GPUs of its node.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from harness.plugins import Batch, Footprint, Hierarchy, Share, Strategy, Traffic, Trainee, Unit, Workload, World
from harness.strategies._eager import State, micro_batches, plain_state
from harness.strategies._sharding import FP32, overlap, spans, state_bytes

if TYPE_CHECKING:
    import torch

_BUCKET_ELEMENTS = 2**23
"""Elements reduced at once: 32 MiB of FP32, about the bucket of the other libraries. DeepSpeed's default of 5e8
allocates buffers of 2 GB, more than the models of this suite."""
_WHOLE_BELOW = 100_000
"""ZeRO-3 leaves parameters of fewer elements whole on every rank: DeepSpeed's default, stated to be relied on."""

_CONTIGUOUS = "DeepSpeed broadcasts parameters and flattens them as contiguous memory only; choose ddp"
_HOOKS = (
    "a hook on every layer gathers its parameters, and torch.compile would stop at each and compile for minutes "
    "layer by layer; choose zero1, zero2 or fsdp2"
)


def _config(workload: Workload, world: World, stage: int, hierarchical: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": True,
        "reduce_bucket_size": _BUCKET_ELEMENTS,
        "stage3_param_persistence_threshold": _WHOLE_BELOW,
        # On by default, it would add the bias of a linear layer after rounding the product, unlike torch.
        "memory_efficient_linear": False,
    }
    if hierarchical:
        zero |= {"zero_hpz_partition_size": world.ranks_per_node}
        # Else a small model would stay gathered until backward, and the copy be made for nothing: what is used again
        # soon is kept, and so is what has been looked ahead for.
        zero |= {"stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}
    config = {
        "train_micro_batch_size_per_gpu": workload.batch_size // workload.accumulation,
        "gradient_accumulation_steps": workload.accumulation,
        "gradient_clipping": workload.clipping or 0.0,
        "zero_allow_untested_optimizer": True,  # torch's SGD is not on DeepSpeed's list
        "zero_optimization": zero,
        # On by default, it would synchronise the device twice a step.
        "timers": {"throughput": {"enabled": False}},
    }
    if workload.offload:
        on_host = {"device": "cpu", "pin_memory": world.on_cuda}
        zero |= {"offload_optimizer": on_host} | ({"offload_param": on_host} if stage == 3 else {})
        config["zero_force_ds_cpu_optimizer"] = False  # else torch's own would be refused
    if workload.precision != "fp32":
        # Without it DeepSpeed switches autocast off; named modules would be reduced in the lower precision.
        config["torch_autocast"] = {
            "enabled": True,
            "dtype": {"bf16": "bfloat16", "fp16": "float16"}[workload.precision],
            "lower_precision_safe_modules": [],
        }
    return config


def _shard(workload: Workload, world: World, *, stage: int, hierarchical: bool = False) -> Trainee:
    import deepspeed

    if not world.on_cuda:
        # Else it would compile, once per machine and with a C++ compiler, an all-reduce that only inference uses.
        deepspeed.ops.__compatible_ops__ = defaultdict(bool)
    module = workload.module
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=workload.optimizer.make(module.parameters()),
        config=_config(workload, world, stage, hierarchical),
        dist_init_required=False,
    )
    scaler = _scale_loss(engine.optimizer) if workload.precision == "fp16" else None

    def step(batch: Batch) -> torch.Tensor:
        losses: list[torch.Tensor] = []
        for part in micro_batches(batch, workload.accumulation):
            loss = workload.loss(engine, part)
            losses.append(engine.backward(loss).detach())
            engine.step()
        return sum(losses[1:], start=losses[0])

    def full_state() -> State:
        with deepspeed.zero.GatheredParameters(list(module.parameters()), enabled=stage == 3):
            return plain_state(module)

    def kept() -> Iterable[torch.Tensor]:
        """A parameter of stage 3 lies in `ds_tensor`, and in itself too if it is too small to shard."""
        return itertools.chain(
            module.parameters(), (cast("Any", p).ds_tensor for p in module.parameters() if stage == 3)
        )

    def written() -> Iterable[torch.Tensor]:
        """Stage 3 puts them into its optimizer's groups for the time of an update alone."""
        parts: Iterable[torch.Tensor] = engine.optimizer.fp32_partitioned_groups_flat
        return parts

    inner = engine.optimizer.optimizer
    # The engine itself would evaluate in the lower precision too, unlike the other strategies.
    return Trainee(
        module=module,
        step=step,
        full_state=full_state,
        optimizer=inner,
        applied=inner,
        kept=kept,
        written=written if stage == 3 else None,
        scaler=scaler,
    )


class _Scaler:
    """DeepSpeed's loss scaler, with its numbers told as torch's tells them."""

    def __init__(self, scaler: Any) -> None:
        self._scaler = scaler

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self._scaler).items() if isinstance(value, int | float)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self._scaler).update(state_dict)


def _scale_loss(optimizer: Any) -> _Scaler:
    """Let ZeRO scale the loss of FP16 by its own scaler, at torch's GradScaler's scales.

    The GradScaler it would use under `torch_autocast` unscales after clipping, so that clipping acts on gradients
    65,536 times too large, and is not told of an overflow, so that the scale never falls.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    optimizer.torch_autocast_gradscaler = None
    optimizer.loss_scaler = DynamicLossScaler(
        init_scale=2.0**16,
        scale_window=2000,
        min_scale=1.0,
        delayed_shift=1,
        consecutive_hysteresis=False,
        raise_error_at_min_scale=False,
    )
    return _Scaler(optimizer.loss_scaler)


def _traffic(units: Sequence[Unit], ranks: int, *, stage: int) -> Sequence[Traffic]:
    """Stages 1 and 2 reduce every gradient and gather every updated parameter once; so does stage 3, for it gathers a
    parameter before forward instead, and this suite's models stay gathered until backward (Rajbhandari et al., ZeRO,
    arXiv 1910.02054, section 7).

    Stages 1 and 2 reduce by all-reduce, which moves twice what the paper counts.
    """
    sizes = [math.prod(shape) for shape in itertools.chain(*units)]
    if stage == 3:
        shares = sum(-(-size // ranks) for size in sizes)
        return [
            Traffic(kind="all_gather", elements=shares),
            Traffic(kind="reduce_scatter", elements=shares * ranks),
        ]
    return [
        Traffic(kind="all_reduce", elements=sum(sizes)),
        Traffic(kind="all_gather", elements=_flat_part(sum(sizes), ranks)),
    ]


def _hierarchical_traffic(units: Sequence[Unit], ranks: int, per_node: int) -> Sequence[Traffic]:
    """As stage 3, and each sharded parameter once more before backward, from the parts of a copy that each node has
    (Wang et al., ZeRO++, arXiv 2306.10209, section 3.2).

    The copy is made of what forward gathered and dropped with the update, so that no rank keeps it between steps.
    """
    sizes = [math.prod(shape) for shape in itertools.chain(*units)]
    gathered, reduced = _traffic(units, ranks, stage=3)
    again = sum(-(-size // ranks) * ranks // per_node for size in sizes if size > _WHOLE_BELOW)
    return [Traffic(kind=gathered.kind, elements=gathered.elements + again), reduced]


def _flat_part(elements: int, ranks: int) -> int:
    """Return a rank's part of the flat copy of all parameters, which is aligned to two elements a rank."""
    return 2 * -(-elements // (2 * ranks))


def _memory(share: Share) -> Footprint:
    """All parameters, and a rank's n-th of what the optimizer works on: stages 1 and 2 alike.

    That is the paper's P_os+g, for stage 1 too drops gradients that other ranks apply (unlike its P_os), and besides
    an FP32 master copy of the part, even though the parameters are FP32 themselves. A part that lies within one
    parameter keeps the whole of its gradient, of which it is a view. Offloading keeps, beside copies on the host, one
    buffer for gradients of the part and two of the largest parameter.
    """
    sizes = [math.prod(shape) for shape in share.shapes]
    part = _flat_part(sum(sizes), share.ranks)
    own = (share.rank * part, (share.rank + 1) * part)
    around = [end - begin for begin, end in spans(tuple(share.shapes)) if overlap((begin, end), own) == part]
    gradients = around[0] if around and not share.offload else part
    return Footprint(
        parameters=FP32 * part * share.ranks,
        gradients=FP32 * gradients,
        optimizer=state_bytes(share, part, 1),
        master=FP32 * part,
        rest=FP32 * (part + 2 * max(sizes)) if share.offload else 0,
    )


def _memory_of_stage_3(share: Share) -> Footprint:
    """A rank's n-th of everything, cut parameter by parameter (the paper's P_os+g+p), and an FP32 master copy of it.

    Beside that it keeps the parameters below the threshold whole and padded, so much of a small model; its part of the
    gradients a second time, in a flat buffer; and the bucket that gradients are reduced in, whatever the model's size.
    A single rank has nothing to gather, and its whole parameters are its part.
    """
    sizes = [math.prod(shape) for shape in share.shapes]
    parts = [-(-size // share.ranks) for size in sizes]
    part = sum(parts)
    below = [share.ranks * part for part, size in zip(parts, sizes, strict=True) if size <= _WHOLE_BELOW]
    whole = sum(below) if share.ranks > 1 else 0
    return Footprint(
        parameters=FP32 * (part + whole),
        gradients=FP32 * part,
        optimizer=state_bytes(share, part, 1),
        master=FP32 * part,
        rest=FP32 * (_BUCKET_ELEMENTS + part),
    )


STRATEGIES = tuple(
    Strategy(
        name=f"zero{stage}",
        shard=functools.partial(_shard, stage=stage),
        requires=("deepspeed",),
        shards=frozenset({"parameters", "optimizer"} if stage == 3 else {"optimizer"}),
        whole_below=_WHOLE_BELOW if stage == 3 else 0,
        traffic=functools.partial(_traffic, stage=stage),
        memory=_memory_of_stage_3 if stage == 3 else _memory,
        refuses={"chlast": _CONTIGUOUS} | ({"compile": _HOOKS} if stage == 3 else {}),
    )
    for stage in (1, 2, 3)
)

ZERO3_HPZ = Strategy(
    name="zero3_hpz",
    shard=functools.partial(_shard, stage=3, hierarchical=True),
    requires=("deepspeed",),
    shards=frozenset({"parameters", "optimizer"}),
    whole_below=_WHOLE_BELOW,
    memory=_memory_of_stage_3,
    hierarchy=Hierarchy(held=lambda ranks, per_node: (1 / ranks, 1 / ranks), traffic=_hierarchical_traffic),
    refuses={"chlast": _CONTIGUOUS, "compile": _HOOKS},
)
