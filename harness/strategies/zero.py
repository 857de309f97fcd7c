"""DeepSpeed's ZeRO stages: `zero1`, `zero2` and `zero3`; the one place that knows the spellings of its configuration.

What changes the training is stated, so that all strategies train alike: FP32, no gradient clipping (DeepSpeed's
default is 1.0), no accumulation, and torch's own optimizer. The rest is DeepSpeed as it comes, except where noted:

- it computes the norm of all gradients in every step, clipping or not, and waits for it on the host;
- ZeRO-3 leaves parameters of fewer than 100,000 elements whole on every rank;
- ZeRO-3 keeps a gathered parameter from forward to backward if it is used again within 1e9 elements, so a model of
  less than half of that is gathered once a step and is whole on every rank at the peak of memory.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from harness.plugins import Batch, Strategy, Trainee, Workload, World
from harness.strategies._eager import State, plain_state

if TYPE_CHECKING:
    import torch

_BUCKET_ELEMENTS = 2**23
"""Elements reduced at once: 32 MiB of FP32, about the bucket of the other libraries. DeepSpeed's default of 5e8
allocates buffers of 2 GB, more than the models of this suite."""


def _config(stage: int, batch_size: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,  # torch's SGD is not on DeepSpeed's list
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": True,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
        },
        # On by default, it would synchronise the device twice a step.
        "timers": {"throughput": {"enabled": False}},
    }


def _shard(workload: Workload, world: World, *, stage: int) -> Trainee:
    import deepspeed

    if not world.on_cuda:
        # Else it would compile, once per machine and with a C++ compiler, an all-reduce that only inference uses.
        deepspeed.ops.__compatible_ops__ = defaultdict(bool)
    module = workload.module
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=workload.optimizer.make(module.parameters()),
        config=_config(stage, workload.batch_size),
        dist_init_required=False,
    )

    def step(batch: Batch) -> torch.Tensor:
        loss = workload.loss(engine, batch)
        engine.backward(loss)
        engine.step()
        return loss.detach()

    def full_state() -> State:
        with deepspeed.zero.GatheredParameters(list(module.parameters()), enabled=stage == 3):
            return plain_state(module)

    return Trainee(module=engine, step=step, full_state=full_state)


STRATEGIES = tuple(
    Strategy(name=f"zero{stage}", shard=functools.partial(_shard, stage=stage), requires=("deepspeed",))
    for stage in (1, 2, 3)
)
