"""Imported by the fork server before any rank exists, so that a rank starts with its libraries in memory.

Nothing here may touch CUDA: a process that did cannot be forked.
"""

import contextlib
import importlib

for _name in (
    "torch",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint.state_dict",
    "torchvision",
    "torchvision.models.detection",
    "deepspeed",
    "fairscale.nn",
    "fairscale.optim",
    "transformers.models.vit.modeling_vit",
    "pycocotools.cocoeval",
    "harness.worker.rank",
):
    # A library that cannot be imported is reported by the rank that needs it, with the reason.
    with contextlib.suppress(Exception):
        importlib.import_module(_name)
