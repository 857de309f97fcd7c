"""Every kind of figure, from series of numbers to a drawing and the table of all that is drawn.

A value that is not known is None: it leaves a gap in the drawing and says n/a in the table. Strategies look alike in
every figure, as `harness.figures.palette` says. Nothing is written until `write` is called.
"""

from __future__ import annotations

from harness.figures.bars import bars, spreads
from harness.figures.figure import Figure, Point, Series, write
from harness.figures.lines import lines, scatter
from harness.figures.matrix import matrix
from harness.figures.stacks import Stack, stacks

__all__ = ("Figure", "Point", "Series", "Stack", "bars", "lines", "matrix", "scatter", "spreads", "stacks", "write")
