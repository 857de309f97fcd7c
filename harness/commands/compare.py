"""`compare`: two stored runs beside each other, of two commits, two versions of libraries or two machines."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.errors import StoreError
from harness.registry import discover
from harness.report import comparison
from harness.running.pipeline import reference_of
from harness.stored import history
from harness.stored.comparing import compare

NAME = "compare"
HELP = (
    "two stored runs case by case, the second against the first; exit status 0: nothing is worse, 1: something is, "
    "2: they cannot be compared"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    for name in ("first", "second"):
        parser.add_argument(name, metavar=name.upper(), help="a stored run: its file, or its name, number or commit")
    parser.add_argument(
        "--runs", type=Path, default=Path("baselines"), metavar="DIR", help="folder of all runs (default: baselines)"
    )
    parser.add_argument("-k", dest="word", default="", metavar="WORD", help="only cases with this in their id")
    parser.add_argument(
        "--plugins", action="append", default=[], metavar="MODULE", help="module that their metrics are of"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison; 1 where a case is worse.

    Raises:
        StoreError: a run cannot be read, or nothing in the two can be compared.
    """
    metrics = sorted(discover(arguments.plugins).metrics.values(), key=lambda metric: metric.order)
    first, second = (history.read(history.find(name, arguments.runs)) for name in (arguments.first, arguments.second))
    chosen = {case: stored for case, stored in second.cases.items() if arguments.word in case.id}
    compared = compare(
        first.cases, chosen, metrics=metrics, base_of={case: reference_of(case) for case in second.cases}
    )
    if not compared:
        word = f" with {arguments.word!r} in its id" if arguments.word else ""
        raise StoreError(
            f"{first.name} and {second.name} have no case{word} in common; choose runs of the same profile"
        )
    if all(one.word == "refused" for one in compared):
        raise StoreError(f"{first.name} and {second.name} cannot be compared: {compared[0].notes[0]}")
    for line in comparison.render(first, second, compared, metrics=metrics):
        sys.stdout.write(line + "\n")
    for line in comparison.next_steps(second, compared):
        sys.stdout.write(line + "\n")
    return int(any(one.word == "worse" for one in compared))
