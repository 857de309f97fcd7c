"""`python -m harness verify`: what is stored holds, and an edit of each kind is named, sealed again or not."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness import certificate as certificates
from harness.__main__ import main
from harness.audit.files import audit
from harness.registry import discover
from harness.stored import saved_models, store
from harness.stored.saved_models import SavedModel
from tests.made import made_certificate

ROOT = Path(__file__).parents[1]
STORED = ROOT / "baselines" / "2-core-intel-xeon" / "0002_accepted.json"
ONE, TWO, OTHER = "resnet18-ddp-1gpu-bs8", "resnet18-ddp-2gpu-bs8", "resnet18-zero2-2gpu-bs8"


@pytest.fixture(scope="module")
def known():
    return discover()


@pytest.fixture(scope="module")
def whole():
    """A stored run of this project with three of its cases: the reference and two that refer to it."""
    content = json.loads(STORED.read_bytes())
    content["benchmarks"] = [one for one in content["benchmarks"] if one["param"] in (ONE, TWO, OTHER)]
    assert [one["param"] for one in content["benchmarks"]] == [ONE, TWO, OTHER]
    return content


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "baselines" / "2-core-intel-xeon"
    made.mkdir(parents=True)
    return made


def _write(folder, content, name="0001_accepted.json", *, sealed=True):
    (folder / name).write_text(json.dumps(store.sealed(content) if sealed else content))


def _set(content, place, change):
    """Change a value by its path; returns whether there was one."""
    *holders, last = place
    inner = content
    for key in holders:
        inner = inner[key]
    inner[last] = change(inner[last])


def _case(number, *rest):
    return ("benchmarks", number, "extra_info", "shardbench", *rest)


def _more(value):
    return value * 1.1


def _not(value):
    return not value


def _to(value):
    return lambda _: value


EDITS = {
    "mean": (("benchmarks", 1, "stats", "mean"), _more, f"{TWO}: stats.mean: stored "),
    "median": (("benchmarks", 1, "stats", "median"), _more, f"{TWO}: stats.median: stored "),
    "spread": (("benchmarks", 1, "stats", "stddev"), _more, f"{TWO}: stats.stddev: stored "),
    "rate": (("benchmarks", 1, "stats", "ops"), _more, f"{TWO}: stats.ops: stored "),
    "rounds": (("benchmarks", 1, "stats", "rounds"), lambda n: n + 1, f"{TWO}: stats.rounds: stored "),
    "figures gone": (("benchmarks", 1, "stats"), _to({"mean": 0.1}), f"{TWO}: stats.min: stored None, recomputed "),
    "test": (("benchmarks", 1, "fullname"), _to("benches/x.py::test_train[a]"), f"{TWO}: fullname: "),
    "parameter": (("benchmarks", 1, "param"), _to("resnet18-ddp-4gpu-bs8"), f"{TWO}: param: stored "),
    "axis": (("benchmarks", 1, "params", "precision"), _to("bf16"), f"{TWO}: params.precision: stored 'bf16'"),
    "group": (("benchmarks", 1, "group"), _to("resnet18 bs16"), f"{TWO}: group: stored "),
    "case": (_case(1, "result", "case_id"), _to("resnet18-ddp-4gpu-bs8"), "resnet18-ddp-4gpu-bs8: "),
    "settings": (_case(1, "result", "settings", "epochs"), _to(5), f"{TWO}: result.identity: stored "),
    "identity": (_case(1, "result", "identity"), _to("0" * 16), f"{TWO}: result.identity: stored '0000"),
    "profile": (_case(1, "result", "profile"), _to("paper"), f"{TWO}: result.identity: stored "),
    "host": (_case(1, "result", "host"), _to("8x-nvidia-h200"), f"{TWO}: result.host: stored '8x-nvidia-h200'"),
    "hardware": (_case(1, "result", "hardware"), _to("0" * 16), f"{TWO}: result.hardware: stored "),
    "versions": (_case(1, "result", "versions", "torch"), _to("9.9"), f"{TWO}: result.versions: stored "),
    "shared cores": (_case(1, "result", "oversubscribed"), _not, f"{TWO}: result.oversubscribed: stored True"),
    "a process": (_case(1, "result", "samples", 0, "ranks", 0, "case_us", 0), _to(10**7), f"{TWO}: stats.mean: "),
    "a process gone": (_case(1, "result", "samples"), lambda all_: all_[1:], f"{TWO}: stats.rounds: stored "),
    "the level's speed": (_case(1, "result", "plain_s"), _more, f"{TWO}: stats.mean: stored "),
    "a step": (_case(0, "result", "ranks", 0, "step_s", 3), _to(99.0), f"{ONE}: result.ranks.0.epochs.0.seconds: "),
    "a step of the reference": (
        _case(1, "reference", "ranks", 0, "step_s", 3),
        _more,
        f"{TWO}: reference.ranks: it is not what {ONE} holds of the same measurement",
    ),
    "the reference's case": (_case(1, "reference", "case_id"), _to(TWO), f"{TWO}: reference.case_id: stored "),
    "steps": (
        _case(1, "result", "ranks", 1, "epochs", 0, "steps"),
        _to(3),
        "extra_info.shardbench: holds no valid result",
    ),
    "an epoch": (_case(1, "result", "ranks", 0, "epochs"), _to([]), "extra_info.shardbench: holds no valid result"),
    "waiting": (_case(1, "result", "ranks", 0, "data_wait_s", 4), _to(50.0), f"{TWO}: result.ranks.0.data_wait_s: "),
    "losses gone": (_case(1, "result", "ranks", 0, "loss"), lambda all_: all_[1:], f"{TWO}: result.ranks.0.loss: "),
    "accuracy": (
        _case(1, "result", "ranks", 0, "epochs", 0, "scores", "accuracy"),
        _to(0.98765),
        f"{TWO}: result.epochs.0.scores.accuracy: stored 0.98765, which is no share of ",
    ),
    "parameters": (_case(1, "result", "ranks", 0, "parameters"), _to(5), f"{TWO}: result.ranks.parameters: ranks of"),
    "duration": (_case(1, "result", "wall_s"), _to(0.1), f"{TWO}: result.wall_s: stored 0.1, and the epochs of"),
    "a rank's number": (_case(1, "result", "ranks", 0, "rank"), _to(1), f"{TWO}: result.ranks.rank: stored [1, 1]"),
    "a device": (_case(1, "result", "ranks", 0, "device"), _to("cuda:0"), f"{TWO}: result.ranks.device: stored "),
    "time": (_case(1, "result", "started_unix_s"), _more, f"{TWO}: result.started_unix_s: stored "),
    "a clock": (_case(1, "result", "watched", "readings", 0, "at_s"), _more, f"{TWO}: result.watched.readings.at_s"),
    "memory": (_case(1, "result", "accounts", 0, "kept", "optimizer"), lambda n: n + 4096, f"{TWO}: result.accounts.0"),
    "verdict": (_case(1, "verdict"), _to("mispredicted"), f"{TWO}: result.accounts: the run said 'mispredicted'"),
    "no reasons": (
        _case(1),
        lambda packed: packed | {"verdict": "regressed", "reasons": []},
        f"{TWO}: reasons: a regression, and no reason for it",
    ),
    "a word": (_case(1, "verdict"), _to("fine"), f"{TWO}: verdict: 'fine' is no word of the gate"),
    "no certificate": (_case(1, "certificate"), _to(None), f"{TWO}: verdict: stored True, recomputed False"),
    "a certified figure": (
        _case(1, "certificate", "figures", 0, "difference"),
        _to(0.5),
        f"{TWO}: certificate.found: stored 'bit-equal', recomputed 'differs'",
    ),
    "a grade": (_case(1, "certificate", "found"), _to("rounding"), f"{TWO}: certificate.found: stored 'rounding'"),
    "a fact": (
        _case(1, "certificate", "regime", 0, "strategy"),
        _to("bf16"),
        f"{TWO}: certificate.regime.live weights.same: stored as the same, but 'bf16' is not 'fp32'",
    ),
    "a certificate's case": (_case(1, "certificate", "case_id"), _to(ONE), f"{TWO}: certificate.case_id: stored "),
    "its digest": (_case(1, "certificate", "key"), _to("none"), f"{TWO}: certificate.key: 'none' is no digest"),
    "a collective": (
        _case(1, "certificate", "collectives", 0, "calls"),
        lambda n: n + 1,
        f"{TWO}: certificate.regime.communication.strategy: stored ",
    ),
    "the machine": (("machine_info", "node"), _to("8x-nvidia-h200"), "machine_info.node: stored '8x-nvidia-h200'"),
    "its memory": (("machine_info", "memory_bytes"), lambda n: 2 * n, "machine_info.hardware: stored "),
    "its cores": (("machine_info", "cpu", "count"), _to(64), "machine_info.hardware: stored "),
    "its facts": (("machine_info", "hardware", "stepping"), _to("9"), f"{ONE}: result.hardware: stored "),
    "no machine": (("machine_info",), _to({}), "machine_info: the machine's facts are missing or damaged"),
    "no time": (("datetime",), _to("yesterday"), "datetime: it is missing, or no time"),
    "a case twice": (("benchmarks",), lambda all_: [*all_, all_[1]], "fullname: it is missing, or stands twice"),
    "nothing": (("benchmarks",), _to([]), "benchmarks: the run holds none"),
    "no result": (_case(1, "result"), _to({}), "extra_info.shardbench: holds a result of schema None"),
    "a schema": (_case(1, "result", "schema_version"), _to(9), "extra_info.shardbench: holds a result of schema 9"),
    "no number": (_case(1, "result", "wall_s"), _to("fast"), "extra_info.shardbench: holds no valid result: wall_s"),
}


def test_what_this_project_stores_holds(capsys):
    assert main(["verify", str(ROOT / "baselines"), str(ROOT / "docs" / "nights")]) == 0
    said = capsys.readouterr().out
    assert "216 cases" in said
    assert said.endswith("nothing is wrong\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize(("place", "change", "said"), EDITS.values(), ids=EDITS)
def test_an_edit_is_named_though_the_run_was_sealed_again(folder, whole, known, place, change, said):
    _write(folder, whole)
    assert audit([folder], known).faults == []
    edited = copy.deepcopy(whole)
    _set(edited, place, change)
    _write(folder, edited)
    faults = [str(fault) for fault in audit([folder], known).faults]
    assert [fault for fault in faults if fault.startswith(said) or said in fault], faults


def test_an_edit_that_was_not_sealed_again_is_named_by_its_seal_and_its_figure(folder, whole, capsys):
    edited = json.loads(json.dumps(store.sealed(whole)))
    edited["benchmarks"][1]["stats"]["mean"] *= 0.9
    _write(folder, edited, sealed=False)
    assert main(["verify", str(folder)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == str(folder / "0001_accepted.json")
    assert said[1] == "  seal: the run was changed after it was written: its seal does not fit"
    assert said[2].startswith(f"  {TWO}: stats.mean: stored ")
    assert said[-1].endswith("2 WRONG, see above")


def test_a_speed_that_no_earlier_run_measured_is_named(folder, whole, known):
    """The seconds of a level are told at the speed of its first run, so that a machine's own speed cancels."""
    faster = copy.deepcopy(whole)
    held = faster["benchmarks"][1]
    held["extra_info"]["shardbench"]["result"]["plain_s"] *= 0.5
    for name, value in held["stats"].items():
        if name not in ("rounds", "iterations", "ops", "outliers", "iqr_outliers", "stddev_outliers"):
            held["stats"][name] = 0.5 * value
    held["stats"]["ops"] *= 2
    _write(folder, faster, "0002_accepted.json")
    assert audit([folder], known).faults == []  # alone it may stand on a run that is not there
    _write(folder, whole, "0001_accepted.json")
    (fault,) = audit([folder], known).faults
    assert (fault.case, fault.field) == (TWO, "result.plain_s")
    assert "nor has an earlier run of the folder that figure" in fault.said


def test_a_run_in_another_machines_folder_is_named(folder, whole, known):
    other = folder.parent / "64-core-other"
    other.mkdir()
    _write(other, whole)
    (fault,) = audit([folder.parent], known).faults
    assert str(fault).startswith("machine_info.node: stored '2-core-intel-xeon', recomputed '64-core-other'")


def test_a_model_that_is_not_known_is_not_passed_as_verified(folder, whole, known):
    without = {name: model for name, model in known.models.items() if name != "resnet18"}
    _write(folder, whole)
    faults = audit([folder], replace(known, models=without)).faults
    assert "'resnet18' is not known here, so it cannot be looked at: name its module with --plugins" in str(faults[0])


def test_kept_certificates_are_held_to_their_names_and_figures(tmp_path, known):
    good = made_certificate()
    file = tmp_path / f"{good.case_id}-{good.key}.json"
    certificates.write(good, file)
    assert audit([tmp_path], known).faults == []
    plain = json.loads(file.read_text())
    file.with_name(f"{good.case_id}-aaaaaaaaaaaaaaaa.json").write_text(json.dumps(plain))
    plain["figures"][0]["difference"] = 0.25
    file.write_text(json.dumps(plain))
    faults = [str(fault) for fault in audit([tmp_path], known).faults]
    assert [fault.partition(":")[0] for fault in faults] == ["found", "causes", "key"]


def test_a_saved_model_is_held_to_its_digests(tmp_path, known):
    part, target = tmp_path / "part", tmp_path / "model"
    part.mkdir()
    (part / "model.safetensors").write_bytes(b"weights")
    about = SavedModel(
        model="resnet18",
        classes=10,
        image_size=8,
        dataset="digits",
        case_id=ONE,
        profile="smoke",
        epoch=1,
        metric="accuracy",
        scores={},
        batch_size=8,
        settings={},
    )
    saved_models.complete(part, target, about)
    assert audit([target], known).faults == []
    (target / "model.safetensors").write_bytes(b"Weights")
    (fault,) = audit([target], known).faults
    assert "is damaged: its checksum is not the one it was saved with" in fault.said


def test_counted_nights_are_held_to_the_page_that_was_made_of_them(tmp_path, known):
    nights = tmp_path / "nights"
    shutil.copytree(ROOT / "docs" / "nights", nights)
    shutil.copy(ROOT / "docs" / "gate_live.md", tmp_path / "gate_live.md")
    assert audit([nights], known).faults == []
    (file,) = nights.glob("*/time.json")
    plain = json.loads(file.read_text())
    plain[0]["trials"][1] |= {"word": "passed", "count": 7}
    file.write_text(json.dumps(plain))
    faults = audit([nights], known).faults
    assert {Path(fault.where).name for fault in faults} == {"gate_live.md"}
    plain[0]["trials"][1] |= {"plant": "burn:fast", "count": -1}
    plain[0]["date"] = "today"
    file.write_text(json.dumps(plain))
    assert {fault.field for fault in audit([nights], known).faults} >= {"0.date", "0.trials.count", "0.trials.plant"}


def test_what_is_no_record_is_not_passed_over(tmp_path, known, capsys):
    (tmp_path / "a.json").write_text('{"results": []}')
    (tmp_path / "b.json").write_text("[1, 2]")
    (tmp_path / "c.json").write_text('{"benchmarks": [')
    (tmp_path / "d.json").write_text('"text"')
    assert [Path(fault.where).name for fault in audit([tmp_path], known).faults] == [
        *("a.json", "b.json", "c.json", "d.json")
    ]
    assert main(["verify", str(tmp_path)]) == 1
    assert "c.json\n  is truncated: it ends within its JSON" in capsys.readouterr().out


def test_a_path_without_records_is_wrong_usage(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "holds no record" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "gone.json")]) == 2
    assert "there is no file or folder" in capsys.readouterr().err
