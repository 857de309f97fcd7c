"""The terminal tells of every pair of strategies once: in a group that is equivalent, or on its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.case import Case
from harness.gate.equivalence import compare
from harness.metrics.accuracy import ACCURACY
from harness.metrics.average_precision import MEAN_AVERAGE_PRECISION
from harness.metrics.loss import LOSS
from harness.report.equivalence import render
from tests.made import ANY_SPEED


def case(strategy: str, **over: object) -> Case:
    return Case(**{"model": "fasterrcnn_r18", "strategy": strategy, "gpu_count": 2, "batch_size": 2} | over)  # type: ignore[arg-type]


SEEDS = [0.60, 0.55, 0.63, 0.58, 0.61]


def shifted(by: float, scatter: float = 0.0) -> list[float]:
    return [score + by + scatter * step for score, step in zip(SEEDS, (1, -1, 0.5, -1.5, 1), strict=True)]


def lines(scores: dict[Case, list[float | None]], metric: object = MEAN_AVERAGE_PRECISION) -> list[str]:
    return list(render(scores, metric=metric))  # type: ignore[arg-type]


def test_what_is_equivalent_stands_in_one_line_and_every_other_pair_in_one_of_its_own() -> None:
    found = lines(
        {
            case("ddp"): SEEDS,
            case("fsdp1"): shifted(0.001, 0.002),
            case("zero1"): SEEDS,
            case("zero3"): shifted(0.06, 0.01),
            case("noisy"): shifted(0.004, 0.1),
        }
    )
    assert found == [
        "map of the same seeds, every two strategies: equivalent within .030, different, or unresolved (two",
        "  one-sided t-tests and the paired t-test, 5 % error per pair)",
        "  fasterrcnn_r18-2gpu-bs2 (5 seeds)",
        "    ddp, fsdp1, zero1: equivalent, mean differences up to .001",
        "    pair                        mean  90 % interval   95 % interval",
        "    ddp - zero3    different   -.060  -.071 to -.049  -.075 to -.045",
        "    ddp - noisy    unresolved  -.004  -.116 to +.108  -.150 to +.142",
        "    fsdp1 - zero3  different   -.059  -.068 to -.050  -.071 to -.047",
        "    fsdp1 - noisy  unresolved  -.003  -.113 to +.107  -.146 to +.140",
        "    zero1 - zero3  different   -.060  -.071 to -.049  -.075 to -.045",
        "    zero1 - noisy  unresolved  -.004  -.116 to +.108  -.150 to +.142",
        "    zero3 - noisy  unresolved  +.056  -.045 to +.157  -.075 to +.187",
    ]


def test_strategies_that_score_the_same_in_every_seed_are_said_to() -> None:
    assert lines({case("ddp"): SEEDS, case("fsdp1"): SEEDS})[-1] == (
        "    ddp, fsdp1: equivalent, the same in every seed"
    )


def test_equivalence_that_is_not_transitive_makes_two_groups_and_names_the_pair_between() -> None:
    found = lines({case("low"): shifted(-0.025, 0.001), case("mid"): SEEDS, case("high"): shifted(0.025, -0.001)})
    assert [line.split(":")[0].strip() for line in found if ": equivalent, " in line] == ["low, mid", "mid, high"]
    assert [line.split()[:4] for line in found if "different" in line][1:] == [["low", "-", "high", "different"]]


@given(levels=st.lists(st.tuples(st.floats(-0.05, 0.05), st.floats(0, 0.05)), min_size=2, max_size=7))
@ANY_SPEED
def test_every_pair_is_told_of_once_or_in_a_group_and_no_group_holds_another_pair(
    levels: list[tuple[float, float]],
) -> None:
    names = [f"s{i}" for i in range(len(levels))]
    scores = {name: shifted(*level) for name, level in zip(names, levels, strict=True)}
    found = lines({case(name): values for name, values in scores.items()})
    groups = [set(line.split(":")[0].strip().split(", ")) for line in found if ": equivalent, " in line]
    text = " ".join(line.strip() for line in found)
    for a, b in combinations(names, 2):
        word = compare(scores[a], scores[b], margin=0.03).word
        assert any({a, b} <= group for group in groups) == (word == "equivalent")
        assert text.count(f"{a} - {b} ") == (word != "equivalent")


def test_other_gpu_counts_batches_models_and_options_are_other_tables() -> None:
    kinds: list[dict[str, object]] = [{}, {"gpu_count": 4}, {"batch_size": 4}, {"precision": "bf16"}, {"model": "m"}]
    found = lines({case(name, **kind): SEEDS for kind in kinds for name in ("ddp", "fsdp1")})
    assert [line.strip() for line in found if "seeds)" in line] == [
        "fasterrcnn_r18-2gpu-bs2 (5 seeds)",
        "fasterrcnn_r18-4gpu-bs2 (5 seeds)",
        "fasterrcnn_r18-2gpu-bs4 (5 seeds)",
        "fasterrcnn_r18-2gpu-bs2-bf16 (5 seeds)",
        "m-2gpu-bs2 (5 seeds)",
    ]


def test_a_case_without_all_its_scores_is_left_out_by_name() -> None:
    scores: dict[Case, list[float | None]] = {
        case("ddp"): SEEDS,
        case("fsdp1"): SEEDS,
        case("zero1"): [*SEEDS[:3], None, math.nan],
        case("zero2"): SEEDS[:4],
    }
    assert lines(scores)[3:] == [
        "    zero1: not compared, no score of seeds 3, 4",
        "    zero2: not compared, no score of seed 4",
        "    ddp, fsdp1: equivalent, the same in every seed",
    ]
    assert lines({case("ddp"): SEEDS, case("fsdp1"): [None] * 5})[3:] == [
        "    fsdp1: not compared, no score of seeds 0, 1, 2, 3, 4"
    ]


def test_pairs_without_an_interval_stand_together_with_the_reason() -> None:
    assert lines({case("ddp"): [0.5], case("fsdp1"): [0.5], case("zero1"): [0.51]})[2:] == [
        "  fasterrcnn_r18-2gpu-bs2 (1 seed)",
        "    unresolved (of 1 seed no scatter is known; run 2 or more): ddp - fsdp1 +.000; ddp - zero1 -.010;",
        "      fsdp1 - zero1 -.010",
    ]
    constant = lines({case("ddp"): SEEDS, case("fsdp1"): shifted(0.0125)}, ACCURACY)
    assert " ".join(line.strip() for line in constant[3:]) == (
        "unresolved (every pair differs by the same amount, so the scatter is not known): ddp - fsdp1 -1.2 %"
    )


def test_nothing_is_said_where_nothing_can_be_compared() -> None:
    assert lines({}) == []
    assert lines({case("ddp"): SEEDS, case("ddp", gpu_count=4): SEEDS}) == []
    assert lines({case("ddp"): SEEDS, case("fsdp1"): SEEDS}, LOSS) == []


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(lambda i: shifted(0.01 * i, 0.03), id="scattered"),
        pytest.param(lambda i: SEEDS[:1], id="one seed"),
        pytest.param(lambda i: SEEDS, id="all the same"),
    ],
)
def test_no_line_is_wider_than_a_terminal(values: Callable[[int], list[float | None]]) -> None:
    names = ["dp", "ddp", "fsdp1", "fsdp2", "fairscale_fsdp", "fairscale_sdp", "zero1", "zero2", "zero3"]
    options: dict[str, object] = {"precision": "bf16", "offload": "cpu", "checkpointing": True, "schedule": "cosine"}
    for metric in (ACCURACY, MEAN_AVERAGE_PRECISION):
        found = lines({case(name, **options): values(i) for i, name in enumerate(names)}, metric)
        assert max(map(len, found)) <= 100
