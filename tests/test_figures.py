"""The figures of results: every result has its place, labels tell what differs, numbers are those of the records."""

from __future__ import annotations

import pytest

from harness.figures import results as figures
from harness.figures.charts import Series
from harness.results import EpochReport, Memory
from tests.made import GIB, made_report, made_result


def result(case_id, *, gib=0.5, ms=200, losses=(4.0, 2.0, 1.0, 0.5, 0.25), **over):
    gpus = int(case_id.split("-")[2].removesuffix("gpu"))
    steps = (5.0, *(ms / 1e3 * (1 + 0.1 * at) for at in (-1, 0, 0, 1)))
    memory = Memory(peak_resident_bytes=None if gib is None else int(gib * GIB))
    ranks = [made_report(rank, gpus, step_s=steps, memory=memory, loss=losses) for rank in range(gpus)]
    return made_result(case_id, *ranks, **over)


DDP, ZERO = result("resnet18-ddp-2gpu-bs8"), result("resnet18-zero1-2gpu-bs8", gib=0.25, ms=400)
(PAIR,) = figures.grouped([DDP, ZERO])


def test_results_are_grouped_with_what_they_can_be_compared_to():
    one_gpu = result("resnet18-ddp-1gpu-bs8")
    assert [(group.name, len(group.results)) for group in figures.grouped([DDP, ZERO, one_gpu])] == [
        ("resnet18-digits-2gpu-bs8", 2),
        ("resnet18-digits-1gpu-bs8", 1),
    ]
    (over_gpus,) = figures.grouped([DDP, ZERO, one_gpu], by_gpus=False)
    assert over_gpus.name == "resnet18-digits-bs8"
    assert over_gpus.title == "resnet18 on digits, batch 8 per GPU"
    assert PAIR.title == "resnet18 on digits, 2 GPUs, batch 8 per GPU"


def test_labels_tell_what_is_not_the_same_for_all():
    def told(*ids):
        return figures.labels([result(case_id) for case_id in ids])

    assert told("resnet18-ddp-2gpu-bs8", "resnet18-zero1-2gpu-bs8") == ["ddp", "zero1"]
    assert told("resnet18-ddp-1gpu-bs8", "resnet18-ddp-2gpu-bs8-bf16") == ["ddp 1 GPU", "ddp-bf16 2 GPUs"]
    assert told("resnet18-ddp-1gpu-bs8", "resnet50-ddp-1gpu-bs16") == ["resnet18 ddp bs8", "resnet50 ddp bs16"]


def test_loss_and_score_of_each_epoch():
    assert figures.epoch_loss(PAIR).rows[:2] == (("ddp", 1, 3.0), ("ddp", 2, 0.75))
    scored = figures.epoch_score(PAIR, score="accuracy", label="accuracy")
    assert [row[2] for row in scored.rows] == [0.5, 0.875, 0.5, 0.875]
    assert [row[2] for row in figures.epoch_score(PAIR, score="map", label="mAP").rows] == [None] * 4


def test_an_epoch_takes_as_long_as_its_slowest_rank():
    slow = made_report(1, 2, epochs=tuple(EpochReport(seconds=s, steps=2) for s in (1.5, 0.5)))
    (group,) = figures.grouped([made_result("resnet18-ddp-2gpu-bs8", made_report(0, 2), slow)])
    assert [row[2] for row in figures.epoch_seconds(group).rows] == [1.5, 1.0]


def test_published_series_stand_beside():
    theirs = Series(label="ddp", x=(1, 2), y=(0.47, 0.45), strategy="ddp", published=True)
    assert figures.epoch_loss(PAIR, published=[theirs]).rows[-1] == ("ddp, published", 2, 0.45)


def test_the_loss_of_every_step_is_the_mean_of_the_ranks():
    ranks = (made_report(0, 2), made_report(1, 2, loss=(2.0, 2.0, 2.0, 2.0, 2.0)))
    (group,) = figures.grouped([made_result("resnet18-ddp-2gpu-bs8", *ranks)])
    assert [row[2] for row in figures.step_loss(group).rows] == [3.0, 2.0, 1.5, 1.25, 1.125]


def test_speedups_are_over_the_reference_and_ideal_is_its_gpus_multiple():
    reference = result("resnet18-ddp-1gpu-bs8")
    (group,) = figures.grouped([reference, DDP, ZERO], by_gpus=False)
    figure = figures.speedups(group, [reference, reference, None], against="ddp on 1 GPU")
    assert figure.rows == (
        ("ddp", 1, 1.0),
        ("ddp", 2, 2.0),
        ("zero1", 2, None),
        ("ideal", 1, 1.0),
        ("ideal", 2, 2.0),
    )


def test_speedups_over_a_reference_of_two_gpus_are_ideally_half_the_gpus():
    four = result("resnet18-ddp-4gpu-bs8")
    (group,) = figures.grouped([DDP, four], by_gpus=False)
    figure = figures.speedups(group, [DDP, DDP], against="itself on 2 GPUs")
    assert figure.rows[-2:] == (("ideal", 2, 1.0), ("ideal", 4, 2.0))


def test_step_times_are_milliseconds_of_measured_steps():
    name, count, least, _, middle, _, most = figures.step_times(PAIR).rows[0]
    assert (name, count) == ("ddp", 4)
    assert (least, middle, most) == pytest.approx((180, 200, 220))


def test_memory_and_throughput_and_what_none_beats():
    rows = figures.trade_off(PAIR).rows
    assert [(row[0], row[1], row[3]) for row in rows] == [("ddp", 0.5, "yes"), ("zero1", 0.25, "yes")]
    assert [row[2] for row in rows] == pytest.approx([80, 40])


def test_a_result_that_lacks_a_figure_keeps_its_place():
    (group,) = figures.grouped([DDP, result("resnet18-zero1-2gpu-bs8", gib=None)])
    assert figures.memory_bars(group).rows == (("ddp", 0.5), ("zero1", None))
    assert figures.utilisation_bars(group).rows == (("ddp", None), ("zero1", None))
    assert figures.power_bars(group).rows == (("ddp", None), ("zero1", None))


def test_a_confusion_matrix_is_numbered_unless_its_classes_are_named():
    one = result("resnet18-ddp-1gpu-bs8", confusion=((8, 2), (1, 9)))
    assert figures.confusion(one).rows == (("0", 8, 2), ("1", 1, 9))
    assert figures.confusion(one, classes=["cat", "dog"]).head == ("true class / predicted class", "cat", "dog")


def test_no_two_figures_of_a_group_have_one_name():
    made = [make(PAIR) for make in (figures.epoch_loss, figures.epoch_seconds, figures.step_loss, figures.step_times)]
    made += [make(PAIR) for make in (figures.trade_off, figures.memory_bars, figures.power_bars)]
    made += [figures.utilisation_bars(PAIR), figures.speedups(PAIR, [None, None], against="none")]
    assert len({figure.name for figure in made}) == len(made)
