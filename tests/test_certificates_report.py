"""The certificate table says how close each case is, by which regime, and what it cost; a refusal says why."""

from __future__ import annotations

import pytest

from harness.certificate import Figure, Row
from harness.report.certificates import cell, refusal, regime, render
from tests.made import made_certificate

REFUSED = ("clipping: to a norm of 1, the reference none seen",)


def _rounding(case_id, share=2.5e-7, **over):
    figures = (
        Figure(name="loss", difference=1e-9, tolerance=1e-6),
        Figure(name="parameters (most: head.weight)", difference=share, tolerance=1e-5),
    )
    return made_certificate(case_id, demanded="rounding", found="rounding", figures=figures, **over)


def _regime(**over):
    """Return the made regime with other words for some facts."""
    rows = {row.fact: row.strategy for row in made_certificate().regime} | {
        k.replace("_", " "): v for k, v in over.items()
    }
    return tuple(Row(fact=fact, strategy=text, reference=text, same=True) for fact, text in rows.items())


def _render(*certificates, made=(), reference_s=0.0) -> list[str]:
    return list(render(certificates, made=made, reference_s=reference_s))


def _one_line(lines) -> str:
    return " ".join(line.strip() for line in lines)


def test_without_certificates_nothing_is_said():
    assert _render() == []


def test_a_cell_is_a_word_or_the_share_that_the_parameters_differ_by():
    assert cell(made_certificate()) == "bit-equal"
    assert cell(_rounding("resnet18-ddp-4gpu-bs8")) == "2.5e-07"
    assert cell(made_certificate(causes=REFUSED)) == "NO"
    # Refused by its regime alone, with figures that are equal.
    assert cell(made_certificate(causes=REFUSED, found="bit-equal")) == "NO"


def test_each_model_has_a_table_of_cases_by_gpu_count():
    lines = _render(
        made_certificate("resnet18-ddp-1gpu-bs8"),
        made_certificate("vit_b16-ddp-2gpu-bs8"),
        made_certificate("resnet18-zero1-2gpu-bs8-bf16-ckpt", causes=REFUSED),
        _rounding("resnet18-ddp-4gpu-bs8"),
        made_certificate("resnet18-ddp-2gpu-bs8"),
    )
    first = next(number for number, line in enumerate(lines) if line.startswith("resnet18 "))
    assert lines[first].split() == ["resnet18", "1gpu", "2gpu", "4gpu", "2gpu", "sends", "4gpu", "sends"]
    assert [line.split() for line in lines[first + 2 : first + 4]] == [
        ["ddp-bs8", "bit-equal", "bit-equal", "2.5e-07", "n/a", "n/a"],
        ["zero1-bs8-bf16-ckpt", "NO", "n/a"],
    ]
    # Under its own count: the cell of two GPUs stands below their head.
    assert lines[first + 3].index("NO") == lines[first].index("2gpu")
    assert any(line.split() == ["vit_b16", "2gpu", "2gpu", "sends"] for line in lines)


def test_the_words_of_the_table_are_explained():
    said = _one_line(_render(made_certificate(steps=3)))
    assert said.startswith("3 steps of each case beside one process that plays every rank. ")
    for word in ("bit-equal: ", "a number: within rounding", "NO: not the same training"):
        assert word in said


def test_what_was_kept_and_what_was_paid_for_is_counted():
    old, new = made_certificate("resnet18-ddp-1gpu-bs8"), made_certificate("resnet18-ddp-2gpu-bs8", seconds=4.4)
    assert _render(old, new)[-1] == "2 certificates: 2 kept from earlier runs, 0 made now"
    assert _render(old, new, made=[new], reference_s=2.6)[-1] == (
        "2 certificates: 1 kept from earlier runs, 1 made now, 4 s, and 3 s for their references"
    )


def test_the_regime_is_said_once_where_all_share_it():
    lines = _render(made_certificate("resnet18-ddp-1gpu-bs8"), made_certificate("resnet18-zero1-1gpu-bs8"))
    (said,) = (number for number, line in enumerate(lines) if line.startswith("  regime"))
    assert _one_line(lines[said : said + 2]) == (
        "regime: live weights, compute fp32; optimizer SGD momentum 0.9; learning rate 0.1; reduced over ranks in fp32"
    )


def test_a_regime_that_few_have_names_them_after_the_one_that_most_have():
    plain = [made_certificate(f"resnet18-{name}-2gpu-bs8") for name in ("ddp", "fsdp1", "fsdp2", "zero1")]
    mixed = made_certificate("resnet18-ddp-2gpu-bs8-bf16", regime=_regime(compute="bf16"), from_fp32=0.0123)
    lines = _render(mixed, *plain)
    first, second = (line for line in lines if line.startswith("  regime"))
    assert first.startswith("  regime (4 cases): live weights, compute fp32; ")
    assert second.startswith("  regime (ddp-2gpu-bs8-bf16): live weights fp32; compute bf16; ")
    assert "  ddp-2gpu-bs8-bf16: 1.2e-02 from the same training in FP32" in lines


def test_what_depends_on_the_ranks_makes_no_regime_of_its_own():
    one = made_certificate("resnet18-ddp-1gpu-bs8", regime=_regime(reduction="none seen", global_batch="8 a step"))
    two = made_certificate("resnet18-ddp-2gpu-bs8", regime=_regime(global_batch="16 a step", sharding="half"))
    assert regime(one) == regime(two)
    assert "none seen" not in regime(two)
    assert _one_line(_render(one, two)).count("regime: ") == 1
    assert "reduced over ranks in fp32" in _one_line(_render(one, two))


def test_a_refusal_says_every_cause_and_marks_the_rows_that_differ():
    rows = (*_regime()[:-1], Row(fact="clipping", strategy="to a norm of 1", reference="none seen", same=False))
    causes = (*REFUSED, "relative differences (and what rounding allows): loss 0.5 (0)")
    lines = list(refusal(made_certificate("resnet18-zero1-2gpu-bs8", causes=causes, regime=rows)))
    assert lines[0] == "resnet18-zero1-2gpu-bs8: not certified: it does not train as the reference does"
    assert [line for line in lines if line.startswith("  cause")] == [f"  cause   {cause}" for cause in causes]
    assert [line.split() for line in lines if line.endswith("<-")] == [
        ["clipping", "to", "a", "norm", "of", "1", "none", "seen", "<-"]
    ]
    head = next(line for line in lines if line.startswith("regime"))
    assert head.split() == ["regime", "this", "case", "the", "reference"]


@pytest.mark.parametrize("words", ["fp32 " * 60, "x" * 90])
def test_every_line_fits_a_hundred_columns(words):
    rows = (*_regime(), Row(fact="optimizer state", strategy=words.strip(), reference=words.strip(), same=False))
    case_id = "fasterrcnn_r18-fairscale_fsdp-4gpu-bs16-bf16-offload-ckpt-accum4"
    refused = made_certificate(case_id, causes=(f"learning rate: {words}", words), regime=rows)
    assert max(map(len, refusal(refused))) <= 100
    lines = _render(refused, _rounding(case_id + "-clip1", from_fp32=0.1), made=[refused], reference_s=1e4)
    assert max(map(len, lines)) <= 100
