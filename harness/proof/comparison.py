"""The rules of other tools and ours on the same recorded runs: how often each is wrong, how much each finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Literal

from harness.gate.contrasts import Timed
from harness.gate.observations import Process, observe
from harness.gate.policy import POLICIES
from harness.gate.timing import judge_time, screen
from harness.proof import rules
from harness.proof.recorded import WARM_UP, Contender, Draw, Rate, Recorded, load, sizes, tried
from harness.proof.rules import Rule
from harness.records.samples import RankSamples, Samples
from harness.stored.writing import whole


def _on_steps(name: str, rule: Rule, stored: int, new: int) -> Contender:
    """Return a contender that is shown wall times of the step, as the tools take them."""

    def alarms(draw: Draw) -> bool:
        return rule([p.wall_of("step") for p in draw.stored], [p.wall_of("step") for p in draw.new])

    return Contender(name=name, stored=stored, new=new, alarms=alarms)


def _otava_on_ratios(draw: Draw) -> bool:
    return rules.otava_series([math.exp(process.ratio) for process in draw.stored + draw.new], len(draw.stored))


def _ours(name: str, stored: int, new: int, fresh: int) -> Contender:
    """Return the gate itself as a contender, by one of its policies; stored processes are runs of five."""
    policy = replace(POLICIES[name], confirm_processes=fresh)

    def alarms(draw: Draw) -> bool | None:
        stored = [_observed(process, "screen") for process in draw.stored]
        seen = tuple(_observed(process, "screen") for process in draw.new)
        level = tuple(tuple(stored[place : place + 5]) for place in range(0, len(stored), 5))
        timed = Timed(new=seen, level=level, group="recorded")
        if screen({"step": timed}).confirm:
            timed = replace(timed, new=seen + tuple(_observed(process, "confirm") for process in draw.fresh))
        word = judge_time({"step": timed}, policy)["step"].word
        return None if word == "unresolved" else word == "regressed"

    return Contender(name=f"**ours**, `--gate-policy {name}`", stored=stored, new=new, fresh=fresh, alarms=alarms)


@cache
def _observed(process: Recorded, stage: Literal["screen", "confirm"]) -> Process:
    """Return what the gate sees of a process: the step as the case, the twin as the same work beside it."""
    ours = RankSamples(
        case_us=process.wall_of("step"),
        plain_us=process.wall_of("twin"),
        convolution_us=process.wall_of("rconv"),
        product_us=process.wall_of("rmm"),
        collective_us=(),
    )
    return observe(
        Samples(
            stage=stage,
            started_unix_s=process.started_unix_s,
            wall_s=sum(map(sum, process.wall_us.values())) / 1e6,
            settled_after=WARM_UP,
            steps=1,
            references={"plain": "twin", "machine": "rconv, rmm"},
            ranks=(ours,),
        )
    )


CONTENDERS = (
    _on_steps("pytest-benchmark `mean:5%`", rules.pytest_benchmark_mean, 1, 1),
    _on_steps("pytest-benchmark `median:5%`", rules.pytest_benchmark_median, 1, 1),
    _on_steps("pytest-benchmark `min:5%`", rules.pytest_benchmark_min, 1, 1),
    _on_steps("TorchBench, 7 %", rules.torchbench, 1, 1),
    _on_steps("criterion, bootstrap and 1 %", rules.criterion, 1, 1),
    _on_steps("pyperf, t-test, 3 values a process", rules.pyperf, 12, 12),
    _on_steps("pyperf, t-test, all values", rules.pyperf_all, 12, 12),
    _on_steps("asv, U test and 1.10", rules.asv, 2, 2),
    _on_steps("asv, U test and 1.10", rules.asv, 12, 12),
    _on_steps("rustc-perf, fence", rules.rustc_perf, 30, 1),
    _on_steps("conbench, z > 5", rules.conbench, 30, 1),
    _on_steps("Otava, change points", rules.otava, 30, 1),
    _on_steps("Otava, change points", rules.otava, 30, 5),
    Contender(name="Otava, on ratios to the same work", stored=30, new=5, alarms=_otava_on_ratios),
    _ours("pr", 30, 1, 5),
    _ours("nightly", 20, 5, 7),
    _ours("nightly", 30, 5, 7),
)
DRAWS = 1000
"""Comparisons in each cell of the table."""


def table(
    processes: Sequence[Recorded], contenders: Sequence[Contender] = CONTENDERS, *, draws: int = DRAWS
) -> list[str]:
    """Return the comparison as lines of Markdown, a row for each contender."""
    planted = sizes(processes)
    head = ["rule", "processes", "false alarms", "95 %, draws", "95 %, apart"]
    head += [f"{size:+.1%}".replace("%", " %") for size in planted.values()]
    lines = [_row(head), "|" + " --- |" * len(head)]
    for contender in contenders:
        count = f"{contender.stored} + {contender.new}" + (f" + {contender.fresh}" if contender.fresh else "")
        null = tried(contender, processes, 0, draws=draws)
        cells = [
            contender.name,
            count,
            _share(null),
            _span(null.interval),
            f"{_span(null.apart_interval)} ({null.apart})",
        ]
        lines.append(_row(cells + [_share(tried(contender, processes, extra, draws=draws)) for extra in planted]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _share(rate: Rate) -> str:
    untold = f" ({_percent(rate.untold / rate.draws)} untold)" if rate.untold else ""
    return f"{_percent(rate.share)} %{untold}".replace(" untold", " % untold")


def _span(interval: tuple[float, float]) -> str:
    return f"{_percent(interval[0])} to {_percent(interval[1])} %"


def _percent(share: float) -> str:
    return "0" if share == 0 else "100" if share == 1 else f"{100 * share:.1f}"


def write_docs(path: Path, runs: Path) -> None:
    """Write the page on the comparison; a minute of one core.

    Args:
        path: where to.
        runs: the recorded processes.
    """
    processes = load(runs)
    lines = "\n".join(table(processes))
    whole(path, f"{introduction(processes)}\n{lines}\n\n{_LIMITS}".encode())


def introduction(processes: Sequence[Recorded]) -> str:
    """Return what stands before the table: the data, their scatter, and how the table is made."""
    null = [process for process in processes if process.extra == 0]

    def scatter(value: Callable[[Recorded], float]) -> str:
        return f"{_percent(stdev(map(value, null)))} %"

    def logged(statistic: Callable[[Sequence[int]], float]) -> str:
        return scatter(lambda process: math.log(statistic(process.wall_of("step"))))

    return f"""# Regression rules on the same recorded runs

Written by `harness.proof.comparison.write_docs`, seeded; not by hand. A test holds it to the code.

{len(null)} processes ran the same training step (about 30 ms, 60 rounds, the first left out) on a virtual machine with
two shared cores, and {len(processes) - len(null)} ran it with planted matrix products, all in a quarter of an hour and
in mixed order. By how much the planted work slows the step is told by the same step without it, timed in the same
rounds.

From process to process of the same code the step scatters by (standard deviation of logarithms)

- wall time: {logged(fmean)} in the mean, {logged(median)} in the median, {logged(min)} in the least;
- over the same work beside it: {scatter(lambda process: process.ratio)} in the mean log ratio.

Each rule is that of the tool, with its defaults (`harness/proof/rules.py` names the sources and what is left out), on
wall times. {DRAWS:,} comparisons are drawn in each cell, none with a process twice: *stored + new*, for ours *+ fresh*
ones, which are looked at only where the new ones are suspect. Only reported slowdowns count; of equal code, tools that
also report speedups report them about as often. *Untold* is `unresolved`: not green, and measured again in a real run,
for which there are too few recorded processes here.
"""


_LIMITS = """The draws share processes, so they are not independent. *95 %, draws* are exact binomial bounds for these
very processes. *95 %, apart* are for the machine: from as many comparisons as share no process, their number in
brackets, which the variance over all draws does not exceed (Hoeffding 1948). For rules that need many processes that
is one, and says next to nothing: their rates are proved by the simulator, not here. Of each planted size there are 12
processes; where a rule takes 12 new ones they are always the same, so a larger slowdown may be found less often than a
smaller one.

What this does not show: stored and new processes are of the same quarter of an hour, so a machine that is slower on
another day is not in it. All rules are spared that alike.
"""
