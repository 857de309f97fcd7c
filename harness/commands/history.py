"""`history`: one case over the stored runs of a machine."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from harness.case import Case
from harness.errors import StoreError, unknown
from harness.registry import discover
from harness.report import past
from harness.stored import history

NAME = "history"
HELP = "every gated figure of a case over the stored runs of a machine, with the changes that were accepted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("case", metavar="CASE", help="its id, for example resnet18-ddp-2gpu-bs8")
    parser.add_argument(
        "--runs", type=Path, default=Path("baselines"), metavar="DIR", help="folder of all runs (default: baselines)"
    )
    parser.add_argument("--host", metavar="NAME", help="machine whose runs are told (default: every one that has it)")
    parser.add_argument("--csv", action="store_true", help="as CSV, with every digit")
    parser.add_argument(
        "--plugins", action="append", default=[], metavar="MODULE", help="module that its metrics are of"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the history.

    Raises:
        CaseError: the case is no id.
        StoreError: no stored run holds it, or one is damaged.
    """
    hosts = _hosts(arguments.runs, arguments.host)
    files = {host: history.of_host(arguments.runs, host) for host in hosts}
    every = [file for of_host in files.values() for file in of_host]
    if arguments.case not in (known := history.case_ids(every)):
        # What is no id at all is told so; what is one may be near to one that is stored.
        raise StoreError(f"{arguments.runs}: {unknown('stored case', arguments.case, known)}")
    case = Case.parse(arguments.case)
    metrics = sorted(discover(arguments.plugins).metrics.values(), key=lambda metric: metric.order)
    wanted = past.figures(metrics)
    told = {host: history.of_cases([case], of_host).get(case, ()) for host, of_host in files.items()}
    told = {host: records for host, records in told.items() if records}
    if arguments.csv:
        rows = [row for records in told.values() for row in past.rows(records, wanted)]
        writer = csv.DictWriter(sys.stdout, fieldnames=[*rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return 0
    for number, records in enumerate(told.values()):
        for line in [*([""] if number else []), *past.render(records, wanted)]:
            sys.stdout.write(line + "\n")
    return 0


def _hosts(folder: Path, wanted: str | None) -> list[str]:
    """Return the machines whose runs are told.

    Raises:
        StoreError: there is no such folder, no run in it, or no such machine.
    """
    if not folder.is_dir():
        raise StoreError(f"there is no folder {folder}; name the one above the machines' folders with --runs")
    known = sorted({file.parent.name for file in folder.glob(f"*/{history.RUNS}")})
    if not known:
        raise StoreError(f"{folder} holds no stored run; make one with pytest benches --benchmark-save=NAME")
    if wanted is None:
        return known
    if wanted not in known:
        raise StoreError(unknown("machine", wanted, known))
    return [wanted]
