"""`python -m harness <command>`: what can be done with stored runs, without pytest."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from harness.commands import compare, evaluate, history, join, proof, published, recommend, report, verify
from harness.errors import HarnessError

COMMANDS = (compare, evaluate, history, join, proof, published, recommend, report, verify)
"""Each a module with `NAME`, `HELP`, `add_arguments(parser)` and `run(arguments)`, which returns the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0; 1 where nothing can be answered, or something is worse; 2 for what cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m harness", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for command in COMMANDS:
        added = commands.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        command.add_arguments(added)
        added.set_defaults(run=command.run)
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except HarnessError as error:
        sys.stderr.write(f"{parser.prog} {arguments.command}: error: {error}\n")
        return 2
    except BrokenPipeError:
        # Its reader, such as head, has seen enough; Python would complain again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
