"""One process of the time layer: rounds of all kinds of work, on all ranks alike, beside frozen references."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import TypeAdapter

from harness.case import Case
from harness.records.samples import RankSamples, Samples

_RANK = TypeAdapter(RankSamples)


@pytest.fixture(scope="module")
def replicated(pipeline):
    """Return a function that runs one process of a case of the tests' small model."""

    def run(strategy, gpu_count, **over):
        case = Case(model="tiny_net", strategy=strategy, gpu_count=gpu_count, batch_size=4)
        reports, _ = pipeline.ranks.launch(case, str(case), purpose="replicate", **over)
        return reports, [_RANK.validate_python(report.extra["samples"]) for report in reports]

    return run


def test_every_rank_measures_every_kind_of_work_in_every_round(replicated):
    reports, ranks = replicated("ddp", 2, sampled_s=0.001)
    assert {len(figures) for rank in ranks for figures in (rank.case_us, rank.plain_us, rank.collective_us)} == {4}
    assert {len(figures) for rank in ranks for figures in (rank.convolution_us, rank.product_us)} == {4}
    assert all(value > 0 for rank in ranks for value in rank.case_us + rank.plain_us + rank.product_us)
    assert len({report.extra["settled_after"] for report in reports}) == 1
    assert set(reports[0].extra["references"]) == {"plain", "machine"}


def test_more_seconds_are_more_rounds_but_not_without_end(replicated):
    _, (rank,) = replicated("fsdp2", 1, sampled_s=1e9)
    assert len(rank.case_us) == 60
    assert rank.collective_us == ()


def test_rounds_are_in_an_order_of_their_own_that_the_seed_decides(monkeypatch):
    from harness.worker import replicate

    monkeypatch.setattr(replicate.dist, "get_world_size", lambda: 1)

    def orders(seed):
        made = []
        rounds = replicate.Rounds({name: lambda name=name: made.append(name) for name in "abcd"}, "cpu", seed=seed)
        for _ in range(48):
            rounds.one()
        assert {len(seconds) for seconds in rounds.seconds().values()} == {48}
        return ["".join(made[at : at + 4]) for at in range(0, len(made), 4)]

    assert orders(0) == orders(0) != orders(1)
    assert all(sorted(order) == list("abcd") for order in orders(0))
    # No place is one kind's alone: of 48 rounds each kind is first in some.
    assert set(Counter(order[0] for order in orders(0))) == set("abcd")


@pytest.mark.parametrize(
    ("case_s", "settled"),
    [
        ([1.0, 1.0], False),
        ([1.0, 1.0, 1.0], True),
        ([5.0, 1.0, 1.0], False),
        ([5.0, 1.0, 1.0, 1.0], True),
        ([4.0, 3.0, 2.0, 1.0], False),
        ([1.0, 1.3, 0.96], True),
    ],
)
def test_a_case_has_settled_when_it_gets_no_faster(case_s, settled):
    from harness.worker.replicate import has_settled

    assert has_settled(case_s) is settled


def test_changed_references_have_another_digest(replicated, monkeypatch, pipeline):
    from harness.worker import frozen

    class Told:
        model = pipeline.registry.find("models", "tiny_net")

    before = frozen.digests(Told)
    monkeypatch.setattr(frozen, "product", frozen.convolution)
    changed = frozen.digests(Told)
    assert changed["machine"] != before["machine"]
    assert changed["plain"] == before["plain"]
    Told.model = pipeline.registry.find("models", "resnet18")
    assert frozen.digests(Told)["plain"] != before["plain"]


@pytest.mark.parametrize("ranks", [(), ((),), ((1, 2), (1,))])
def test_a_process_has_ranks_of_equal_rounds(ranks):
    def rank(case_us):
        return RankSamples(case_us=case_us, plain_us=(1,), convolution_us=(1,), product_us=(1,), collective_us=())

    with pytest.raises(ValueError, match="as many rounds of each"):
        Samples(
            stage="screen",
            started_unix_s=0.0,
            wall_s=1.0,
            settled_after=3,
            steps=1,
            references={},
            ranks=tuple(map(rank, ranks)),
        )
