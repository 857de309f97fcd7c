"""The figures of a result are those a person gets by hand from its raw samples."""

from __future__ import annotations

import pytest

from harness.metrics.loss import LOSS, epoch_losses
from harness.metrics.memory import PEAK_MEMORY
from harness.metrics.timing import EFFICIENCY, SPEEDUP, STEP_TIME, THROUGHPUT, fixed_s
from harness.results import EpochReport, Memory
from tests.made import GIB, made_report, made_result


def _steps(case_id, *steps_of_ranks, warmup_steps=0):
    reports = [
        made_report(rank, len(steps_of_ranks), step_s=steps, warmup_steps=warmup_steps)
        for rank, steps in enumerate(steps_of_ranks)
    ]
    return made_result(case_id, *reports)


def test_step_time_is_the_slowest_rank_of_each_step_and_then_the_median():
    # Slowest of each measured step: 4, 3, 8; either rank's own median is 2.
    result = _steps("net-ddp-2gpu-bs8", (90.0, 4.0, 1.0, 2.0), (91.0, 2.0, 3.0, 8.0), warmup_steps=1)
    assert STEP_TIME.value(result, None) == 4.0


def test_warm_up_is_not_measured():
    result = _steps("net-ddp-1gpu-bs8", (90.0, 80.0, 1.0, 2.0, 4.0), warmup_steps=2)
    assert result.step_s == (1.0, 2.0, 4.0)
    assert STEP_TIME.value(result, None) == 2.0


def test_the_median_of_an_even_number_of_steps_lies_between_the_middle_two():
    assert STEP_TIME.value(_steps("net-ddp-1gpu-bs8", (1.0, 2.0, 4.0, 50.0)), None) == 3.0


def test_throughput_is_the_global_batch_over_the_step_time():
    assert THROUGHPUT.value(_steps("net-ddp-2gpu-bs8", (0.5, 0.5), (0.25, 0.25)), None) == 2 * 8 / 0.5
    assert THROUGHPUT.value(_steps("net-ddp-1gpu-bs8-accum4", (0.5, 0.5)), None) == 8 / 0.5


def test_throughput_of_one_process_that_drives_several_gpus_counts_all_of_them():
    assert THROUGHPUT.value(_steps("net-dp-4gpu-bs8", (0.5, 0.5)), None) == 4 * 8 / 0.5


def test_speedup_is_a_ratio_of_throughputs_and_efficiency_a_share_of_the_gpus():
    reference = _steps("net-ddp-1gpu-bs8", (0.5,))
    result = _steps("net-fsdp2-4gpu-bs8", *[(0.8,)] * 4)
    # 16 images/s alone, 40 images/s on four.
    assert SPEEDUP.value(result, reference) == pytest.approx(2.5, rel=1e-12)
    assert EFFICIENCY.value(result, reference) == pytest.approx(0.625, rel=1e-12)
    assert SPEEDUP.value(reference, reference) == EFFICIENCY.value(reference, reference) == 1.0


def test_what_needs_a_reference_is_absent_without_one():
    result = _steps("net-fsdp2-2gpu-bs8", (0.5,), (0.5,))
    assert SPEEDUP.value(result, None) is None
    assert EFFICIENCY.value(result, None) is None
    assert EFFICIENCY.value(result, result) is None
    assert SPEEDUP.value(result, result) == 1.0


def test_without_a_measured_step_no_time_is_told():
    nothing = _steps("net-ddp-1gpu-bs8", (0.5, 0.5), warmup_steps=2)
    sound = _steps("net-ddp-1gpu-bs8", (0.5,))
    assert STEP_TIME.value(nothing, None) is None
    assert THROUGHPUT.value(nothing, None) is None
    for metric in (SPEEDUP, EFFICIENCY):
        assert metric.value(nothing, sound) is None
        assert metric.value(sound, nothing) is None


def test_the_fixed_cost_of_a_case_is_what_its_busiest_rank_did_not_work():
    ranks = (
        made_report(0, 2, phases_s={"start": 9.0, "build": 0.5, "train": 2.0, "evaluate": 1.0}),
        made_report(1, 2, phases_s={"start": 1.0, "build": 0.5, "shard": 0.25, "train": 3.0, "report": 9.0}),
    )
    assert fixed_s(made_result("net-ddp-2gpu-bs8", *ranks, wall_s=4.5)) == 0.75


def _memories(*memories):
    return made_result("net-ddp-2gpu-bs8", *(made_report(rank, 2, memory=m) for rank, m in enumerate(memories)))


def test_peak_memory_is_that_of_the_fullest_device():
    result = _memories(Memory(peak_resident_bytes=GIB), Memory(peak_resident_bytes=3 * GIB))
    assert PEAK_MEMORY.value(result, None) == 3 * GIB


def test_on_cuda_peak_memory_is_what_was_allocated_not_what_the_allocator_held():
    one = Memory(peak_allocated_bytes=2 * GIB, peak_reserved_bytes=9 * GIB)
    assert PEAK_MEMORY.value(_memories(one, one), None) == 2 * GIB
    assert PEAK_MEMORY.value(_memories(Memory(peak_allocated_bytes=0), one), None) == 2 * GIB


def test_peak_memory_is_absent_where_any_rank_does_not_know_its_own():
    assert PEAK_MEMORY.value(_memories(Memory(peak_resident_bytes=GIB), Memory()), None) is None


def _losses(epochs, *losses_of_ranks):
    reports = [
        made_report(rank, len(losses_of_ranks), loss=losses, epochs=epochs)
        for rank, losses in enumerate(losses_of_ranks)
    ]
    return made_result("net-ddp-2gpu-bs8", *reports)


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps_and_all_ranks():
    epochs = (EpochReport(seconds=1.0, steps=2), EpochReport(seconds=1.0, steps=1))
    # The last figure of each rank is of a step after the last epoch, which is timed and belongs to none.
    result = _losses(epochs, (8.0, 4.0, 2.0, 99.0), (4.0, 4.0, 1.0, 99.0))
    assert list(epoch_losses(result)) == [5.0, 1.5]
    assert LOSS.value(result, None) == 1.5


def test_the_loss_is_absent_without_an_epoch():
    assert LOSS.value(_losses((), (1.0,), (1.0,)), None) is None


@pytest.mark.parametrize(
    ("metric", "value", "cell"),
    [
        (STEP_TIME, 0.20349, "203.5 ms"),
        (THROUGHPUT, 1234.56, "1234.6"),
        (SPEEDUP, 1.876, "1.88x"),
        (EFFICIENCY, 0.944, "94%"),
        (PEAK_MEMORY, 3 * GIB // 2, "1.500 GiB"),
        (LOSS, 0.12345, "0.123"),
    ],
)
def test_a_figure_is_shown_in_its_unit(metric, value, cell):
    assert metric.show(value) == cell
