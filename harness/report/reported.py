"""A run as its reports tell it: one value, whether pytest has just made the run or a stored file holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harness.anatomy.forecast import Forecast
from harness.case import Case
from harness.gate.limits import OPEN, WORSE
from harness.registry import Registry
from harness.results import Result
from harness.running.pipeline import Outcome
from harness.stored.store import Stored

Section = tuple[str, tuple[str, ...]]
"""Title and lines of a part of what the terminal shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All that a report may tell of a run. What the run did not look at is None or empty, never a guess.

    Texts may come from outside: errors, names of files, of plug-ins, of machines. Who writes a file escapes them.
    """

    command: str
    """That makes the run again; of a stored run the one that reads it."""
    exit_code: int | None
    """Of pytest; None for a stored run, which does not tell it."""
    started_unix_s: float | None
    host: str
    """Name of the machine, as the folder of its stored runs."""
    machine: str
    """The machine in a line of words."""
    software: Mapping[str, str]
    """Version of Python and of each library."""
    profile: str
    about: str
    """The profile in words; empty where it is not known."""
    commit: str
    """Of the code; empty where no commit holds it."""
    policy: str
    """By which the time was judged; empty for a stored run."""
    options: Mapping[str, str]
    """What the command line asked for beyond the defaults, in words."""
    registry: Registry
    """Has the metrics with their units, titles and what is better, and the strategies."""
    outcomes: tuple[Outcome, ...]
    """The cases that were measured, in the order they ran: each with result, reference, certificate, verdict with its
    findings, `baseline.level` (the stored runs it was held to, newest first), and what `--accounted` found. Of a stored
    run a verdict is its word and its reasons alone."""
    extra: Mapping[str, Result] = field(default_factory=dict)
    """References that were run though no test asked for them, by case id."""
    tests: Mapping[Case, str] = field(default_factory=dict)
    """Node id of each case's test."""
    again: Mapping[str, str] = field(default_factory=dict)
    """The command that runs each test again as it was run, by node id."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """What each failing test said, by node id: of cases that got worse, and of those that could not be run."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Why each skipped test was, by node id."""
    out_of_memory: Mapping[Case, str] = field(default_factory=dict)
    """Cases that needed more memory than there was, and what they said."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many tests a plain run leaves out, by the word that would include them."""
    history: Mapping[Case, tuple[Stored, ...]] = field(default_factory=dict)
    """All stored runs of each case on this machine, oldest first, whatever its set-up was: `result.identity` and
    `result.hardware` tell which of them can be compared, `harness.stored.baselines.is_autosaved` which were not
    accepted. A run that is told from its file is among them."""
    forecasts: tuple[Forecast, ...] = ()
    not_forecast: tuple[str, ...] = ()
    """Why there is no forecast of some case."""
    sections: tuple[Section, ...] = ()
    """What the terminal showed, part by part."""

    def rerun(self, test: str) -> str:
        """Return the command that runs a test again."""
        return self.again.get(test, f'pytest "{test}"')

    @property
    def worse(self) -> tuple[Outcome, ...]:
        """The cases that fail for what was measured of them, or, where a run demands it, as they were not judged."""
        return tuple(
            one for one in self.outcomes if one.verdict.word in WORSE or self.tests.get(one.case) in self.failed
        )

    @property
    def undecided(self) -> tuple[Outcome, ...]:
        """The cases that could not be judged, new ones among them."""
        return tuple(outcome for outcome in self.outcomes if outcome.verdict.word in OPEN)

    @property
    def broken(self) -> Mapping[str, str]:
        """What each failing test said whose case was not measured at all, by node id."""
        measured = {self.tests[outcome.case] for outcome in self.outcomes if outcome.case in self.tests}
        return {test: said for test, said in self.failed.items() if test not in measured}

    def by_model(self) -> Iterator[tuple[str, tuple[Outcome, ...]]]:
        """Yield each model with its cases, in the order they ran; one without any that fits too."""
        models = dict.fromkeys(case.model for case in (*(one.case for one in self.outcomes), *self.out_of_memory))
        for model in models:
            yield model, tuple(one for one in self.outcomes if one.case.model == model)
