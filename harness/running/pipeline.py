"""From a case to its verdict: the one place where the way of the data is written down."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.anatomy import memory
from harness.anatomy.fitting import Largest
from harness.anatomy.memory import MemoryFigures
from harness.case import Case
from harness.certificate import Certificate
from harness.errors import HarnessError, WorkerFailed
from harness.gate.limits import Verdict, worst
from harness.gate.observations import plain_s
from harness.gate.selftest import Selftest
from harness.machine.host import Host
from harness.profiles import Profile
from harness.registry import Registry
from harness.results import RankReport, Repeat, Result, identity_of
from harness.running import selftest
from harness.running.accepted import AcceptedCode
from harness.running.certifier import Certifier
from harness.running.explainer import Explainer
from harness.running.judging import judge_case
from harness.running.ranks import REFERENCE_STRATEGY, Ranks, RunOptions, Watch
from harness.running.sampler import Sampler
from harness.running.timekeeper import Level, Timekeeper
from harness.running.trainings import Trainings
from harness.source import digest_of_suite
from harness.stored.baselines import Baseline, Baselines
from harness.stored.cache import cache_folder
from harness.stored.finished import Finished, FinishedCases

_SHARED_STEPS = 2
"""Measured where ranks share cores: what says little need not be long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case."""

    case: Case
    result: Result
    reference: Result | None
    reference_note: str
    """Why there is no reference, or where it came from."""
    verdict: Verdict
    certificate: Certificate
    baseline: Baseline
    """What it was held to."""
    memory: MemoryFigures | None = None
    """With `--accounted`: what it held, and what is wrong with that."""


class Pipeline:
    """Runs cases one after another on one machine under one profile."""

    def __init__(self, *, host: Host, registry: Registry, profile: Profile, options: RunOptions, watch: Watch) -> None:
        self.host = host
        self.registry = registry
        self.profile = profile
        self.options = options
        self.extra: dict[str, Result] = {}
        """References that were run though no test asked for them, by case id."""
        self.ranks = Ranks(host=host, registry=registry, profile=profile, options=options, watch=watch)
        self._results: dict[Case, Result | HarnessError] = {}
        self.certifier = Certifier(
            registry=registry,
            kept=cache_folder() / "certificates",
            folder=self.ranks.folder / "references",
            facts={
                "versions": host.versions,
                "machine": host.name,
                "device_kind": host.device_kind,
                "plugins": options.plugins,
                "plant": options.plant,
            },
            launch=self.ranks.launch,
            recertify=options.recertify,
        )
        self.trainings = Trainings(
            launch=self.ranks.launch,
            facts=self.ranks.facts,
            data=lambda case: self.ranks.data(self.ranks.settings(case)),
            registry=registry,
            folder=(cache_folder() if options.resume else self.ranks.folder) / "checkpoints" / profile.name,
            resume=options.resume,
            tested=options.tested,
            saved_to=options.save_model,
        )
        self.baselines = Baselines(options.baselines, host)
        self.finished = FinishedCases(
            folder=cache_folder() / "finished" / profile.name if options.resume else None, facts=self._depends_on
        )
        order = random.Random()
        self._accepted = AcceptedCode(
            host=host,
            registry=registry,
            profile=profile,
            options=options,
            watch=watch,
            level=lambda case: self.baseline(case).level,
            order=order,
        )
        self.timekeeper = Timekeeper(
            sampler=Sampler(launch=self.ranks.launch, sampled=self.ranks.sampled, order=order, renew=self.ranks.renew),
            accepted=self._accepted.of,
            policy=options.policy,
            base_of=reference_of,
            budget_s=options.gate_budget_s,
            certified=self._keeps_certificate,
            forbidden=selftest.forbids(_selftests(), host.hardware_digest),
        )
        self.explainer = Explainer(
            launch=self.ranks.launch, sampled=self.ranks.sampled, accounted=options.accounted, traced=options.traced
        )

    def levels(self, cases: Iterable[Case]) -> dict[Case, Level]:
        """Return what the time of each case is held to, the bases of speedups included.

        Left out are cases whose ranks share cores, new ones where nothing will be stored, and what an interrupted run
        finished.

        Raises:
            StoreError: a stored run is damaged.
        """
        cases = tuple(self.finished.without(cases))
        bases = filter(self._may_refer_to, map(reference_of, cases))
        wanted = {one for one in (*cases, *bases) if not self._shared(one)}
        found: dict[Case, Level] = {
            case: [run for stored in self.baseline(case).level if (run := stored.result.samples)]
            for case in sorted(wanted, key=str)
        }
        return found if self.options.stored else {case: level for case, level in found.items() if level}

    def sample(self, cases: Iterable[Case], *, processes: int, rounds_s: float) -> None:
        """Take so many processes of each case whose ranks share no cores, in random order, whatever is stored of it."""
        left = self.finished.without(dict.fromkeys(cases))
        wanted = {case: processes for case in left if not self._shared(case)}
        self.timekeeper.sampler.take(wanted, stage="screen", rounds_s=rounds_s)

    def selftest(self, cases: Iterable[Case]) -> Selftest:
        """Hold unchanged cases to themselves, and keep what that says of this machine.

        Raises:
            StoreError: it cannot be kept.
        """
        found = self.timekeeper.selftest([case for case in dict.fromkeys(cases) if not self._shared(case)])
        if found.cases:
            selftest.keep(found, _selftests(), self.host.hardware_digest)
        return found

    def baseline(self, case: Case) -> Baseline:
        """Return what is stored of a case, and why if it is nothing.

        Raises:
            StoreError: a stored run is damaged.
        """
        return self.baselines.of(case.id, self.identity(case), conditions=self.ranks.start().conditions)

    def run(self, case: Case) -> Outcome:
        """Measure a case and judge it against what is stored.

        Raises:
            WorkerFailed: a rank died, hung or did not report.
            DataError: its dataset is damaged or too small.
            StoreError: something cannot be written, or a stored run is damaged.
        """
        baseline = self.baseline(case)
        found = self.finished.find(case)
        if found is None:
            found = self._found(case, baseline)
            self.finished.keep(case, found)
        else:
            self._take(case, found)
        result, certificate = found.result, found.certificate
        strategy = self.registry.find("strategies", case.strategy)
        held = memory.figures(case, strategy, result.accounts) if result.accounts else None
        verdict = judge_case(
            result,
            certificate,
            baseline,
            metrics=self.registry.metrics.values(),
            time=found.time,
            speedup=found.speedup,
        )
        if held is not None and held.causes:
            verdict = replace(verdict, word=worst([verdict.word, "mispredicted"]))
        if not certificate.granted:
            verdict = replace(verdict, word="uncertified")
        return Outcome(
            case=case,
            result=result,
            reference=found.reference,
            reference_note=found.reference_note,
            verdict=verdict,
            certificate=certificate,
            baseline=baseline,
            memory=held,
        )

    def _found(self, case: Case, baseline: Baseline) -> Finished:
        certificate = self.certificate(case)
        result = self.measure(case)
        result = self.explainer.explain(case, result)
        result = self._with_samples(case, result, baseline)
        reference, note = self.reference(case) if certificate.granted else (None, "")
        return Finished(
            unix_time=time.time(),
            result=result,
            certificate=certificate,
            reference=reference,
            reference_note=note,
            time=None if self._shared(case) else self.timekeeper.verdict(case),
            speedup=self.timekeeper.speedup(case),
        )

    def _take(self, case: Case, found: Finished) -> None:
        """Let the rest of this run know of a case that an interrupted one finished."""
        self._results.setdefault(case, found.result)
        self.certifier.known.setdefault(case, found.certificate)
        base = reference_of(case)
        if found.reference is not None and base not in self._results:
            self._results[base] = self.extra[base.id] = found.reference

    def _depends_on(self, case: Case) -> dict[str, Any]:
        """Return what the outcome of a case depends on, in words of its own each."""
        level = self.baseline(case)
        options = asdict(self.options)
        for name in ("case_timeout_s", "hang_s", "resume", "baselines", "references"):
            del options[name]
        return {
            "settings": self.identity(case),
            "machine": [self.host.name, self.host.hardware_digest],
            "library versions": self.host.software,
            "options": options | {"references": sorted(map(str, self.options.references or ()))},
            "launcher": self.ranks.start().conditions,
            "stored runs": [[one.where, one.commit, one.result.started_unix_s] for one in level.level + level.others],
            "source code": self._source,
        }

    def _with_samples(self, case: Case, result: Result, baseline: Baseline) -> Result:
        samples = self.timekeeper.sampler.of(case)
        known = baseline.newest.result.plain_s if baseline.newest is not None else None
        if not samples:
            return result
        beside = self.timekeeper.beside(case)
        return replace(result, samples=samples, beside=beside, plain_s=known or plain_s(samples))

    @cached_property
    def _source(self) -> str:
        return digest_of_suite(self.options.plugins)

    def _may_refer_to(self, case: Case) -> bool:
        return self.options.references is None or case in self.options.references

    def _shared(self, case: Case) -> bool:
        """Return whether ranks share cores, so that the timing says little."""
        return self.host.shares_cores(case)

    def certificate(self, case: Case) -> Certificate:
        """Return whether a case trains as the reference does.

        Raises:
            WorkerFailed: the strategy could not train the certified steps.
        """
        return self.certifier.certificate(case, self._certified_by(case))

    def _certified_by(self, case: Case) -> dict[str, Any]:
        """Return what a case's certificate depends on; its warm start is trained first if need be."""
        settings, weights = self.ranks.settings(case), self.ranks.warm_start(case)
        return {
            "settings": settings.facts,
            "data": asdict(self.ranks.data(settings)),
            "weights": weights and weights.name,
        }

    def _keeps_certificate(self, case: Case) -> bool:
        try:
            return self.certifier.keeps(case, self._certified_by(case))
        except HarnessError:
            return False  # its test says why

    def largest_batch(self, case: Case) -> Largest:
        """Return the largest batch that fits a certified case's devices.

        Raises:
            WorkerFailed: a batch failed for another reason than memory, or the case has no certificate.
        """
        certificate = self.certificate(case)
        if not certificate.granted:
            raise WorkerFailed(f"{case}: not certified, so its batch says nothing: {certificate.causes[0]}")
        return self.explainer.largest(case)

    def measure(self, case: Case) -> Result:
        """Return the result of a case, from this run's memory if it ran already."""
        if case not in self._results:
            try:
                self._results[case] = self.fresh(case)
            except HarnessError as error:
                self._results[case] = error
        known = self._results[case]
        if isinstance(known, HarnessError):
            raise known
        return known

    def reference(self, case: Case) -> tuple[Result | None, str]:
        """Return the result that a case's speedup is taken against, or None and why there is none."""
        wanted = reference_of(case)
        if wanted == case:
            return self.measure(case), ""
        if not self._may_refer_to(wanted):
            return None, "no speedup over one GPU where the study has no such case"
        if self.options.reference == "baseline":
            if self.options.baselines is None:
                return None, "no folder of stored runs to take the reference from"
            conditions = self.ranks.start().conditions
            stored = self.baselines.reference(wanted.id, self.identity(wanted), conditions=conditions)
            if stored is None:
                return None, f"no stored run holds the reference {wanted}; leave out --reference baseline to run it"
            return stored.result, f"reference {wanted} from {stored.where}"
        asked = wanted not in self._results
        try:
            if not self.certificate(wanted).granted:
                return None, f"the reference {wanted} has no certificate"
            result = self.measure(wanted)
        except HarnessError as error:
            return None, f"the reference {wanted} failed: {str(error).splitlines()[0]}"
        if asked:
            self.extra[wanted.id] = result
        return result, ""

    def identity(self, case: Case) -> str:
        """Return a digest of everything but the machine that two results must share to be compared."""
        settings = self.ranks.settings(case)
        return identity_of(
            case_id=case.id,
            profile=self.profile.name,
            settings=settings.facts,
            dataset=self.ranks.data(settings).name,
        )

    def close(self) -> None:
        """End every process and delete the run's folder, unless a failure is in it."""
        self._accepted.close()
        self.trainings.close()
        self.ranks.close()

    def overhead(self, case: Case, *, steps: int) -> Sequence[RankReport]:
        """Return reports whose `extra` pairs the harness's step with a bare loop's."""
        title = f"{case}: harness against a bare loop"
        return self.ranks.launch(case, title, purpose="overhead", measured_steps=steps)[0]

    def fresh(self, case: Case) -> Result:
        """Measure a case whether or not this run did before."""
        settings = self.ranks.settings(case)
        self.ranks.warm_start(case)  # lest it be counted with the case
        started = time.time()
        over = {"measured_steps": min(_SHARED_STEPS, settings.measured_steps)} if self._shared(case) else {}
        with self.ranks.sampled(case, interval_s=None) as window:
            reports, wall_s, resumed = self.trainings.train(case, str(case), **over)
        repeats = []
        for seed in range(1, self.options.seeds):
            title = f"{case}: seed {seed} of {self.options.seeds}"
            repeat, *_ = self.trainings.train(case, title, seed=seed, measured_steps=1)
            repeats.append(Repeat(seed=seed, epochs=repeat[0].epochs))
        result = Result(
            case_id=case.id,
            profile=self.profile.name,
            identity=self.identity(case),
            dataset=self.ranks.data(settings).name,
            settings=settings.facts,
            host=self.host.name,
            launcher=self.options.launcher,
            conditions=self.ranks.start().conditions,
            hardware=self.host.hardware_digest,
            versions=self.host.software,
            oversubscribed=self._shared(case),
            wall_s=wall_s,
            started_unix_s=started,
            watched=window.telemetry,
            ranks=tuple(reports),
            repeats=tuple(repeats),
            resumed=resumed,
        )
        return self.trainings.finish(case, result)


def _selftests() -> Path:
    return cache_folder() / "gate"


def reference_of(case: Case) -> Case:
    """Return the case whose throughput is 1.00x for this one: the same but for strategy and GPU count.

    And but for offload, which DDP has none of.
    """
    axes = case.axes | {"strategy": REFERENCE_STRATEGY, "gpu_count": 1, "gpus_per_node": None, "offload": "none"}
    return Case(**axes)
