"""`proof`: writes the pages on the gate's error rates, simulated, on recorded runs and live, and on planted faults."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.errors import StoreError
from harness.proof import comparison, confusion, drill, page
from harness.stored.writing import whole

NAME = "proof"
HELP = "write docs/gate*.md and faults.md: simulated error rates, the field's rules, planted faults, what runs survive"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where to write, and how much to simulate."""
    parser.add_argument("--docs", type=Path, default=Path("docs"), metavar="DIR", help="folder (default: docs)")
    parser.add_argument(
        "--suites",
        type=int,
        default=300,
        metavar="N",
        help="simulated suites of each of 60 kinds, 40 ms each; 0 leaves gate.md as it is",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("tests/data/gate_runs.json"),
        metavar="FILE",
        help="the recorded processes (default: tests/data/gate_runs.json)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the pages.

    Raises:
        StoreError: the recorded processes are not there, or the folder cannot be written.
    """
    try:
        arguments.docs.mkdir(exist_ok=True)
        comparison.write_docs(arguments.docs / "gate_rules.md", arguments.runs)
        live = "\n".join(confusion.page(arguments.docs / "nights"))
        whole(arguments.docs / "gate_live.md", f"{live}\n".encode())
        faults = "\n".join(drill.page(arguments.docs / "drills"))
        whole(arguments.docs / "faults.md", f"{faults}\n".encode())
        if arguments.suites:
            page.write(arguments.docs / "gate.md", suites=arguments.suites)
    except OSError as error:
        raise StoreError(f"{error.filename}: {error.strerror}; run it in the folder of the project") from error
    return 0
