"""Stored runs become tables: one row a case, units in the names, and nothing made up where nothing was measured."""

from __future__ import annotations

import json
import math

import pytest

from harness import frames
from harness.errors import StoreError
from harness.results import EpochReport, Memory
from harness.stored.store import Stored, pack, sealed
from tests.made import made_certificate, made_report, made_result


def stored(case_id="resnet18-ddp-2gpu-bs8", *, reference=None, certificate=None, verdict="passed", **over):
    gpus = int(case_id.split("-")[2].removesuffix("gpu"))
    ranks = [made_report(rank, gpus, **over) for rank in range(gpus)]
    return Stored(
        where="made",
        result=made_result(case_id, *ranks),
        reference=reference,
        certificate=certificate,
        verdict=verdict,
    )


def test_a_case_is_a_row_with_its_axes_and_its_figures():
    # Two steps of 0.2 s in an epoch; the reference of one GPU takes as long for half the images.
    one = stored(reference=made_result(), certificate=made_certificate())
    row = frames.frame([one]).iloc[0]
    assert (row.case, row.model, row.strategy) == ("resnet18-ddp-2gpu-bs8", "resnet18", "ddp")
    assert (row.gpus, row.batch_per_gpu, row.options, row.dataset, row.host) == (2, 8, "", "digits", "2-core-made")
    assert row.step_ms == pytest.approx(200)
    assert row.images_per_s == pytest.approx(80)
    assert row.speedup == pytest.approx(2)
    assert row.efficiency_percent == pytest.approx(100)
    assert row.peak_memory_gib == 0.5
    assert row.loss == pytest.approx(0.75)
    assert row.val_accuracy == 0.875
    assert (row.verdict, bool(row.certified)) == ("passed", True)


def test_what_was_not_measured_is_missing():
    row = frames.frame([stored(memory=Memory(), epochs=())]).iloc[0]
    for name in ("speedup", "efficiency_percent", "peak_memory_gib", "loss", "busy_percent", "power_w"):
        assert row[name] is None or math.isnan(row[name]), name
    assert not row.certified
    assert "val_accuracy" not in row.index


def test_a_score_that_only_some_cases_have_is_missing_in_the_others():
    scored = EpochReport(seconds=1.0, steps=2, scores={"map": 0.25})
    table = frames.frame([stored(), stored("fasterrcnn_r18-ddp-1gpu-bs2", epochs=(scored,))])
    assert list(table.val_map.isna()) == [True, False]
    assert list(table.val_accuracy.isna()) == [False, True]


def test_options_are_a_column():
    assert list(frames.frame([stored("resnet18-fsdp2-2gpu-bs8-bf16-ckpt")]).options) == ["bf16-ckpt"]


def test_every_epoch_is_a_row_with_the_slowest_ranks_seconds():
    one = stored()
    slow = made_report(1, 2, epochs=tuple(EpochReport(seconds=s, steps=2) for s in (1.5, 0.5)))
    result = made_result("resnet18-ddp-2gpu-bs8", one.result.lead, slow)
    table = frames.epochs([Stored(where="made", result=result, reference=None, verdict="passed")])
    assert list(table.epoch) == [1, 2]
    assert list(table.epoch_s) == [1.5, 1.0]
    assert list(table.loss) == [3.0, 0.75]
    assert list(table.val_accuracy) == [0.5, 0.875]


def test_no_case_makes_an_empty_table():
    assert len(frames.frame([])) == len(frames.epochs([])) == 0


def write(file, *cases, host="made"):
    benchmarks = [
        {
            "fullname": one.result.case_id,
            "stats": {"mean": 0.2},
            "extra_info": pack(one.result, None, None, verdict="new"),
        }
        for one in cases
    ]
    other = {"fullname": "of another suite", "stats": {"mean": 0.2}, "extra_info": {}}
    content = {"benchmarks": [*benchmarks, other], "datetime": "2026-01-02T03:04:05", "machine_info": {"node": host}}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(sealed(content)))


def test_stored_runs_are_found_machine_by_machine_and_oldest_first(tmp_path):
    for name in ("b/0002_later.json", "b/0001_accepted.json", "a/0001_accepted.json", "a/notes.json"):
        write(tmp_path / name, stored(), host=name[0])
    found = frames.runs(tmp_path)
    assert [(row.host, row.file.name) for row in found.itertuples()] == [
        ("a", "0001_accepted.json"),
        ("b", "0001_accepted.json"),
        ("b", "0002_later.json"),
    ]
    assert found["at"].iloc[0].isoformat() == "2026-01-02T03:04:05"


def test_one_file_is_a_run_too_and_what_is_not_of_this_suite_is_no_case(tmp_path):
    write(tmp_path / "0001_accepted.json", stored())
    (file,) = frames.runs(tmp_path / "0001_accepted.json").file
    (one,) = frames.read(file)
    assert (one.result.case_id, one.verdict, one.where) == ("resnet18-ddp-2gpu-bs8", "new", "0001_accepted.json")


def test_a_folder_without_stored_runs_says_what_to_do(tmp_path):
    with pytest.raises(StoreError, match="holds no stored run; make one with pytest benches --benchmark-save"):
        frames.runs(tmp_path)
