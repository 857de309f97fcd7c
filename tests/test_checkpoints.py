"""A folder of kept states: an epoch of it holds whole, or is passed over with the reason."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.metrics.accuracy import ACCURACY
from harness.metrics.loss import LOSS
from harness.results import EpochReport
from harness.running.job import DataSettings, Job, OptimizerSettings
from harness.stored import checkpoints
from harness.stored.checkpoints import Kept
from harness.worker.keeping import nothing, unmeasured

JOB = Job(
    case_id="resnet18-zero2-2gpu-bs8",
    ranks=2,
    device_kind="cpu",
    backend="gloo",
    data=DataSettings(name="digits", root=Path("/cache"), image_size=16, train_images=64),
    epochs=3,
    warmup_steps=1,
    measured_steps=4,
    optimizer=OptimizerSettings(name="sgd", arguments={"lr": 0.1}),
    weights=Path("/cache/net-1.pt"),
    checkpoints=Path("/cache/checkpoints"),
    folder=Path("/tmp/job"),
)
FACTS = checkpoints.facts_of(JOB)


@pytest.fixture
def keep(tmp_path):
    """Return a function that keeps some epochs of a training of two ranks, and the folder they are in."""

    def make(*epochs, facts=FACTS, ranks=2):
        for epoch in epochs:
            for rank in range(ranks):
                known = replace(nothing(JOB), facts=facts, loss=(0.1,) * epoch)
                checkpoints.write(
                    checkpoints.folder_of(tmp_path, epoch),
                    rank,
                    lambda digest, known=known: replace(known, sha256=digest),
                    lambda file, text=f"{epoch} {rank}": file.write(text.encode()),
                )
        return tmp_path

    return make


def test_the_last_epoch_is_taken_up_and_what_was_measured_comes_back(keep):
    folder = keep(1, 2, 10)
    found, wrong = checkpoints.newest(folder, FACTS)
    assert (found, wrong) == (folder / "epoch-10", "")
    assert checkpoints.read(found, 1).loss == (0.1,) * 10


def test_nothing_kept_is_nothing_to_say(tmp_path):
    assert checkpoints.newest(tmp_path / "never", FACTS) == (None, "")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: (f / "rank1.json").unlink(), "is not complete: rank 1 had not written its part"),
        (lambda f: (f / "rank0.pt").unlink(), "is damaged: the checksum of rank0.pt is not the one"),
        (lambda f: (f / "rank1.pt").write_bytes(b"2"), "is damaged: the checksum of rank1.pt is not the one"),
        (lambda f: (f / "rank0.json").write_text('{"schema_ver'), "cannot be read: .*rank0.json is truncated"),
    ],
    ids=["incomplete", "gone", "changed", "record"],
)
def test_an_epoch_that_is_not_whole_is_passed_over_with_the_reason(keep, damage, reason):
    folder = keep(1, 2)
    damage(folder / "epoch-2")
    found, wrong = checkpoints.newest(folder, FACTS)
    assert found == folder / "epoch-1"
    assert re.match(f"what was kept after epoch 2 {reason}", wrong)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epochs": 5}, "epochs 3, not 5"),
        ({"ranks": 4}, "ranks 2, not 4"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"weights": Path("/cache/net-2.pt")}, "warm start 'net-1.pt', not 'net-2.pt'"),
        ({"optimizer": OptimizerSettings(name="adamw")}, "optimizer {"),
        ({"data": replace(JOB.data, train_images=32)}, "data train_images 64, not 32"),
    ],
    ids=["epochs", "ranks", "seed", "weights", "optimizer", "data"],
)
def test_a_training_of_other_settings_is_not_taken_up_and_what_differs_is_named(keep, change, reason):
    found, wrong = checkpoints.newest(keep(2), checkpoints.facts_of(replace(JOB, **change)))
    assert found is None
    assert f"what was kept after epoch 2 is of another training: {reason}" in wrong


@pytest.mark.parametrize(
    "change", [{"folder": Path("/elsewhere")}, {"asked_s": 9.0}, {"cores": (3,)}, {"weights": Path("/moved/net-1.pt")}]
)
def test_what_changes_nothing_in_the_training_does_not_keep_it_from_going_on(change):
    assert checkpoints.facts_of(replace(JOB, **change)) == FACTS


def test_a_file_is_whole_or_as_it_was(tmp_path):
    file = tmp_path / "rank0.pt"
    checkpoints.whole(file, lambda part: part.write(b"first"))

    def half(part):
        part.write(b"sec")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.whole(file, half)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rank0.pt"]
    assert file.read_bytes() == b"first"


def test_a_full_disk_is_told(tmp_path):
    def full(part):
        raise OSError("No space left on device")

    with pytest.raises(StoreError, match=r"after epoch-1 cannot be kept in .*No space left on device; free space"):
        checkpoints.write(tmp_path / "epoch-1", 0, lambda digest: nothing(JOB), full)


def test_all_but_some_epochs_are_forgotten_and_at_last_the_folder(keep):
    folder = keep(1, 2, 3)
    (folder / "epoch-x").mkdir()
    checkpoints.forget(folder, but=(1, 3))
    assert sorted(checkpoints.epochs_in(folder)) == [1, 3]
    (folder / "epoch-x").rmdir()
    checkpoints.forget(folder)
    assert not folder.exists()


def _epochs(*scores):
    return [EpochReport(seconds=1, steps=1, scores=score and {"accuracy": score, "loss": score}) for score in scores]


def test_the_best_epoch_is_the_first_of_the_best_in_the_metrics_own_sense():
    assert checkpoints.best_epoch(_epochs(0.1, 0.4, 0.4, 0.3), ACCURACY) == 2
    assert checkpoints.best_epoch(_epochs(0.4, 0.1, 0.1), LOSS) == 2
    assert checkpoints.best_epoch(_epochs(None, 0.1, None), ACCURACY) == 2
    assert checkpoints.best_epoch(_epochs(None, None), ACCURACY) == 2


@pytest.mark.parametrize(
    ("began", "steps", "first"),
    [
        ((0,), 20, 3),
        ((0,), 2, 3),  # as without --resume
        ((0, 8), 20, 11),
        ((0, 8, 16), 20, 19),
        ((0, 17), 20, 17),  # as many steps as the warm-up
        ((), 0, 3),
    ],
)
def test_the_measured_steps_are_those_of_one_process(began, steps, first):
    known = Kept(facts={}, sha256="", step_s=(0.1,) * steps, data_wait_s=(), loss=(), began=began, epochs=())
    assert unmeasured(known, warmup_steps=3) == first


def test_two_runs_do_not_keep_one_training_at_once(tmp_path):
    folder = tmp_path / "checkpoints" / "net-ddp-1gpu-bs8-seed0"
    code = (
        "import pathlib, sys\n"
        "from harness.stored import checkpoints\n"
        f"with checkpoints.held(pathlib.Path({str(folder)!r})):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    root = Path(checkpoints.__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, text=True, stdin=-1, stdout=-1) as other:
        assert other.stdout.readline() == "held\n"
        says = rf"process {other.pid} keeps the training net-ddp-1gpu-bs8-seed0 .*--resume"
        with pytest.raises(StoreError, match=says), checkpoints.held(folder):
            pass
        other.communicate("")
    # A run may train a case twice.
    with checkpoints.held(folder), checkpoints.held(folder), checkpoints.held(folder.with_name("other-seed0")):
        pass


def test_a_lock_whose_holder_was_killed_is_nobodys(tmp_path):
    folder = tmp_path / "net-seed0"
    code = (
        "import os, pathlib, signal\n"
        "from harness.stored import checkpoints\n"
        f"with checkpoints.held(pathlib.Path({str(folder)!r})):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(checkpoints.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == -signal.SIGKILL
    assert folder.with_name("net-seed0.lock").exists()
    with checkpoints.held(folder):
        pass
