"""A saved model is a folder that is there whole or not at all, and that tells when it is damaged or somebody else's."""

from __future__ import annotations

import json

import pytest

from harness.errors import StoreError
from harness.stored import saved_models
from harness.stored.saved_models import SavedModel

ABOUT = SavedModel(
    model="resnet18",
    classes=10,
    image_size=16,
    dataset="digits",
    case_id="resnet18-zero3-2gpu-bs8",
    profile="smoke",
    epoch=3,
    metric="accuracy",
    scores={"val": {"accuracy": 0.1 + 0.2}},
    batch_size=8,
    settings={"image_size": 16},
)


@pytest.fixture
def saved(tmp_path):
    """A complete one, of two files."""
    return complete(tmp_path, b"weights")


def complete(folder, weights):
    part, target = folder / ".part", folder / ABOUT.case_id
    part.mkdir()
    (part / "model.safetensors").write_bytes(weights)
    (part / "config.json").write_bytes(b"{}")
    saved_models.complete(part, target, ABOUT)
    return target


def test_what_it_is_comes_back_to_the_last_digit(saved):
    found = saved_models.read(saved)
    assert (found.case_id, found.scores, found.settings) == (ABOUT.case_id, ABOUT.scores, ABOUT.settings)
    assert sorted(found.files) == ["config.json", "model.safetensors"]
    assert [entry.name for entry in saved.parent.iterdir()] == [ABOUT.case_id]


def test_a_newer_one_takes_the_place_of_an_older(saved):
    complete(saved.parent, b"newer")
    assert (saved / "model.safetensors").read_bytes() == b"newer"
    assert saved_models.read(saved).files
    assert [entry.name for entry in saved.parent.iterdir()] == [ABOUT.case_id]


def test_one_that_cannot_be_completed_leaves_the_older_as_it_was(saved, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_models.os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot be saved in .*No space left on device; free or change the folder"):
        complete(saved.parent, b"newer")
    assert (saved / "model.safetensors").read_bytes() == b"weights"
    assert saved_models.read(saved).files


def _edit(**change):
    def edit(folder):
        file = folder / saved_models.ABOUT
        file.write_text(json.dumps(json.loads(file.read_text()) | change))

    return edit


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "shardbench.json").unlink(), "is no model of this suite: it has no shardbench.json; name a"),
        (lambda f: (f / "shardbench.json").write_text('{"model": "res'), "shardbench.json is truncated"),
        (_edit(schema_version=2), "shardbench.json is damaged, or another version's: Input should be 1"),
        (_edit(epoch="last"), "shardbench.json is damaged, or another version's: Input should be a valid integer"),
        (lambda f: (f / "config.json").unlink(), "lacks config.json"),
        (lambda f: (f / "model.safetensors").write_bytes(b"weight"), r"model\.safetensors is damaged: its checksum"),
        (lambda f: (f / "model.safetensors").write_bytes(b"Weights"), r"model\.safetensors is damaged: its checksum"),
    ],
    ids=["foreign", "truncated", "schema", "type", "lacking", "cut", "flipped"],
)
def test_what_is_damaged_or_no_model_is_refused_with_one_clear_error(saved, damage, said):
    damage(saved)
    with pytest.raises(StoreError, match=said) as error:
        saved_models.read(saved)
    assert str(saved) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"there is no folder .*nothing; name a folder that --save-model wrote"):
        saved_models.read(tmp_path / "nothing")
