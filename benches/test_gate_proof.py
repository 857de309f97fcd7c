"""The gate proved live: faults planted in real cases, beside cases without any, and what it says of each.

What the time layer sees depends on the machine's noise, so it is held to its own words: a fault as large as the
smallest effect that a verdict says it sees must be found. Counts add up from night to night, in the cache folder.
"""

import hashlib
import math
import random
import re
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean, median

import pytest

from harness import gate
from harness.anatomy.memory import figures
from harness.anatomy.telemetry import observed
from harness.case import Case
from harness.errors import WorkerFailed
from harness.gate.contrasts import Timed
from harness.gate.exact import compare
from harness.gate.noise import group_of
from harness.gate.policy import named
from harness.gate.timing import judge_time, screen
from harness.proof.confusion import Night, Trial, contradictions, counted, lines, packed, unpacked
from harness.records.account import account
from harness.running.certifier import Certifier
from harness.running.pipeline import reference_of
from harness.running.ranks import Ranks, cache_folder
from harness.running.sampler import Sampler
from harness.session.recording import ReplayClock
from harness.stored.writing import whole

pytestmark = pytest.mark.when_named("gate_proof")

# The shortest steps of the default matrix, so that there are many of them.
ONE, TWO = (Case(model="vit_tiny", strategy="ddp", gpu_count=count, batch_size=16) for count in (1, 2))
LEVEL = ("level 1", "level 2", "level 3")
STORED = {ONE: 5, TWO: 3}
"""Processes in each run of the level."""
TRIED = ("", "burn:2%", "burn:3%", "burn:5%", "burn:10%", "sleep:5%")
NEW = {ONE: 4, TWO: 3}
"""Processes of the screen of each."""
POLICY = replace(named("nightly"), confirm_processes=8, rounds_s=1.5, confirm_rounds_s=1.5, max_rounds=0)
MOST_S = 400.0
"""For all processes; a trial whose processes are not all taken by then does not count."""
EXACT = {
    "all_reduce": ("certify", r"all_reduce in fp32: \S+ elements ->"),
    "no_overlap": ("certify", r"all_reduce in fp32: \d+ calls -> 1\b"),
    "wrong_lr:5%": ("certify", r"learning rate: "),
    "optimizer_copy": ("account", r"bytes of optimizer of rank 0: "),
    "leak": ("account", r"leak on every rank: "),
    "double_image": ("measure", r"1 doubled"),
    "lost_image": ("measure", r"1 missing"),
}
"""The run that each fault must show in, and what is said of it."""


@dataclass
class Proof:
    """Processes of the two cases by what was planted in them, taken in random order."""

    ranks: Ranks
    order: random.Random = field(default_factory=random.Random)
    samplers: dict[str, Sampler] = field(default_factory=dict)
    reached: dict[tuple[str, Case], list[float]] = field(default_factory=lambda: defaultdict(list))
    """How much longer than without its fault each process's step was, as a share."""

    def take(self, wanted, stage="screen", until_s=None):
        """Take so many processes by (what is planted, case)."""
        for turn in range(max(wanted.values(), default=0)):
            left = [key for key, count in wanted.items() if turn < count]
            for name, case in self.order.sample(left, k=len(left)):
                sampler = self._sampler(name)
                sampler.take({case: 1}, stage=stage, rounds_s=POLICY.rounds_s, until_s=until_s)
                if failure := sampler.failed.get(case):
                    raise failure

    def cases(self, name):
        """Return what is known of the two cases, as the gate takes it."""
        return {
            case.id: Timed(
                new=self._seen(name, case),
                level=tuple(self._seen(run, case) for run in LEVEL),
                group=group_of(case),
                base=reference_of(case).id,
            )
            for case in (ONE, TWO)
        }

    def _seen(self, name, case):
        return tuple(map(observed, self._sampler(name).of(case)))

    def _sampler(self, name):
        launch = partial(self._launch, name)
        return self.samplers.setdefault(name, Sampler(launch=launch, sampled=self.ranks.sampled, order=self.order))

    def _launch(self, name, case, title, **over):
        plant = "" if name in LEVEL else name
        reports, wall_s = self.ranks.launch(case, f"{title}, {name or 'clean'}", plant=plant, **over)
        step_s = median(map(max, zip(*(r.extra["samples"]["case_us"] for r in reports), strict=True))) * 1e-6
        planted = reports[0].extra["planted"]
        added_s = planted["share"] * planted["step_s"] if planted else 0.0
        self.reached[name, case].append(added_s / (step_s - added_s))
        return reports, wall_s


@pytest.mark.benchmark(timer=ReplayClock())
def test_time_layer(cost):
    """Fails when a clean case is called regressed, or a fault is found less often than the verdicts' MDE says."""
    until_s = time.monotonic() + MOST_S
    proof = Proof(cost.pipeline.ranks)
    for run in LEVEL:
        proof.take({(run, case): count for case, count in STORED.items()})
    proof.take({(name, case): count for name in TRIED for case, count in NEW.items()}, until_s=until_s)
    suspected = {(name, Case.parse(case)) for name in TRIED for case in screen(proof.cases(name)).confirm}
    proof.take(dict.fromkeys(sorted(suspected, key=str), POLICY.confirm_processes), stage="confirm", until_s=until_s)
    trials, said = [], []
    for name in TRIED:
        verdicts = judge_time(proof.cases(name), POLICY)
        for case, count in NEW.items():
            wanted = count + POLICY.confirm_processes * ((name, case) in suspected)
            if len(proof.samplers[name].of(case)) < wanted:
                continue
            verdict = verdicts[case.id]
            sees = next((effect.mde for effect in verdict.effects if effect.view == "same work"), math.inf)
            reached = fmean(proof.reached[name, case])
            # Who cannot tell promises nothing.
            promised = verdict.word in ("passed", "regressed", "improved") and sees <= reached
            trials.append(Trial(case=case.id, plant=name, word=verdict.word, promised=promised))
            words = "; ".join((verdict.word, *verdict.reasons))
            said.append(f"{name or 'nothing'} in {case}, {reached:.1%} of a step, seen from {sees:.1%} on: {words}")
    steps = [median(one.ranks[0].case_us) * 1e-6 for run in LEVEL for one in proof.samplers[run].of(ONE)]
    _tell(cost, "time", trials, steps, said)


@pytest.mark.benchmark(timer=ReplayClock())
def test_exact_layers(cost, tmp_path):
    """Fails when an exact fault is not caught by its layer, or an exact layer objects to a clean case."""
    case = TWO
    clean = {purpose: _ran(cost, tmp_path, case, purpose, "") for purpose in ("certify", "account", "measure")}
    seconds, trials, said = [], [], []
    for plant, (purpose, says) in [*EXACT.items(), *(("", (purpose, "")) for purpose in clean)]:
        began = time.monotonic()
        found = _objections(cost, case, purpose, _ran(cost, tmp_path, case, purpose, plant), clean[purpose])
        seconds.append(time.monotonic() - began)
        caught = [line for line in found if re.search(says, line)]
        word = "caught" if caught else "missed" if plant else "passed"
        said += [f"{plant or 'nothing'} in {purpose}: {line.splitlines()[0]}" for line in caught[:1]]
        trials.append(Trial(case=f"{case}, exact", plant=plant, word=word))
    _tell(cost, "exact", trials, seconds, said)


def _ran(cost, folder: Path, case, purpose, plant):
    """Return the certificate, the accounts, or the failure of a case's run with a fault."""
    pipeline = cost.pipeline
    launch = partial(pipeline.ranks.launch, plant=plant)
    if purpose == "certify":
        certifier = Certifier(
            registry=pipeline.registry, kept=folder, folder=folder, facts={}, launch=launch, recertify=True
        )
        return certifier.certificate(case, {})
    try:
        reports, _ = launch(case, f"{case}: {plant or 'clean'}", purpose=purpose)
    except WorkerFailed as error:
        return str(error)
    return tuple(account(report.extra["account"]) for report in reports) if purpose == "account" else ""


def _objections(cost, case, purpose, found, clean):
    """Return what the exact layers have against a run, beside a clean one."""
    result = cost.pipeline.measure(case)
    if purpose == "certify":
        exact = compare(result, found, baseline=result, baseline_certificate=clean)
        return [*found.causes, *exact.changes]
    if purpose == "account":
        certificate = cost.pipeline.certificate(case)
        ours, theirs = replace(result, accounts=found), replace(result, accounts=clean)
        exact = compare(ours, certificate, baseline=theirs, baseline_certificate=certificate)
        strategy = cost.pipeline.registry.find("strategies", case.strategy)
        return [*figures(case, strategy, found).causes, *exact.changes]
    return [found] if found else []


def _tell(cost, kind, trials, seconds, said):
    """Add tonight's counts to those of all nights, show the table, and fail for what contradicts what is stated."""
    host = cost.pipeline.host
    file = cache_folder() / "gate_proof" / host.name / f"{kind}.json"
    before = unpacked(file.read_bytes(), str(file)) if file.exists() else ()
    code = b"".join(path.read_bytes() for path in sorted(Path(gate.__file__).parent.glob("*.py")))
    tonight = Night(
        date=datetime.now(UTC).date().isoformat(),
        gate=hashlib.sha256(code).hexdigest()[:12],
        versions=dict(host.versions),
        trials=counted(trials),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    whole(file, packed([*before, tonight]))
    cost.record("\n".join([f"proof of the gate, {kind} layer", *lines(tonight, before), *said]), seconds)
    if wrong := contradictions(tonight, before):
        pytest.fail("\n".join(wrong), pytrace=False)
