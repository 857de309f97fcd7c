"""Ids and cases are two spellings of one thing."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.case import Case, grid
from harness.errors import CaseError
from tests.made import ANY_SPEED

PLAIN = {"model": "resnet18", "strategy": "ddp", "gpu_count": 2, "batch_size": 32}
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
OPTIONS = {"precision": "fp32", "offload": "none", "checkpointing": False, "accumulation": 1}


@st.composite
def axes(draw):
    accumulation = draw(st.integers(1, 64))
    return {
        "model": draw(NAMES),
        "strategy": draw(NAMES),
        "gpu_count": draw(st.integers(1, 100_000)),
        "batch_size": accumulation * draw(st.integers(1, 4096)),
        "precision": draw(st.sampled_from(["fp32", "bf16", "fp16"])),
        "offload": draw(st.sampled_from(["none", "cpu"])),
        "checkpointing": draw(st.booleans()),
        "accumulation": accumulation,
    }


@ANY_SPEED
@given(axes())
def test_every_case_is_the_case_its_id_spells(drawn):
    case = Case(**drawn)
    assert Case.parse(case.id) == case
    assert str(case) == case.id
    assert case.axes == drawn


@ANY_SPEED
@given(axes())
def test_a_default_is_never_written(drawn):
    unlike = [axis for axis, default in OPTIONS.items() if drawn[axis] != default]
    assert len(Case(**drawn).id.split("-")) == 4 + len(unlike)


def test_these_tests_draw_every_axis():
    assert {field.name for field in fields(Case)} == set(PLAIN) | set(OPTIONS)


def test_tokens_stand_in_one_order():
    case = Case(**PLAIN, precision="bf16", offload="cpu", checkpointing=True, accumulation=4)
    assert case.id == "resnet18-ddp-2gpu-bs32-bf16-offload-ckpt-accum4"
    assert case.options == ("bf16", "offload", "ckpt", "accum4")


def test_the_global_batch_is_the_batch_of_all_gpus_and_accumulation_is_within_it():
    assert Case(**PLAIN).global_batch_size == 64
    assert Case(**PLAIN, accumulation=4).global_batch_size == 64


@pytest.mark.parametrize(
    "text",
    [
        "",
        "resnet18",
        "resnet18-ddp-2gpu",
        "resnet18-ddp-gpu-bs8",
        "resnet18-ddp-2gpus-bs8",
        "resnet18-ddp-2.5gpu-bs8",
        "resnet18-ddp-2gpu-bs-8",
        "resnet18-ddp-2gpu-bs8-",
        "resnet18-ddp-2gpu-bs8\n",
        "resnet18-ddp--2gpu-bs8",
        "-ddp-2gpu-bs8",
    ],
)
def test_what_is_no_id_is_told_how_one_reads(text):
    with pytest.raises(CaseError, match="an id reads <model>-<strategy>-<n>gpu-bs<b>"):
        Case.parse(text)


def test_a_number_too_long_for_python_to_read_is_refused_too():
    """Ids come from stored files as well, and int() raises a ValueError of its own beyond 4300 digits."""
    for text in (f"resnet18-ddp-{'9' * 5000}gpu-bs8", f"resnet18-ddp-2gpu-bs{'9' * 5000}"):
        with pytest.raises(CaseError):
            Case.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ResNet-ddp-2gpu-bs8", "model 'ResNet' is no name: lower-case letters"),
        ("resnet18-d.dp-2gpu-bs8", "strategy 'd.dp' is no name"),
        ("resnet18-ddp-0gpu-bs8", "gpu_count is 0; it must be a whole number of at least 1"),
        ("resnet18-ddp-2gpu-bs0", "batch_size is 0; it must be"),
        ("resnet18-ddp-2gpu-bs8-fast", "no option 'fast'; known: bf16, fp16, offload, ckpt, accum<n>"),
        ("resnet18-ddp-2gpu-bs8-accum", "no option 'accum'"),
        ("resnet18-ddp-2gpu-bs8-accum3", "batch of 8 per GPU does not divide into 3 micro-batches"),
        ("resnet18-ddp-2gpu-bs8-accum0", "accumulation is 0; it must be"),
    ],
)
def test_an_id_of_no_possible_case_names_the_axis(text, message):
    with pytest.raises(CaseError) as refused:
        Case.parse(text)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("resnet18-ddp-02gpu-bs32", "resnet18-ddp-2gpu-bs32"),
        ("resnet18-ddp-2gpu-bs032", "resnet18-ddp-2gpu-bs32"),
        ("resnet18-ddp-\uff12gpu-bs32", "resnet18-ddp-2gpu-bs32"),
        ("resnet18-ddp-2gpu-bs32-fp32", "resnet18-ddp-2gpu-bs32"),
        ("resnet18-ddp-2gpu-bs32-accum1", "resnet18-ddp-2gpu-bs32"),
        ("resnet18-ddp-2gpu-bs32-ckpt-bf16", "resnet18-ddp-2gpu-bs32-bf16-ckpt"),
        ("resnet18-ddp-2gpu-bs32-bf16-bf16", "resnet18-ddp-2gpu-bs32-bf16"),
        ("resnet18-ddp-2gpu-bs32-bf16-fp16", "resnet18-ddp-2gpu-bs32-fp16"),
    ],
)
def test_a_case_spelled_otherwise_is_refused_with_its_id(text, spelled):
    with pytest.raises(CaseError) as refused:
        Case.parse(text)
    assert f"write {spelled!r}" in str(refused.value)


@pytest.mark.parametrize(
    ("axis", "value"),
    [
        ("gpu_count", 0),
        ("gpu_count", True),
        ("batch_size", -8),
        ("batch_size", 8.0),
        ("accumulation", "2"),
        ("precision", "fp64"),
        ("offload", "disk"),
        ("model", ""),
        ("strategy", "zero-1"),
    ],
)
def test_an_axis_out_of_its_range_is_refused_by_name(axis, value):
    with pytest.raises(CaseError, match=f"^{axis} "):
        Case(**(PLAIN | {axis: value}))


def test_a_grid_is_the_product_of_its_axes_model_by_model():
    cases = grid(models=["b", "a"], strategies=["s", "t"], gpu_counts=[1, 2], batch_sizes={"a": [4], "b": [8, 16]})
    ids = [case.id for case in cases]
    assert ids[:3] == ["b-s-1gpu-bs8", "b-s-1gpu-bs16", "b-s-2gpu-bs8"]
    assert ids[-1] == "a-t-2gpu-bs4"
    assert len(set(ids)) == len(ids) == 2 * 2 * (2 + 1)
