"""Spans of time: union, part within a window, and what others leave, held to counting moments one by one."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from harness.records.spans import inside, length, merged, without
from tests.made import ANY_SPEED

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: tuple(sorted(pair))), max_size=8)


def _moments(spans):
    return {moment for begin, end in spans for moment in range(begin, end)}


@ANY_SPEED
@given(SPANS)
def test_a_union_counts_each_moment_once(spans):
    union = merged(spans)
    assert _moments(union) == _moments(spans)
    assert length(spans) == len(_moments(spans))
    assert all(before[1] < after[0] for before, after in itertools.pairwise(union))


@ANY_SPEED
@given(SPANS, SPANS)
def test_what_others_leave_is_what_they_do_not_have(spans, others):
    assert _moments(without(spans, others)) == _moments(spans) - _moments(others)


@ANY_SPEED
@given(SPANS, st.tuples(st.integers(0, 30), st.integers(0, 30)))
def test_only_what_lies_in_a_window_is_inside(spans, window):
    assert _moments(inside(spans, window)) == _moments(spans) & set(range(*window))
