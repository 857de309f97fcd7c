"""Everything of this project that ShardBench is to know: `--plugins shapebench.plugins`."""

from shapebench.dataset import SHAPES
from shapebench.launcher import NICE
from shapebench.metric import WORST_CLASS
from shapebench.model import SHAPE_NET
from shapebench.strategy import FLAT

__all__ = ["FLAT", "NICE", "SHAPES", "SHAPE_NET", "WORST_CLASS"]
