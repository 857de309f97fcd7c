"""The search for the largest batch: it finds the edge, whatever it is, and tries few batches."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from harness.anatomy.fitting import MOST, RESOLUTION, largest
from harness.case import Case
from harness.report.fitting import render
from tests.made import ANY_SPEED


def _machine(edge):
    return lambda batch: float(batch) if batch <= edge else None


@ANY_SPEED
@given(st.integers(1, MOST - 1), st.integers(1, 4096))
def test_the_edge_is_closed_in_on(edge, start):
    found = largest(_machine(edge), start=start)
    assert found.batch_size <= edge < found.refused
    assert found.refused - found.batch_size <= max(1, found.batch_size // RESOLUTION)
    assert found.images_per_s == found.batch_size
    assert len(found.tried) <= math.log2(MOST) + 2 + math.log2(2 * RESOLUTION)


@ANY_SPEED
@given(st.integers(1, 5000), st.integers(1, 8), st.integers(1, 64))
def test_every_batch_divides_into_micro_batches(edge, divisor, parts):
    found = largest(_machine(edge), start=parts * divisor, divisor=divisor)
    assert all(batch % divisor == 0 for batch in found.tried)
    assert (found.batch_size or 0) <= edge


def test_nothing_fits():
    found = largest(_machine(0), start=64)
    assert (found.batch_size, found.images_per_s, found.refused) == (None, None, 1)


def test_the_search_ends_by_itself_where_everything_fits():
    found = largest(_machine(math.inf), start=100)
    assert (found.batch_size, found.refused) == (MOST, None)


def test_the_lines_say_what_was_found_and_what_lies_beyond():
    case = Case.parse("resnet18-ddp-2gpu-bs8")
    text = "\n".join(render({case: largest(_machine(100), start=8)}, device_memory_bytes=2**30))
    assert "1.00 GiB a rank" in text
    assert text.splitlines()[-1].split() == [case.id, "100", "100.0", "does", "not", "fit", "104", "9"]
    text = "\n".join(render({case: largest(_machine(0), start=8)}, device_memory_bytes=None))
    assert text.splitlines()[-1].split()[:6] == [case.id, "none", "n/a", "does", "not", "fit"]
