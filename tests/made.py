"""Records and machines made by hand, with figures that a person can check in the head."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings

from harness.case import Case
from harness.host import Gpu, Host
from harness.results import EpochReport, Memory, RankReport, Result

GIB = 2**30

ANY_SPEED = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
"""For hypothesis: the same examples each time, and no judgement of how fast this machine is."""


def made_report(rank: int = 0, of: int = 1, **over: Any) -> RankReport:
    """Return a rank's report: one step of warm-up, four measured ones of 0.2 s, two epochs of two steps."""
    facts: dict[str, Any] = {
        "rank": rank,
        "world_size": of,
        "device": "cpu",
        "device_name": "cpu",
        "cores": (rank,),
        "step_s": (5.0, 0.2, 0.2, 0.2, 0.2),
        "data_wait_s": (0.5, 0.0, 0.0, 0.0, 0.0),
        "loss": (4.0, 2.0, 1.0, 0.5, 0.25),
        "warmup_steps": 1,
        "epochs": tuple(
            EpochReport(seconds=1.0, steps=2, scores={"accuracy": score} if rank == 0 else None)
            for score in (0.5, 0.875)
        ),
        "memory": Memory(peak_resident_bytes=GIB // 2),
        "phases_s": {"start": 0.25, "train": 2.0},
        "parameters": 11_181_642,
        "trained_parameters": 11_181_642,
        "weights": "random initialisation",
        "train_images": 256,
        "val_images": 100,
    }
    return RankReport(**(facts | over))


def made_result(case_id: str = "resnet18-ddp-1gpu-bs8", *ranks: RankReport, **over: Any) -> Result:
    """Return the result of a case; without reports given, each of its GPUs has the same."""
    count = Case.parse(case_id).gpu_count
    facts: dict[str, Any] = {
        "case_id": case_id,
        "profile": "smoke",
        "identity": f"identity of {case_id}",
        "dataset": "digits",
        "settings": {"image_size": 16},
        "host": "2-core-made",
        "launcher": "warm",
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "oversubscribed": False,
        "wall_s": 6.5,
        "started_unix_s": 1_700_000_000.0,
        "ranks": ranks or tuple(made_report(rank, count) for rank in range(count)),
    }
    return Result(**(facts | over))


def made_host(*, cores: int = 2, gpus: int = 0, gpu: str = "NVIDIA RTX A6000", **over: Any) -> Host:
    """Return a machine."""
    facts: dict[str, Any] = {
        "cpu": "Made(R) CPU @ 2.00GHz",
        "cores": tuple(range(cores)),
        "memory_bytes": 8 * GIB,
        "gpus": tuple(Gpu(name=gpu, memory_bytes=48 * GIB) for _ in range(gpus)),
        "driver": "570.1" if gpus else None,
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
    }
    return Host(**(facts | over))
