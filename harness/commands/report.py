"""`report`: writes a stored run as a report for people or for other programs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.registry import discover
from harness.report import files
from harness.report.stored import of_stored
from harness.stored import history

NAME = "report"
HELP = "write a stored run as a report: HTML, Markdown, CSV or Parquet, by the ending of each file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("stored", metavar="RUN", help="a stored run: its file, or its name, number or commit in --runs")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help=f"to write, ending in {', '.join(files.WRITERS)}; may be given several times",
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("baselines"), metavar="DIR", help="folder of all runs (default: baselines)"
    )
    parser.add_argument(
        "--plugins", action="append", default=[], metavar="MODULE", help="module that its metrics or strategies are of"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the reports.

    Raises:
        StoreError: the run cannot be read, or a report not be written.
        HarnessError: a file has an ending of no report.
    """
    wanted = [files.refuse_unwritable(file) for file in arguments.output]
    told = of_stored(history.find(arguments.stored, arguments.runs), discover(arguments.plugins))
    for file in wanted:
        files.write(told, file)
        sys.stdout.write(f"written: {file}\n")
    return 0
