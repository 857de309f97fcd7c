"""What a study may know of its runs: each case's figures, or why there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from harness.anatomy import communication, telemetry
from harness.anatomy.budget import budgets
from harness.anatomy.telemetry import disturbance
from harness.case import Case
from harness.gate.observations import wall
from harness.metrics.loss import epoch_losses
from harness.metrics.memory import peak_bytes
from harness.plugins import Limit, Metric, Planned
from harness.profiles import StudyProfile
from harness.published import Published
from harness.registry import Registry
from harness.results import Result

SHARED = "its ranks share cores"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Where the seconds of an epoch go, by a traced run; mean over ranks."""

    compute_s: float
    communication_s: float
    """What of it nothing hides, waiting for late ranks included."""
    moved_s: float
    """All of it, hidden or not."""
    bandwidth_bytes_per_s: float | None
    """Bytes over the seconds in which they moved, nccl-tests' algbw; None where nothing moved or sizes are unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One case that was measured."""

    case: Case
    result: Result
    uncertified: str = ""
    """Why it is not certified to train as the others do; nothing where it is."""
    untimed: str = ""
    """Why there are no processes of it."""

    @property
    def losses(self) -> Sequence[float]:
        """Mean loss of each epoch."""
        return epoch_losses(self.result)

    @property
    def epoch_s(self) -> tuple[float, ...]:
        """Seconds of each epoch, of the slowest rank."""
        by_rank = [[epoch.seconds for epoch in rank.epochs] for rank in self.result.ranks]
        return tuple(map(max, zip(*by_rank, strict=True)))

    @property
    def training_s(self) -> float | None:
        """Seconds of all epochs, evaluation left out."""
        return sum(self.epoch_s) if self.epoch_s else None

    @property
    def step_s(self) -> float | None:
        """Median step."""
        return median(self.result.step_s) if self.result.step_s else None

    @property
    def peak_bytes(self) -> int | None:
        """Of the fullest device."""
        return peak_bytes(self.result)

    @property
    def last_loss(self) -> float | None:
        """Of the last epoch."""
        return self.losses[-1] if self.losses else None

    def scores(self, name: str) -> tuple[float | None, ...]:
        """Return a validation score after each epoch."""
        return tuple((epoch.scores or {}).get(name) for epoch in self.result.lead.epochs)

    def last_score(self, name: str) -> float | None:
        """Return a validation score of the last epoch."""
        return self.result.last_scores(name)[0]

    def test_score(self, name: str) -> float | None:
        """Return a score of the test images."""
        return self.result.test_scores.get(name)

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Test images by true and predicted class; empty where none were scored so."""
        return self.result.confusion

    @property
    def processes(self) -> tuple[float, ...]:
        """The log of the mean step of each process that was timed undisturbed, of microseconds.

        Steps of one process are no sample: identical code differs from process to process.
        """
        seen = (wall(one) for one in self.result.samples if not (one.watched and disturbance(one.watched)))
        return tuple(one.mean for one in seen if one is not None)

    @property
    def disturbed(self) -> bool:
        """Whether others used the machine, or clocks were held down, while its training was timed."""
        return self.result.watched is not None and bool(disturbance(self.result.watched))

    @property
    def no_speed(self) -> str:
        """Why its speed says nothing; nothing where it does."""
        if self.uncertified:
            return f"not certified: {self.uncertified}"
        if self.result.oversubscribed:
            return SHARED
        if len(self.processes) < 2:
            none = "no processes of it are taken" if not self.result.samples else ""
            why = self.untimed or none or f"{len(self.result.samples)} timed, {len(self.processes)} of them undisturbed"
            return f"too few processes: {why}"
        return ""

    @property
    def steps_of_epoch(self) -> int | None:
        """Steps of an epoch."""
        return self.result.lead.epochs[0].steps if self.result.lead.epochs else None

    def parts(self) -> Parts | None:
        """Return where the seconds of an epoch go; None where no run of it was traced."""
        traces, steps = self.result.traces, self.steps_of_epoch
        if not traces or not steps:
            return None
        own = budgets(traces)
        moved = communication.figures(traces)
        sizes = [one.size_bytes for one in moved]
        moved_s = sum(one.transfer_s for one in moved)
        known = bool(moved) and moved_s > 0 and None not in sizes
        return Parts(
            compute_s=steps * sum(one.compute_s for one in own) / len(own),
            communication_s=steps * sum(one.communication_s + one.late_s for one in own) / len(own),
            moved_s=steps * moved_s,
            bandwidth_bytes_per_s=sum(size or 0.0 for size in sizes) / moved_s if known else None,
        )

    def machine(self) -> telemetry.Figures | None:
        """Return what the machine told while plain steps ran; None where no run of it was accounted."""
        return telemetry.figures(self.result.telemetry) if self.result.telemetry else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a study has to tell from."""

    study: str
    profile: StudyProfile
    registry: Registry
    published: Published
    planned: Sequence[Planned]
    runs: Mapping[Case, Run] = field(default_factory=dict)
    missing: Mapping[Case, str] = field(default_factory=dict)
    """Of each planned case without a run: why."""

    @property
    def cases(self) -> list[Case]:
        """Of the study, in its order."""
        return [one.case for one in self.planned]

    def run(self, case: Case) -> Run | None:
        """Return what was measured of a case."""
        return self.runs.get(case)

    def why_not(self, case: Case) -> str:
        """Return in short why there is no run of a case."""
        return self.missing.get(case, "no case of this study here").partition(";")[0]

    def noise_of_memory(self) -> Limit:
        """Return what peaks of unchanged code differ by at most on this machine's devices."""
        metric: Metric = self.registry.find("metrics", "peak_memory")
        on_cuda = any(run.result.lead.device.startswith("cuda") for run in self.runs.values())
        return metric.limits_on.get("cuda" if on_cuda else "cpu") or metric.limit or Limit()

    def certified(self, case: Case) -> Run | None:
        """Return what was measured of a case that is certified."""
        run = self.runs.get(case)
        return None if run is None or run.uncertified else run
