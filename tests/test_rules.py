"""The rules of other tools on hand-made data with known answers, and all rules on the recorded runs."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import pytest

from harness.proof import comparison, recorded, rules
from harness.proof.comparison import CONTENDERS
from harness.proof.recorded import Contender, Rate, tried

RUNS = Path(__file__).parent / "data" / "gate_runs.json"
DOCS = Path(__file__).parents[1] / "docs" / "gate_rules.md"

BY_NAME = {contender.name: contender for contender in CONTENDERS}


@pytest.fixture(scope="module")
def processes():
    return recorded.load(RUNS)


def _made(count, *, slower=1.0, between=0.0, seed=0, steps=60):
    """Return processes of steps near 1000 us that scatter by 1 %; `between` is the scatter of whole processes."""
    random = Random(seed)
    made = []
    for _ in range(count):
        level = 1000 * slower * math.exp(random.gauss(0, between))
        made.append([level * math.exp(random.gauss(0, 0.01)) for _ in range(steps)])
    return made


PAIRED = [
    rules.pytest_benchmark_mean,
    rules.pytest_benchmark_median,
    rules.pytest_benchmark_min,
    rules.torchbench,
    rules.criterion,
]
POOLED = [rules.pyperf, rules.pyperf_all, rules.asv]
HISTORY = [rules.rustc_perf, rules.conbench, rules.otava]


def _shown(rule, **new):
    """Return what a rule says of steady stored processes and of new ones, as many as it wants."""
    stored, count = (1, 1) if rule in PAIRED else (5, 5) if rule in POOLED else (30, 5)
    return rule(_made(stored, seed=1, between=0.001), _made(count, seed=2, between=0.001, **new))


@pytest.mark.parametrize("rule", [*PAIRED, *POOLED, *HISTORY], ids=lambda rule: rule.__name__)
def test_a_rule_reports_what_takes_half_as_long_again_and_nothing_else(rule):
    assert _shown(rule, slower=1.5)
    assert not _shown(rule, slower=0.5)


@pytest.mark.parametrize("rule", [*PAIRED, rules.asv, *HISTORY], ids=lambda rule: rule.__name__)
def test_a_rule_does_not_report_equal_processes(rule):
    stored = _made(1) * (1 if rule in PAIRED else 30)
    assert not rule(stored, stored[:5])


@pytest.mark.parametrize("rule", PAIRED[:4], ids=lambda rule: rule.__name__)
def test_a_threshold_is_where_the_tool_has_it(rule):
    share = 0.07 if rule is rules.torchbench else 0.05
    flat = [1000.0] * 60
    assert not rule([flat], [[1000 * (1 + share) - 1] * 60])
    assert rule([flat], [[1000 * (1 + share) + 1] * 60])


@pytest.mark.parametrize(
    ("rule", "statistic"),
    [
        (rules.pytest_benchmark_mean, [900.0] * 30 + [1300.0] * 30),
        (rules.pytest_benchmark_median, [900.0] * 25 + [1100.0] * 35),
        (rules.pytest_benchmark_min, [1060.0] * 60),
    ],
    ids=["mean", "median", "min"],
)
def test_a_rule_of_one_statistic_looks_at_that_alone(rule, statistic):
    stored = [[1000.0] * 58 + [1.0, 1999.0]] if rule is not rules.pytest_benchmark_min else [[1000.0] * 60]
    assert rule(stored, [statistic])
    others = {rules.pytest_benchmark_mean, rules.pytest_benchmark_median} - {rule}
    quiet = [900.0] * 31 + [1101.0] * 29
    assert not any(other([[1000.0] * 60], [quiet]) for other in others)


def test_rules_that_compare_one_run_with_one_see_the_last_stored_one_alone():
    fast, slow = [1000.0] * 60, [2000.0] * 60
    for rule in PAIRED[:4]:
        assert rule([slow, fast], [slow]) and not rule([fast, slow], [slow])


def test_pyperf_takes_the_first_values_of_each_process_or_all():
    stored = _made(5, seed=1)
    late = [process[:3] + [x * 1.5 for x in process[3:]] for process in _made(5, seed=1)]
    assert not rules.pyperf(stored, late)
    assert rules.pyperf_all(stored, late)


def test_pyperf_errs_at_the_rate_it_states_when_values_are_independent():
    random = Random(0)

    def values():
        return [[random.gauss(1000, 10) for _ in range(3)] for _ in range(20)]

    alarms = sum(rules.pyperf(values(), values()) for _ in range(400))
    # Half of 5 %, for only slowdowns count: 10 of 400 expected.
    assert 2 <= alarms <= 22


def test_pyperf_takes_the_scatter_of_processes_for_that_of_values():
    alarms = sum(
        rules.pyperf_all(_made(5, between=0.05, seed=seed), _made(5, between=0.05, seed=seed + 1000))
        for seed in range(100)
    )
    assert alarms > 30


def test_criterion_ignores_what_is_certain_but_within_its_noise_threshold():
    stored = _made(1, seed=1, steps=500)
    assert rules.pyperf_all(stored, _made(1, slower=1.005, seed=2, steps=500))
    assert not rules.criterion(stored, _made(1, slower=1.005, seed=2, steps=500))
    assert rules.criterion(stored, _made(1, slower=1.02, seed=2, steps=500))


def test_asv_wants_both_significance_and_a_tenth():
    stored = _made(2, seed=1)
    assert not rules.asv(stored, _made(2, slower=1.09, seed=2))
    assert rules.asv(stored, _made(2, slower=1.12, seed=2))
    random = Random(0)
    wild = [[random.choice([500.0, 1000.0, 1500.0]) for _ in range(5)]]
    assert not rules.asv(wild, [[x * 1.15 for x in wild[0]]])


def test_the_fence_of_rustc_perf_is_three_quartile_ranges_above_the_third_quartile():
    # Changes of 1 % up and back: q1 = .00990, q3 = .01, so the fence is .01 + 3 x .00010 = 1.03 %.
    stored = [[1000.0 if place % 2 else 1010.0] for place in range(30)]
    assert stored[-1] == [1000.0]
    assert not rules.rustc_perf(stored, [[1010.2]])
    assert rules.rustc_perf(stored, [[1010.4]])


def test_rustc_perf_without_enough_history_takes_two_thousandths():
    stored = [[1000.0]] * 29
    assert rules.rustc_perf(stored, [[1002.0]])
    assert not rules.rustc_perf(stored, [[1001.9]])


def test_conbench_reports_beyond_five_deviations_of_the_residuals():
    stored = [[1000.0 - 10 * (place % 2)] for place in range(40)]
    results = [process[0] for process in stored]
    residuals = [0.0] + [results[i] - sum(results[:i]) / i for i in range(1, 40)]
    mean = sum(residuals) / 40
    spread = math.sqrt(sum((x - mean) ** 2 for x in residuals) / 39)
    assert not rules.conbench(stored, [[995 + 4.99 * spread]])
    assert rules.conbench(stored, [[995 + 5.01 * spread]])
    assert not rules.conbench([[1000.0]] * 5, [[9000.0]]), "without scatter there is no z-score, so no report"


def _series(*parts, seed=0):
    random = Random(seed)
    return [random.gauss(level, 1) for level, count in parts for _ in range(count)]


def test_otava_finds_a_change_where_it_is():
    assert rules.otava_series(_series((100, 20), (110, 5)), 20)
    assert not rules.otava_series(_series((110, 20), (100, 5)), 20), "an improvement"
    assert not rules.otava_series(_series((100, 10), (110, 15)), 20), "an old change"
    assert not rules.otava_series(_series((100, 25)), 20)
    assert rules.otava_series(_series((100, 70), (110, 5)), 70), "beyond the first window"
    assert rules.otava_series(_series((100, 20), (110, 20), (120, 5)), 40), "after another"


def test_otava_splits_by_the_energy_statistic():
    values = _series((100, 6), (104, 4), seed=3)
    best = max((_energy(values[:at], values[at:end]), at) for at in range(1, 10) for end in range(at + 1, 11))
    assert rules._candidate(values, (0, 10)) == pytest.approx(best)
    shifted = rules._candidate([0.0, *values], (1, 11))
    assert shifted == pytest.approx((best[0], best[1] + 1))


def _energy(x, y):
    n, m = len(x), len(y)

    def within(values):
        return sum(abs(a - b) for place, a in enumerate(values) for b in values[:place])

    return (
        2 / (n + m) * sum(abs(a - b) for a in x for b in y)
        - (2 * m / (n + m) / (n - 1) * within(x) if n > 1 else 0)
        - (2 * n / (n + m) / (m - 1) * within(y) if m > 1 else 0)
    )


def test_the_recorded_runs_are_whole(processes):
    assert {extra: sum(p.extra == extra for p in processes) for extra in (0, 4, 6, 10, 20)} == {
        0: 47, 4: 12, 6: 12, 10: 12, 20: 12
    }  # fmt: skip
    assert len(processes) == 95
    assert [p.started_unix_s for p in processes] == sorted({p.started_unix_s for p in processes})
    for process in processes:
        for times in (process.wall_us, process.cpu_us):
            assert set(times) == {"step", "twin", "rconv", "rmm"}
            assert all(len(rounds) == 60 and min(rounds) > 100 for rounds in times.values())
        assert len(process.switches) == 60
    assert RUNS.stat().st_size < 500_000


def test_the_planted_work_slows_the_step_as_it_was_planned(processes):
    sizes = recorded.sizes(processes)
    assert [round(100 * size, 1) for size in sizes.values()] == pytest.approx([2.4, 3.4, 4.9, 10.3], abs=0.15)


def _always(word):
    return Contender(name="made", stored=5, new=1, fresh=3, alarms=lambda draw: word)


def test_a_draw_holds_no_process_twice_and_the_planted_ones_on_the_new_side_alone(processes):
    seen = []
    contender = Contender(name="made", stored=7, new=2, fresh=3, alarms=lambda draw: bool(seen.append(draw)))
    tried(contender, processes, 0, draws=20)
    tried(contender, processes, 10, draws=20)
    for draw, extra in zip(seen, [0] * 20 + [10] * 20, strict=True):
        groups = (draw.stored, draw.new, draw.fresh)
        assert [len(group) for group in groups] == [7, 2, 3]
        everyone = [process.started_unix_s for group in groups for process in group]
        assert len(set(everyone)) == len(everyone)
        assert {process.extra for process in draw.stored} == {0}
        assert {process.extra for process in draw.new + draw.fresh} == {extra}
        assert all(list(group) == sorted(group, key=lambda process: process.started_unix_s) for group in groups)
    assert len({draw.stored for draw in seen}) == 40


def test_draws_are_the_same_each_time_and_counted(processes):
    contender = BY_NAME["pytest-benchmark `median:5%`"]
    assert tried(contender, processes, 0, draws=50) == tried(contender, processes, 0, draws=50)
    assert tried(contender, processes, 0, draws=200) != tried(contender, processes, 0, draws=200, seed=1)
    assert tried(_always(True), processes, 0, draws=7) == Rate(reported=7, untold=0, draws=7, apart=5)
    assert tried(_always(None), processes, 4, draws=7) == Rate(reported=0, untold=7, draws=7, apart=3)


def test_bounds_are_exact_and_those_of_few_processes_wide():
    none = Rate(reported=0, untold=0, draws=1000, apart=1)
    assert none.interval == pytest.approx((0, 1 - 0.025 ** (1 / 1000)))
    assert none.apart_interval == pytest.approx((0, 0.975))
    some = Rate(reported=400, untold=0, draws=1000, apart=23)
    assert some.interval == pytest.approx((0.3695, 0.4311), abs=1e-3)
    # 9.2 of 23: from the lower bound of 9 to the upper one of 10.
    assert some.apart_interval == pytest.approx((0.1971, 0.6551), abs=1e-3)


WOLVES = ("pytest-benchmark `mean:5%`", "pytest-benchmark `median:5%`", "pytest-benchmark `min:5%`", "TorchBench, 7 %")
DEAF = ("rustc-perf, fence", "conbench, z > 5")
OURS = CONTENDERS[-1]


def test_the_published_page_is_what_the_code_gives(processes):
    page = DOCS.read_text().splitlines()
    assert DOCS.read_text().startswith(comparison.introduction(processes))
    quick = [contender for contender in CONTENDERS if contender.name in WOLVES + DEAF]
    assert set(comparison.table(processes, [*quick, OURS])) <= set(page)
    names = [line.split(" | ")[0][2:] for line in page if line.startswith("| ")]
    assert names == ["rule", "---", *(contender.name for contender in CONTENDERS)]


def test_rules_of_single_runs_cry_wolf_and_those_of_long_histories_hear_nothing(processes):
    for name in WOLVES:
        assert tried(BY_NAME[name], processes, 0, draws=500).share > 0.2
    for name in DEAF:
        assert tried(BY_NAME[name], processes, 10, draws=500).share < 0.1


def test_ours_reports_nothing_of_equal_code_and_finds_five_percent(processes):
    assert (OURS.stored, OURS.new, OURS.fresh) == (30, 5, 7)
    assert tried(OURS, processes, 0, draws=500, seed=1).reported == 0
    # A run of one case may spend .02 % on false alarms, and the recorded runs have 7 fresh processes left, not 20.
    assert tried(OURS, processes, 10, draws=500, seed=1).share > 0.8
    assert tried(OURS, processes, 20, draws=100, seed=1).share == 1
