"""Which cases are suspects: those whose processes of the screen differ from the level by more than chance. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.gate import chance
from harness.gate.contrasts import Contrast, Contrasts, Timed, cut, theta
from harness.gate.doubts import moved
from harness.gate.observations import View
from harness.gate.policy import MOST_SUSPECTS, SCREEN_Z

JUDGED: tuple[View, ...] = ("same work", "machine", "speedup", "wall")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A view of a case that the screen found changed."""

    case: str
    view: View
    worse: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """What the screen found."""

    suspects: tuple[Suspect, ...]
    confirm: tuple[str, ...]
    """The cases to be measured afresh: the suspects, and the bases of suspected speedups."""
    said: tuple[str, ...]
    """What is odd about the run as a whole, a sentence each."""


def suspects_of(cases: Mapping[str, Timed], evidence: Mapping[str, Contrasts]) -> Screen:
    """Return which cases are to be confirmed."""
    suspects = tuple(
        Suspect(case=case, view=view, worse=worse)
        for case, timed in cases.items()
        for view, contrast in evidence[case].screen.items()
        for worse in (True, False)
        if view in JUDGED and _suspect(contrast, 1 if worse else -1, theta(view, timed), view)
    )
    confirm = {one.case for one in suspects}
    confirm |= {base for one in suspects if one.view == "speedup" and (base := cases[one.case].base) is not None}
    return Screen(suspects=suspects, confirm=tuple(sorted(confirm)), said=tuple(_odd(cases, evidence, suspects)))


def _suspect(contrast: Contrast, sign: int, least: float, view: View) -> bool:
    """Return whether a change is worth a confirmation."""
    if sign < 0 and view in ("speedup", "wall"):
        # A speedup rises when its base falls back; a faster machine makes every wall time shorter.
        return False
    return contrast.z(sign) > cut(view, contrast, least)


def _odd(cases: Mapping[str, Timed], evidence: Mapping[str, Contrasts], suspects: Sequence[Suspect]) -> Iterator[str]:
    judged = [case for case in cases if "same work" in evidence[case].screen]
    slower = {one.case for one in suspects if one.worse and one.view == "same work"}
    if len(slower) > max(
        MOST_SUSPECTS * len(judged), chance.most_of(len(judged), chance.below(-SCREEN_Z["same work"]))
    ):
        yield (
            f"{len(slower)} of {len(judged)} cases seem slower than the same work beside them, more than chance makes: "
            "a change that hits all of them, or another state of the machine"
        )
    shifted = [case for case in cases if moved(evidence[case])]
    if len(shifted) > max(MOST_SUSPECTS * len(judged), 1):
        yield (
            f"the frozen references moved against each other in {len(shifted)} of {len(cases)} cases: "
            "the machine is not in the state of the stored runs; run again"
        )


def tested(case: str, evidence: Contrasts, found: Screen) -> set[View]:
    """Return the views in which the fresh processes of a case are tested: those suspected, and the primary one.

    What was measured again for its noise, or as a base, was not chosen for its change; it may show one all the same.
    """
    suspected = {one.view for one in found.suspects if one.case == case}
    return {view for view in evidence.fresh if view in suspected or view == primary(evidence)}


def primary(evidence: Contrasts) -> View:
    """Return the view that must show what the policy demands."""
    return "same work" if "same work" in evidence.whole else "machine"
