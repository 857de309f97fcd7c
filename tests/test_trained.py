"""What became of trainings beyond their time, in words; and what a result derives from its confusion matrix."""

from __future__ import annotations

from pathlib import Path

from harness.metrics.accuracy import ACCURACY
from harness.report.trained import render
from harness.results import result_from_json, result_to_json
from tests.made import made_result

TESTED = {"best_epoch": 1, "test_scores": {"accuracy": 0.5}, "confusion": ((3, 1), (3, 1))}


def _told(*results, saved_to=None):
    lines = render(results, metrics={"accuracy": ACCURACY}, saved_to=saved_to)
    return " ".join(line.strip() for line in lines)


def test_an_ordinary_result_says_nothing():
    assert _told(made_result()) == ""


def test_a_tested_result_tells_its_best_epoch_its_accuracy_and_its_classes():
    assert _told(made_result(**TESTED)) == (
        "resnet18-ddp-1gpu-bs8: its best epoch is 1 of 2; on the test split accuracy 50.0 %; "
        "from 25.0 % of class 1 to 75.0 % of class 0"
    )


def test_a_saved_model_and_a_training_taken_up_are_told():
    result = made_result(best_epoch=2, resumed="taken up after epoch 1 of 2")
    assert _told(result, saved_to=Path("/models")) == (
        "resnet18-ddp-1gpu-bs8: taken up after epoch 1 of 2; its best epoch is 2 of 2; "
        "saved in /models/resnet18-ddp-1gpu-bs8"
    )
    assert _told(made_result(resumed="begun anew: it was damaged")) == (
        "resnet18-ddp-1gpu-bs8: begun anew: it was damaged"
    )


def test_a_class_without_images_has_no_accuracy():
    result = made_result(confusion=((0, 0, 0), (1, 2, 1), (0, 0, 4)))
    assert result.class_accuracy == (None, 0.5, 1.0)


def test_a_result_comes_back_with_what_was_tested():
    result = made_result(**TESTED, resumed="taken up after epoch 1 of 2")
    assert result_from_json(result_to_json(result), where="here") == result


def test_a_result_of_before_all_this_still_reads():
    told = result_to_json(made_result())
    for name in ("best_epoch", "test_scores", "confusion", "resumed"):
        del told[name]
    for rank in told["ranks"]:
        for epoch in rank["epochs"]:
            del epoch["learning_rate"]
    assert result_from_json(told, where="here") == made_result()


def test_a_confusion_matrix_has_a_row_for_each_true_class_and_a_column_for_each_predicted():
    predictions = [(0, 1, 0), (1, 1, 0), (2, 0, 0), (3, 2, 2)]
    assert ACCURACY.confusion(predictions, 4) == [[1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
