"""Whether certified runs bear out what a study says of accuracies and losses: by seeds, or as one training. Pure.

Seeds are paired, and tested as `harness.gate.equivalence` does. With one seed only certified sameness says anything:
strategies that are certified to be one training differ by rounding, so where they end alike no difference is theirs.
"""

from __future__ import annotations

import math

from harness.case import Case
from harness.evidence.claims import Claim, Pair, Word, certified, untold
from harness.evidence.runs import Evidence
from harness.evidence.tables import shown
from harness.gate import equivalence

MOST_ROUNDING = 0.05
"""Share of a published difference up to which certified runs of one seed count as equal: rounding moves them so far."""


def differs(
    evidence: Evidence,
    text: str,
    cases: Pair,
    published: float,
    *,
    score: str = "",
    same_training: bool = True,
    asked: bool = False,
) -> Claim:
    """Judge that the first case ends with another score, or loss, than the second.

    Args:
        evidence: what was measured.
        text: what the study says.
        cases: the first's score is taken less the second's.
        published: the difference by the study's figures; what is said is its sign.
        score: name of the score; empty for the loss of the last epoch, which further seeds do not tell.
        same_training: whether the cases are one training, certified to be, so that with one seed they end alike.
        asked: whether the study asks for it only; then what is given as published is what would answer it fully.
    """
    told = "" if asked else f"{published:+.4f}"
    runs, reasons = certified(evidence, cases)
    if reasons:
        return untold(text, told, reasons)
    a, b = (run.result.last_scores(score) if score else (run.last_loss,) for run in runs)
    if None in (*a, *b) or len(a) != len(b):
        return untold(text, told, f"no {score or 'loss'} of every seed was measured")
    gaps = [x - y for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if len(gaps) == 1:
        here = f"{gaps[0]:+.4f}"
        if same_training and abs(gaps[0]) <= MOST_ROUNDING * abs(published):
            why = "certified to be the same training, and with the same seed they end alike"
            return Claim(text=text, published=told, here=here, word="contradicted", reason=why)
        why = "one seed says nothing of how seeds scatter: give --seeds 3 or more" if score else "it is of one seed"
        return Claim(text=text, published=told, here=here, word="cannot tell", reason=why)
    found = equivalence.compare(a, b, margin=abs(published) / 2 or 1e-9)
    return _of_seeds(text, told, found, published)


def alike(evidence: Evidence, text: str, cases: Pair, *, score: str, margin: float) -> Claim:
    """Judge that two cases that are one training end with the same score, within a margin: a question of the study."""
    runs, reasons = certified(evidence, cases)
    if reasons:
        return untold(text, "", reasons)
    a, b = (run.result.last_scores(score) for run in runs)
    if None in (*a, *b) or len(a) != len(b):
        return untold(text, "", f"no {score} of every seed was measured")
    found = equivalence.compare(a, b, margin=margin)
    here = f"{found.difference or 0.0:+.4f}, {found.n} seed{'s' * (found.n != 1)}"
    if found.n == 1 and found.difference == 0:
        why = "certified to be the same training, and with the same seed they end alike"
        return Claim(text=text, published="", here=here, word="confirmed", reason=why)
    words: dict[str, Word] = {"equivalent": "confirmed", "different": "contradicted", "unresolved": "cannot tell"}
    why = found.note if found.word == "unresolved" else f"within {shown(margin)}" if found.word == "equivalent" else ""
    return Claim(text=text, published="", here=here, word=words[found.word], reason=why)


def reaches(
    evidence: Evidence, text: str, case: Case, *, score: str, least: float, most: float, otherwise: str
) -> Claim:
    """Judge a published score by the images it was measured on.

    Args:
        evidence: what was measured.
        text: what is said.
        case: the case that would have it.
        score: name of the score, a share of the images.
        least: of what was published,
        most: and its upper end.
        otherwise: in what this machine's run is another experiment; nothing where it is the same.
    """
    told = f"{least:.4f}" if least == most else f"{least:.4f} to {most:.4f}"
    runs, reasons = certified(evidence, (case,))
    value = runs[0].last_score(score) if runs else None
    images = runs[0].result.lead.val_images if runs else None
    if reasons or value is None or not images:
        return untold(text, told, reasons or f"no {score} was measured")
    # Of a share of so many images, normal approximation; other seeds scatter besides.
    half = 1.96 * math.sqrt(value * (1 - value) / images)
    here = f"{value:.4f} ({value - half:.4f} to {value + half:.4f})"
    if otherwise:
        return Claim(text=text, published=told, here=here, word="cannot tell", reason=otherwise)
    apart = value + half < least or value - half > most
    return Claim(text=text, published=told, here=here, word="contradicted" if apart else "confirmed")


def _of_seeds(text: str, told: str, found: equivalence.Equivalence, published: float) -> Claim:
    mean = found.difference or 0.0
    spread = found.interval95
    here = f"{mean:+.4f}" + (f" ({spread[0]:+.4f} to {spread[1]:+.4f})" if spread else "") + f", {found.n} seeds"
    if found.word == "equivalent":
        why = f"equivalent within {shown(found.margin)}"
        return Claim(text=text, published=told, here=here, word="contradicted", reason=why)
    if found.word == "different":
        word: Word = "confirmed" if mean * published > 0 else "contradicted"
        return Claim(text=text, published=told, here=here, word=word)
    return Claim(
        text=text, published=told, here=here, word="cannot tell", reason=found.note or "the seeds scatter too much"
    )
