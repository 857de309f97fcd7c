"""The judge of certificates, by figures made by hand: what is within the arithmetic passes, and the rest is named."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.case import Case
from harness.certificate import Difference, Slot, Spread
from harness.gate.evidence import LEAST, SAFETY, TURNED, Evidence
from harness.gate.sameness import judge
from harness.plugins import Strategy
from tests.made import EQUAL, made_group, made_played, made_watched

PLAIN = Strategy(name="plain", shard=lambda *_: None)
SHARDED = replace(PLAIN, shards=frozenset({"parameters", "optimizer"}))
SPREAD = Spread(losses=(1e-6, 2e-3, 4e-3), gradient_norms=(2e-6, 1e-3, 8e-3), parameters=1e-2, buffers=1e-3)


def _judge(*ranks, case_id="net-plain-2gpu-bs4", strategy=PLAIN, reference=None):
    """Judge ranks, by default the even two of `made_watched`, against a reference, by default theirs."""
    reference = reference or made_played()
    ranks = ranks or tuple(made_watched(rank) for rank in range(len(reference.ranks)))
    evidence = Evidence(case=Case.parse(case_id), strategy=strategy, reference=reference, ranks=ranks)
    return judge(evidence, key="key", seconds=1.0, unix_time=2.0)


def _two(**over):
    """Return two ranks that both did what is given."""
    return made_watched(0, **over), made_watched(1, **over)


def _tolerances(certificate) -> dict[str, float]:
    return {figure.name: figure.tolerance for figure in certificate.figures}


def _marked(certificate) -> list[str]:
    return [row.fact for row in certificate.regime if not row.same]


def _row(certificate, fact):
    return next(row for row in certificate.regime if row.fact == fact)


def _named(certificate) -> list[str]:
    """Return the causes without the sentence of figures."""
    return [cause for cause in certificate.causes if not cause.startswith("relative differences")]


def _apart(share: float, worst: str = "weight") -> dict[str, Difference]:
    return {"parameters": Difference(equal=False, share=share, worst=worst), "buffers": EQUAL}


# ------------------------------------------------------------------------------------------------------ figures


def test_what_is_equal_in_everything_is_granted_bit_equal():
    certificate = _judge()
    assert certificate.granted
    assert (certificate.demanded, certificate.found, certificate.steps) == ("bit-equal", "bit-equal", 3)
    assert not any(figure.difference for figure in certificate.figures)


def test_where_nothing_can_be_reordered_no_bit_may_differ():
    tolerances = _tolerances(_judge())
    assert (tolerances["loss"], tolerances["parameters"], tolerances["buffers"]) == (0, 0, 0)
    one_bit = math.nextafter(2.0, 3)
    assert not _judge(made_watched(0), made_watched(1, losses=(one_bit, 1.5, 1.25))).granted
    refused = _judge(made_watched(0, differences=_apart(1e-12)), made_watched(1))
    assert refused.found == "differs"
    assert refused.causes[-1].startswith("relative differences (and what rounding allows): parameters (most: weight) ")
    other = Difference(equal=False, share=1e-12, worst="buffer 0")
    assert not _judge(made_watched(0), made_watched(1, differences={"buffers": other})).granted


def test_sums_of_squares_may_differ_by_how_they_were_added_up_and_no_more():
    for part, granted in ((1e-10, True), (1e-8, False)):
        slots = {"momentum_buffer": Slot(digest=7, squares=16.0 * (1 + part))}
        assert _judge(*_two(slots=slots)).granted is granted
        assert _judge(*_two(gradient_squares=(25.0, 16.0 * (1 + part), 9.0))).granted is granted


def test_where_sums_can_be_reordered_each_figure_may_differ_as_often_as_the_spread_of_one_rounding_says():
    tolerances = _tolerances(_judge(reference=made_played(rounding=SPREAD)))
    assert tolerances == pytest.approx(
        {
            "loss": SAFETY * 4e-3,
            "parameters": SAFETY * 1e-2,
            "buffers": SAFETY * 1e-3,
            "optimizer state": SAFETY * 8e-3,
            "gradient norm": SAFETY * 8e-3,
        }
    )


def test_a_spread_of_nothing_still_allows_what_a_turned_choice_does_after_the_first_update():
    none = Spread(losses=(0.0,) * 3, gradient_norms=(0.0,) * 3, parameters=0.0, buffers=0.0)
    assert set(_tolerances(_judge(reference=made_played(rounding=none))).values()) == {TURNED}


@pytest.mark.parametrize(("spread", "allowed"), [(0.0, LEAST), (1e-6, SAFETY * 1e-6)])
def test_the_first_step_is_held_to_the_last_places_of_fp32(spread, allowed):
    rounding = Spread(losses=(spread, 0.0, 0.0), gradient_norms=(spread, 0.0, 0.0), parameters=0.0, buffers=0.0)
    reference = made_played(rounding=rounding)
    for factor, granted in ((0.999, True), (1.001, False)):
        d = allowed * factor
        assert _judge(*_two(losses=(2.0 * (1 + d), 1.5, 1.25)), reference=reference).granted == granted
        assert _judge(*_two(gradient_squares=(25.0 * (1 + d) ** 2, 16.0, 9.0)), reference=reference).granted == granted


@pytest.mark.parametrize(
    ("figure", "share", "make"),
    [
        # Each step by the spread up to it: what is allowed late is not allowed early.
        ("loss", SAFETY * 2e-3, lambda d: _two(losses=(2.0, 1.5 * (1 + d), 1.25))),
        ("loss", SAFETY * 4e-3, lambda d: _two(losses=(2.0, 1.5, 1.25 * (1 + d)))),
        ("gradient norm", SAFETY * 1e-3, lambda d: _two(gradient_squares=(25.0, 16.0 * (1 + d) ** 2, 9.0))),
        ("gradient norm", SAFETY * 8e-3, lambda d: _two(gradient_squares=(25.0, 16.0, 9.0 * (1 + d) ** 2))),
        ("parameters", SAFETY * 1e-2, lambda d: (made_watched(0, differences=_apart(d)), made_watched(1))),
        (
            "buffers",
            SAFETY * 1e-3,
            lambda d: (
                made_watched(0),
                made_watched(1, differences={"buffers": Difference(equal=False, share=d, worst="buffer 0")}),
            ),
        ),
        (
            "optimizer state",
            SAFETY * 8e-3,
            lambda d: _two(slots={"momentum_buffer": Slot(digest=1, squares=16.0 * (1 + d) ** 2)}),
        ),
    ],
)
def test_a_figure_passes_just_within_its_tolerance_and_fails_just_beyond(figure, share, make):
    reference = made_played(rounding=SPREAD)
    within = _judge(*make(share * 0.999), reference=reference)
    assert within.granted
    assert (within.demanded, within.found) == ("rounding", "bit-equal" if figure == "gradient norm" else "rounding")
    beyond = _judge(*make(share * 1.001), reference=reference)
    assert not beyond.granted
    assert beyond.found == "differs"
    assert beyond.causes[-1].count("(") == 2 + beyond.causes[-1].count("(most")  # this figure alone
    assert figure in beyond.causes[-1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_never_within_a_tolerance(value):
    for reference in (made_played(), made_played(rounding=SPREAD)):
        assert not _judge(*_two(gradient_squares=(25.0, 16.0, value)), reference=reference).granted
        refused = _judge(made_watched(0, differences=_apart(value)), made_watched(1), reference=reference)
        assert "parameters" in refused.causes[-1]


def test_a_step_whose_gradients_overflowed_is_skipped_by_both_and_says_nothing_of_the_spread():
    """The loss scaler of FP16 leaves such a step out; the reference's norm and spread of it are no numbers."""
    skipped = {"gradient_squares": (0.0, 16.0, 9.0)}
    reference = made_played(
        ranks=tuple(made_watched(rank, differences={}, **skipped) for rank in range(2)),
        unclipped_norms=(math.inf, 4.0, 3.0),
        rounding=replace(SPREAD, gradient_norms=(math.nan, 1e-3, 2e-3)),
    )
    certificate = _judge(*_two(**skipped), reference=reference)
    assert certificate.granted
    assert _tolerances(certificate)["gradient norm"] == pytest.approx(SAFETY * 2e-3)
    assert _row(certificate, "clipping").strategy == "none seen"
    # A strategy that does not skip it is refused.
    assert not _judge(reference=reference).granted


# ------------------------------------------------------------------------------- replicated and sharded optimizers


def test_a_replicated_optimizer_counts_once():
    ranks = _two()
    evidence = Evidence(case=Case.parse("net-plain-2gpu-bs4"), strategy=PLAIN, reference=made_played(), ranks=ranks)
    assert evidence.copies == 2
    assert evidence.norms == [5.0, 4.0, 3.0]


def _halves(*, elements=500, digests=(2**63, 5), squares=(10.0, 6.0), **over):
    """Return two ranks that each update half of the model."""
    return tuple(
        made_watched(
            rank,
            groups=(made_group(elements=elements),),
            gradient_squares=((9.0, 10.0, 5.0), (16.0, 6.0, 4.0))[rank],
            slots={"momentum_buffer": Slot(digest=digests[rank], squares=squares[rank])},
            held_state=elements,
            **over,
        )
        for rank in range(2)
    )


def test_the_parts_of_a_sharded_optimizer_add_up_to_the_whole():
    """Squares as squares, digests modulo 2^64."""
    assert _judge(*_halves(held_parameters=500), strategy=SHARDED).granted
    wrapped = _halves(held_parameters=500, digests=(2**63 + 6, 2**64 - 1))
    assert _judge(*wrapped, strategy=SHARDED).found == "bit-equal"
    other = _judge(*_halves(held_parameters=500, digests=(2**63, 6)), strategy=SHARDED)
    assert _figure(other, "optimizer state") == 2.0**-53
    assert other.found == "rounding"


def _figure(certificate, name):
    return next(figure.difference for figure in certificate.figures if figure.name == name)


def test_padding_of_a_sharded_optimizer_is_no_copy_and_no_other_weight_decay():
    padded = _halves(elements=600, held_parameters=600)
    certificate = _judge(*padded, strategy=SHARDED)
    assert certificate.causes == ()
    assert _row(certificate, "weight decay").strategy == "0.01 on 1,000 parameters"


def test_a_state_that_one_side_lacks_is_no_rounding():
    assert _figure(_judge(*_two(slots={})), "optimizer state") == math.inf
    more = {"momentum_buffer": made_watched().slots["momentum_buffer"], "extra": Slot(digest=3, squares=1.0)}
    assert _figure(_judge(*_two(slots=more)), "optimizer state") == math.inf
    empty = more | {"extra": Slot(digest=0, squares=0.0)}
    assert _judge(*_two(slots=empty)).granted


@pytest.mark.parametrize("frozen", [0, 3000])
def test_a_rank_whose_part_is_all_frozen_updates_nothing_and_is_not_another_optimizer(frozen):
    idle = made_watched(0, groups=(), gradient_squares=(0.0,) * 3, slots={}, held_state=0)
    busy = made_watched(1, held_state=1000)
    reference = made_played(sizes=(900, 100, frozen))
    certificate = _judge(idle, busy, reference=reference)
    assert certificate.causes == ()
    assert _row(certificate, "learning rate").strategy == "0.1"


def test_a_strategy_that_updates_nothing_is_refused():
    idle = _two(groups=(), gradient_squares=(0.0,) * 3, slots={}, held_state=0)
    assert {"optimizer", "learning rate", "weight decay"} <= set(_marked(_judge(*idle)))


# ----------------------------------------------------------------------------------------- one report for many


def test_one_process_that_drives_all_devices_is_held_to_the_ranks_means():
    reference = made_played(
        ranks=(
            made_watched(0, differences={}, losses=(3.0, 2.0, 1.0)),
            made_watched(1, differences={}, losses=(1.0, 1.0, 1.0)),
        )
    )
    whole = tuple(a + b for a, b in zip(*(rank.samples for rank in reference.ranks), strict=True))
    single = made_watched(0, losses=(2.0, 1.5, 1.0), samples=whole, targets=(8, 8, 8))
    assert _judge(single, reference=reference).causes == ()
    other = replace(single, losses=(2.0, 1.75, 1.0))
    assert "loss 0.17" in _judge(other, reference=reference).causes[-1]
    short = replace(single, samples=tuple(step[:7] for step in whole))
    assert _marked(_judge(short, reference=reference)) == ["global batch"]
    halved = replace(single, gradient_squares=(6.25, 4.0, 2.25))
    assert _named(_judge(halved, reference=reference)) == [
        "the gradient is divided by the 2 ranks twice: its norm is 0.5 of the reference's"
    ]


# -------------------------------------------------------------------------------------------------------- regime


@pytest.mark.parametrize(
    ("field", "fact"),
    [
        ("live", "live weights"),
        ("compute", "compute"),
        ("master", "master weights"),
        ("gradient", "gradients"),
        ("reduction", "reduction"),
        ("state", "optimizer state"),
    ],
)
def test_a_type_of_one_rank_that_is_not_the_references_is_named(field, fact):
    certificate = _judge(made_watched(0), made_watched(1, **{field: ("bf16", "fp32")}))
    assert _named(certificate) == [f"{fact}: bf16 and fp32, the reference fp32"]
    assert _marked(certificate) == [fact]
    # Nothing seen is nothing wrong: a plain SGD has no state, one rank reduces nothing.
    assert _judge(*_two(**{field: ()})).granted


def test_a_loss_gradient_of_one_rank_is_named():
    certificate = _judge(made_watched(0), made_watched(1, loss_gradients=(0.5, 0.5, 0.5)))
    assert _named(certificate) == ["loss gradient: rank 0: 1; rank 1: 0.5, the reference 1"]


@pytest.mark.parametrize(
    ("applied", "unclipped", "said"),
    [
        ((1.0, 1.0, 1.0), (5.0, 6.0, 7.0), "to a norm of 1"),
        ((0.9999999, 1.0, 1.0), (5.0, 6.0, 7.0), "to a norm of 1"),
        ((1.0, 0.8, 0.6), (5.0, 0.8, 0.6), "to a norm of 1"),  # once, to a round number
        ((4.0, 0.123, 0.123), (4.0, 6.0, 7.0), "to a norm of 0.123"),
        ((0.12345, 0.8, 0.6), (5.0, 0.8, 0.6), "none seen"),  # once, to some number
        ((2.5, 3.0, 3.5), (5.0, 6.0, 7.0), "none seen"),  # halved, not clipped
        ((5.0, 6.0, 7.0), (5.0, 6.0, 7.0), "none seen"),
    ],
)
def test_clipping_is_told_from_the_norms_that_were_applied(applied, unclipped, said):
    reference = made_played(
        ranks=tuple(
            made_watched(rank, differences={}, gradient_squares=tuple(n**2 for n in unclipped)) for rank in range(2)
        ),
        unclipped_norms=unclipped,
    )
    certificate = _judge(*_two(gradient_squares=tuple(n**2 for n in applied)), reference=reference)
    row = _row(certificate, "clipping")
    assert (row.strategy, row.reference, row.same) == (said, "none seen", said == "none seen")


def test_a_limit_is_the_same_whatever_its_last_digits():
    """Libraries divide by the norm plus a small number, each in its way."""

    def clipped(limit):
        return {"gradient_squares": (limit**2, limit**2, 25.0)}

    reference = made_played(
        ranks=tuple(made_watched(rank, differences={}, **clipped(1.2350001)) for rank in range(2)),
        unclipped_norms=(6.0, 7.0, 5.0),
        rounding=SPREAD,
    )
    case_id = "net-plain-2gpu-bs4-clip1.235"
    assert _judge(*_two(**clipped(1.2349999)), reference=reference, case_id=case_id).causes == ()
    refused = _judge(*_two(**clipped(1.0)), reference=reference, case_id=case_id)
    assert "clipping: to a norm of 1, the reference to a norm of 1.24" in refused.causes
    once = {"gradient_squares": (36.0, 1.2349999**2, 25.0)}
    assert _marked(_judge(*_two(**once), reference=reference, case_id=case_id)) == []
    none = _judge(*_two(gradient_squares=(36.0, 49.0, 25.0)), reference=reference, case_id=case_id)
    assert "clipping: none seen, the reference to a norm of 1.24" in none.causes


def test_settings_and_rates_that_differ_are_named():
    for group, cause in (
        (made_group(rest="momentum 0.9, nesterov True"), "optimizer: SGD momentum 0.9, nesterov True, the reference"),
        (made_group(learning_rates=(0.2, 0.2, 0.2)), "learning rate: 0.2, the reference 0.1"),
        (made_group(learning_rates=(0.1, 0.2, 0.2)), "learning rate: 0.1, 0.2, 0.2, the reference 0.1"),
        (made_group(weight_decay=0.0), "weight decay: 0 on 1,000 parameters, the reference 0.01 on 1,000 parameters"),
    ):
        (named,) = _named(_judge(*_two(groups=(group,))))
        assert named.startswith(cause)


def test_weight_decay_that_leaves_out_a_part_is_named_however_small_the_part():
    groups = (made_group(elements=995), made_group(elements=5, weight_decay=0.0))
    (named,) = _named(_judge(*_two(groups=groups)))
    assert named == ("weight decay: 0 on 5 parameters, 0.01 on 995 parameters, the reference 0.01 on 1,000 parameters")


def test_a_global_batch_of_other_samples_is_named_with_the_first_step():
    sound = made_watched(1)
    first, second, third = sound.samples

    def named(samples):
        return _named(_judge(made_watched(0), replace(sound, samples=samples)))

    wanted = "the reference 8 a step, each rank its own"
    assert named((first, second[:3], third)) == [f"global batch: 7 at step 2, {wanted}"]
    assert named(made_watched(0).samples) == [
        f"global batch: rank 1 trained on the samples of rank 0 at step 1, {wanted}"
    ]
    assert named((first, second, first)) == [
        f"global batch: rank 1 trained on other samples than its own at step 3, {wanted}"
    ]
    # The order within a rank's batch is no other batch.
    assert named((first[::-1], second, third)) == []


def _buffers(rank: int, digest: int, share: float):
    """Return a rank whose statistics have that digest and are that far from the reference's."""
    apart = Difference(equal=not share, share=share, worst="buffer 0")
    return made_watched(rank, buffers=digest, differences=made_watched(rank).differences | {"buffers": apart})


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ((_buffers(0, 7, 0.3), _buffers(1, 7, 0.3)), "averaged statistics on every rank"),
        ((_buffers(0, 100, 0.0), _buffers(1, 100, 0.3)), "rank 0's statistics on every rank"),
        # As DDP does by default: sent before each forward, so that each rank's own last batch comes on top.
        ((_buffers(0, 100, 0.0), _buffers(1, 9, 0.3)), "rank 0's statistics on every rank"),
        ((_buffers(0, 3, 1.0), _buffers(1, 3, 1.0)), "no rank updates its statistics"),
    ],
)
def test_statistics_that_are_not_each_ranks_own_are_named(ranks, said):
    certificate = _judge(*ranks)
    assert _named(certificate) == [f"BatchNorm: {said}, the reference each rank its own statistics"]
    assert "buffers" in certificate.causes[-1]


def test_ranks_with_the_same_samples_have_the_same_statistics_rightly():
    """So the sampler alone is named."""
    same = replace(_buffers(1, 100, 0.3), samples=made_watched(0).samples)
    assert _marked(_judge(made_watched(0), same)) == ["global batch"]


def test_a_model_without_buffers_has_no_statistics_to_share():
    reference = made_played(ranks=tuple(made_watched(rank, differences={}, buffers=0) for rank in range(2)))
    certificate = _judge(*_two(buffers=0), reference=reference)
    assert certificate.granted
    assert _row(certificate, "BatchNorm").strategy == "no statistics"


# ------------------------------------------------------------------------------------------------------ sharding

LARGE = {"sizes": (900_000, 100_000), "trained": 1_000_000}


def _large(strategy, *, parameters, state, count=4):
    """Judge four ranks that keep so much of a million parameters and their state."""
    whole = {"groups": (made_group(elements=1_000_000),), "held_parameters": 1_000_000, "held_state": 1_000_000}
    reference = made_played(**LARGE, ranks=tuple(made_watched(r, differences={}, **whole) for r in range(count)))
    ranks = [
        made_watched(r, groups=whole["groups"], held_parameters=parameters, held_state=state) for r in range(count)
    ]
    return _judge(*ranks, case_id=f"net-plain-{count}gpu-bs4", strategy=strategy, reference=reference)


def test_a_rank_keeps_its_share_of_what_is_sharded_and_no_more():
    assert _large(PLAIN, parameters=1_000_000, state=1_000_000).granted
    assert _large(SHARDED, parameters=250_000, state=250_000).granted
    assert _large(SHARDED, parameters=270_000, state=270_000).granted  # padding
    (named,) = _named(_large(SHARDED, parameters=300_000, state=250_000))
    assert named == (
        "sharding: a rank keeps 30% of the parameters and 25% of the optimizer state, "
        "the reference a rank keeps 25% of the parameters and 25% of the optimizer state"
    )
    assert not _large(SHARDED, parameters=250_000, state=500_000).granted


def test_what_shards_nothing_is_said_to():
    (named,) = _named(_large(SHARDED, parameters=1_000_000, state=1_000_000))
    assert named.startswith("sharding: shards nothing: a rank keeps 100% of the parameters")
    only_state = replace(PLAIN, shards=frozenset({"optimizer"}))
    assert _large(only_state, parameters=1_000_000, state=250_000).granted
    (named,) = _named(_large(only_state, parameters=1_000_000, state=1_000_000))
    assert "shards nothing" not in named
    assert "100% of the optimizer state, the reference a rank keeps 100% of the parameters and 25%" in named


def test_small_parameters_may_stay_whole_where_the_strategy_says_so():
    keeps = replace(SHARDED, whole_below=100_001)
    kept = 1_000_000 // 4 + 100_000  # and its share of the small ones besides, as DeepSpeed does
    certificate = _large(keeps, parameters=kept, state=250_000)
    assert certificate.granted
    assert _row(certificate, "sharding").reference.startswith("a rank keeps 35% of the parameters")
    assert not _large(replace(SHARDED, whole_below=100_000), parameters=kept, state=250_000).granted


# -------------------------------------------------------------------------------------------------------- causes


@pytest.mark.parametrize(
    ("case_id", "ranks", "norm", "said"),
    [
        ("net-plain-2gpu-bs4", 2, 2.5, "the gradient is divided by the 2 ranks twice: its norm is 0.5 of the"),
        ("net-plain-4gpu-bs4", 4, 1.25, "the gradient is divided by the 4 ranks twice: its norm is 0.25 of the"),
        ("net-plain-4gpu-bs4", 4, 20.0, "the gradient is summed over the 4 ranks, not averaged: its norm is 4 times"),
        ("net-plain-2gpu-bs8-accum8", 2, 40.0, "the gradient is summed over the 8 micro-batches, not averaged"),
        ("net-plain-2gpu-bs4-accum2", 2, 10.0, "the gradient is summed over the 2 ranks or the 2 micro-batches, not"),
        ("net-plain-1gpu-bs4-accum2", 1, 10.0, "the gradient is summed over the 2 micro-batches, not averaged"),
        ("net-plain-1gpu-bs4", 1, 10.0, "the gradient of step 1 differs: the losses agree up to it"),
        ("net-plain-2gpu-bs4", 2, 9.9, "the gradient of step 1 differs: the losses agree up to it"),
    ],
)
def test_the_first_gradients_norm_tells_a_wrong_mean(case_id, ranks, norm, said):
    squares = tuple(norm**2 * share for share in (1.0, 0.64, 0.36))
    watched = [made_watched(rank, gradient_squares=squares) for rank in range(ranks)]
    (named,) = _named(_judge(*watched, case_id=case_id, reference=made_played(ranks)))
    assert named.startswith(said)


@pytest.mark.parametrize(
    "told",
    [
        # By the gradient of each rank's loss, or by the losses themselves.
        lambda share: {"loss_gradients": (share,) * 3},
        lambda share: {"losses": (2.0 * share, 1.5, 1.25)},
    ],
    ids=["gradient", "loss"],
)
def test_losses_weighted_by_targets_are_named(told):
    def ranks(sound=False, **facts):
        return tuple(
            made_watched(rank, targets=(n,) * 3, **({"differences": {}} if sound else told(n / 4)), **facts)
            for rank, n in enumerate((1, 7))
        )

    certificate = _judge(*ranks(gradient_squares=(20.0, 16.0, 9.0)), reference=made_played(ranks=ranks(sound=True)))
    assert certificate.causes[0] == (
        "the ranks' losses are weighted by their numbers of targets (rank 0 1, rank 1 7), not averaged"
    )


def test_one_rank_has_no_mean_to_get_wrong():
    certificate = _judge(made_watched(losses=(2.5, 1.5, 1.25)), case_id="net-plain-1gpu-bs4", reference=made_played(1))
    (named,) = _named(certificate)
    assert named.startswith("the first loss differs: ")


def test_a_training_that_parts_later_is_told_where():
    other = "the weights it began with, or what it computes, are not the reference's"
    assert _named(_judge(*_two(losses=(2.5, 1.5, 1.25)))) == [f"the first loss differs: {other}"]
    assert _named(_judge(*_two(losses=(2.0, 1.6, 1.25)))) == [
        "the update of step 1 differs: the losses and the norms of the gradients agree up to it"
    ]
    assert _named(_judge(*_two(losses=(2.0, 1.5, 1.3), gradient_squares=(25.0, 36.0, 9.0)))) == [
        "the gradient of step 2 differs: the losses agree up to it"
    ]


def test_where_the_regime_tells_the_cause_nothing_is_guessed():
    certificate = _judge(*_two(losses=(2.5, 1.5, 1.25), compute=("bf16",)))
    assert _named(certificate) == ["compute: bf16, the reference fp32"]
    assert len(certificate.causes) == 2


def test_mixed_precision_says_how_far_the_reference_is_from_fp32():
    apart = replace(SPREAD, parameters=0.02)
    assert _judge(reference=made_played(from_fp32=apart), case_id="net-plain-2gpu-bs4-bf16").from_fp32 == 0.02
    assert _judge().from_fp32 is None
