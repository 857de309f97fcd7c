"""Records and machines made by hand, with figures that a person can check in the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, settings

from harness.case import Case
from harness.certificate import Certificate, Difference, Figure, Group, Played, Row, Slot, Watched
from harness.machine.host import Gpu, Host
from harness.records.account import Account, Held
from harness.records.samples import RankSamples, Samples
from harness.records.trace import Call, RankTrace, TracedStep, packed
from harness.results import EpochReport, Memory, RankReport, Result
from harness.stored.baselines import Baseline
from harness.stored.store import Stored

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


def made_watched(rank: int = 0, **over: Any) -> Watched:
    """Return what a rank of an even training was seen to do: three steps of SGD with momentum on 1000 parameters.

    Every rank has four samples a step and BatchNorm statistics of its own; the gradient's norm is 5, 4 and 3.
    """
    facts: dict[str, Any] = {
        "losses": (2.0, 1.5, 1.25),
        "loss_gradients": (1.0, 1.0, 1.0),
        "samples": tuple(tuple(f"{step}-{rank}-{n}" for n in range(4)) for step in range(3)),
        "targets": (4, 4, 4),
        "gradient_squares": (25.0, 16.0, 9.0),
        "groups": (made_group(),),
        "slots": {"momentum_buffer": Slot(digest=2**63 + 5, squares=16.0)},
        "live": ("fp32",),
        "compute": ("fp32",),
        "master": ("fp32",),
        "gradient": ("fp32",),
        "reduction": ("fp32",),
        "state": ("fp32",),
        "optimizer": "SGD",
        "held_parameters": 1000,
        "held_state": 1000,
        "buffers": 100 + rank,
        "differences": {"parameters": EQUAL, "buffers": EQUAL} if rank == 0 else {"buffers": EQUAL},
    }
    return Watched(**(facts | over))


EQUAL = Difference(equal=True, share=0.0, worst="")


def made_group(**over: Any) -> Group:
    """Return the parameter group of `made_watched`."""
    facts: dict[str, Any] = {
        "weight_decay": 0.01,
        "elements": 1000,
        "learning_rates": (0.1, 0.1, 0.1),
        "rest": "momentum 0.9",
    }
    return Group(**(facts | over))


def made_played(of: int = 2, **over: Any) -> Played:
    """Return what the reference of `made_watched` did; nothing in it can be reordered."""
    facts: dict[str, Any] = {
        "ranks": tuple(made_watched(rank, differences={}) for rank in range(of)),
        "unclipped_norms": (5.0, 4.0, 3.0),
        "terms": 1,
        "sizes": (900, 100),
        "trained": 1000,
        "rounding": None,
        "from_fp32": None,
    }
    return Played(**(facts | over))


def made_certificate(case_id: str = "resnet18-ddp-1gpu-bs8", **over: Any) -> Certificate:
    """Return a certificate that is granted; given `causes`, one that is refused for a gradient that is halved."""
    refused = bool(over.get("causes"))
    difference = 0.5 if refused else 0.0
    facts: dict[str, Any] = {
        "case_id": case_id,
        "key": "0123456789abcdef",
        "steps": 3,
        "demanded": "bit-equal",
        "found": "differs" if refused else "bit-equal",
        "figures": tuple(
            Figure(name=name, difference=difference, tolerance=0.0)
            for name in ("loss", "parameters", "buffers", "optimizer state", "gradient norm")
        ),
        "regime": tuple(
            Row(fact=fact, strategy=text, reference=text, same=True)
            for fact, text in {
                "live weights": "fp32",
                "compute": "fp32",
                "reduction": "fp32",
                "clipping": "none seen",
                "optimizer": "SGD momentum 0.9",
                "learning rate": "0.1",
                "global batch": "8 a step, each rank its own",
            }.items()
        ),
        "causes": (),
        "from_fp32": None,
        "seconds": 2.0,
        "unix_time": 1_700_000_000.0,
    }
    return Certificate(**(facts | over))


def made_call(kind: str, begin_ms: float, end_ms: float, **over: Any) -> Call:
    """Return a collective of 1,000 FP32 elements."""
    facts: dict[str, Any] = {"backend": "gloo", "type": "fp32", "elements": 1000}
    return Call(kind=kind, begin_s=begin_ms / 1e3, end_s=end_ms / 1e3, **(facts | over))


def made_trace(
    *,
    data: tuple[float, float] = (0, 0),
    update: tuple[float, float] = (0, 100),
    compute: Sequence[tuple[float, float]] = (),
    calls: Sequence[Call] = (),
    queued: float | None = 0,
    **over: Any,
) -> RankTrace:
    """Return the trace of a rank with one step of 100 ms; all times in milliseconds."""
    step = TracedStep(
        begin_s=0,
        end_s=0.1,
        data=(data[0] / 1e3, data[1] / 1e3),
        update=(update[0] / 1e3, update[1] / 1e3),
        computing_us=packed([(begin / 1e3, end / 1e3) for begin, end in compute], 0),
        calls=tuple(calls),
        queued_s=None if queued is None else queued / 1e3,
    )
    return RankTrace(**({"device": "cpu", "steps": (step,), "plain_s": (0.08, 0.08)} | over))


def made_account(**over: Any) -> Account:
    """Return the account of a rank that trains 10,000 FP32 parameters with momentum; figures in bytes."""
    state = Held(parameters=40_000, gradients=40_000, optimizer=40_000, buffers=8_000)
    facts: dict[str, Any] = {
        "kept": state,
        "at_update": state,
        "at_peak": state,
        "setup_peak_bytes": 80_000,
        "offloaded": None,
        "ends_bytes": (state.total,) * 4,
        "growth": (),
        "driver": None,
        "peak_resident_bytes": 2_000_000,
        "units": (((10_000,),),),
        "shapes": ((10_000,),),
        "trained": 10_000,
        "buffer_bytes": 8_000,
        "slots": 1,
        "counters": False,
        "flops": 100,
        "recomputed_flops": 0,
        "op_bytes": 100,
        "plain_from_s": 0.0,
        "plain_to_s": 0.3,
        "plain_s": (0.1, 0.1, 0.1),
        "ledger_s": (0.3, 0.2, 0.2, 0.2),
    }
    return Account(**(facts | over))


def made_samples(*, slower: float = 1.0, ranks: int = 1, rounds: int = 4, **over: Any) -> Samples:
    """Return a process whose case takes 10 ms a step times `slower`, the plain loop 8 ms, and each kernel 1 ms.

    Each round has one step and the same times, so that the case takes 1.25 of the same work, unless it is slower.
    """
    rank = RankSamples(
        case_us=(round(10_000 * slower),) * rounds,
        plain_us=(8_000,) * rounds,
        convolution_us=(1_000,) * rounds,
        product_us=(1_000,) * rounds,
        collective_us=(500,) * rounds if ranks > 1 else (),
    )
    facts: dict[str, Any] = {
        "stage": "screen",
        "started_unix_s": 1_700_000_000.0,
        "wall_s": 2.0,
        "settled_after": 3,
        "steps": 1,
        "references": {"plain": "p", "machine": "m"},
        "ranks": (rank,) * ranks,
    }
    return Samples(**(facts | over))


def made_baseline(*level: Result, **over: Any) -> Baseline:
    """Return what a case is held to: these stored runs, newest first, each of them certified and passed."""
    stored = (
        Stored(
            where=f"2-core-made/{len(level) - place:04}_accepted.json",
            result=result,
            reference=None,
            certificate=made_certificate(result.case_id),
            verdict="passed",
        )
        for place, result in enumerate(level)
    )
    note = "" if level else "no stored run of 2-core-made holds it"
    return Baseline(**({"level": tuple(stored), "note": note} | over))


class Numbers:
    """A dataset whose sample i is an image of value i with label i."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        import torch

        return torch.full((3, 1, 1), float(index)), index
