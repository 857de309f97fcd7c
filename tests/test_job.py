"""A job is the same on both sides of its file, and a rank refuses what is none."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.running import job as jobs
from harness.running.job import DataSettings, Job, OptimizerSettings

JOB = Job(
    case_id="resnet18-zero2-2gpu-bs8",
    purpose="warm_start",
    ranks=2,
    device_kind="cpu",
    backend="gloo",
    data=DataSettings(name="digits", root=Path("/cache"), image_size=16, train_images=64, val_images=13),
    epochs=2,
    warmup_steps=1,
    measured_steps=4,
    optimizer=OptimizerSettings(name="adamw", arguments={"lr": 0.1, "weight_decay": 5e-4}),
    weights=Path("/cache/net.pt"),
    cores=(1, 3),
    plugins=("my.module",),
    asked_s=12.5,
    folder=Path("/tmp/job"),
)


def test_a_job_comes_back_as_it_was_written(tmp_path):
    jobs.write(JOB, tmp_path / "job.json")
    assert jobs.read(tmp_path / "job.json") == JOB


def test_a_full_disk_is_told(tmp_path):
    (tmp_path / f".job.json.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"job\.json cannot be written: No space left on device; free or change"):
        jobs.write(JOB, tmp_path / "job.json")


@pytest.mark.parametrize("change", [{"ranks": "two"}, {"device_kind": "tpu"}, {"rank": 1}, {"epochs": None}])
def test_what_is_no_job_is_refused_by_name(tmp_path, change):
    file = tmp_path / "job.json"
    jobs.write(JOB, file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(StoreError, match=rf"job file {file} cannot be read: (?s:.*){next(iter(change))}"):
        jobs.read(file)
    file.write_text(file.read_text()[:-5])
    with pytest.raises(StoreError, match=str(file)):
        jobs.read(file)
    with pytest.raises(StoreError, match="No such file"):
        jobs.read(tmp_path / "gone.json")


def test_data_and_optimizer_reach_the_plug_ins_as_they_were_set():
    data = replace(JOB.data, download=True).spec
    assert (data.root, data.image_size, data.train_images, data.val_images) == (Path("/cache"), 16, 64, 13)
    # Whatever seed a case is trained with, it is trained on the same images.
    assert (data.seed, data.download) == (0, True)
    assert JOB.optimizer.spec.name == "adamw"
    assert JOB.optimizer.spec.arguments == {"lr": 0.1, "weight_decay": 5e-4}
