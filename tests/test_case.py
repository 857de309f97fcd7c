"""Ids and cases are two spellings of one thing."""

from __future__ import annotations

import itertools
import re
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.case import OPTIONS, Case, combine, grid, kind_of, option, spell
from harness.errors import CaseError
from tests.made import ANY_SPEED

PLAIN = {"model": "resnet18", "strategy": "ddp", "gpu_count": 2, "batch_size": 32}
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
PLAIN_OPTIONS = {
    "precision": "fp32",
    "offload": "none",
    "checkpointing": False,
    "accumulation": 1,
    "clipping": None,
    "schedule": "constant",
    "lr_warmup": 0,
    "lr_scaling": False,
    "fused": False,
    "compiled": False,
    "channels_last": False,
    "gpus_per_node": None,
}
# As a person writes them: whole, or with some of six digits behind the point.
NORMS = st.integers(1, 999_999) | st.decimals("0.0001", "9.9999", places=4).map(float)


@st.composite
def axes(draw):
    accumulation = draw(st.integers(1, 64))
    per_node = draw(st.none() | st.integers(1, 64))
    return {
        "model": draw(NAMES),
        "strategy": draw(NAMES),
        "gpu_count": draw(st.integers(1, 100_000)) if per_node is None else per_node * draw(st.integers(2, 1000)),
        "batch_size": accumulation * draw(st.integers(1, 4096)),
        "precision": draw(st.sampled_from(["fp32", "bf16", "fp16"])),
        "offload": draw(st.sampled_from(["none", "cpu"])),
        "checkpointing": draw(st.booleans()),
        "accumulation": accumulation,
        "clipping": draw(st.none() | NORMS),
        "schedule": draw(st.sampled_from(["constant", "linear", "cosine"])),
        "lr_warmup": draw(st.integers(0, 100_000)),
        "lr_scaling": draw(st.booleans()),
        "fused": draw(st.booleans()),
        "compiled": draw(st.booleans()),
        "channels_last": draw(st.booleans()),
        "gpus_per_node": per_node,
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
    unlike = [axis for axis, default in PLAIN_OPTIONS.items() if drawn[axis] != default]
    assert len(Case(**drawn).id.split("-")) == 4 + len(unlike)


@ANY_SPEED
@given(axes())
def test_tokens_are_of_known_kinds_and_combine_to_the_cases_options_in_any_order(drawn):
    case = Case(**drawn)
    assert {kind_of(token) for token in case.options} <= set(OPTIONS)
    combined = combine(reversed(case.options))
    assert combined == {axis: drawn[axis] for axis, default in PLAIN_OPTIONS.items() if drawn[axis] != default}
    assert tuple(spell(axis, value) for axis, value in combined.items()) == case.options


@ANY_SPEED
@given(axes())
def test_an_id_is_a_folders_name_and_words_that_pytest_can_select_by(drawn):
    assert re.fullmatch(r"[a-z0-9_.-]+", Case(**drawn).id)
    # No token is within another, so that `-k` finds the one option alone: but for numbers that begin alike.
    assert not [(a, b) for a, b in itertools.permutations(OPTIONS, 2) if a in b]


def test_these_tests_draw_every_axis():
    assert {field.name for field in fields(Case)} == set(PLAIN) | set(PLAIN_OPTIONS)


def test_tokens_stand_in_one_order():
    everything = {
        "channels_last": True,
        "compiled": True,
        "fused": True,
        "lr_scaling": True,
        "lr_warmup": 5,
        "schedule": "cosine",
        "clipping": 0.5,
        "accumulation": 4,
        "checkpointing": True,
        "offload": "cpu",
        "precision": "bf16",
        "gpus_per_node": 1,
    }
    case = Case(**PLAIN, **everything)
    options = "bf16-offload-ckpt-accum4-clip0.5-cosine-warmup5-lrscale-fused-compile-chlast-pernode1"
    assert case.id == f"resnet18-ddp-2gpu-bs32-{options}"
    assert case.options == tuple(options.split("-"))
    assert combine(sorted(case.options)) == everything


@pytest.mark.parametrize(
    ("token", "axes"),
    [
        ("bf16", {"precision": "bf16"}),
        ("fp16", {"precision": "fp16"}),
        ("offload", {"offload": "cpu"}),
        ("ckpt", {"checkpointing": True}),
        ("accum8", {"accumulation": 8}),
        ("clip1", {"clipping": 1.0}),
        ("clip0.5", {"clipping": 0.5}),
        ("linear", {"schedule": "linear"}),
        ("cosine", {"schedule": "cosine"}),
        ("warmup10", {"lr_warmup": 10}),
        ("lrscale", {"lr_scaling": True}),
        ("fused", {"fused": True}),
        ("compile", {"compiled": True}),
        ("chlast", {"channels_last": True}),
        ("pernode1", {"gpus_per_node": 1}),
    ],
)
def test_each_option_sets_its_axis(token, axes):
    assert option(token) == axes
    assert Case(**PLAIN, **axes).id == f"resnet18-ddp-2gpu-bs32-{token}"
    assert kind_of(token) in OPTIONS


def test_every_kind_of_option_is_told_to_who_mistypes_one():
    with pytest.raises(CaseError) as refused:
        option("xyz")
    told = str(refused.value).partition("known: ")[2].split(", ")
    assert sorted(word.removesuffix("<n>") for word in told) == sorted(OPTIONS)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["bf61"], "no option 'bf61'; did you mean 'bf16'?"),
        (["accum"], "no option 'accum'; did you mean 'accum<n>'?"),
        (["accum1"], "option 'accum1' is what a case is without it; leave it out"),
        (["warmup0"], "option 'warmup0' is what a case is without it"),
        (["fp32"], "option 'fp32' is what a case is without it"),
        (["accum04"], "option 'accum04' is not how an id spells it; write 'accum4'"),
        (["clip0.50"], "option 'clip0.50' is not how an id spells it; write 'clip0.5'"),
        (["clip0"], "clipping is 0.0; it must be a norm"),
        (["accum0"], "accumulation is 0; it must be"),
        (["bf16", "ckpt", "fp16"], "options 'bf16' and 'fp16' both set precision; choose one"),
        (["ckpt", "ckpt"], "options 'ckpt' and 'ckpt' both set checkpointing"),
        ([""], "no option ''"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(tokens, message):
    with pytest.raises(CaseError) as refused:
        combine(tokens)
    assert message in str(refused.value)


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
        ("resnet18-ddp-2gpu-bs8-fast", "no option 'fast'; did you mean 'chlast'?"),
        ("resnet18-ddp-2gpu-bs8-clip.5", "no option 'clip.5'; did you mean 'clip<n>'?"),
        ("resnet18-ddp-2gpu-bs8-clip1e-05", "no option 'clip1e'"),
        ("resnet18-ddp-2gpu-bs8-clip0", "clipping is 0.0; it must be a norm of 0.0001 to 999999 in at most 6 digits"),
        ("resnet18-ddp-2gpu-bs8-clip0.00001", "clipping is 1e-05; it must be a norm"),
        ("resnet18-ddp-2gpu-bs8-clip1234567", "clipping is 1234567.0; it must be a norm"),
        ("resnet18-ddp-2gpu-bs8-accum", "no option 'accum'"),
        ("resnet18-ddp-2gpu-bs8-accum3", "batch of 8 per GPU does not divide into 3 micro-batches"),
        ("resnet18-ddp-2gpu-bs8-accum0", "accumulation is 0; it must be"),
    ],
)
def test_an_id_of_no_possible_case_names_the_axis(text, message):
    with pytest.raises(CaseError) as refused:
        Case.parse(text)
    assert message in str(refused.value)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("resnet18-ddp-02gpu-bs32", "resnet18-ddp-2gpu-bs32"),
        ("resnet18-ddp-2gpu-bs032", "resnet18-ddp-2gpu-bs32"),
        ("resnet18-ddp-\uff12gpu-bs32", "resnet18-ddp-2gpu-bs32"),
        ("resnet18-ddp-2gpu-bs32-fp32", "resnet18-ddp-2gpu-bs32"),
        ("resnet18-ddp-2gpu-bs32-accum1", "resnet18-ddp-2gpu-bs32"),
        ("resnet18-ddp-2gpu-bs32-ckpt-bf16", "resnet18-ddp-2gpu-bs32-bf16-ckpt"),
        ("resnet18-ddp-2gpu-bs32-warmup0", "resnet18-ddp-2gpu-bs32"),
        ("resnet18-ddp-2gpu-bs32-warmup010", "resnet18-ddp-2gpu-bs32-warmup10"),
        ("resnet18-ddp-2gpu-bs32-clip1.0", "resnet18-ddp-2gpu-bs32-clip1"),
        ("resnet18-ddp-2gpu-bs32-cosine-clip1", "resnet18-ddp-2gpu-bs32-clip1-cosine"),
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
        ("offload", True),
        ("checkpointing", "yes"),
        ("checkpointing", 1),
        ("clipping", 0),
        ("clipping", -1.0),
        ("clipping", 1e-5),
        ("clipping", 1e6),
        ("clipping", 0.1 + 0.2),
        ("clipping", float("nan")),
        ("clipping", float("inf")),
        ("clipping", True),
        ("clipping", "1"),
        ("schedule", "step"),
        ("lr_warmup", -1),
        ("lr_warmup", 1.0),
        ("lr_warmup", True),
        ("lr_scaling", None),
        ("fused", 0),
        ("compiled", "inductor"),
        ("channels_last", 1),
        ("gpus_per_node", 0),
        ("gpus_per_node", 1.0),
        ("strategy", None),
        ("model", ""),
        ("strategy", "zero-1"),
    ],
)
def test_an_axis_out_of_its_range_is_refused_by_name(axis, value):
    with pytest.raises(CaseError, match=f"^{axis} "):
        Case(**(PLAIN | {axis: value}))


@pytest.mark.parametrize(("gpus", "per_node", "nodes"), [(1, None, 1), (4, None, 1), (4, 2, 2), (4, 1, 4), (12, 4, 3)])
def test_gpus_are_on_one_node_unless_it_is_said_how_many_each_has(gpus, per_node, nodes):
    assert Case(**(PLAIN | {"gpu_count": gpus}), gpus_per_node=per_node).nodes == nodes


@pytest.mark.parametrize(("gpus", "per_node"), [(4, 3), (4, 4), (2, 4)])
def test_gpus_that_do_not_fill_several_nodes_are_refused(gpus, per_node):
    with pytest.raises(CaseError, match=f"{gpus} GPUs do not fill several nodes of {per_node}"):
        Case(**(PLAIN | {"gpu_count": gpus}), gpus_per_node=per_node)


def test_a_grid_is_the_product_of_its_axes_model_by_model():
    cases = grid(models=["b", "a"], strategies=["s", "t"], gpu_counts=[1, 2], batch_sizes={"a": [4], "b": [8, 16]})
    ids = [case.id for case in cases]
    assert ids[:3] == ["b-s-1gpu-bs8", "b-s-1gpu-bs16", "b-s-2gpu-bs8"]
    assert ids[-1] == "a-t-2gpu-bs4"
    assert len(set(ids)) == len(ids) == 2 * 2 * (2 + 1)
