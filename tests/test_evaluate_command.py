"""The best model of a sharded training is saved as its library reads it, and scored again to the last digit.

Whatever the strategy and the number of ranks of the training, `python -m harness evaluate` is one process.
"""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from harness.__main__ import main
from harness.case import Case
from harness.commands import evaluate
from harness.errors import CannotRun
from harness.plugins import DataSpec
from harness.running.ranks import Ranks, cache_folder
from harness.stored import checkpoints
from tests.conftest import TINY

LEARN = TINY | {
    "train_images": 64,
    "carved_images": 30,
    "val_images": 13,
    "epochs": 3,
    "measured_steps": 2,
    "optimizer": {"name": "adamw", "arguments": {"lr": 0.002}},
}
"""Three epochs, of which the best need not be the last; 360 images to test on, in batches of 4."""
SCENES = TINY | {
    "embedded": "scenes",
    "dataset": "coco2017",
    "image_size": 64,
    "train_images": 8,
    "val_images": 5,
    "measured_steps": 2,
    "batch_sizes": [2],
    "warm_start": {"epochs": 1, "batch_size": 8, "optimizer": {"name": "adamw", "arguments": {"lr": 5e-4}}},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def learner(make_pipeline, models):
    return make_pipeline(images=LEARN, tested=True, save_model=models, plugins=("mortal_plugins",))


@pytest.fixture(scope="module")
def trained(learner):
    """Return a function that trains a case once, and its result."""
    known = {}

    def train(case_id):
        if case_id not in known:
            known[case_id] = learner.fresh(Case.parse(case_id))
        return known[case_id]

    return train


@pytest.fixture
def command(learner, share, capsys, monkeypatch):
    """Return a function that runs the command in ranks of the warm session: its exit code, output and errors."""

    monkeypatch.setattr(evaluate, "Ranks", lambda **facts: share(SimpleNamespace(ranks=Ranks(**facts)), learner).ranks)

    def run(*arguments):
        code = main(["evaluate", *map(str, arguments), "--plugins", "mortal_plugins"])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


CASES = ("vit_tiny-zero3-2gpu-bs4", "mortal_net-fsdp1-2gpu-bs4-bf16", "resnet18-ddp-2gpu-bs4-chlast")


@pytest.mark.parametrize("case_id", CASES)
def test_a_saved_model_scores_on_one_process_what_its_run_scored_on_two(trained, command, models, case_id):
    result = trained(case_id)
    code, out, err = command(models / case_id)
    assert (code, err) == (0, "")
    assert f"  accuracy    {result.test_scores['accuracy']!r}\n" in out
    assert "to the last digit what its run scored" in out
    told = [line.split() for line in out.splitlines()[-10:]]
    assert [[int(images), int(right)] for _, images, right, *_ in told] == [
        [sum(row), row[place]] for place, row in enumerate(result.confusion)
    ]
    out = command(models / case_id, "--split", "val")[1]
    best = result.lead.epochs[result.best_epoch - 1].scores["accuracy"]
    assert f"  accuracy    {best!r}\n" in out
    assert "to the last digit what its run scored" in out


def test_the_test_split_is_scored_once_each_and_the_best_epoch_is_the_one(trained):
    result = trained(CASES[1])
    assert [sum(row) for row in result.confusion] == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    right = sum(row[place] for place, row in enumerate(result.confusion))
    assert result.test_scores == {"accuracy": right / 360}
    assert result.class_accuracy[2] == result.confusion[2][2] / 35
    scores = [epoch.scores["accuracy"] for epoch in result.lead.epochs]
    assert result.best_epoch == 1 + scores.index(max(scores))


def test_transformers_reads_what_was_saved_of_its_model(trained, models, learner):
    import torch
    from transformers import ViTForImageClassification

    result = trained(CASES[0])
    folder = models / CASES[0]
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors", "shardbench.json"]
    module = ViTForImageClassification.from_pretrained(folder).eval()
    data = learner.registry.find("datasets", "digits")
    spec = DataSpec(root=cache_folder() / "datasets", image_size=8, carved_images=30, val_images=13)
    images, labels = zip(*data.open(spec, "test"), strict=True)
    with torch.no_grad():
        found = module(torch.stack(images)).logits.argmax(dim=1)
    # In one batch, so that a close call may fall otherwise.
    right = int((found == torch.tensor(labels)).sum())
    assert right / 360 == pytest.approx(result.test_scores["accuracy"], abs=2 / 360)


@pytest.mark.slow
def test_a_detector_with_frozen_norms_scores_its_own_map_again(learner, make_pipeline, share, command, models):
    case = Case.parse("fasterrcnn_r18-fsdp2-1gpu-bs2")
    result = share(make_pipeline(detection=SCENES, save_model=models, plugins=()), learner).fresh(case)
    assert (result.test_scores, result.confusion, result.best_epoch) == ({}, (), 1)
    code, out, err = command(models / case.id, "--split", "val")
    assert (code, err) == (0, "")
    assert f"  map         {result.lead.epochs[0].scores['map']!r}\n" in out
    assert "to the last digit what its run scored" in out
    code, out, err = command(models / case.id)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "scenes has no test split" in err


def test_a_dataset_without_a_test_split_skips_the_case_before_it_is_trained(learner, make_pipeline, share):
    pipeline = make_pipeline(images=LEARN | {"carved_images": None}, tested=True, plugins=("mortal_plugins",))
    with pytest.raises(CannotRun, match=r"digits has no test split: it is validated on; .*; or leave out --tested"):
        share(pipeline, learner).fresh(Case.parse(CASES[1]))


def test_scoring_and_saving_have_no_part_in_what_is_measured(trained, learner, make_pipeline, share):
    """The timed run is the same job but for what it keeps; steps, losses and scores are those of a plain run."""
    pipeline = share(make_pipeline(images=LEARN, plugins=("mortal_plugins",)), learner)
    plain = pipeline.fresh(Case.parse(CASES[1]))
    result = trained(CASES[1])
    assert [rank.loss for rank in result.ranks] == [rank.loss for rank in plain.ranks]
    assert [epoch.scores for epoch in result.lead.epochs] == [epoch.scores for epoch in plain.lead.epochs]
    assert result.identity == plain.identity
    assert result.lead.warmup_steps == plain.lead.warmup_steps == 1
    assert (plain.best_epoch, plain.test_scores, plain.confusion, plain.resumed) == (None, {}, (), "")


def _about(**change):
    def edit(folder):
        file = folder / "shardbench.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))

    return edit


def _other_weights(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["5.weight"]
    save_file(tensors, file)
    _about(files={"model.safetensors": checkpoints.digest_of(file)})(folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_about(model="resnet19"), "cannot be scored here: no model 'resnet19'; did you mean 'resnet18'?"),
        (_about(dataset="shapes"), "cannot be scored here: no dataset 'shapes'"),
        (_about(dataset="cifar10"), "trained on cifar10: name the folder above its files with --data-root"),
        (
            _about(settings={"pixels": 3}),
            "was saved by another version of this suite: profile 'tiny', model mortal_net",
        ),
        (_other_weights, "does not hold a mortal_net of 10 classes: "),
    ],
    ids=["model", "dataset", "data", "settings", "weights"],
)
def test_what_cannot_be_scored_is_one_clear_error(trained, command, models, tmp_path, damage, said):
    trained(CASES[1])
    folder = tmp_path / "copy"
    shutil.copytree(models / CASES[1], folder)
    damage(folder)
    code, out, err = command(folder)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
