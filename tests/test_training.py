"""The loop that is measured: as many steps as asked for, each with its time, its wait and its loss."""

from __future__ import annotations

import itertools
import math

import pytest

from harness.plugins import InputKind, Trainee
from harness.worker.process import Progress
from harness.worker.training import LOSSES, TrainingDiverged, TrainingLoop


@pytest.fixture
def loop(tmp_path):
    """Return a function that makes a loop whose step returns one given loss after another."""
    import torch

    def make(losses) -> TrainingLoop:
        told = iter(losses)
        nothing = torch.optim.SGD([torch.zeros(1)])
        trainee = Trainee(
            module=torch.nn.Identity(),
            step=lambda batch: torch.tensor(next(told)),
            full_state=dict,
            optimizer=nothing,
            applied=nothing,
        )
        return TrainingLoop(trainee, device="cpu", progress=Progress(tmp_path / "rank0.progress"))

    return make


def _batches():
    import torch

    return itertools.repeat((torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)))


def test_every_step_of_every_stretch_has_a_time_a_wait_and_a_loss(loop, tmp_path):
    run = loop([3.0, 2.0, 1.5, 0.25, 0.125])
    run.stretch(_batches(), steps=2, epoch=1, epochs=2)
    run.stretch(_batches(), steps=3, epoch=2, epochs=2)
    assert run.losses() == [3.0, 2.0, 1.5, 0.25, 0.125]
    assert len(run.clock.step_s()) == len(run.clock.wait_s()) == 5
    assert all(0 <= wait <= step for wait, step in zip(run.clock.wait_s(), run.clock.step_s(), strict=True))
    assert (tmp_path / "rank0.progress").read_text().split() == ["start", "2", "2", "3", "3"]


def test_what_happens_between_stretches_is_no_steps_time(loop, monkeypatch):
    from harness.worker import clocks

    now = itertools.count()
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: float(next(now)))
    run = loop([1.0] * 4)
    run.stretch(_batches(), steps=2)
    before = run.clock.step_s()
    for _ in range(1000):
        clocks.time.perf_counter()
    run.stretch(_batches(), steps=2)
    assert run.clock.step_s() == before * 2


@pytest.mark.parametrize(("bad", "word"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_a_loss_that_is_no_number_ends_the_training_with_its_step(loop, bad, word):
    run = loop([3.0, 2.0, 1.0, bad, 0.5])
    run.stretch(_batches(), steps=2)
    with pytest.raises(TrainingDiverged, match=f"the loss became {word} at step 4; lower the learning rate"):
        run.stretch(_batches(), steps=3)


def test_no_step_is_no_loss(loop):
    assert loop([]).losses() == []


def test_a_classifiers_loss_is_the_mean_over_the_batch():
    import torch

    logits = torch.tensor([[2.0, 2.0], [0.0, math.log(3.0)]])
    loss = LOSSES[InputKind.IMAGES](torch.nn.Identity(), (logits, torch.tensor([0, 0])))
    # One in two is sure at odds of 1 to 1, the other at 1 to 3.
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-6)


def test_a_detectors_loss_is_the_sum_of_its_own():
    import torch

    def module(images, targets):
        return {"boxes": torch.tensor(0.5), "classes": torch.tensor(0.25), "objects": torch.tensor(2.0)}

    assert LOSSES[InputKind.DETECTION](module, ([], [])).item() == 2.75
