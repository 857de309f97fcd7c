"""Validation: every image scored once, alike to the last digit on any number of ranks, and the module left to learn."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from harness.metrics.accuracy import ACCURACY
from harness.metrics.average_precision import MEAN_AVERAGE_PRECISION
from harness.plugins import InputKind, ModelSpec, OptimizerSpec, Workload, World
from harness.registry import discover
from harness.worker.evaluation import average_buffers, evaluate
from harness.worker.loading import ValidationData
from tests.ranks import run_ranks

ALONE = World(rank=0, local_rank=0, size=1, device="cpu", backend="gloo")
IMAGES = 9
"""Three ranks take them in batches of 2, 2, 2, then 2, 1 and none."""


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


# -------------------------------------------------------------------------------------------------- in the ranks


class Pictures:
    """Nine seeded images: of one size with classes, or each of its own size with whatever boxes it is given."""

    def __init__(self, kind: InputKind) -> None:
        import torch

        generator = torch.Generator().manual_seed(5)
        sides = [(16, 16)] * IMAGES if kind is InputKind.IMAGES else [(64 - 5 * i, 24 + 7 * i) for i in range(IMAGES)]
        self.images = [torch.rand(3, *side, generator=generator) for side in sides]
        self.targets: list[Any] = [i % 4 for i in range(IMAGES)]

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.images[index], self.targets[index]

    def ground_truth(self) -> dict[str, Any]:
        annotations = [
            {"image_id": number, "category_id": label, "bbox": [x, y, u - x, v - y], "area": (u - x) * (v - y)}
            for number, target in enumerate(self.targets)
            for (x, y, u, v), label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True)
        ]
        return {
            "images": [{"id": number} for number in range(IMAGES)],
            "annotations": [{"id": i, "iscrowd": 0, **one} for i, one in enumerate(annotations, start=1)],
            "categories": [{"id": label} for label in range(1, 5)],
        }


def evaluated(rank: int, size: int, strategy: str | None) -> dict[str, Any]:
    """Return, of an untrained classifier and detector sharded by a strategy, rank 0's predictions and scores.

    With them comes what the module returned for each batch of this rank, as plain numbers.
    """
    import torch

    registry = discover()
    world = World(rank=rank, local_rank=rank, size=size, device="cpu", backend="gloo")
    found = {}
    for name, kind, metric in (
        ("resnet18", InputKind.IMAGES, ACCURACY),
        ("fasterrcnn_r18", InputKind.DETECTION, MEAN_AVERAGE_PRECISION),
    ):
        torch.manual_seed(0)
        built = registry.find("models", name).build(ModelSpec(classes=4, image_size=64))
        module = built.module
        for statistic in module.buffers():
            if statistic.is_floating_point():
                statistic.uniform_(0.5, 1.5)
        data = Pictures(kind)
        if kind is InputKind.DETECTION:
            with torch.no_grad():  # what it finds best is to be found, so that its mAP is not naught
                alone = [module.eval()([image])[0] for image in data.images]
            data.targets = [{key: of_one[key][:3] for key in ("boxes", "labels")} for of_one in alone]
        if strategy:
            workload = Workload(
                module=module.train(),
                loss=lambda module, batch: torch.zeros(()),
                optimizer=OptimizerSpec(name="sgd", arguments={"lr": 0.1}),
                blocks=built.blocks,
                batch_size=2,
            )
            module = registry.find("strategies", strategy).shard(workload, world).module
        predictions: list[Any] = []
        outputs: list[Any] = []
        module.register_forward_hook(lambda module, batch, output, to=outputs: to.append(plain(output)))
        validation = ValidationData(data, world, kind=kind, batch_size=2, workers=0)
        scores = evaluate(
            module, validation, world, kind=kind, score=[lambda p, _, to=predictions: to.extend(p) or {}, metric.score]
        )
        found[name] = (predictions, scores, outputs)
    return found


def plain(output: Any) -> Any:
    """Return the numbers of logits, or of one batch's boxes."""
    if isinstance(output, list):
        return [{key: tensor.tolist() for key, tensor in of_one.items()} for of_one in output]
    return output.tolist()


def averaged(rank: int, size: int) -> list[list[float]]:
    """Return buffers that were equal on all ranks, and one that was the rank's number, after averaging."""
    import torch

    torch.manual_seed(3)
    module = torch.nn.Module()
    module.register_buffer("equal", torch.rand(1000))
    module.register_buffer("own", torch.tensor([float(rank)]))
    module.register_buffer("count", torch.tensor([rank]))
    before = module.equal.tolist()
    average_buffers(module, World(rank=rank, local_rank=rank, size=size, device="cpu", backend="gloo"))
    return [before, module.equal.tolist(), module.own.tolist(), module.count.tolist()]


# ------------------------------------------------------------------------------------------- any number of ranks


@pytest.fixture(scope="module")
def on_one_rank():
    return run_ranks(evaluated, 1, 1, None)[0]


@pytest.mark.parametrize(("size", "strategy"), [(2, None), (3, None), (2, "fsdp2"), (3, "fsdp1"), (3, "zero3")])
def test_predictions_and_scores_are_those_of_one_rank_to_the_last_digit(size, strategy, on_one_rank):
    ranks = run_ranks(evaluated, size, size, strategy)
    for name, (predictions, scores, outputs) in on_one_rank.items():
        assert ranks[0][name][:2] == (predictions, scores)
        in_turn = itertools.chain(*zip(*(rank[name][2] for rank in ranks), strict=True))
        assert list(in_turn)[: len(outputs)] == outputs
        assert all(rank[name][:2] == ([], None) for rank in ranks[1:])


def test_the_comparison_is_of_scores_that_say_something(on_one_rank):
    classes, boxes = on_one_rank["resnet18"], on_one_rank["fasterrcnn_r18"]
    assert [index for index, *_ in classes[0]] == [index for index, *_ in boxes[0]] == list(range(IMAGES))
    assert 0 < classes[1]["accuracy"] < 1
    assert 0.1 < boxes[1]["map"] < 1
    assert sum(len(found["boxes"]) for _, found in boxes[0]) > 5 * IMAGES


def test_equal_buffers_stay_what_they_are_on_three_ranks_and_unequal_ones_become_their_mean():
    for rank, (before, after, own, count) in enumerate(run_ranks(averaged, 3, 3)):
        assert after == before
        assert own == [1.0]
        assert count == [rank]
