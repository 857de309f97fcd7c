"""What is said of two strategies is right at the stated rates."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.gate.equivalence import Equivalence, NotComparable, compare
from tests.made import ANY_SPEED

DRAWS = 2000
THOUSANDTHS = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)


def against_zero(*differences: float, margin: float) -> Equivalence:
    return compare(differences, [0.0] * len(differences), margin=margin)


def share_of(word: str, *, difference: float, scatter: float, margin: float, n: int) -> float:
    """How often that word is said of strategies whose paired differences are normal, in 2000 experiments."""
    rng = random.Random(f"{word} {difference} {scatter} {n}")
    said = 0
    for _ in range(DRAWS):
        second = [rng.gauss(0.6, 0.1) for _ in range(n)]
        first = [score + rng.gauss(difference, scatter) for score in second]
        said += compare(first, second, margin=margin).word == word
    return said / DRAWS


CHANCE = 3 * math.sqrt(0.05 * 0.95 / DRAWS)
"""Three standard errors of a share of 5 % in so many draws."""


# -------------------------------------------------------------------------------------------------- hand-checked


def test_figures_are_those_of_the_formulas_done_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1, error 1/sqrt(3). Tables of Student's t at 2 degrees of freedom: 2.919986
    # at .95, 4.302653 at .975; and there P(T > t) = 1/2 - t / (2 sqrt(t^2 + 2)).
    found = against_zero(1.0, 2.0, 3.0, margin=4.0)
    error, ratio = 1 / math.sqrt(3), 2 * math.sqrt(3)
    tail = 0.5 - ratio / (2 * math.sqrt(ratio**2 + 2))
    assert (found.word, found.n, found.margin, found.difference, found.note) == ("equivalent", 3, 4.0, 2.0, "")
    assert found.interval90 == pytest.approx((2 - 2.919986 * error, 2 + 2.919986 * error), abs=1e-6)
    assert found.interval95 == pytest.approx((2 - 4.302653 * error, 2 + 4.302653 * error), abs=1e-6)
    assert found.p_equivalent == pytest.approx(tail, abs=1e-12)
    assert found.p_different == pytest.approx(2 * tail, abs=1e-12)


@pytest.mark.parametrize(
    ("differences", "margin", "word"),
    [
        # 90 % interval .31 to 3.69, 95 % interval -.48 to 4.48
        ((1.0, 2.0, 3.0), 3.7, "equivalent"),
        ((1.0, 2.0, 3.0), 3.6, "unresolved"),
        ((-1.0, -2.0, -3.0), 3.7, "equivalent"),
        ((-1.0, -2.0, -3.0), 3.6, "unresolved"),
        # 95 % interval 8.5 to 13.5: different unless that is too little to matter
        ((10.0, 11.0, 12.0), 3.7, "different"),
        ((-10.0, -11.0, -12.0), 3.7, "different"),
        ((10.0, 11.0, 12.0), 14.0, "equivalent"),
        # a 90 % interval without 0 is not enough to be different
        ((1.0, 2.0, 3.0), 0.1, "unresolved"),
    ],
)
def test_the_word_follows_from_the_intervals(differences: tuple[float, ...], margin: float, word: str) -> None:
    assert against_zero(*differences, margin=margin).word == word


@given(
    pairs=st.lists(st.tuples(THOUSANDTHS, THOUSANDTHS), min_size=2, max_size=12),
    margin=st.floats(1e-3, 1),
)
@ANY_SPEED
def test_p_values_are_scipys_own_and_agree_with_the_word(pairs: list[tuple[float, float]], margin: float) -> None:
    from scipy import stats

    first, second = zip(*pairs, strict=True)
    found = compare(first, second, margin=margin)
    if found.p_equivalent is None or found.p_different is None:
        return
    differences = [a - b for a, b in pairs]
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    assert found.p_equivalent == pytest.approx(max(below, above), rel=1e-4, abs=1e-9)
    assert found.p_different == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-4, abs=1e-9)
    if all(abs(p - 0.05) > 1e-6 for p in (found.p_equivalent, found.p_different)):
        said = "equivalent" if found.p_equivalent < 0.05 else "different" if found.p_different < 0.05 else "unresolved"
        assert found.word == said


def test_pairing_sees_what_the_scatter_between_seeds_would_hide() -> None:
    seeds = [0.2, 0.5, 0.8, 0.35, 0.65]
    shifted = [score + 0.1 + step for score, step in zip(seeds, (0.004, -0.003, 0.0, 0.002, -0.003), strict=True)]
    found = compare(shifted, seeds, margin=0.05)
    assert found.word == "different"
    assert found.difference == pytest.approx(0.1)
    assert compare(shifted, seeds[::-1], margin=0.05).word == "unresolved"


# --------------------------------------------------------------------------------------------------- error rates


@pytest.mark.parametrize("n", [2, 5])
def test_strategies_a_margin_apart_are_called_equivalent_in_one_of_twenty_at_most(n: int) -> None:
    # Where scatter is small against the margin the rate is reached, or the test would be needlessly shy.
    reached = share_of("equivalent", difference=0.03, scatter=0.002, margin=0.03, n=n)
    assert 0.05 - CHANCE <= reached <= 0.05 + CHANCE
    assert share_of("equivalent", difference=-0.03, scatter=0.03, margin=0.03, n=n) <= 0.05 + CHANCE


@pytest.mark.parametrize("n", [2, 5])
def test_equal_strategies_are_called_different_in_one_of_twenty_at_most(n: int) -> None:
    reached = share_of("different", difference=0.0, scatter=0.1, margin=0.001, n=n)
    assert 0.05 - CHANCE <= reached <= 0.05 + CHANCE
    assert share_of("different", difference=0.0, scatter=0.01, margin=0.03, n=n) <= 0.05 + CHANCE


def test_enough_seeds_tell_the_equal_from_the_unequal() -> None:
    assert share_of("equivalent", difference=0.0, scatter=0.01, margin=0.03, n=5) > 0.95
    assert share_of("different", difference=0.06, scatter=0.01, margin=0.03, n=5) > 0.95
    assert share_of("unresolved", difference=0.0, scatter=0.1, margin=0.03, n=3) > 0.9


# ------------------------------------------------------------------------------------------------ without scatter


@pytest.mark.parametrize(("scores", "difference"), [((), None), ((0.5,), 0.5)])
def test_fewer_than_two_pairs_say_nothing(scores: tuple[float, ...], difference: float | None) -> None:
    found = against_zero(*scores, margin=0.03)
    assert (found.word, found.n, found.difference) == ("unresolved", len(scores), difference)
    assert "no scatter is known; run 2 or more" in found.note
    assert found.interval90 is found.interval95 is found.p_equivalent is found.p_different is None


def test_the_same_score_in_every_pair_is_equivalent() -> None:
    found = compare([0.7, 0.1], [0.7, 0.1], margin=1e-9)
    assert (found.word, found.difference, found.interval90) == ("equivalent", 0.0, None)
    # as the same sum in another order
    assert compare([0.1 + 0.2 + 0.3, 0.5], [0.3 + 0.2 + 0.1, 0.5], margin=1e-9).word == "equivalent"


@pytest.mark.parametrize("step", [1 / 160, 0.3])
def test_a_constant_difference_is_unresolved_for_steps_agree_by_chance(step: float) -> None:
    second = [0.7, 0.1, 0.45]
    first = [score + step for score in second]
    assert len({a - b for a, b in zip(first, second, strict=True)}) > 1  # in binary they are not quite constant
    found = compare(first, second, margin=0.02)
    assert (found.word, found.interval90, found.p_different) == ("unresolved", None, None)
    assert found.difference == pytest.approx(step)
    assert "differs by the same amount" in found.note


@pytest.mark.parametrize(
    ("first", "says"),
    [
        ([0.1, 0.2], r"2 scores against 3 are no pairs; run both strategies with the same seeds"),
        ([0.1, math.nan, 0.3], r"score 1 of 3 of the first strategy is nan; run that seed again"),
        ([0.1, 0.2, math.inf], r"score 2 of 3 of the first strategy is inf"),
        ([None, 0.2, 0.3], r"score 0 of 3 of the first strategy is missing"),
    ],
)
def test_scores_that_are_no_pairs_or_no_numbers_are_refused(first: list[float | None], says: str) -> None:
    with pytest.raises(NotComparable, match=says):
        compare(first, [0.1, 0.2, 0.3], margin=0.03)
    with pytest.raises(NotComparable, match=says.replace("first", "second") if "first" in says else "3 scores against"):
        compare([0.1, 0.2, 0.3], first, margin=0.03)


@pytest.mark.parametrize("margin", [0.0, -0.1, math.nan, math.inf])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(NotComparable, match="cannot be tested; give a positive number"):
        compare([0.1, 0.2], [0.1, 0.3], margin=margin)
