"""A study as one pytest run has it: its cases, which of them were chosen, and what became of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.case import Case
from harness.errors import HarnessError
from harness.evidence.runs import Evidence, Run
from harness.plugins import Planned, Study
from harness.profiles import Profile, StudyProfile
from harness.published import Published, load
from harness.registry import Registry
from harness.running.pipeline import Outcome


@dataclass(slots=True, kw_only=True)
class StudyRun:
    """What belongs to the study of one run."""

    study: Study
    profile: StudyProfile
    registry: Registry
    published: Published
    planned: tuple[Planned, ...]
    report: Path | None = None
    """Folder for its figures and tables; None writes none."""
    impossible: dict[Case, str] = field(default_factory=dict)
    """Cases that cannot run here, and why."""
    chosen: set[Case] = field(default_factory=set)
    """Those that this run is to have."""

    @property
    def in_small(self) -> bool:
        """Whether it is not the study as it was published."""
        return not self.profile.study.as_published

    @property
    def cases(self) -> list[Case]:
        """Its cases in their order."""
        return [one.case for one in self.planned]

    def when_named(self, case: Case) -> str:
        """Return the word that a command line must have for this case to run; empty where none is needed."""
        return next((word for word in self.profile.study.when_named if word in case.id), "")

    def evidence(
        self,
        outcomes: Iterable[Outcome],
        *,
        out_of_memory: Mapping[Case, str],
        untimed: Mapping[Case, HarnessError],
    ) -> Evidence:
        """Return what the study tells from.

        Args:
            outcomes: of the cases that were measured.
            out_of_memory: of those that needed more memory than there was, what they said.
            untimed: why processes of a case could not be taken.
        """
        runs = {
            outcome.case: Run(
                case=outcome.case,
                result=outcome.result,
                uncertified="" if outcome.certificate.granted else outcome.certificate.causes[0],
                untimed=str(untimed[outcome.case]).partition("\n")[0] if outcome.case in untimed else "",
            )
            for outcome in outcomes
        }
        return Evidence(
            study=self.study.name,
            profile=self.profile,
            registry=self.registry,
            published=self.published,
            planned=self.planned,
            runs=runs,
            missing={case: self._why(case, out_of_memory) for case in self.cases if case not in runs},
        )

    def _why(self, case: Case, out_of_memory: Mapping[Case, str]) -> str:
        if case in self.impossible:
            return self.impossible[case]
        if case in out_of_memory:
            return "out of memory"
        if case in self.chosen:
            return "it failed, or the run ended before it"
        word = self.when_named(case)
        return f"left out, name it with -k {word}" if word else "not chosen in this run"


def study_run(name: str, profile: Profile, registry: Registry, *, report: Path | None) -> StudyRun:
    """Return a study with its cases.

    Raises:
        PluginError: there is no such study.
        ProfileError: what the profile says of it makes no sense.
        StoreError: its published figures cannot be read.
    """
    study: Study = registry.find("studies", name)
    own = profile.for_study(name)
    nothing = Published(schema_version=1, study=name, title=study.about, source="nothing published", hardware="n/a")
    return StudyRun(
        study=study,
        profile=own,
        registry=registry,
        published=nothing if study.published is None else load(study.published),
        planned=tuple(study.plan(own, registry)),
        report=report,
    )
