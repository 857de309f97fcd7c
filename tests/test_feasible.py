"""A case that cannot run says why, and what can never work comes before what is only missing here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.case import OPTIONS, Case
from harness.machine.host import of_nodes
from harness.machine.nodes import Joining, Node
from harness.plugins import Dataset, Hierarchy, InputKind, Model, Strategy
from harness.profiles import ModelSettings
from harness.registry import Registry, discover
from harness.running.feasible import why_not
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
            {"case": {"precision": "bf16", "checkpointing": True}, "strategy": {"refuses": {"bf16": "it is FP32's."}}},
            "way has no bf16: it is FP32's.",
        ),
        (
            {"case": {"accumulation": 4, "clipping": 0.5}, "strategy": {"refuses": {"accum": "it has one backward."}}},
            "way has no accum4: it has one backward.",
        ),
        (
            {"case": {"accumulation": 4, "clipping": 0.5}, "model": {"refuses": {"clip": "it has no gradients."}}},
            "net has no clip0.5: it has no gradients.",
        ),
        (
            {"case": {"fused": True}, "strategy": {"refuses_on_cpu": {"fused": "its kernel is CUDA's."}}},
            "way has no fused: its kernel is CUDA's.",
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
        {"case": {"accumulation": 4, "precision": "fp16"}},
        {"case": {"offload": "cpu"}, "strategy": {"refuses": {"ckpt": "no"}}, "model": {"refuses": {"bf16": "no"}}},
        {"case": {"precision": "bf16"}, "strategy": {"refuses": {"fp16": "no"}, "refuses_on_cpu": {"fp16": "no"}}},
        {"case": {"fused": True}, "strategy": {"refuses_on_cpu": {"fused": "no"}}, "host": made_host(gpus=2)},
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
    strategy = CUTS | CUDA_ONLY | ABSENT | {"refuses": {"bf16": "no"}, "refuses_on_cpu": {"fused": "no"}}
    case = {"gpu_count": 9, "precision": "bf16", "fused": True}
    wrong = DETECTION | {"strategy": strategy, "case": case, "embedded": None}
    mend = [
        ("on any machine", lambda: wrong.pop("model")),
        ("has no bf16", lambda: strategy.pop("refuses")),
        ("needs another device", lambda: strategy.pop("devices")),
        ("has no fused", lambda: strategy.pop("refuses_on_cpu")),
        ("needs no_such_library", lambda: strategy.pop("requires")),
        ("9 ranks asked for", lambda: wrong["case"].pop("gpu_count")),
        ("give its folder", lambda: wrong.pop("embedded")),
    ]
    for words, mended in mend:
        assert words in _why(**wrong)
        mended()
    assert _why(**wrong) is None


def test_compile_needs_on_a_cpu_what_builds_kernels(tmp_path, monkeypatch):
    compiled = {"case": {"compiled": True}}
    headers = tmp_path / "include"
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(headers))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert _why(**compiled) == (
        "compile needs a C++ compiler, and 'g++' cannot be found: install g++, or name one in CXX"
    )
    assert _why(**compiled, host=made_host(gpus=2)) is None
    assert _why() is None

    monkeypatch.setenv("CXX", "clang++ -stdlib=libc++")
    assert "'clang++ -stdlib=libc++' cannot be found" in _why(**compiled)
    (tmp_path / "clang++").touch(mode=0o755)
    assert _why(**compiled) == (
        f"compile needs Python's headers, and {headers} has none: install them (Debian: python3-dev)"
    )
    headers.mkdir()
    (headers / "Python.h").touch()
    assert _why(**compiled) is None


def test_the_suites_own_refusals_are_of_options_that_there_are_and_give_a_reason():
    registry = discover()
    refusals = [(owner, owner.refuses) for owner in (*registry.strategies.values(), *registry.models.values())]
    refusals += [(strategy, strategy.refuses_on_cpu) for strategy in registry.strategies.values()]
    for owner, reasons in refusals:
        assert set(reasons) <= set(OPTIONS), owner.name
        assert all(reason.strip() for reason in reasons.values()), owner.name


def test_the_suites_own_strategies_that_cannot_take_something_say_why():
    registry, settings = discover(), ModelSettings(**SETTINGS)
    for strategy in registry.strategies.values():
        for model in registry.models.values():
            case = Case(model=model.name, strategy=strategy.name, gpu_count=1, batch_size=8)
            for host in (made_host(), made_host(gpus=1)):
                reason = why_not(case, host=host, registry=registry, settings=settings, data_root=None, download=False)
                assert reason is None or not reason.endswith((": ", ":")), reason


def test_a_case_of_several_nodes_runs_where_there_are_so_many():
    over_two, four = {"gpu_count": 4, "gpus_per_node": 2}, {"gpu_count": 8, "gpus_per_node": 2}
    node = Node(cpu="made", cores=(0, 1), memory_bytes=1)
    both = of_nodes((node, node), Joining())
    assert _why(case=over_two) == "2 nodes asked for, 1 can be had: --launcher slurm or torchrun with --nnodes 2"
    assert _why(case=four, host=both).startswith("4 nodes asked for, 2 can be had: ")
    assert _why(case=over_two, host=both) is None
    assert _why(case={"gpu_count": 16, "gpus_per_node": 8}, host=both).startswith("8 ranks asked for, 4 can be had on ")
    # A launcher that makes nodes of this machine makes as many as are asked for, on its cores.
    assert _why(case=over_two, host=replace(made_host(), made_nodes=True)) is None
    assert _why(case=four, host=replace(made_host(), made_nodes=True)).startswith("8 ranks asked for, 4 can be had on ")


def test_a_strategy_for_several_nodes_says_so_on_one():
    hierarchy = Hierarchy(held=lambda ranks, per_node: (1.0, 1.0), traffic=lambda units, ranks, per_node: ())
    reason = _why(strategy={"hierarchy": hierarchy})
    assert reason.startswith("way treats the GPUs of a node unlike those of others: give it several nodes")
