"""A claim is confirmed or contradicted only where the noise of processes or seeds allows it; else it cannot be told."""

from __future__ import annotations

import math

import pytest

from harness.case import Case
from harness.evidence import claims, scores
from harness.plugins import Limit
from harness.records.telemetry import CoreReading, Reading, Telemetry
from harness.registry import discover
from harness.results import Memory
from tests.made_studies import made_evidence, made_run, made_study

FAST, SLOW = (Case(model="resnet18", strategy=name, gpu_count=2, batch_size=8) for name in ("ddp", "fsdp1"))
PAIR = (FAST, SLOW)


@pytest.fixture(scope="module")
def study():
    return made_study("strategies", discover(studies=True))


def _said(claim):
    return claim.word, claim.reason


def test_an_estimate_is_welchs_interval():
    found = claims.estimate([(1.0, [1.0, 2.0, 3.0]), (-1.0, [0.0, 0.0, 3.0])])
    # Means 2 and 1, variances 1 and 3 over 3 each: error sqrt(4/3); degrees (4/3)^2 / ((1/9 + 1) / 2) = 3.2.
    assert found.ratio == pytest.approx(math.e)
    assert math.log(found.high / found.ratio) == pytest.approx(3.0745 * math.sqrt(4 / 3), rel=1e-3)
    assert found.low * found.high == pytest.approx(found.ratio**2)


def test_an_estimate_without_scatter_is_a_point():
    assert claims.estimate([(1.0, [1.0, 1.0])], 2.0) == claims.Estimate(2 * math.e, 2 * math.e, 2 * math.e)


@pytest.mark.parametrize(
    ("fast_ms", "slow_ms", "word"), [(10, 12, "confirmed"), (12, 10, "contradicted"), (10, 10.1, "cannot tell")]
)
def test_an_ordering_needs_an_interval_without_equality(study, fast_ms, slow_ms, word):
    evidence = made_evidence(study, made_run(FAST.id, fast_ms), made_run(SLOW.id, slow_ms))
    claim = claims.faster(evidence, "ddp is faster", PAIR, "18 < 21 s")
    assert claim.word == word
    assert f"{slow_ms / fast_ms:.2f}x (" in claim.here
    assert (claim.reason == "the interval holds 1") == (word == "cannot tell")


def test_noise_forbids_what_quiet_processes_would_say(study):
    loud = made_evidence(study, made_run(FAST.id, 10, scatter=0.3), made_run(SLOW.id, 12, scatter=0.3))
    assert claims.faster(loud, "", PAIR).word == "cannot tell"


@pytest.mark.parametrize(
    ("published", "word"),
    [(1.6, "confirmed"), (1.5, "confirmed"), (2.0, "contradicted"), (1.45, "cannot tell"), (1.75, "cannot tell")],
)
def test_a_ratio_is_judged_by_where_its_whole_interval_lies(study, published, word):
    few, many = (Case(model="resnet18", strategy="ddp", gpu_count=count, batch_size=8) for count in (2, 4))
    # Twice the images in 1.25 of the time: 1.6.
    evidence = made_evidence(study, made_run(many.id, 12.5), made_run(few.id, 10))
    claim = claims.ratio(evidence, "4 GPUs over 2", (many, few), published)
    assert claim.word == word
    assert claim.here.startswith("1.60x (")
    assert claim.published == f"{published:.2f}x"


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (
            made_run(SLOW.id, 12, uncertified="clipping: to a norm of 1"),
            "resnet18-fsdp1-2gpu-bs8: not certified: clipping: to a norm of 1",
        ),
        (made_run(SLOW.id, 12, oversubscribed=True), "its ranks share cores"),
        (made_run(SLOW.id, 12, processes=1), "too few processes: 1 timed, 1 of them undisturbed"),
        (made_run(SLOW.id, 12, processes=0, untimed="rank 1 was killed"), "too few processes: rank 1 was killed"),
        (None, "resnet18-fsdp1-2gpu-bs8: needs CUDA"),
    ],
)
def test_what_forbids_a_speed_is_the_reason_that_it_cannot_be_told(study, run, says):
    runs = [made_run(FAST.id), *([run] if run else [])]
    evidence = made_evidence(study, *runs)
    evidence.missing[SLOW] = "needs CUDA"
    for claim in (claims.faster(evidence, "", PAIR), claims.ratio(evidence, "", PAIR, 1.2)):
        assert claim.word == "cannot tell"
        assert says in claim.reason
        assert claim.here == ""


def test_a_disturbed_process_is_no_sample(study):
    def busy(end):
        cores = {0: CoreReading(processes=end, interrupts=0, stolen=0, idle=0)}
        return Reading(at_s=float(end), cores=cores, own_ticks=0)

    watched = Telemetry(
        interval_s=None,
        ticks_per_s=100,
        memory_total_bytes=None,
        gpus=(),
        zones=(),
        readings=(busy(0), busy(100)),
        names={},
        missing={},
        cost_s=0.0,
    )
    quiet = made_run(SLOW.id, 12)
    from dataclasses import replace

    samples = tuple(replace(one, watched=watched) for one in quiet.result.samples)
    disturbed = replace(quiet, result=replace(quiet.result, samples=samples))
    claim = claims.faster(made_evidence(study, made_run(FAST.id), disturbed), "", PAIR)
    assert claim.word == "cannot tell"
    assert "3 timed, 0 of them undisturbed" in claim.reason


@pytest.mark.parametrize(
    ("lean", "word"), [(700, "confirmed"), (1400, "contradicted"), (950, "cannot tell"), (None, "cannot tell")]
)
def test_memory_is_told_apart_beyond_what_unchanged_code_differs_by(study, lean, word):
    def peak(size):
        return {"report": {"memory": Memory(peak_resident_bytes=size and size * 2**20)}}

    evidence = made_evidence(study, made_run(FAST.id, **peak(lean)), made_run(SLOW.id, **peak(1000)))
    assert claims.less_memory(evidence, "", PAIR, Limit(relative=0.2, absolute=2**20)).word == word


def test_one_seed_of_one_certified_training_contradicts_a_difference_and_confirms_none(study):
    same = made_evidence(study, made_run(FAST.id, scores=(0.36,)), made_run(SLOW.id, scores=(0.36,)))
    claim = scores.differs(same, "", PAIR, 0.009, score="accuracy")
    assert _said(claim) == ("contradicted", "certified to be the same training, and with the same seed they end alike")
    other = made_evidence(study, made_run(FAST.id, scores=(0.37,)), made_run(SLOW.id, scores=(0.36,)))
    assert scores.differs(other, "", PAIR, 0.009, score="accuracy").word == "cannot tell"
    # Two trainings that are not one may end alike by chance.
    assert scores.differs(same, "", PAIR, 0.009, score="accuracy", same_training=False).word == "cannot tell"


def test_an_uncertified_run_says_nothing_of_accuracy(study):
    runs = made_run(FAST.id, scores=(0.36,)), made_run(SLOW.id, scores=(0.36,), uncertified="learning rate: 0.2")
    claim = scores.differs(made_evidence(study, *runs), "", PAIR, 0.009, score="accuracy")
    assert claim.word == "cannot tell"
    assert "not certified: learning rate: 0.2" in claim.reason


@pytest.mark.parametrize(
    ("first", "published", "word"),
    [
        ((0.46, 0.47, 0.45), 0.1, "confirmed"),
        ((0.46, 0.47, 0.45), -0.1, "contradicted"),
        ((0.361, 0.359, 0.36), 0.1, "contradicted"),
        ((0.30, 0.47, 0.38), 0.1, "cannot tell"),
    ],
)
def test_seeds_tell_a_difference_by_paired_tests(study, first, published, word):
    evidence = made_evidence(study, made_run(FAST.id, scores=first), made_run(SLOW.id, scores=(0.36, 0.365, 0.355)))
    claim = scores.differs(evidence, "", PAIR, published, score="accuracy")
    assert claim.word == word
    assert claim.here.endswith("3 seeds")


def test_a_loss_is_of_one_seed_and_of_certified_runs(study):
    evidence = made_evidence(study, made_run(FAST.id, loss=2.0), made_run(SLOW.id, loss=2.0005))
    assert scores.differs(evidence, "", PAIR, -0.0285).word == "contradicted"
    apart = made_evidence(study, made_run(FAST.id, loss=2.0), made_run(SLOW.id, loss=2.1))
    assert _said(scores.differs(apart, "", PAIR, -0.0285)) == ("cannot tell", "it is of one seed")


@pytest.mark.parametrize(
    ("first", "word"), [((0.36,), "confirmed"), ((0.37,), "cannot tell"), ((0.36, 0.361, 0.354), "confirmed")]
)
def test_a_question_of_sameness_is_answered_by_equivalence(study, first, word):
    second = (0.36, 0.362, 0.355)[: len(first)]
    evidence = made_evidence(study, made_run(FAST.id, scores=first), made_run(SLOW.id, scores=second))
    assert scores.alike(evidence, "", PAIR, score="accuracy", margin=0.02).word == word


@pytest.mark.parametrize(
    ("value", "otherwise", "word"),
    [(0.92, "", "confirmed"), (0.5, "", "contradicted"), (0.92, "another experiment", "cannot tell")],
)
def test_a_published_score_is_met_within_what_so_many_images_tell(study, value, otherwise, word):
    # 100 images: .92 +- .053.
    evidence = made_evidence(study, made_run(FAST.id, scores=(value,)))
    found = scores.reaches(evidence, "", FAST, score="accuracy", least=0.9226, most=0.9264, otherwise=otherwise)
    assert found.word == word
    assert found.reason == otherwise
