"""A case that cannot run says why, and what can never work comes before what is only missing here."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.case import Case
from harness.feasible import why_not
from harness.plugins import Dataset, InputKind, Model, Strategy
from harness.profiles import ModelSettings
from harness.registry import Registry, discover
from tests.made import made_host

SETTINGS = {
    "dataset": "real",
    "embedded": "digits",
    "image_size": 16,
    "epochs": 1,
    "warmup_steps": 1,
    "measured_steps": 2,
    "batch_sizes": (8,),
    "optimizer": {"name": "sgd"},
}


def _why(*, strategy=None, model=None, case=None, host=None, missing=None, root=None, download=False, **settings):
    """Return why a case cannot run that nothing but what is given speaks against."""
    asked = []

    def tell(folder: Path, may_download: bool) -> str | None:
        asked.append((folder, may_download))
        return missing

    registry = Registry(
        strategies={"way": Strategy(name="way", shard=lambda workload, world: None, **(strategy or {}))},
        models={"net": Model(**({"name": "net", "input": InputKind.IMAGES, "build": lambda s: None} | (model or {})))},
        datasets={
            "real": Dataset(
                name="real",
                input=InputKind.IMAGES,
                classes=10,
                embedded=False,
                prepare=lambda spec: None,
                open=lambda spec, split: None,
                missing=tell,
            )
        },
        metrics={},
        launchers={},
    )
    reason = why_not(
        Case(**({"model": "net", "strategy": "way", "gpu_count": 2, "batch_size": 8} | (case or {}))),
        host=host or made_host(),
        registry=registry,
        settings=ModelSettings(**(SETTINGS | settings)),
        data_root=root,
        download=download,
    )
    assert set(asked) <= {(root, download)}
    return reason


DETECTION = {"model": {"input": InputKind.DETECTION}}
CUTS = {"accepts": frozenset({InputKind.IMAGES}), "cannot_split": "it cuts images across channels"}
CUDA_ONLY = {"devices": frozenset({"cuda"}), "needs_device": "it replicates over CUDA GPUs."}
ABSENT = {"requires": ("json", "no_such_library")}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_nothing_speaks_against_a_plain_case(count):
    assert _why(case={"gpu_count": count}) is None
    assert _why(case={"gpu_count": count}, host=made_host(gpus=4)) is None


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (
            DETECTION | {"strategy": CUTS},
            "way cannot train net on any machine: it cuts images across channels",
        ),
        (
            {"case": {"precision": "bf16", "checkpointing": True}, "strategy": {"options": frozenset({"ckpt"})}},
            "way has no bf16: choose another strategy or leave the option out",
        ),
        (
            {"case": {"accumulation": 4, "offload": "cpu"}},
            "way has no offload, accum4: choose another strategy or leave the option out",
        ),
        (
            {"strategy": CUDA_ONLY},
            "way needs another device: it replicates over CUDA GPUs.",
        ),
        (
            {"strategy": {"devices": frozenset({"cpu"}), "needs_device": "it is for CPUs."}, "host": made_host(gpus=2)},
            "way needs another device: it is for CPUs.",
        ),
        (
            {"strategy": ABSENT},
            "way needs no_such_library, which is not installed: pip install -e . installs all it needs",
        ),
        (
            {"model": ABSENT},
            "net needs no_such_library, which is not installed: pip install -e . installs all it needs",
        ),
        (
            {"case": {"gpu_count": 5}},
            "5 ranks asked for, 4 can be had on this machine: run it on a larger one, or select fewer with -k",
        ),
        (
            {"case": {"gpu_count": 4}, "host": made_host(cores=64, gpus=2)},
            "4 GPUs asked for, 2 can be had on this machine: run it on a larger one, or select fewer with -k",
        ),
        (
            {"embedded": None},
            "this profile trains on real: give its folder with --data-root",
        ),
        (
            {"root": Path("/data"), "missing": "give --download"},
            "real is not under --data-root: give --download; or leave --data-root out for the embedded data",
        ),
    ],
)
def test_each_reason_says_what_would_make_it_run(facts, reason):
    assert _why(**facts) == reason


@pytest.mark.parametrize(
    "facts",
    [
        {"strategy": CUTS},
        {"case": {"accumulation": 4, "precision": "fp16"}, "strategy": {"options": frozenset({"accum", "fp16"})}},
        {"strategy": CUDA_ONLY, "host": made_host(gpus=2)},
        {"strategy": {"requires": ("json",)}},
        {"case": {"gpu_count": 8}, "host": made_host(cores=8)},
        {"root": Path("/data"), "embedded": None},
        {"root": Path("/data"), "download": True},
    ],
)
def test_what_is_there_is_no_reason(facts):
    assert _why(**facts) is None


def test_what_can_never_work_is_said_before_what_is_only_missing_here():
    """All is wrong at first; whatever is mended, the next reason in this order shows."""
    strategy = CUTS | CUDA_ONLY | ABSENT
    wrong = DETECTION | {"strategy": strategy, "case": {"gpu_count": 9, "precision": "bf16"}, "embedded": None}
    mend = [
        ("on any machine", lambda: wrong.pop("model")),
        ("has no bf16", lambda: strategy.update(options=frozenset({"bf16"}))),
        ("needs another device", lambda: strategy.pop("devices")),
        ("needs no_such_library", lambda: strategy.pop("requires")),
        ("9 ranks asked for", lambda: wrong["case"].pop("gpu_count")),
        ("give its folder", lambda: wrong.pop("embedded")),
    ]
    for words, mended in mend:
        assert words in _why(**wrong)
        mended()
    assert _why(**wrong) is None


def test_the_suites_own_strategies_that_cannot_take_something_say_why():
    registry, settings = discover(), ModelSettings(**SETTINGS)
    for strategy in registry.strategies.values():
        for model in registry.models.values():
            case = Case(model=model.name, strategy=strategy.name, gpu_count=1, batch_size=8)
            for host in (made_host(), made_host(gpus=1)):
                reason = why_not(case, host=host, registry=registry, settings=settings, data_root=None, download=False)
                assert reason is None or not reason.endswith((": ", ":")), reason
