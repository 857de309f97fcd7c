"""Which rank is late for which collective, from what each rank's flight recorder tells."""

from __future__ import annotations

import pytest

from harness.running import flight
from harness.running.flight import Call, Flight, told


def _calls(*done: bool, group: str = "default_pg", members: tuple[int, ...] = (0, 1), name: str = "gloo:all_reduce"):
    return tuple(
        Call(group=group, members=members, number=number, name=name, elements=1000 * number, done=one)
        for number, one in enumerate(done, 1)
    )


def _told(**of_ranks) -> list[str]:
    return list(told({int(name[1:]): Flight(calls=calls) for name, calls in of_ranks.items()}))


def test_the_rank_that_did_not_enter_is_late_for_what_the_others_wait_in():
    (sentence,) = _told(r0=_calls(True, True, False), r1=_calls(True, True))
    what = "gloo:all_reduce 3 of group default_pg (3,000 elements)"
    assert sentence == f"late: rank 0 in {what}, which rank 1 did not enter; came so far: rank 1 to 2"


def test_a_rank_that_never_entered_the_group_is_late_too():
    (sentence,) = _told(r0=_calls(False, members=(0, 1, 2)), r1=_calls(False, members=(0, 1, 2)), r2=())
    assert "ranks 0, 1 in gloo:all_reduce 1" in sentence
    assert "which rank 2 did not enter; came so far: rank 2 to none" in sentence


def test_where_all_entered_and_none_is_through_it_is_told_as_that():
    (sentence,) = _told(r0=_calls(True, False), r1=_calls(True, False))
    what = "gloo:all_reduce 2 of group default_pg (2,000 elements)"
    assert sentence == f"all inside: ranks 0, 1 in {what}, which does not end"


def test_ranks_that_wait_for_each_other_in_two_groups_are_told_of_both():
    other = _calls(False, group="7", name="gloo:broadcast")
    found = _told(r0=_calls(True, False), r1=_calls(True) + other)
    assert len(found) == 2
    assert "rank 0 in gloo:all_reduce 2" in found[0]
    assert "rank 1 in gloo:broadcast 1 of group 7" in found[1]


def test_where_nothing_waits_nothing_is_told():
    assert _told(r0=_calls(True, True), r1=_calls(True)) == []


@pytest.mark.parametrize("content", [None, b"", b'{"calls": [', b'{"calls": 1}'])
def test_a_rank_that_did_not_answer_is_not_available(tmp_path, content):
    flight.file_of(tmp_path, 0).write_bytes(flight.packed(Flight(calls=_calls(True))))
    if content is not None:
        flight.file_of(tmp_path, 1).write_bytes(content)
    found = flight.read(tmp_path, [0, 1])
    assert found[0].calls == _calls(True)
    assert list(told(found)) == ["collectives of rank 1 n/a: it did not answer when it was asked"]
