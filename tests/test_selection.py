"""A case has an option only where a command line names it, and what it names wrongly is told, not passed over."""

from __future__ import annotations

import pytest

from harness.case import Case
from harness.errors import CaseError, PluginError
from harness.registry import discover
from harness.session.selection import named_cases, refuse_unknown, select


def _select(keyword="", markexpr="", options=(), names=()):
    return ["-".join(tokens) for tokens in select(keyword, markexpr, options, names=names)]


@pytest.mark.parametrize(
    ("keyword", "variants"),
    [
        ("", [""]),
        ("resnet18 and zero and 2gpu", [""]),
        ("bf16", ["", "bf16"]),
        ("BF16 and 2gpu", ["", "bf16"]),
        ("bf16 and offload", ["", "bf16-offload"]),
        ("accum4 and clip0.5 and warmup10", ["", "accum4-clip0.5-warmup10"]),
        ("(zero3 and compile) and cosine", ["", "cosine-compile"]),
        ("bf16 or ckpt", ["", "bf16", "ckpt", "bf16-ckpt"]),
        ("(bf16 or fp16) and ckpt", ["", "bf16", "ckpt", "fp16", "bf16-ckpt", "fp16-ckpt"]),
        ("clip1 or clip2", ["", "clip1", "clip2"]),
        ("bf16 and fp16", [""]),
        ("(bf16)or(fp16)", ["", "bf16", "fp16"]),
        ("ddp and not bf16", [""]),
        ("ckpt and not bf16", ["", "ckpt"]),
        ("resnet18-ddp-1gpu-bs8-bf16", ["", "bf16"]),
        ("test_train[resnet18-ddp-1gpu-bs8-bf16-fused]", ["", "bf16-fused"]),
        ("notbf16 or bf161 or linear_probe or accum or accum1 or clip0", [""]),
    ],
)
def test_a_word_of_k_names_an_option_and_what_is_negated_does_not(keyword, variants):
    assert _select(keyword) == variants


def test_a_word_that_is_a_models_name_is_no_option():
    assert _select("linear and bf16", names=("linear", "bf16_net")) == ["", "bf16"]


@pytest.mark.parametrize(
    ("markexpr", "variants"),
    [
        ("bench(strategy='ddp', gpu_count=2)", [""]),
        ("bench(precision='bf16', accumulation=2)", ["", "bf16-accum2"]),
        ('bench(precision="bf16") or bench(offload = "cpu")', ["", "bf16", "offload", "bf16-offload"]),
        ("bench(checkpointing=True, fused=False, clipping=1)", ["", "ckpt-clip1"]),
        ("bench(precision='fp32', accumulation=1, clipping=None)", [""]),
        ("not bench(compiled=True)", [""]),
        ("bench(precision='bf61', accumulation='2', speed=3, schedule=)", [""]),
        ("other(precision='bf16')", [""]),
    ],
)
def test_an_axis_in_m_names_an_option_unless_at_its_default(markexpr, variants):
    assert _select(markexpr=markexpr) == variants


def test_k_and_m_together_name_one_set():
    assert _select("bf16", "bench(accumulation=2)") == ["", "bf16-accum2"]


def test_options_stand_instead_of_the_plain_case_and_named_ones_come_on_top():
    assert _select(options=["bf16-ckpt"]) == ["bf16-ckpt"]
    assert _select(options=["ckpt-bf16", "", "bf16-ckpt"]) == ["bf16-ckpt", ""]
    assert _select("ckpt and 2gpu", options=["bf16", ""]) == ["bf16", "bf16-ckpt", "", "ckpt"]
    assert _select("bf16", options=["bf16"]) == ["bf16"]
    assert _select("fp16", options=["bf16"]) == ["bf16"]


@pytest.mark.parametrize("text", ["bf61", "bf16-", "bf16 ckpt", "accum1", "bf16-fp16", "ckpt-ckpt"])
def test_options_that_cannot_be_are_refused(text):
    with pytest.raises(CaseError, match=r"^--options: "):
        _select(options=[text])


def test_the_same_words_give_the_same_order_in_every_process():
    words = "fused or chlast or ckpt or bf16 or clip1"
    assert _select(words)[:6] == ["", "bf16", "chlast", "ckpt", "clip1", "fused"]
    assert len(_select(words)) == len(set(_select(words))) == 2**5


CASES = [
    Case.parse(text)
    for text in ("resnet18-ddp-2gpu-bs8", "resnet18-ddp-2gpu-bs8-accum4", "vit_tiny-zero3-1gpu-bs16-bf16")
]
TESTS = [f"benches/test_classification.py::test_train[{case}]" for case in CASES]


@pytest.mark.parametrize(
    ("keyword", "markexpr", "message"),
    [
        ("bf61", "", "-k: no case with 'bf61'; did you mean 'bf16'?"),
        ("not bf61", "", "-k: no case with 'bf61'; did you mean 'bf16'?"),
        ("resnt18 and bf16", "", "-k: no case with 'resnt18'; did you mean 'resnet18'?"),
        ("resnet18-dpd-2gpu", "", "-k: no case with 'dpd'; did you mean 'ddp'?"),
        ("chlas and ddpp", "", "-k: no case with 'chlas'; did you mean 'chlast'?"),
        ("warmup", "", "-k: no option 'warmup'; did you mean 'warmup<n>'?"),
        ("fp32 or bf16", "", "-k: option 'fp32' is what a case is without it; leave it out"),
        ("linear and cosine", "", "-k: options 'linear' and 'cosine' both set schedule; choose one"),
        ("warmup0", "", "-k: option 'warmup0' is what a case is without it; leave it out"),
        ("clip0.50", "", "-k: option 'clip0.50' is not how an id spells it; write 'clip0.5'"),
        ("", "bench(precision='bf61')", "-m: precision 'bf61' is none of fp32, bf16, fp16"),
        ("", "bench(accumulation='2')", "-m: accumulation is '2'; it must be a whole number"),
        ("", "not bench(precison='bf16')", "-m: no axis 'precison'; did you mean 'precision'?"),
        ("", "bench(model='resnet81')", "-m: no model 'resnet81'; did you mean 'resnet18'?"),
        ("", "bench(strategy='zero3', model='resnet')", "-m: no model 'resnet'; did you mean 'resnet18'?"),
        ("", "bench(clipping=0.5)", "-m: pytest reads no fraction there; name the option instead: -k clip0.5"),
    ],
)
def test_what_no_case_has_is_refused_with_a_suggestion(keyword, markexpr, message):
    with pytest.raises(CaseError) as refused:
        refuse_unknown(keyword, markexpr, cases=CASES, tests=TESTS)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("keyword", "markexpr"),
    [
        ("", ""),
        ("(resnet18 or VIT) and not (zero1 or zero3) and train", ""),
        ("zero3 and test_classification.py", ""),
        ("not fp16 and not warmup10 and not clip0.5", ""),
        ("ddp and not linear and not cosine", ""),
        ("linear or cosine", ""),
        ("resnet18-ddp-2gpu-bs8", ""),
        ("", "bench(model='vit_tiny', precision='fp16', clipping=1, compiled=False) or when_named"),
    ],
)
def test_what_a_case_has_or_could_have_is_not_refused(keyword, markexpr):
    tests = [*TESTS, "benches/test_classification.py::test_train[vit_tiny-zero1-1gpu-bs16]"]
    refuse_unknown(keyword, markexpr, cases=CASES, tests=tests)


def test_a_test_named_by_id_is_a_case_with_its_file(tmp_path):
    benches = tmp_path / "benches"
    case = "vit_b16-zero3-3gpu-bs64-bf16-offload-ckpt"
    arguments = ["benches", "benches/test_a.py", f"benches/test_a.py::test_train[{case}]", "benches/test_b.py::test[x]"]
    elsewhere = [f"tests/test_a.py::test_train[{case}-and-more]"]
    found = list(named_cases([*arguments, *elsewhere], start=tmp_path, benches=benches, registry=discover()))
    assert found == [(benches / "test_a.py", Case.parse(case))]
    inside = list(named_cases([f"test_a.py::test[{case}]"], start=benches, benches=benches, registry=discover()))
    assert inside == found


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        ("resnet18-ddp-2gpu-bs8-accum3", CaseError, "'resnet18-ddp-2gpu-bs8-accum3': batch of 8 per GPU does not"),
        ("resnet18-ddp-2gpu-bs8-bf61", CaseError, "'resnet18-ddp-2gpu-bs8-bf61': no option 'bf61'; did you mean"),
        ("resnet18-ddp-2gpu-bs8-ckpt-bf16", CaseError, "write 'resnet18-ddp-2gpu-bs8-bf16-ckpt'"),
        ("resnt18-ddp-2gpu-bs8", PluginError, "no model 'resnt18'; did you mean 'resnet18'?"),
        ("resnet18-zero4-2gpu-bs8", PluginError, "no strategy 'zero4'; did you mean 'zero"),
    ],
)
def test_an_id_of_no_possible_case_says_why(tmp_path, case, error, message):
    argument = f"benches/test_classification.py::test_train[{case}]"
    with pytest.raises(error) as refused:
        list(named_cases([argument], start=tmp_path, benches=tmp_path / "benches", registry=discover()))
    assert message in str(refused.value)
