"""The runs beside the timed one: traced, accounted, and the search for the largest batch; each in ranks of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from pydantic import TypeAdapter

from harness.anatomy.fitting import Largest, largest
from harness.case import Case
from harness.errors import OutOfMemory
from harness.machine.sampling import INTERVAL_S, Window
from harness.records.account import account
from harness.records.ceilings import Ceilings, Loaded
from harness.records.telemetry import Measured
from harness.records.trace import RankTrace
from harness.results import RankReport, Result

_CEILINGS: TypeAdapter[Ceilings] = TypeAdapter(Ceilings)
_LOADED: TypeAdapter[Loaded] = TypeAdapter(Loaded)
_TRACE: TypeAdapter[RankTrace] = TypeAdapter(RankTrace)


@dataclass(slots=True, kw_only=True)
class Explainer:
    """Runs a case again in the ways that explain its time and memory."""

    launch: Callable[..., tuple[Sequence[RankReport], float]]
    """Given a case, a title and fields of its job: start the ranks; returns their reports and the seconds it took."""
    sampled: Callable[..., AbstractContextManager[Window]]
    """Given a case and seconds between readings: read the machine while a block runs."""
    accounted: bool = False
    """Whether each case is run once more to count the bytes of its tensors."""
    traced: bool = False
    """Whether each case is run once more under torch's profiler."""
    accounted_too: Collection[Case] = ()
    """Cases that are, whatever the others are."""
    traced_too: Collection[Case] = ()
    found: dict[Case, Largest] = field(default_factory=dict)
    """The largest batches of the cases that were searched for."""
    _ceilings: dict[tuple[int, int | None], Ceilings] = field(default_factory=dict)
    _loaded: dict[tuple[str, int, int, int | None], tuple[Loaded, ...]] = field(default_factory=dict)

    def explain(self, case: Case, result: Result) -> Result:
        """Return the result with what the further runs of its case add.

        Raises:
            WorkerFailed: such a run failed.
        """
        if self.accounted or case in self.accounted_too:
            with self.sampled(case, interval_s=INTERVAL_S) as window:
                reports, _ = self.launch(case, f"{case}: accounted", purpose="account")
            accounts = tuple(account(report.extra["account"]) for report in reports)
            measured = Measured(
                begin_s=max(one.plain_from_s for one in accounts),
                end_s=min(one.plain_to_s for one in accounts),
                images=len(accounts[0].plain_s) * case.global_batch_size,
            )
            result = replace(result, accounts=accounts, telemetry=replace(window.telemetry, measured=measured))
        if self.traced or case in self.traced_too:
            result = replace(
                result, traces=self.traces(case), ceilings=self.ceilings(case), loaded=self._loaded_for(case)
            )
        return result

    def traces(self, case: Case) -> tuple[RankTrace, ...]:
        """Run a case under torch's profiler and return what it saw of each rank."""
        reports, _ = self.launch(case, f"{case}: traced", purpose="trace")
        return tuple(_TRACE.validate_python(report.extra["trace"]) for report in reports)

    def ceilings(self, case: Case) -> Ceilings:
        """Return what as many ranks of this machine can do, measured once a run."""
        key = (case.gpu_count, case.gpus_per_node)
        if key not in self._ceilings:
            title = f"ceilings of {case.gpu_count} ranks"
            reports, _ = self.launch(_plain(case), title, purpose="ceilings")
            self._ceilings[key] = _CEILINGS.validate_python(reports[0].extra["ceilings"])
        return self._ceilings[key]

    def _loaded_for(self, case: Case) -> tuple[Loaded, ...]:
        """Return what the loaders of a case's ranks give, measured once for all strategies."""
        key = (case.model, case.gpu_count, case.batch_size, case.gpus_per_node)
        if key not in self._loaded:
            title = f"loader of {case.model}, {case.gpu_count} ranks"
            reports, _ = self.launch(_plain(case), title, purpose="loader_rate")
            self._loaded[key] = tuple(_LOADED.validate_python(report.extra["loaded"]) for report in reports)
        return self._loaded[key]

    def largest(self, case: Case) -> Largest:
        """Return the largest batch per GPU that fits a case's devices, and the throughput there.

        Raises:
            WorkerFailed: a batch failed for another reason than memory.
        """

        def throughput(batch_size: int) -> float | None:
            try:
                reports, _ = self.launch(
                    replace(case, batch_size=batch_size), f"{case}: {batch_size} per GPU", purpose="fit"
                )
            except OutOfMemory:
                return None
            slowest: list[Any] = [max(step) for step in zip(*(r.extra["step_s"] for r in reports), strict=True)]
            return batch_size * case.gpu_count / float(median(slowest))

        self.found[case] = largest(throughput, start=case.batch_size, divisor=case.accumulation)
        return self.found[case]


def _plain(case: Case) -> Case:
    """Return the like case with one process for each GPU and no options, for what is the same for all strategies."""
    axes = {name: getattr(case, name) for name in ("model", "gpu_count", "batch_size", "gpus_per_node")}
    return Case(strategy="ddp", **axes)
