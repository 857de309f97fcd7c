"""Advice follows from figures a person can check: what fits, what is fastest, what is lean, and how sure that is."""

from __future__ import annotations

import functools
import math
import random
import re
from dataclasses import replace

import pytest

from harness.anatomy.advice import Candidate, advise, fits, lines_of_code, told_apart
from harness.case import Case
from harness.gate.noise import Noise
from harness.gate.observations import Observation
from harness.gate.ranking import Spent, slower

MB = 10**6


def _one(strategy, ms, mb, accuracy=0.9, *, spread=0.01, gpus=4, options="", **over):
    case = Case.parse(f"resnet18-{strategy}-{gpus}gpu-bs8{options}")
    steps = tuple(ms / 1e3 * (1 + spread * way) for way in (-2, -1, 0, 1, 2))
    memory = None if mb is None else mb * MB
    return Candidate(case=case, dataset="digits", steps_s=steps, memory_bytes=memory, accuracy=accuracy, **over)


DDP, FSDP2, ZERO3 = _one("ddp", 100, 1000), _one("fsdp2", 112, 590), _one("zero3", 150, 400)


def _advice(*candidates, **over):
    (advice,) = advise(candidates, **over)
    return advice


def _text(*candidates, **over) -> str:
    return " | ".join(_advice(*candidates, **over).sentences)


def test_the_fastest_that_fits_is_not_the_fastest():
    assert _advice(ZERO3, DDP, FSDP2).fastest is DDP
    assert _advice(ZERO3, DDP, FSDP2, memory_bytes=999 * MB).fastest is FSDP2
    assert _advice(ZERO3, DDP, FSDP2, memory_bytes=1000 * MB).fastest is DDP


def test_the_leanest_stays_within_the_slowdown_of_the_fastest_that_fits():
    assert _advice(ZERO3, DDP, FSDP2, slowdown=0.1).leanest is DDP
    assert _advice(ZERO3, DDP, FSDP2, slowdown=0.13).leanest is FSDP2
    assert _advice(ZERO3, DDP, FSDP2, slowdown=0.5).leanest is ZERO3
    assert _advice(ZERO3, DDP, FSDP2, memory_bytes=999 * MB, slowdown=0.35).leanest is ZERO3


def test_each_recommendation_is_one_sentence_with_its_reason():
    fastest, leanest = _advice(DDP, FSDP2, ZERO3, slowdown=0.2).sentences
    assert fastest == "fastest: ddp at 4 GPUs, 100.0 ms a step; fsdp2, the next, is 12% (by steps) slower"
    assert leanest == "leanest: fsdp2 at 4 GPUs: 12% (by steps) slower than ddp, but needs 41% less memory (0.549 GiB)"
    fastest, leanest = _advice(DDP, FSDP2, ZERO3, memory_bytes=600 * MB).sentences
    assert fastest.startswith("fastest of the 2 that fit: fsdp2 at 4 GPUs")
    assert leanest == "leanest: fsdp2 at 4 GPUs too: nothing at most 10% slower needs less memory"


def test_times_whose_spreads_overlap_are_not_told_apart():
    near = _one("zero1", 101, 900)
    assert not told_apart(DDP, near)
    assert told_apart(FSDP2, DDP)
    assert not told_apart(DDP, FSDP2)
    assert "not told apart from zero1" in _text(DDP, near, FSDP2)
    assert "1% (by steps) slower than ddp (not told apart), but needs 10% less memory" in _text(DDP, near)


def test_processes_tell_more_than_the_spread_of_steps():
    draw = random.Random(1)

    def timed(one, by):
        views = {
            "same work": Spent(
                seen=tuple(Observation(by + draw.gauss(0, 0.005), 30, 0.0004) for _ in range(5)),
                noise=Noise(1.0, 0.00003, 0.0004, 10, 0.000025, 4),
            )
        }
        return replace(one, timing=views)

    near = _one("zero1", 101, 900)
    assert told_apart(timed(near, 0.05), timed(DDP, 0.0))
    assert not told_apart(timed(FSDP2, 0.002), timed(DDP, 0.0))
    text = _text(timed(near, 0.05), timed(DDP, 0.0))
    assert re.search(r"zero1, the next, is 5% \(\d% to \d%, by processes\) slower", text)


def test_the_leanest_is_told_apart_as_surely_as_all_others_together():
    views = {"same work": Spent(seen=(Observation(0.0, 30, 0.0004),) * 5, noise=Noise(1, 3e-5, 4e-4, 10, 2.5e-5, 4))}
    fastest = replace(DDP, timing=views)
    # Just far enough for one comparison, and not for one of eight.
    by = math.log1p(slower(views, views).high) * 1.05
    moved = {"same work": replace(views["same work"], seen=(Observation(by, 30, 0.0004),) * 5)}
    lean = replace(_one("zero1", 104, 500), timing=moved)
    assert "not told apart" not in _text(fastest, lean)
    others = [_one(name, 108, 1200) for name in ("zero2", "zero3", "fsdp1", "fsdp2", "a", "b", "c")]
    assert re.search(r"leanest: zero1.*\(not told apart\)", _text(fastest, lean, *others))


def test_a_few_steps_tell_nothing_apart():
    assert not told_apart(replace(DDP, steps_s=(0.1, 0.1, 0.1)), ZERO3)


def test_what_is_not_certified_neither_wins_nor_is_silent():
    wrong = _one("zero1", 10, 10, why_not="not certified: clipping")
    advice = _advice(wrong, DDP, FSDP2)
    assert advice.fastest is DDP
    assert wrong not in advice.pareto
    assert advice.refused == ((wrong, "not certified: clipping"),)


def test_a_case_without_steps_is_listed_as_such():
    assert _advice(DDP, replace(FSDP2, steps_s=())).refused[0][1] == "no step was measured"


def test_unknown_memory_is_not_known_to_fit():
    unknown = _one("fsdp1", 50, None)
    assert fits(unknown, None)
    assert not fits(unknown, 10**15)
    assert _advice(unknown, DDP, memory_bytes=10**15).fastest is DDP
    assert _advice(unknown, memory_bytes=10**15).sentences == ("nothing is known to fit: no peak memory was measured",)
    assert "leanest: n/a" in _text(unknown)


def test_where_nothing_fits_the_smallest_that_exists_is_named():
    advice = _advice(DDP, FSDP2, ZERO3, memory_bytes=MB)
    assert (advice.fastest, advice.leanest, advice.pareto) == (None, None, ())
    assert advice.sentences == ("nothing fits: the least memory is 0.373 GiB, of zero3 at 4 GPUs",)


def test_where_nothing_counts_it_says_so():
    assert _text(replace(DDP, why_not="x")) == "nothing to recommend: no case here counts"


def test_the_pareto_front_is_over_time_memory_and_accuracy():
    beaten = _one("fsdp1", 113, 600)
    right = _one("zero2", 200, 2000, 0.95)
    assert _advice(DDP, FSDP2, ZERO3, beaten, right).pareto == (DDP, FSDP2, ZERO3, right)


def test_of_two_that_are_alike_in_all_both_are_on_the_front():
    assert len(_advice(DDP, replace(DDP, case=ZERO3.case)).pareto) == 2


def test_what_is_not_known_wins_nothing():
    blind = replace(_one("fsdp1", 100, None), accuracy=None)
    assert _advice(DDP, blind).pareto == (DDP,)


def test_only_alternatives_are_held_together():
    offload = _one("zero3", 300, 100, options="-offload")
    groups = advise([DDP, offload, _one("ddp", 90, 900, gpus=2), replace(ZERO3, dataset="cifar10")])
    assert [(g.dataset, g.gpu_count, g.global_batch_size) for g in groups] == [
        ("cifar10", 4, 32),
        ("digits", 2, 16),
        ("digits", 4, 32),
    ]
    assert [one.name for one in groups[-1].counted] == ["ddp", "zero3-offload"]


def test_shared_cores_make_it_unsure():
    assert "unsure: there were more ranks than cores" in _text(replace(DDP, oversubscribed=True), FSDP2)
    assert "unsure: those marked ! were disturbed" in _text(replace(DDP, disturbed=True), FSDP2)
    assert "unsure" not in _text(DDP, FSDP2)
    assert "unsure" not in _text(DDP, FSDP2)


SOURCE = '''"""Docstring."""
import os

LIMIT = (
    1,
)


def shard(workload):
    """Docstring

    of three lines.
    """
    # a comment

    return _part(workload, LIMIT)


def _part(workload, limit):
    text = """two
    lines"""
    return text


def unused():
    return 1
'''


def test_lines_of_code_are_those_of_what_is_used_without_docstrings_comments_and_blanks():
    space = {}
    exec(SOURCE, space)
    assert lines_of_code(space["shard"], SOURCE) == 2 + 3 + 4
    assert lines_of_code(functools.partial(space["shard"], 1), SOURCE) == 9
    assert lines_of_code(space["unused"], SOURCE) == 2


@pytest.mark.parametrize("gpus", [1, 2])
def test_gpus_are_counted_in_words(gpus):
    assert f"at {gpus} GPU{'s' if gpus > 1 else ''}," in _text(_one("ddp", 1, 1, gpus=gpus))
