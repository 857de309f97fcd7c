"""Imported by the fork server before any rank exists, so that a rank starts with its libraries in memory.

Nothing here may touch CUDA: a process that did cannot be forked.
"""

import contextlib
import gc
import importlib

from harness.worker.process import die_with_parent

# Ranks hold the server's life line open, so it would outlive the agent for as long as one of them hangs.
die_with_parent()

for _name in (
    "torch",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint.state_dict",
    # Optimizers and DeepSpeed import these on first use, in a second or more.
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "torchvision",
    "torchvision.models.detection",
    "deepspeed",
    "fairscale.nn",
    "fairscale.optim",
    "transformers.models.vit.modeling_vit",
    "pycocotools.cocoeval",
    "torchmetrics.functional.classification",
    "harness.worker.rank",
):
    # A library that cannot be imported is reported by the rank that needs it, with the reason.
    with contextlib.suppress(Exception):
        importlib.import_module(_name)

# What was loaded lives as long as the ranks: none of their collections needs to look at it, nor to copy its pages.
gc.collect()
gc.freeze()
