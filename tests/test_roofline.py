"""Shares of what the machine can do, checked by hand; what was not measured stays unknown."""

from __future__ import annotations

import pytest

from harness.anatomy.roofline import roof
from harness.records.ceilings import Ceilings, Loaded, Product
from harness.report.roofline import render
from tests.made import made_account, made_result
from tests.made import made_trace as trace

GIGA = 10**9


def _ceilings(*, flops_per_s=100 * GIGA, bytes_per_s=10 * GIGA):
    return Ceilings(
        ranks=1,
        backend="gloo",
        device="cpu",
        products=(Product(type="fp32", flops=flops_per_s, seconds=(1.0,)),),
        copy_bytes=bytes_per_s,
        copy_s=(1.0,),
    )


def _result(**over):
    # Steps of 0.2 s, 8 images.
    account = made_account(flops=5 * GIGA, recomputed_flops=GIGA, op_bytes=GIGA // 10)
    facts = {
        "accounts": (account,),
        "traces": (trace(compute=[(0, 90)]),),
        "ceilings": _ceilings(),
        "loaded": (Loaded(images=100, seconds=1.0),),
    }
    return made_result(**(facts | over))


def test_shares_are_of_the_timed_step():
    found = roof(_result())
    assert found.step_s == pytest.approx(0.2)
    # 4 GFLOP without recomputation in 0.2 s are 20 of 100 GFLOP/s.
    assert found.mfu == pytest.approx(0.2)
    assert found.memory_share == pytest.approx(0.05)
    assert found.loader_share == pytest.approx(40 / 100)


def test_compute_is_bound_by_memory_where_its_bytes_take_longer_than_its_operations():
    assert roof(_result()).bound == "compute"  # 50 ms of operations, 10 ms of bytes
    assert roof(_result(ceilings=_ceilings(bytes_per_s=GIGA))).bound == "memory"  # 100 ms of bytes
    idle = (trace(compute=[(0, 10)]),)
    assert roof(_result(ceilings=_ceilings(bytes_per_s=GIGA), traces=idle)).bound == "host"


def test_what_was_not_measured_is_none_and_never_guessed():
    bare = roof(_result(accounts=(), traces=(), ceilings=None, loaded=()))
    assert (bare.flops, bare.mfu, bare.memory_share, bare.loader_share, bare.bound) == (None,) * 5
    # No product of BF16 was measured, so its peak is not known.
    assert roof(_result(case_id="resnet18-ddp-1gpu-bs8-bf16")).mfu is None


def test_the_lines_hold_the_shares():
    (row,) = [line for line in render([_result()]) if line.startswith("ddp-1gpu-bs8")]
    assert row.split() == ["ddp-1gpu-bs8", "4", "20", "20%", "0.1", "0.5", "5%", "100", "40%"]
    assert list(render([_result(ceilings=None)])) == []


def test_a_loader_that_cannot_keep_up_is_said():
    text = "\n".join(render([_result(loaded=(Loaded(images=20, seconds=1.0),))]))
    assert "ddp-1gpu-bs8: the loader is the bottleneck: steps take 2.0 times what it gives" in text
