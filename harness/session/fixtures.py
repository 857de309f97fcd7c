"""The fixtures of the bench files: `bench` runs a case, `cost` measures the harness itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from harness.case import Case
from harness.errors import CannotRun, HarnessError, OutOfMemory
from harness.gate.selftest import Selftest
from harness.report import rows, verdicts
from harness.running.pipeline import Outcome, Pipeline
from harness.session import rerun
from harness.session.recording import record, replay
from harness.session.suite import Suite, suite_of
from harness.stored.baselines import ACCEPT


@pytest.fixture
def bench(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[Case], Outcome | None]:
    """Return the function that runs a case, records it through pytest-benchmark, and fails the test if it must."""

    def run(case: Case) -> Outcome | None:
        suite = suite_of(request.config)
        nodeid: str = request.node.nodeid
        again = rerun.command(request.config, nodeid)
        if suite.selftest is not None:
            _held_to_itself(case, suite, suite.selftest)
            return None
        try:
            if suite.options.find_max_batch:
                suite.pipeline.largest_batch(case)
                return None
            outcome = suite.pipeline.run(case)
        except CannotRun as reason:
            pytest.skip(str(reason))
        except OutOfMemory as error:
            suite.out_of_memory[case] = str(error)
            if suite.pipeline.baseline(case).newest is not None:
                raise _failed(error, f"rerun  {again}", "the stored run fits") from None
            # What does not fit is a result, with a row of its own, and no defect.
            pytest.skip("out of memory, see the table")
        except HarnessError as error:
            raise _failed(error, f"rerun  {again}") from None
        record(benchmark, outcome, request.node)
        suite.outcomes.append(outcome)
        word = outcome.verdict.word
        request.node.user_properties.extend(rows.properties(outcome))
        if suite.what_of(word) == "fail":
            pytest.fail("\n".join(verdicts.failure(outcome, again, accept=ACCEPT)), pytrace=False)
        if suite.what_of(word) == "tell":
            suite.undecided.add(nodeid)
        return outcome

    return run


def _held_to_itself(case: Case, suite: Suite, found: Selftest) -> None:
    if failure := suite.pipeline.timekeeper.sampler.failed.get(case):
        pytest.fail(str(failure), pytrace=False)
    if case.id not in found.cases:
        pytest.skip("its time is not gated here: its ranks share cores")
    if found.word == "not white" or case.id in found.alarms:
        pytest.fail(f"{case}: its unchanged step is not judged as unchanged, see the table", pytrace=False)


class Cost:
    """What a benchmark of the harness itself works with."""

    def __init__(self, suite: Suite, benchmark: Any, node: pytest.Item) -> None:
        self.pipeline = suite.pipeline
        self._suite = suite
        self._benchmark = benchmark
        self._node = node
        self._others: dict[str, Pipeline] = {}

    def other(self, launcher: str, **environment: str) -> Pipeline:
        """Return a pipeline like this run's, with another launcher, opened with variables of the environment set."""
        key = f"{launcher} {environment}"
        if key not in self._others:
            suite = self._suite
            pipeline = Pipeline(
                host=suite.host,
                registry=suite.registry,
                profile=suite.profile,
                options=replace(suite.options, launcher=launcher),
                watch=lambda title, folder: nullcontext(),
            )
            with pytest.MonkeyPatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name, value)
                try:
                    pipeline.ranks.start()
                except CannotRun as reason:
                    pytest.skip(str(reason))
            self._others[key] = pipeline
        return self._others[key]

    def record(self, sentence: str, seconds: Sequence[float]) -> None:
        """Record measured seconds through pytest-benchmark, and say what they mean in the summary."""
        replay(self._benchmark, self._node, seconds)
        self._benchmark.extra_info["says"] = sentence
        self._suite.said.append(sentence)

    def close(self) -> None:
        """End what was started beside the run's own pipeline."""
        for pipeline in self._others.values():
            pipeline.close()


@pytest.fixture
def cost(request: pytest.FixtureRequest, benchmark: Any) -> Iterator[Cost]:
    """Give a benchmark of the harness itself the run's pipeline, and a place for what it finds."""
    given = Cost(suite_of(request.config), benchmark, request.node)
    yield given
    given.close()


def _failed(error: HarnessError, *notes: str) -> BaseException:
    """Return what fails a test; raised `from None`, as pytest shows the error behind it too, which it repeats."""
    return pytest.fail.Exception("\n  ".join((str(error), *notes)), pytrace=False)
