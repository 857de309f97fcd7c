"""The lines of the ceilings: rates in the field's units, n/a where nothing was measured."""

from __future__ import annotations

from harness.report.ceilings import render
from tests.test_ceilings import made


def test_rates_are_shown_in_their_units():
    text = "\n".join(render([made()]))
    assert "50 GFLOP/s" in text
    assert "10 GB/s" in text
    (row,) = [line for line in text.splitlines() if "all_gather" in line]
    # Half of 4 GB/s by two ranks.
    assert "2 GB/s" in row
    assert "1 MiB" in row


def test_a_type_that_was_not_measured_is_not_available():
    (row,) = [line for line in render([made()]) if "50 GFLOP/s" in line]
    assert row.split().count("n/a") == 2


def test_one_rank_has_no_collectives_and_no_machine_no_lines():
    assert "collective" not in "\n".join(render([made(ranks=1, sweeps=())]))
    assert list(render([])) == []


def test_lines_fit_the_width_of_a_report():
    assert all(len(line) <= 100 for line in render([made()]))
