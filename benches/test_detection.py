"""Object detectors under every strategy."""

from harness.plugins import InputKind
from harness.session.suite import Grid

GRID = Grid(input=InputKind.DETECTION)


def test_train(case, bench):
    bench(case)
