"""From a case to its verdict: what is run once and shared, what it is held to, where a reference comes from."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from harness.case import Case
from harness.errors import DataError, WorkerFailed
from harness.gate.timing import TimeVerdict
from harness.plugins import Model
from harness.running.pipeline import Pipeline, reference_of
from harness.running.timekeeper import Timekeeper
from harness.session.told import told_seconds
from harness.stored.baselines import Baseline
from harness.stored.store import Stored
from tests.made import made_baseline, made_certificate, made_result, made_samples


def _case(strategy: str, gpus: int = 2) -> Case:
    return Case(model="tiny_net", strategy=strategy, gpu_count=gpus, batch_size=4)


def test_every_strategy_sees_the_same_batches_and_trains_to_the_same_losses(pipeline):
    strategies = ("ddp", "fsdp1", "fsdp2", "fairscale_fsdp", "fairscale_sdp", "zero1", "zero2", "zero3")
    losses = {name: [rank.loss for rank in pipeline.measure(_case(name)).ranks] for name in strategies}
    for name in strategies[1:]:
        for got, wanted in zip(losses[name], losses["ddp"], strict=True):
            # Sums in another order differ in the last bits of FP32 and no more.
            assert got == pytest.approx(wanted, rel=1e-5), name
    assert losses["ddp"][0] != losses["ddp"][1], "each rank has images of its own"


def test_every_strategy_is_scored_on_every_image_alike(pipeline):
    scores = {name: pipeline.measure(_case(name)).lead.epochs[-1].scores for name in ("ddp", "fsdp2", "zero3")}
    assert scores["ddp"] == scores["fsdp2"] == scores["zero3"]
    # 13 images: a score of thirteenths shows that 2 ranks counted each of them once.
    assert scores["ddp"]["accuracy"] * 13 == pytest.approx(round(scores["ddp"]["accuracy"] * 13))


def test_a_case_is_run_once_and_its_reference_shared(pipeline):
    case = _case("zero1")
    outcome = pipeline.run(case)
    assert outcome.verdict.word == "new"
    assert outcome.reference is pipeline.measure(reference_of(case))
    assert pipeline.run(case).result is outcome.result


def test_the_reference_is_its_own_reference(pipeline):
    outcome = pipeline.run(reference_of(_case("zero1")))
    assert outcome.reference is outcome.result


def test_a_case_is_certified_before_it_is_measured(pipeline):
    outcome = pipeline.run(_case("zero1"))
    assert outcome.certificate.granted
    assert outcome.certificate is pipeline.certificate(_case("zero1"))
    assert pipeline.certificate(_case("fsdp1")).key != outcome.certificate.key


def test_a_kept_certificate_serves_the_next_run(make_pipeline, pipeline, monkeypatch):
    made = pipeline.certificate(_case("ddp", gpus=1))
    second = make_pipeline()
    monkeypatch.setattr(second.ranks, "prepare", lambda case: None)
    monkeypatch.setattr(second.certifier, "launch", None)
    assert second.certificate(_case("ddp", gpus=1)) == made
    assert second.certifier.made == []
    second.close()


def test_a_case_without_a_certificate_is_measured_but_has_no_speedup_and_no_verdict(pipeline, monkeypatch):
    case = _case("zero1")
    refused = made_certificate(case.id, causes=("the gradient is halved",))
    monkeypatch.setitem(pipeline.certifier.known, case, refused)
    outcome = pipeline.run(case)
    assert (outcome.verdict.word, outcome.reference, outcome.certificate) == ("uncertified", None, refused)
    assert outcome.result is pipeline.measure(case)


def test_a_reference_without_a_certificate_gives_no_speedup(pipeline, monkeypatch):
    case = _case("zero1")
    refused = made_certificate(reference_of(case).id, causes=("the gradient is halved",))
    monkeypatch.setitem(pipeline.certifier.known, reference_of(case), refused)
    outcome = pipeline.run(case)
    assert (outcome.verdict.word, outcome.reference) == ("new", None)
    assert outcome.reference_note == "the reference tiny_net-ddp-1gpu-bs4 has no certificate"


def test_further_seeds_are_trained_alike_for_their_accuracy(pipeline, monkeypatch):
    """The same seeds for every strategy, so that its runs can be compared pair by pair."""
    plain = pipeline.measure(_case("ddp", gpus=1))
    monkeypatch.setattr(pipeline, "options", replace(pipeline.options, seeds=3))
    results = {name: pipeline.fresh(_case(name, gpus=1)) for name in ("ddp", "fsdp2")}
    for result in results.values():
        assert [repeat.seed for repeat in result.repeats] == [1, 2]
        scores = result.last_scores("accuracy")
        assert len(scores) == 3
        assert None not in scores
    assert results["ddp"].last_scores("accuracy") == results["fsdp2"].last_scores("accuracy")
    assert plain.repeats == ()
    assert results["ddp"].lead.loss == plain.lead.loss, "the first seed is that of a run without more"


@pytest.fixture
def held(pipeline, monkeypatch):
    """Return a function that runs a case of one rank against a level: what it measured itself, and what is given."""

    def run(time=None, **over):
        case = _case("ddp", gpus=1)
        stored = Stored(
            where="2-core-made/0001_accepted.json",
            result=replace(pipeline.measure(case), **over),
            reference=None,
            certificate=pipeline.certificate(case),
            verdict="passed",
        )
        monkeypatch.setattr(pipeline, "baseline", lambda case: Baseline(level=(stored,)))
        if time is not None:
            monkeypatch.setattr(Timekeeper, "verdict", lambda self, case: time)
        return pipeline.run(case)

    return run


def test_a_case_is_held_to_its_level_and_what_it_was_held_to_is_told(held):
    outcome = held(TimeVerdict(word="passed"))
    assert (outcome.verdict.word, outcome.verdict.exact, outcome.verdict.portable) == ("passed", None, ())
    assert [finding.word for finding in outcome.verdict.findings] == ["passed"] * 2
    assert outcome.baseline.newest.where == "2-core-made/0001_accepted.json"


@pytest.mark.parametrize("time", ["regressed", "unresolved", "improved"])
def test_the_verdict_on_its_time_is_part_of_a_cases_verdict(held, time):
    assert held(TimeVerdict(word=time)).verdict.word == time


def test_a_figure_without_noise_that_differs_is_a_regression_whatever_the_time_says(held, pipeline):
    ranks = tuple(replace(rank, parameters=7) for rank in pipeline.measure(_case("ddp", gpus=1)).ranks)
    verdict = held(TimeVerdict(word="passed"), ranks=ranks).verdict
    assert verdict.word == "regressed"
    assert verdict.exact.changes[0].startswith("parameters: 7 -> ")


def test_a_level_without_samples_leaves_the_time_unresolved(held):
    verdict = held().verdict
    assert verdict.word == "unresolved"
    assert verdict.time.reasons == (
        "the stored runs hold no samples of its time: accept a run of your own with --benchmark-save",
    )


def test_where_ranks_share_cores_the_rest_is_judged_and_the_time_is_not(held, pipeline, monkeypatch):
    shared = replace(pipeline.measure(_case("ddp", gpus=1)), oversubscribed=True)
    monkeypatch.setattr(Pipeline, "measure", lambda self, case: shared)
    monkeypatch.setattr(Pipeline, "_shared", lambda self, case: True)
    verdict = held(TimeVerdict(word="regressed")).verdict
    assert (verdict.word, verdict.time, verdict.note) == ("passed", None, "timing not gated: ranks shared cores")


def test_a_machine_of_other_hardware_under_the_same_name_is_incomparable(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline, "baseline", lambda case: Baseline(incomparable=True, note="of other hardware"))
    assert pipeline.run(_case("ddp", gpus=1)).verdict.word == "incomparable"


def test_a_new_case_is_held_to_what_another_machine_knows_of_it(pipeline, monkeypatch):
    case = _case("ddp", gpus=1)
    own = pipeline.measure(case)
    other = Stored(
        where="4-core-other/0001_accepted.json",
        result=replace(own, host="4-core-other", ranks=tuple(replace(rank, parameters=7) for rank in own.ranks)),
        reference=None,
        certificate=pipeline.certificate(case),
        verdict="new",
    )
    monkeypatch.setattr(pipeline, "baseline", lambda case: Baseline(others=(other,)))
    verdict = pipeline.run(case).verdict
    assert verdict.word == "regressed"
    assert "(stored in 4-core-other/0001_accepted.json, equal versions)" in verdict.portable[0]


def test_the_time_is_sampled_of_what_has_a_level_or_will_be_stored(pipeline, monkeypatch):
    asked = []
    case, reference = _case("zero1", gpus=1), _case("ddp", gpus=1)
    level = {case: made_baseline(made_result(case.id, samples=(made_samples(),)), made_result(case.id))}
    asked.append(pipeline.levels([case]))
    monkeypatch.setattr(pipeline, "options", replace(pipeline.options, stored=True))
    asked.append(pipeline.levels([case]))
    monkeypatch.setattr(pipeline, "baseline", lambda case: level.get(case, made_baseline()))
    asked.append(pipeline.levels([case]))
    monkeypatch.setattr(pipeline, "options", replace(pipeline.options, stored=False))
    asked.append(pipeline.levels([case]))
    # Runs of the level that hold no samples are none; the reference of the speedup is sampled with its case.
    runs = [(made_samples(),)]
    assert asked == [{}, {case: [], reference: []}, {case: runs, reference: []}, {case: runs}]


def test_cases_whose_ranks_share_cores_are_not_sampled(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline, "options", replace(pipeline.options, stored=True))
    monkeypatch.setattr(Pipeline, "_shared", lambda self, case: case.gpu_count > 1)
    assert [*pipeline.levels([_case("zero1")])] == [reference_of(_case("zero1"))]


def test_processes_are_told_as_seconds_at_the_speed_that_the_level_began_with(held, pipeline, monkeypatch):
    """So that a slower machine looks no slower to pytest-benchmark, and a slower case does."""
    case = _case("ddp", gpus=1)
    samples = [made_samples(), made_samples(slower=1.2)]
    monkeypatch.setitem(pipeline.timekeeper.sampler.taken, case, samples)
    first = held().result
    assert (first.samples, first.plain_s) == (tuple(samples), pytest.approx(0.008))
    assert told_seconds(first) == pytest.approx([0.010, 0.012])
    later = held(plain_s=0.016).result
    assert later.plain_s == 0.016
    assert told_seconds(later) == pytest.approx([0.020, 0.024])
    without = pipeline.measure(case)
    assert told_seconds(without) == without.step_s


def test_a_reference_that_is_to_come_from_a_stored_run_is_not_run(make_pipeline, tmp_path):
    pipeline = make_pipeline(reference="baseline", baselines=tmp_path)
    outcome = pipeline.run(_case("ddp"))
    assert outcome.reference is None
    assert "no stored run holds the reference tiny_net-ddp-1gpu-bs4" in outcome.reference_note
    pipeline.close()


def test_a_batch_larger_than_the_data_says_by_how_much(pipeline):
    case = Case(model="tiny_net", strategy="ddp", gpu_count=2, batch_size=64)
    with pytest.raises(WorkerFailed, match=r"a global batch of 128 \(64 per GPU\) is larger than the 32 training"):
        pipeline.measure(case)


def test_a_damaged_image_names_its_file_and_the_next_run_can_go_on(make_pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("SHARDBENCH_CACHE", str(tmp_path))
    first = make_pipeline()
    first.measure(_case("ddp", gpus=1))
    image = next((tmp_path / "datasets").rglob("train/*/*.jpg"))
    image.write_bytes(image.read_bytes()[:100])
    first.close()
    second = make_pipeline()
    with pytest.raises(DataError, match=rf"dataset digits is not ready: .*{image.name}"):
        second.measure(_case("ddp", gpus=1))
    second.close()


def test_a_warm_start_is_told_apart_by_the_source_of_its_model(pipeline):
    model = pipeline.registry.find("models", "tiny_net")
    partial = Model(name=model.name, input=model.input, build=functools.partial(model.build))
    assert pipeline.ranks._recipe_digest(partial) == pipeline.ranks._recipe_digest(model)
    other = pipeline.registry.find("models", "resnet18")
    assert pipeline.ranks._recipe_digest(other) != pipeline.ranks._recipe_digest(model)


def test_no_folder_is_left_by_a_run_that_went_well(make_pipeline):
    pipeline = make_pipeline()
    pipeline.measure(_case("ddp", gpus=1))
    folder = pipeline.ranks.folder
    assert folder.exists()
    pipeline.close()
    assert not folder.exists()
