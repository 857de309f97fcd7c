"""A training that is killed at any moment goes on to the same result, to the last bit, under every strategy.

Two ranks train a small network with dropout, BatchNorm and a changing learning rate in FP16, die, and are started anew.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.case import Case
from harness.errors import WorkerFailed
from harness.stored import checkpoints
from tests.conftest import TINY
from tests.mortal_plugins import MOMENT

LEARN = TINY | {"epochs": 3, "measured_steps": 13, "optimizer": {"name": "adamw", "arguments": {"lr": 0.01}}}
"""Four steps an epoch, and two after the last."""
OPTIONS = "fp16-accum2-clip0.5-cosine-warmup2"
"""So that eight forwards are an epoch."""


@pytest.fixture(scope="module")
def learner(make_pipeline):
    return make_pipeline(images=LEARN, resume=True, plugins=("mortal_plugins",))


@contextmanager
def killed(moment):
    """Let every rank die at a moment."""
    file = Path(os.environ["SHARDBENCH_CACHE"], MOMENT)
    file.write_text(moment)
    try:
        yield
    finally:
        file.unlink()


def take(pipeline, case: Case) -> Any:
    """Return what the ranks kept after their last epoch, and forget it."""
    import torch

    folder = pipeline.trainings._folder(case, 0)
    last = max(checkpoints.epochs_in(folder))
    states = [torch.load(checkpoints.folder_of(folder, last) / f"rank{r}.pt") for r in range(case.gpu_count)]
    shutil.rmtree(folder)
    return last, states


def equal(ours: Any, theirs: Any) -> bool:
    import torch

    if isinstance(ours, torch.Tensor):
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(equal(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return ours == theirs


def assert_same_end(pipeline, case, moment, after):
    """Assert that a training that was killed ends as one that was not."""
    whole, kept = pipeline.fresh(case), take(pipeline, case)
    assert whole.resumed == ""
    with killed(moment), pytest.raises(WorkerFailed, match="was killed by SIGKILL"):
        pipeline.fresh(case)
    again = pipeline.fresh(case)
    if after:
        assert again.resumed.partition(";")[0] == f"taken up after epoch {after} of 3"
    assert [rank.loss for rank in again.ranks] == [rank.loss for rank in whole.ranks]
    assert len(again.lead.loss) == 14
    told = [[(epoch.scores, epoch.steps, epoch.learning_rate) for epoch in one.lead.epochs] for one in (whole, again)]
    assert told[0] == told[1]
    assert len({rate for _, _, rate in told[0]}) == (3 if case.schedule == "cosine" else 1)
    assert equal(take(pipeline, case), kept)
    # The measured steps are those of the process that ended.
    assert again.lead.warmup_steps == 4 * after + 1
    return again


@pytest.mark.parametrize(
    ("strategy", "moment", "after"),
    [
        ("ddp", "step 12", 1),
        ("fsdp1", "step 20", 2),
        ("fsdp2", "write 2 20000", 1),
        ("fairscale_fsdp", "step 25", 3),
        ("fairscale_sdp", "record 3", 2),
        ("zero1", "step 17", 2),
        ("zero3", "write 3 50", 2),
    ],
)
def test_a_killed_training_goes_on_to_the_last_bit(learner, strategy, moment, after):
    assert_same_end(learner, Case.parse(f"mortal_net-{strategy}-2gpu-bs4-{OPTIONS}"), moment, after)


def test_what_died_before_an_epoch_was_kept_begins_anew(learner):
    assert_same_end(learner, Case.parse("mortal_net-ddp-2gpu-bs4"), "step 2", 0)


def test_what_died_while_the_first_was_written_begins_anew_and_is_said(learner):
    again = assert_same_end(learner, Case.parse("mortal_net-ddp-2gpu-bs4"), "record 1", 0)
    assert again.resumed.startswith("begun anew: what was kept after epoch 1 is not complete: rank ")


def test_augmented_images_are_the_same_again(learner, make_pipeline, share):
    pipeline = make_pipeline(images=LEARN | {"augment": "crop_flip"}, resume=True, plugins=("mortal_plugins",))
    assert_same_end(share(pipeline, learner), Case.parse("mortal_net-ddp-1gpu-bs8"), "step 7", 1)


def test_loader_processes_that_start_anew_draw_nothing_more():
    """As `measure` takes a training up: an iterator is made before the generator is set, and then used."""
    import torch

    from harness.plugins import InputKind, World
    from harness.worker.loading import TrainingData

    alone = World(rank=0, local_rank=0, size=1, device="cpu", backend="gloo")

    def data():
        images = [(torch.full((3, 2, 2), float(n)), n) for n in range(8)]
        return TrainingData(images, alone, kind=InputKind.IMAGES, batch_size=4, seed=0, workers=1)

    def last_epoch(train):
        labels = [batch[1].tolist() for batch in train.epoch(1)]
        return labels, torch.get_rng_state().tolist()

    whole, again = data(), data()
    list(whole.epoch(0))
    torch.rand(1)
    state = torch.get_rng_state()
    expected = last_epoch(whole)
    again.epoch(0)
    torch.set_rng_state(state)
    assert last_epoch(again) == expected


def test_what_cannot_be_taken_up_begins_anew_and_is_said(learner):
    case = Case.parse("mortal_net-ddp-1gpu-bs8")
    with killed("step 7"), pytest.raises(WorkerFailed):
        learner.fresh(case)
    (file,) = learner.trainings._folder(case, 0).glob("*/rank0.pt")
    file.write_bytes(file.read_bytes()[:-1])
    again = learner.fresh(case)
    damaged = "the checksum of rank0.pt is not the one it was written with"
    assert again.resumed == f"begun anew: what was kept after epoch 1 is damaged: {damaged}"
    assert len(again.lead.loss) == 14
    take(learner, case)


def test_without_resume_nothing_is_kept_and_nothing_is_taken_up(learner, make_pipeline, share):
    case = Case.parse("mortal_net-ddp-1gpu-bs8")
    learner.fresh(case)
    plain = share(make_pipeline(images=LEARN, plugins=("mortal_plugins",)), learner)
    assert plain.fresh(case).resumed == ""
    assert not plain.trainings.folder.exists()


def test_trainings_that_ended_are_forgotten_when_the_run_is(learner):
    case = Case.parse("mortal_net-ddp-1gpu-bs8")
    learner.fresh(case)
    folder = learner.trainings._folder(case, 0)
    assert folder.exists()
    learner.trainings.close()
    assert not folder.exists()
