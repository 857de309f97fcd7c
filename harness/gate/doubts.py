"""Why a case's time cannot be judged: it was disturbed, or the machine is not the one of the stored runs. Pure.

The plain loop and the kernels are frozen code. When the one moves against the other, something did that both run on:
the model, a library, or the machine, which at another speed is seldom that for kernels and for models alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from harness.gate.contrasts import Contrasts
from harness.gate.observations import Process, View
from harness.gate.policy import MOST_DISTURBED, MOVED_Z, THETA, UNLIKE, UNLIKE_Z


def moved(evidence: Contrasts) -> float | None:
    """Return by how much, a logarithm, the plain loop moved against the kernels, where that is no chance."""
    control = evidence.whole.get("control")
    if control is None or abs(control.loss) <= math.log1p(THETA["control"]):
        return None
    return control.loss if abs(control.z()) > MOVED_Z else None


def disturbances(run: Sequence[Process], *, of: str = "") -> Iterator[str]:
    """Yield why processes of a case say little; others may say more.

    Args:
        run: the processes.
        of: what they are of, in words that follow on "processes"; nothing where there is but one run.
    """
    processes = f"of {len(run)} processes{of and f' of {of}'}"
    unsettled = sum(not one.settled for one in run)
    if unsettled > MOST_DISTURBED * len(run):
        yield f"{unsettled} {processes} did not settle in their warm-up"
    disturbed = [one for one in run if one.disturbed]
    if len(disturbed) > MOST_DISTURBED * len(run):
        yield f"{len(disturbed)} {processes} were disturbed: {disturbed[0].disturbed[0]}"


def shifts(evidence: Contrasts, *, slower: bool) -> Iterator[str]:
    """Yield why the references forbid a verdict, which no more processes of this run would change.

    Args:
        evidence: of the case.
        slower: whether it lost beyond doubt against the kernels.
    """
    shift = moved(evidence)
    # That a case slowed down with its plain loop tells that the model did, or what both run on: no doubt, a finding.
    if shift is not None and not (shift > 0 and slower):
        yield f"the plain loop moved {math.expm1(shift):+.1%} against the kernels, though the code of both is frozen"


def losses_of_the_machine(evidence: Contrasts, base: Contrasts | None, losses: Mapping[View, float]) -> dict[View, str]:
    """Return which losses may be the machine's, and why: it is at another speed, and the same work beside shows none.

    Gains, which are losses below 0, are alike.

    Args:
        evidence: of the case.
        base: of the case that its speedup is taken over, if there is one.
        losses: of the views in which it lost beyond doubt, logarithms.
    """
    ours, theirs = evidence.whole.get("control"), base and base.whole.get("control")
    moves: dict[View, float] = {"machine": ours.loss} if ours else {}
    if ours and theirs:
        moves["speedup"] = ours.loss - theirs.loss
    found: dict[View, str] = {}
    for view in sorted(moves.keys() & losses):
        kernels = _with_machine(moves[view], evidence)
        if kernels is not None and losses.get("same work", 0.0) * losses[view] <= 0:
            loss, shift = math.expm1(losses[view]), math.expm1(moves[view])
            found[view] = (
                f"{view}: of a loss of {loss:+.1%} the plain loop has {shift:+.1%}, "
                f"and the kernels take {math.expm1(kernels):+.1%}: another machine speed, or a slower model"
            )
    return found


def _with_machine(shift: float, evidence: Contrasts) -> float | None:
    """Return by how much, a logarithm, the kernels are slower than in the stored runs, if that may be why of a shift.

    Args:
        shift: of a plain loop against the kernels, a logarithm.
        evidence: of the case that was measured with it.
    """
    if "wall" not in evidence.whole or "machine" not in evidence.whole:
        return None
    wall = evidence.whole["wall"]
    slower = wall.loss - evidence.whole["machine"].loss
    # The kernels' own time scatters from run to run as wall times do.
    return slower if abs(shift) <= UNLIKE * (abs(slower) + UNLIKE_Z * wall.error) else None
