"""Validation of one rank: every image scored once, and the module left ready to learn on."""

from __future__ import annotations

import pytest

from harness.plugins import InputKind, World
from harness.worker.evaluation import average_buffers, evaluate
from harness.worker.loading import ValidationData

ALONE = World(rank=0, local_rank=0, size=1, device="cpu", backend="gloo")


@pytest.fixture
def data():
    """Five images that are their own class's logits, 0 1 2 0 1, labelled 0 1 2 3 4."""
    import torch

    samples = [(torch.nn.functional.one_hot(torch.tensor(i % 3), 3).float(), i) for i in range(5)]
    return ValidationData(samples, ALONE, kind=InputKind.IMAGES, batch_size=2, workers=0)


def test_every_image_is_scored_once_by_what_the_module_made_of_it(data):
    import torch

    seen = []

    def score(predictions, dataset):
        seen.extend(predictions)
        assert dataset is data.dataset
        return {"a": 0.5}

    scores = evaluate(
        torch.nn.Identity(), data, ALONE, kind=InputKind.IMAGES, score=[score, lambda predictions, dataset: {"b": 1.0}]
    )
    assert seen == [(0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 0, 3), (4, 1, 4)]
    assert scores == {"a": 0.5, "b": 1.0}


def test_the_module_is_evaluated_without_learning_and_left_ready_to_learn_on(data):
    import torch

    states = []

    class Module(torch.nn.Module):
        def forward(self, images):
            states.append((self.training, torch.is_grad_enabled()))
            return images

    module = Module()
    evaluate(module, data, ALONE, kind=InputKind.IMAGES, score=[])
    assert states == [(False, False)] * 3
    assert module.training


def test_found_boxes_are_plain_numbers_with_their_image():
    import torch

    found = {"boxes": torch.tensor([[0.0, 1.0, 2.0, 3.0]]), "scores": torch.tensor([0.5]), "labels": torch.tensor([7])}
    samples = [(torch.zeros(3, 4, 4), {"labels": torch.tensor([1])})] * 3
    data = ValidationData(samples, ALONE, kind=InputKind.DETECTION, batch_size=2, workers=0)
    seen = []

    class Module(torch.nn.Module):
        def forward(self, images):
            return [found for _ in images]

    evaluate(
        Module(), data, ALONE, kind=InputKind.DETECTION, score=[lambda predictions, _: seen.extend(predictions) or {}]
    )
    plain = {"boxes": [[0.0, 1.0, 2.0, 3.0]], "scores": [0.5], "labels": [7]}
    assert seen == [(0, plain), (1, plain), (2, plain)]


def test_alone_buffers_stay_what_they_are():
    import torch

    module = torch.nn.BatchNorm2d(3)
    module.running_mean.fill_(0.25)
    average_buffers(module, ALONE)
    assert module.running_mean.tolist() == [0.25] * 3
