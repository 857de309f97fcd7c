"""A study runs whole under every profile, says which it is, and tells ours from what was published."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from harness import profiles
from harness.case import Case
from harness.errors import PluginError, ProfileError, StoreError, WorkerFailed
from harness.evidence.tables import HERE, PUBLISHED
from harness.figures.charts import Series, lines
from harness.gate.limits import Verdict
from harness.published import FOLDER, load
from harness.registry import discover
from harness.report import studies
from harness.running.explainer import Explainer
from harness.running.pipeline import Outcome
from harness.studying import study_run
from tests.made import made_baseline, made_certificate, made_host, made_trace
from tests.made_studies import PROFILES, made_evidence, made_run, made_study

ROOT = Path(__file__).parents[1]
NAMES = ("detection", "detection_full", "vit", "strategies", "dataparallel")


@pytest.fixture(scope="module")
def registry():
    return discover(studies=True)


@pytest.fixture(scope="module")
def whole(registry):
    """Return a function that makes a study of which every case without DataParallel ran."""

    def make(name, profile="smoke", **over):
        study = made_study(name, registry, profile)
        score = "map" if name.startswith("detection") else "accuracy"
        runs = (
            made_run(case.id, 100 / case.gpu_count + place, score=score, **over)
            for place, case in enumerate(study.cases)
            if case.strategy != "dp"
        )
        return study, made_evidence(study, *runs)

    return make


def _lines(study, evidence):
    tables, claims = list(study.study.tables(evidence)), list(study.study.claims(evidence))
    return [
        *studies.heading(study.study, evidence),
        *studies.mistakes(study.published),
        *studies.tables(tables),
        *studies.claims(claims),
    ]


def _rows(study, evidence, name):
    (table,) = [one for one in study.study.tables(evidence) if one.name == name]
    return [dict(zip(table.head, row, strict=True)) for row in table.rows]


# ---------------------------------------------------------------------------------------------------- plans


def test_the_studies_are_found_by_their_folder_and_ranks_do_without(registry):
    assert set(NAMES) <= registry.studies.keys()
    assert discover().studies == {}


def test_an_unknown_study_is_refused_with_a_suggestion(registry):
    with pytest.raises(PluginError, match=r"no study 'detecton'; did you mean 'detection'\?"):
        study_run("detecton", profiles.load(PROFILES)["smoke"], registry, report=None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", ["smoke", "standard", "paper"])
def test_every_study_has_cases_that_its_profile_settles(registry, name, profile):
    study = made_study(name, registry, profile)
    assert len(study.cases) == len(set(study.cases)) > 5
    for case in study.cases:
        assert study.profile.settings(registry.find("models", case.model)).epochs
    assert study.in_small == (profile != "paper")


def test_on_paper_the_cases_are_the_published_ones(registry):
    ids = {case.id for case in made_study("detection", registry, "paper").cases}
    assert {f"fasterrcnn_r50-{one}-{gpus}gpu-bs8" for one in ("ddp", "fsdp1", "zero1") for gpus in (2, 4)} <= ids
    assert {"fasterrcnn_r50-ddp-2gpu-bs8-bf16", "fasterrcnn_r50-zero1-2gpu-bs8-offload"} <= ids
    sweep = {case.id for case in made_study("dataparallel", registry, "paper").cases}
    assert {f"resnet18-ddp-1gpu-bs{batch}" for batch in (32, 128, 512, 2048)} <= sweep
    # Six updates of 8,192 images an epoch: the warm-up is the first of five epochs.
    assert "resnet18-ddp-4gpu-bs2048-warmup6-lrscale" in sweep
    full = made_study("detection_full", registry, "paper")
    assert {case.gpu_count for case in full.cases} == {4, 8, 16}
    assert full.profile.settings(registry.find("models", "fasterrcnn_r50")).train_images is None


def test_in_small_other_models_stand_in_and_batches_are_divided(registry):
    assert {case.model for case in made_study("vit", registry).cases} == {"vit_tiny"}
    assert {case.batch_size for case in made_study("dataparallel", registry).cases} == {4, 8, 32, 64, 128}


def test_a_studys_results_are_apart_from_those_of_plain_runs(registry):
    plain = profiles.load(PROFILES)["smoke"]
    study = plain.for_study("detection")
    assert study.name == "smoke-detection"
    model = registry.find("models", "fasterrcnn_r18")
    assert (plain.settings(model).epochs, study.settings(model).epochs) == (1, 5)
    # It begins with the weights that the plain run begins with.
    assert study.begun_with(model) == plain.begun_with(model) == plain.settings(model)
    # Without a warm start, or on other images, with its own.
    other = plain.for_study("strategies").begun_with(registry.find("models", "resnet18"))
    assert (other.image_size, other.warm_start) == (8, None)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("[made.studies.detecton]", r"no study 'detecton'; did you mean 'detection'\?"),
        ("[made.studies.detection.models.nte]", r"no model 'nte'; did you mean 'net'\?"),
        ("[made.studies.detection.kinds.image]", "no input kind 'image'"),
        ('[made.studies.detection]\nstands_in = { net = "nte" }', "no model 'nte'"),
        ("[made.studies.detection]\nepochs = 5", "epochs"),
        ("[made.studies.detection]\nprocesses = 0", "processes"),
        ("[made.studies.detection]\nprocess_s = nan", "process_s"),
    ],
)
def test_what_a_profile_gets_wrong_about_a_study_is_named(tmp_path, table, says):
    file = tmp_path / "profiles.toml"
    file.write_text(f"[made]\nabout = 'made'\ncase_timeout_s = 60\n{table}\n")
    with pytest.raises(ProfileError, match=says):
        profiles.refuse_unknown(profiles.load(file)["made"], models=["net"], studies=["detection", "vit"])


def test_a_study_of_a_module_is_run_like_the_others(tmp_path, monkeypatch, registry):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_study.py").write_text(
        "from harness.case import Case\n"
        "from harness.evidence import claims\n"
        "from harness.plugins import Planned, Study\n"
        "PAIR = tuple(Case(model='resnet18', strategy=one, gpu_count=2, batch_size=8) for one in ('ddp', 'zero1'))\n"
        "MINE = Study(\n"
        "    name='mine',\n"
        "    about='my own',\n"
        "    plan=lambda profile, registry: [Planned(case=one) for one in PAIR],\n"
        "    tables=lambda evidence: (),\n"
        "    claims=lambda evidence: [claims.faster(evidence, 'ddp wins', PAIR)],\n"
        ")\n"
    )
    study = study_run("mine", profiles.load(PROFILES)["smoke"], discover(["my_study"], studies=True), report=None)
    runs = (made_run(case.id, 10 + place) for place, case in enumerate(study.cases))
    (claim,) = study.study.claims(made_evidence(study, *runs))
    assert claim.word == "confirmed"


def test_a_study_runs_no_reference_that_is_not_its_own(make_pipeline):
    wanted = Case(model="tiny_net", strategy="zero1", gpu_count=2, batch_size=4)
    result, note = make_pipeline(references=frozenset()).reference(wanted)
    assert result is None
    assert note == "no speedup over one GPU where the study has no such case"


@pytest.mark.parametrize(("which", "purpose"), [("accounted_too", "account"), ("traced_too", "trace")])
def test_only_cases_that_need_it_are_run_again_to_be_explained(which, purpose):
    asked = []

    def launch(case, title, **over):
        asked.append((case.id, over["purpose"]))
        raise WorkerFailed("no ranks here")

    one, other = made_run("resnet18-ddp-2gpu-bs8"), made_run("resnet18-ddp-1gpu-bs8")
    explainer = Explainer(launch=launch, sampled=lambda case, interval_s: nullcontext(), **{which: {one.case}})
    assert explainer.explain(other.case, other.result) is other.result
    with pytest.raises(WorkerFailed):
        explainer.explain(one.case, one.result)
    assert asked == [("resnet18-ddp-2gpu-bs8", purpose)]


def test_what_became_of_each_case_is_known_with_its_reason(registry):
    study = made_study("strategies", registry)
    cannot, failed, full, odd, timeless, *left = study.cases
    study.impossible[cannot] = "dp needs CUDA; so it is"
    study.chosen = {cannot, failed, full, odd, timeless}
    outcomes = [
        Outcome(
            case=case,
            result=made_run(case.id).result,
            reference=None,
            reference_note="",
            verdict=Verdict(word="new"),
            certificate=made_certificate(case.id, **over),
            baseline=made_baseline(),
        )
        for case, over in ((odd, {"causes": ("clipping: to a norm of 1",)}), (timeless, {}))
    ]
    failure = {timeless: WorkerFailed("rank 1 was killed\n  log")}
    evidence = study.evidence(outcomes, out_of_memory={full: "3 GiB"}, untimed=failure)
    assert evidence.missing == {
        cannot: "dp needs CUDA; so it is",
        failed: "it failed, or the run ended before it",
        full: "out of memory",
        **dict.fromkeys(left, "not chosen in this run"),
    }
    assert evidence.run(odd).uncertified == "clipping: to a norm of 1"
    assert evidence.certified(odd) is None
    assert (evidence.run(timeless).uncertified, evidence.run(timeless).untimed) == ("", "rank 1 was killed")
    assert evidence.why_not(cannot) == "dp needs CUDA"


def test_a_case_that_is_left_out_is_named_with_its_word(registry):
    study = made_study("detection", registry)
    evidence = study.evidence([], out_of_memory={}, untimed={})
    assert evidence.missing[Case.parse("fasterrcnn_r18-zero1-2gpu-bs2-offload")] == "left out, name it with -k offload"


# ---------------------------------------------------------------------------------------------------- lines


@pytest.mark.parametrize("name", NAMES)
def test_a_study_is_told_in_lines_of_a_terminal_and_says_that_it_is_small(whole, name):
    lines = _lines(*whole(name))
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(f"IN SMALL, profile smoke-{name}: ") for line in lines)
    assert not any(line.startswith("IN SMALL") for line in _lines(*whole(name, "paper")))


def test_a_study_of_which_nothing_ran_still_shows_what_was_published(registry):
    study = made_study("detection", registry)
    evidence = made_evidence(study, missing="4 GPUs asked for")
    text = "\n".join(_lines(study, evidence))
    assert "0.4698" in text
    assert "confirmed" not in text.replace("0 confirmed", "")
    assert {claim.word for claim in study.study.claims(evidence)} == {"cannot tell"}
    assert all("4 GPUs asked for" in claim.reason for claim in study.study.claims(evidence))


def test_epochs_stand_beside_the_published_ones(whole):
    study, evidence = whole("detection", scores=(0.375,))
    rows = [row for row in _rows(study, evidence, "epochs") if row["figure"] == "mAP"]
    ddp = [(row["case"], row["whose"], row["1"], row["5"]) for row in rows[:2]]
    assert ddp == [("ddp-2gpu-bs2", HERE, 0.375, None), ("ddp-2gpu-bs2", PUBLISHED, 0.1432, 0.1359)]
    assert not [row for row in rows if row["case"].startswith("zero3") and row["whose"] == PUBLISHED]


def test_the_whole_data_set_is_not_held_to_figures_of_a_part_of_it(whole):
    study, evidence = whole("detection_full")
    assert not [row for row in _rows(study, evidence, "epochs") if row["whose"] == PUBLISHED]
    assert list(study.study.claims(evidence)) == []


def test_the_summary_has_the_studys_columns(whole):
    study, evidence = whole("detection")
    (ddp, fsdp, *_) = _rows(study, evidence, "summary")
    # 100 / 2 ms at first and 100 / 4 + 1 ms at second: 4 / 2 x 50 / 26.
    assert ddp["4-GPU speedup"] == pytest.approx(2 * 50 / 26)
    assert ddp["memory eff."] == 1.0
    assert ddp["effort"] < fsdp["effort"]


def test_open_ends_that_did_not_run_are_named_in_full(registry):
    study = made_study("detection", registry)
    text = " ".join("\n".join(_lines(study, study.evidence([], out_of_memory={}, untimed={}))).split())
    assert "fasterrcnn_r18-zero1-2gpu-bs2-offload, fasterrcnn_r18-zero3-2gpu-bs2-offload: left out" in text


def test_an_uncertified_case_has_no_speedup_and_is_marked(whole):
    study, evidence = whole("detection", uncertified="clipping: to a norm of 1")
    row = _rows(study, evidence, "summary")[0]
    assert row["case"] == "ddp-4gpu-bs2?"
    assert row["4-GPU speedup"] is None


def test_claims_of_the_detection_study_are_confirmed_and_contradicted_by_what_ran(registry):
    study = made_study("detection", registry)
    step_ms = {("ddp", 2): 10, ("ddp", 4): 12.5, ("fsdp1", 2): 12, ("zero1", 2): 11}
    runs = (made_run(f"fasterrcnn_r18-{one}-{gpus}gpu-bs2", ms, score="map") for (one, gpus), ms in step_ms.items())
    found = {claim.text: claim for claim in study.study.claims(made_evidence(study, *runs))}
    assert found["ddp: 4 GPUs over 2"].word == "confirmed"  # 2 x 10 / 12.5 = 1.6
    assert found["ddp is faster than fsdp1 on 2 GPUs"].word == "confirmed"
    assert found["zero1 is faster than ddp on 2 GPUs"].word == "contradicted"
    assert found["fsdp1: 4 GPUs over 2"].word == "cannot tell"
    assert found["fsdp1 ends with another mAP than ddp on 2 GPUs"].word == "contradicted"


def test_a_planted_mistake_in_published_arithmetic_is_shown_and_the_claim_is_of_what_is_right(registry, tmp_path):
    content = json.loads((FOLDER / "detection.json").read_text())
    for figure in content["figures"]:
        if figure["name"] == "speedup_4_over_2" and figure["axes"] == {"strategy": "ddp"}:
            figure["values"] = [2.4]
    file = tmp_path / "detection.json"
    file.write_text(json.dumps(content))
    published = load(file)
    (line,) = [line for line in studies.mistakes(published) if "printed" in line]
    assert "printed 2.4, but 591 / 364 is 1.6" in line
    study = replace(made_study("detection", registry), published=published)
    runs = (made_run(f"fasterrcnn_r18-ddp-{gpus}gpu-bs2", ms, score="map") for gpus, ms in ((2, 10), (4, 12.5)))
    (claim,) = [one for one in study.study.claims(made_evidence(study, *runs)) if one.text.startswith("ddp: 4 GPUs")]
    assert claim.word == "confirmed"


def test_the_data_parallel_study_shows_how_much_of_the_gap_is_closed(registry):
    study = made_study("dataparallel", registry)
    small, large = "resnet18-ddp-1gpu-bs8", "resnet18-ddp-4gpu-bs128"
    accuracy = {small: 0.9, large: 0.7, f"{large}-lrscale": 0.75, f"{large}-warmup2-lrscale": 0.85}
    evidence = made_evidence(study, *(made_run(case, scores=(value,)) for case, value in accuracy.items()))
    closed = {row["case"]: row["gap closed"] for row in _rows(study, evidence, "large_batch")}
    assert closed["ddp-4gpu-bs128-lrscale"] == pytest.approx(0.25)
    assert closed["ddp-4gpu-bs128-warmup2-lrscale"] == pytest.approx(0.75)
    assert closed["ddp-1gpu-bs8"] is None


def test_communication_is_told_by_epochs_of_traced_steps(registry):
    study = made_study("dataparallel", registry)
    run = made_run("resnet18-ddp-2gpu-bs8")
    trace = made_trace(compute=((0, 60),), update=(0, 100))
    evidence = made_evidence(study, replace(run, result=replace(run.result, traces=(trace, trace))))
    (row,) = [row for row in _rows(study, evidence, "communication") if row["whose"] == HERE]
    # 60 ms of compute in each of an epoch's two steps; nothing moved, so there is no bandwidth.
    assert row["compute"] == pytest.approx(0.12)
    assert (row["not hidden"], row["moving"], row["GB/s"]) == (0, 0, None)


def test_what_a_cpu_cannot_tell_is_not_available_with_the_reason(whole):
    study, evidence = whole("strategies")
    rows = [row for row in _rows(study, evidence, "strategies") if row["whose"] == HERE]
    assert {(row["util %"], row["power W"]) for row in rows} == {(None, None)}
    assert "utilisation and power: no run of a case was accounted" in "\n".join(_lines(study, evidence))


def test_an_anchor_is_no_measure_of_another_experiment(whole):
    study, evidence = whole("vit")
    claim = next(iter(study.study.claims(evidence)))
    assert claim.word == "cannot tell"
    assert "model vit_tiny instead of vit_b16, dataset digits instead of cifar100" in claim.reason


# ---------------------------------------------------------------------------------------------------- files


def test_a_report_holds_every_table_claim_and_raw_result(whole, tmp_path):
    study, evidence = whole("detection")
    figure = lines(name="speedups", title="", x_label="", y_label="", series=[Series(label="a", x=(1,), y=(2,))])
    drawn = replace(study.study, figures=lambda evidence: (figure,))
    tables, claims = list(drawn.tables(evidence)), list(drawn.claims(evidence))
    files = studies.write(tmp_path / "made", drawn, evidence, made_host(), tables, claims)
    assert {str(file.relative_to(tmp_path / "made")) for file in files} == {
        *("detection.json", "results.json"),
        *(f"tables/{name}.csv" for name in ("epochs", "speedups", "summary", "open_ends")),
        # A figure of a table's name takes nothing from it.
        *(f"figures/speedups.{ending}" for ending in ("csv", "png", "svg")),
    }
    with (tmp_path / "made" / "tables" / "speedups.csv").open() as file:
        assert next(csv.reader(file))[:3] == ["case", "here", "95 % interval"]
    content = json.loads((tmp_path / "made" / "detection.json").read_text())
    assert content["in_small"] is True
    assert len(content["claims"]) == len(claims) == 15
    results = json.loads((tmp_path / "made" / "results.json").read_text())
    assert results.keys() == {case.id for case in evidence.runs}
    with (tmp_path / "made" / "tables" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["4-GPU speedup"]) == pytest.approx(2 * 50 / 26)


def test_figures_overlay_strategies_and_what_was_published(whole, tmp_path):
    study, evidence = whole("detection")
    made = {one.name: one for one in study.study.figures(evidence)}
    assert {f"{figure}_{gpus}gpu" for figure in ("loss", "seconds", "map") for gpus in (2, 4)} <= made.keys()
    labels = {row[0] for row in made["loss_2gpu"].rows}
    assert {"ddp-2gpu-bs2", "ddp 2 GPUs, published"} <= labels


def test_a_report_that_cannot_be_written_says_so(whole, tmp_path):
    study, evidence = whole("vit")
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match="taken cannot be written"):
        studies.write(tmp_path / "taken", study.study, evidence, made_host(), [], [])


# ------------------------------------------------------------------------------------------------------ run


def _run(*arguments):
    command = [sys.executable, "-m", "pytest", "benches"]
    for module in ("plugins_for_tests", "study_for_tests"):
        command += ["--plugins", module]
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    environment["PYTHONPATH"] = str(ROOT / "tests")
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--study", "tniy"), "no study 'tniy'; did you mean 'tiny'?"),
        (("--study-report", "somewhere"), "--study-report has nothing to write: name a study with --study"),
        (("--study", "tiny", "--options", "bf16"), "--study has the cases and options of the study tiny"),
        (("--study", "tiny", "-k", "3gpu"), "no case with '3gpu'"),
    ],
)
def test_what_makes_no_study_is_one_clear_error(arguments, says):
    done = _run("--collect-only", "-q", *arguments)
    assert done.returncode == 4, done.stdout + done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_part_of_a_study_can_be_chosen_and_nothing_else_is_collected():
    done = _run("--collect-only", "-q", "--study", "tiny", "-k", "ddp and bs16")
    assert re.findall(r"^benches/.*", done.stdout, re.MULTILINE) == [
        "benches/test_classification.py::test_train[tiny_net-ddp-1gpu-bs16]"
    ]


def test_a_study_runs_is_told_written_and_stored_apart_from_plain_runs(tmp_path):
    storage = (f"--benchmark-storage=file://{tmp_path}/stored", "--gate-policy", "pr")
    done = _run("--study", "tiny", "--study-report", str(tmp_path / "made"), "--benchmark-save=x", *storage)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed, 1 skipped" in done.stdout
    said = " ".join(done.stdout.split())
    assert "IN SMALL, profile smoke-tiny" in said
    assert "the larger batch is faster" in said
    assert re.search(r"cannot tell, 4096 \w+ asked for, \d+ can be had .*: many GPUs are faster than one", said)
    results = json.loads((tmp_path / "made" / "results.json").read_text())
    assert results.keys() == {"tiny_net-ddp-1gpu-bs8", "tiny_net-ddp-1gpu-bs16"}
    assert all(result["profile"] == "smoke-tiny" for result in results.values())
    # Processes of every case, stored runs or none.
    assert all(len(result["samples"]) >= 3 for result in results.values())
    # What a study stored has not vanished from a plain run, nor is it what that is held to.
    plain = _run("--collect-only", "-q", "-k", "tiny_net and ddp", "--benchmark-compare", *storage)
    assert "vanished" not in plain.stdout
    assert "tiny_net-ddp-4gpu-bs8" in plain.stdout
