"""Figures that are the case's and no machine's hold on a machine that has no stored run of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from harness.certificate import Certificate, Collective
from harness.gate.portable import compare
from harness.results import Result
from tests.made import made_account, made_certificate, made_report, made_result

CASE = "resnet18-ddp-2gpu-bs8"
REFERENCE = made_result("resnet18-ddp-1gpu-bs8")
REDUCED = Collective(backend="gloo", kind="all_reduce", type="fp32", calls=3, elements=1000)
CERTIFICATE = replace(made_certificate(CASE), collectives=(REDUCED,))
RESULT = made_result(CASE, accounts=(made_account(), made_account()), host="here")


@dataclass(frozen=True)
class Elsewhere:
    result: Result = RESULT
    reference: Result | None = REFERENCE
    certificate: Certificate | None = CERTIFICATE
    where: str = "elsewhere/0001_accepted.json"


def _ranks(**over):
    return tuple(made_report(rank, 2, **over) for rank in range(2))


def _at(speedup, **over):
    """Return a record whose speedup is this: its step is so much longer than 0.1 s as it is less than 4."""
    step = 0.2 * 2 / speedup
    ranks = _ranks(step_s=(5.0, step, step, step, step))
    return Elsewhere(result=replace(RESULT, ranks=ranks, **over))


def _compare(*, result=RESULT, certificate=CERTIFICATE, speedup=2.0, others=(Elsewhere(),), disturbed=()):
    return compare(result, certificate, speedup=speedup, others=others, disturbed=disturbed)


def test_the_same_case_elsewhere_is_no_cause():
    found = _compare()
    assert found.causes == ()
    assert found.against == "elsewhere/0001_accepted.json"


SAID = "(stored in elsewhere/0001_accepted.json, equal versions)"
FEWER = made_account(flops=99)
PLANTED = {
    "parameters": (
        {"result": replace(RESULT, ranks=_ranks(parameters=11_181_641))},
        "parameters: 11,181,642 -> 11,181,641",
    ),
    "trained": (
        {"result": replace(RESULT, ranks=_ranks(trained_parameters=10))},
        "trained parameters: 11,181,642 -> 10",
    ),
    "calls": (
        {"certificate": replace(CERTIFICATE, collectives=(replace(REDUCED, calls=4),))},
        "all_reduce in fp32: 3 calls -> 4",
    ),
    "elements": (
        {"certificate": replace(CERTIFICATE, collectives=(replace(REDUCED, elements=999),))},
        "all_reduce in fp32: 1,000 elements -> 999",
    ),
    "operations": (
        {"result": replace(RESULT, accounts=(made_account(), FEWER))},
        "floating-point operations of rank 1: 100 -> 99",
    ),
}


@pytest.mark.parametrize(("over", "said"), PLANTED.values(), ids=PLANTED)
def test_one_figure_that_is_another_fails_on_any_machine(over, said):
    assert _compare(**over).causes == (f"{said} {SAID}",)


@pytest.mark.parametrize(("over", "said"), PLANTED.values(), ids=PLANTED)
def test_with_other_versions_it_is_said_and_fails_nothing(over, said):
    newer = replace(over.get("result", RESULT), versions={"torch": "2.16.0"})
    found = _compare(**over | {"result": newer})
    assert found.causes == ()
    assert said in found.exact.changes


def test_another_kind_of_device_is_held_to_what_it_shares():
    """Neither the collectives of another backend nor what lies on the device and runs there."""
    nccl = replace(CERTIFICATE, collectives=(replace(REDUCED, backend="nccl", calls=9),))
    on_gpu = replace(
        RESULT, ranks=_ranks(device="cuda:0", parameters=7), accounts=(made_account(flops=1), made_account(flops=1))
    )
    found = _compare(others=(Elsewhere(result=on_gpu, certificate=nccl),), speedup=0.1)
    assert found.causes == (f"parameters: 7 -> 11,181,642 {SAID}",)


def test_a_machine_of_the_same_kind_is_held_to_before_a_newer_one_of_another():
    on_gpu = Elsewhere(result=replace(RESULT, ranks=_ranks(device="cuda:1")), where="gpus/0009_accepted.json")
    assert _compare(others=(on_gpu, Elsewhere())).against == "elsewhere/0001_accepted.json"
    assert _compare(others=(on_gpu,)).against == "gpus/0009_accepted.json"


@pytest.mark.parametrize(("speedup", "inside"), [(0.59, False), (0.61, True), (2.49, True)])
def test_a_speedup_is_within_the_band_of_the_other_machines(speedup, inside):
    found = _compare(speedup=speedup, others=(_at(1.5), _at(1.8)))
    assert (not found.causes) == inside
    if not inside:
        (cause,) = found.causes
        assert cause == (
            "speedup 0.59x is outside of 0.60x to 4.50x: 2 other machines of this kind stored 1.50x to 1.80x, and a "
            "factor of 2.5 is allowed"
        )


def test_a_speedup_above_the_band_fails_too():
    (cause,) = _compare(speedup=2.6, others=(_at(1.0),)).causes
    assert cause.startswith(
        "speedup 2.60x is outside of 0.40x to 2.50x: 1 other machine of this kind stored 1.00x, and"
    )


@pytest.mark.parametrize(("speedup", "wrong"), [(2.99, False), (3.01, True)])
def test_what_is_beyond_the_number_of_gpus_was_measured_wrongly_whatever_is_stored(speedup, wrong):
    found = _compare(speedup=speedup, others=())
    assert bool(found.causes) == wrong
    if wrong:
        assert found.causes[0].startswith(
            "speedup 3.01x on 2 GPUs is beyond 3.00x: with the batch per GPU kept no more"
        )


@pytest.mark.parametrize(
    "over",
    [
        {"speedup": None},
        {"result": replace(RESULT, oversubscribed=True)},
        {"disturbed": ("another process took half the machine",)},
    ],
    ids=["none", "shared cores", "disturbed"],
)
def test_a_speedup_that_says_nothing_is_not_judged(over):
    assert _compare(**{"speedup": 99.0, "others": (_at(1.0),)} | over).causes == ()


def test_records_without_a_speedup_or_of_shared_cores_make_no_band():
    others = (replace(_at(1.0), reference=None), _at(1.0, oversubscribed=True))
    assert _compare(speedup=0.01, others=others).causes == ()


def test_without_another_machine_nothing_but_the_bound_is_known():
    found = _compare(others=())
    assert (found.causes, found.exact, found.against) == ((), None, "")
