"""`verify`: holds stored records to their own raw samples, and names what was edited, is missing, or disagrees."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from harness.audit.files import audit
from harness.audit.findings import Findings
from harness.registry import discover
from harness.stored.escaping import escaped

NAME = "verify"
HELP = "compute every derived figure of stored runs again, and name what was edited, is missing or disagrees"
_MOST_SHOWN = 20
"""Faults of one file that are told, lest the first of the next be missed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="stored runs, other records of this suite, or folders of them: baselines, docs/nights, a study's report",
    )
    parser.add_argument(
        "--plugins", action="append", default=[], metavar="MODULE", help="module that a model or strategy comes from"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what is wrong, and a line that sums it up; 1 where anything is.

    Raises:
        StoreError: a path is not there, or a folder holds no record.
    """
    found = audit(arguments.results, discover(arguments.plugins, studies=True))
    for line in _lines(found):
        sys.stdout.write(escaped(line) + "\n")
    return 1 if found.faults else 0


def _lines(found: Findings) -> Iterator[str]:
    for where in dict.fromkeys(fault.where for fault in found.faults):
        of_file = [fault for fault in found.faults if fault.where == where]
        yield where
        yield from (f"  {fault}" for fault in of_file[:_MOST_SHOWN])
        if len(of_file) > _MOST_SHOWN:
            yield f"  and {len(of_file) - _MOST_SHOWN} more"
    records = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in found.records.items()) or "no record"
    verdict = f"{len(found.faults)} WRONG, see above" if found.faults else "nothing is wrong"
    yield f"verified {records}: {found.figures:,} figures computed again or held to each other; {verdict}"
