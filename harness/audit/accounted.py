"""The memory accounts of a result held to themselves, to its ranks, and to what the strategy must keep."""

from __future__ import annotations

from math import prod

from harness.anatomy import memory
from harness.audit.findings import Place
from harness.case import Case
from harness.plugins import Strategy
from harness.records.account import Account
from harness.results import RankReport, Result


def check(place: Place, result: Result, strategy: Strategy, verdict: str | None) -> None:
    """Look at what every rank held.

    Args:
        place: of the result.
        result: with accounts.
        strategy: the case's.
        verdict: the run's word on the case; None where none is stored.
    """
    for number, (account, rank) in enumerate(zip(result.accounts, result.ranks, strict=False)):
        _account(place.at(f"accounts.{number}"), account, rank)
    if verdict is not None and len(result.accounts) == len(result.ranks):
        causes = memory.figures(Case.parse(result.case_id), strategy, result.accounts).causes
        # A case that is not certified either is told as that.
        told = verdict == "mispredicted" or (verdict == "uncertified" and bool(causes))
        why = f": {causes[0]}" if causes else ""
        said = f"the run said {verdict!r}, and by the accounts the memory is {'not ' * bool(causes)}as predicted{why}"
        place.holds("accounts", told == bool(causes), said)


def _account(place: Place, account: Account, rank: RankReport) -> None:
    place.equal("shapes", sum(map(prod, account.shapes)), rank.parameters, by="the rank's report, as elements")
    place.equal("trained", account.trained, rank.trained_parameters, by="the rank's report")
    if account.offloaded is None and account.ends_bytes:
        place.equal("kept", account.kept.total, account.ends_bytes[-1], by="the end of the last step, as their sum")
        peak = account.at_peak.total
        said = f"its sum is {peak}, and {account.kept.total} are held at the end of a step"
        place.holds("at_peak", peak >= account.kept.total, said)
    spent_s, span_s = sum(account.plain_s), account.plain_to_s - account.plain_from_s
    place.holds("plain_s", spent_s <= span_s + 1e-6, f"its steps took {spent_s!r} s of {span_s!r} s")
