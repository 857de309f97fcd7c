"""Image classifiers under every strategy."""

from harness.plugins import InputKind
from harness.session.suite import Grid

GRID = Grid(input=InputKind.IMAGES)


def test_train(case, bench):
    bench(case)
