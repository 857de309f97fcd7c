"""The live proof adds up its table, has exact bounds, and fails for what contradicts the gate, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.proof.confusion import Night, Trial, contradictions, counted, lines, packed, page, unpacked


def _trial(plant: str, word: str, count: int = 1, *, promised: bool = False) -> Trial:
    return Trial(case="tiny_net-ddp-1gpu-bs4", plant=plant, word=word, promised=promised, count=count)


def _night(*trials: Trial, gate: str = "this") -> Night:
    return Night(date="2026-11-21", gate=gate, versions={"torch": "2.15"}, trials=counted(trials))


def test_alike_trials_are_counted_together():
    trials = counted([_trial("burn:5%", "regressed"), _trial("", "passed", 2), _trial("burn:5%", "regressed", 3)])
    assert trials == (_trial("", "passed", 2), _trial("burn:5%", "regressed", 4))


def test_bounds_are_those_of_clopper_and_pearson():
    night = _night(_trial("burn:5%", "regressed", 8), _trial("burn:5%", "passed", 2), _trial("", "passed", 30))
    # 8 of 10 and 0 of 30, from tables of the exact binomial interval.
    found, clean = (next(row for row in lines(night, []) if f" {plant} " in row) for plant in ("burn:5%", "nothing"))
    assert "8 of 10" in found
    assert "44 to 97 %" in found
    assert "0 of 30" in clean
    assert "0 to 12 %" in clean
    assert found.endswith("2 passed")


def test_nights_of_the_same_gate_add_up_and_those_of_another_do_not():
    tonight = _night(_trial("burn:5%", "regressed", 1))
    before = [_night(_trial("burn:5%", "regressed", 3)), _night(_trial("burn:5%", "passed", 50), gate="another")]
    table = lines(tonight, before)
    assert "2 nights" in table[0]
    assert "1 of 1" in table[1]
    assert "4 of 4" in table[1]


def test_faults_stand_in_the_order_of_their_size():
    night = _night(*(_trial(plant, "regressed") for plant in ("burn:10%", "burn:2%", "", "burn:5%")))
    order = [line.split()[1] for line in lines(night, [])[1:-1]]
    assert order == ["nothing", "burn:2%", "burn:5%", "burn:10%"]


def test_what_was_found_as_promised_contradicts_nothing():
    night = _night(
        _trial("", "passed", 5),
        _trial("", "unresolved"),
        _trial("", "improved"),
        _trial("burn:10%", "regressed", 6, promised=True),
        _trial("burn:2%", "passed", 60),  # which no verdict said it would see
        _trial("leak", "caught"),
    )
    assert contradictions(night, []) == []


def test_a_clean_case_that_is_called_regressed_contradicts():
    assert contradictions(_night(_trial("", "regressed")), []) == [
        "tiny_net-ddp-1gpu-bs4: nothing was planted, and it is called regressed, 1 times"
    ]


def test_a_missed_exact_fault_contradicts():
    assert contradictions(_night(_trial("leak", "missed")), []) == [
        "tiny_net-ddp-1gpu-bs4: leak was planted, and no exact layer saw it"
    ]


def test_what_was_wrong_on_another_night_is_told_then_and_its_power_counts_on():
    before = [_night(_trial("", "regressed"), _trial("leak", "missed"))]
    assert contradictions(_night(_trial("", "passed")), before) == []
    before = [_night(_trial("burn:5%", "passed", 1, promised=True))] * 2
    (found,) = contradictions(_night(_trial("burn:5%", "regressed", promised=True)), before)
    assert found == (
        "tiny_net-ddp-1gpu-bs4: burn:5% was found 1 times of 3 where 99% was promised; the power is at most 91%"
    )


@pytest.mark.parametrize(("missed", "of", "wrong"), [(1, 2, True), (1, 3, False), (1, 30, False), (2, 5, True)])
def test_power_contradicts_only_where_even_its_upper_bound_is_below_what_was_promised(missed, of, wrong):
    # The upper bound of 1 of 2 is 98.7 %, that of 2 of 3 is 99.2 %.
    night = _night(
        _trial("burn:5%", "passed", missed, promised=True), _trial("burn:5%", "regressed", of - missed, promised=True)
    )
    assert bool(contradictions(night, [])) is wrong


def test_stored_nights_come_back_and_what_is_damaged_is_refused():
    nights = (_night(_trial("", "passed")), _night(_trial("leak", "caught")))
    assert unpacked(packed(nights), "here") == nights
    for content in (packed(nights)[:-20], b"{}", packed(nights).replace(b"word", b"ward")):
        with pytest.raises(StoreError, match=r"^(counts )?here .*; move the file away to count anew"):
            unpacked(content, "here")


def test_the_published_page_is_what_the_kept_nights_give():
    docs = Path(__file__).parents[1] / "docs"
    assert (docs / "gate_live.md").read_text(encoding="utf-8").splitlines() == page(docs / "nights")


def test_a_damaged_night_is_refused_by_its_file(tmp_path):
    (tmp_path / "machine").mkdir()
    (tmp_path / "machine" / "time.json").write_text("[{]")
    with pytest.raises(StoreError, match=r"machine/time\.json is no JSON .*; move the file away to count anew"):
        page(tmp_path)
