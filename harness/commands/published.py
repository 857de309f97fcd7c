"""`published`: the forecast's model held against the scaling that published studies measured."""

from __future__ import annotations

import argparse
import sys

from harness.report.forecast import published

NAME = "published"
HELP = "hold the forecast's model against published scaling: each study predicted from its first row"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes nothing."""


def run(arguments: argparse.Namespace) -> int:
    """Print every comparison, those that fail included."""
    for line in published():
        sys.stdout.write(line + "\n")
    return 0
