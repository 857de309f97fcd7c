"""Figures without noise are held exactly to the stored ones, and a change is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.certificate import Collective
from harness.gate.exact import compare
from harness.gate.limits import judge, with_exact
from tests.made import made_account, made_certificate, made_report, made_result

REDUCED = Collective(backend="gloo", kind="all_reduce", type="fp32", calls=3, elements=11_173_962)
CERTIFICATE = replace(made_certificate(), collectives=(REDUCED,))
RESULT = made_result(accounts=(made_account(),))


def _compare(*, result=RESULT, certificate=CERTIFICATE, baseline=RESULT, baseline_certificate=CERTIFICATE):
    return compare(result, certificate, baseline=baseline, baseline_certificate=baseline_certificate)


def test_what_is_the_same_is_no_change():
    found = _compare()
    assert (found.changes, found.versions) == ((), ())
    verdict = judge(RESULT, level=[RESULT], metrics=())
    assert with_exact(verdict, found) == verdict


@pytest.mark.parametrize(
    ("collectives", "changes"),
    [
        ((replace(REDUCED, calls=4),), ("all_reduce in fp32: 3 calls -> 4",)),
        ((replace(REDUCED, elements=11_173_963),), ("all_reduce in fp32: 11,173,962 elements -> 11,173,963",)),
        (
            (REDUCED, replace(REDUCED, kind="broadcast", calls=1, elements=9)),
            ("broadcast in fp32: 0 calls -> 1", "broadcast in fp32: 0 elements -> 9"),
        ),
        ((), ("all_reduce in fp32: 3 calls -> 0", "all_reduce in fp32: 11,173,962 elements -> 0")),
        (
            (replace(REDUCED, type="bf16"),),
            (
                "all_reduce in bf16: 0 calls -> 3",
                "all_reduce in bf16: 0 elements -> 11,173,962",
                "all_reduce in fp32: 3 calls -> 0",
                "all_reduce in fp32: 11,173,962 elements -> 0",
            ),
        ),
    ],
)
def test_one_call_or_element_more_is_a_regression(collectives, changes):
    found = _compare(certificate=replace(CERTIFICATE, collectives=collectives))
    assert found.changes == changes
    verdict = with_exact(judge(RESULT, level=[RESULT], metrics=()), found)
    assert verdict.word == "regressed"


def test_one_byte_of_state_and_one_operation_more_are_named_with_their_rank():
    account = made_account()
    more = replace(account, kept=replace(account.kept, optimizer=account.kept.optimizer + 1), flops=account.flops + 2)
    found = _compare(result=replace(RESULT, accounts=(more,)))
    assert found.changes == (
        "bytes of optimizer of rank 0: 40,000 -> 40,001",
        "floating-point operations of rank 0: 100 -> 102",
    )


def test_what_varies_with_threads_is_not_held_exactly():
    account = made_account()
    other = replace(account, at_peak=replace(account.at_peak, work=1), kept=replace(account.kept, rest=77))
    assert _compare(result=replace(RESULT, accounts=(other,))).changes == ()


def test_with_other_versions_a_change_is_said_and_does_not_fail():
    newer = replace(RESULT, versions=RESULT.versions | {"torch": "2.16.0", "fairscale": "1"})
    found = _compare(result=newer, certificate=replace(CERTIFICATE, collectives=()))
    assert found.versions == ("fairscale none -> 1", "torch 2.15.0 -> 2.16.0")
    verdict = with_exact(judge(RESULT, level=[RESULT], metrics=()), found)
    assert (verdict.word, verdict.exact) == ("passed", found)


def test_what_one_run_did_not_look_at_is_not_compared():
    assert _compare(result=replace(RESULT, accounts=()), baseline_certificate=None).changes == ()


def test_parameters_and_steps_are_held_exactly():
    few = replace(RESULT, ranks=(made_report(parameters=10, trained_parameters=9, epochs=RESULT.lead.epochs[:1]),))
    assert _compare(result=few).changes == (
        "parameters: 11,181,642 -> 10",
        "trained parameters: 11,181,642 -> 9",
        "steps of the epochs: 2, 2 -> 2",
    )
    unknown = replace(RESULT, ranks=(made_report(parameters=None, trained_parameters=None, epochs=()),))
    assert _compare(result=unknown).changes == _compare(baseline=unknown).changes == ()


def test_another_backend_or_kind_of_device_is_not_held_to_what_is_its_own():
    nccl = replace(CERTIFICATE, collectives=(replace(REDUCED, backend="nccl", calls=1),))
    assert _compare(certificate=nccl).changes == ()
    assert _compare(certificate=replace(nccl, collectives=())).changes != ()
    on_gpu = replace(RESULT, ranks=(made_report(device="cuda:0"),), accounts=(made_account(flops=7),))
    assert _compare(result=on_gpu).changes == ()
