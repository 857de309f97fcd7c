"""How one test of a run is run again: its name from where the user stands, and what of the command line it depends on.

An option that only says what to do with a result (a report, a folder to save in), or that the test's name holds, is
left out.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

KEPT = {
    "bench_plugins": "--plugins",
    "bench_profiles": "--profiles",
    "profile": "--profile",
    "study": "--study",
    "data_root": "--data-root",
    "launcher": "--launcher",
    "nnodes": "--nnodes",
    "rdzv_endpoint": "--rdzv-endpoint",
    "srun": "--srun",
    "device_memory": "--device-memory",
    "seeds": "--seeds",
    "case_timeout": "--case-timeout",
    "reference": "--reference",
    "gate_policy": "--gate-policy",
    "gate_plant": "--gate-plant",
    "benchmark_storage": "--benchmark-storage",
}
"""Options that a result or its verdict depends on, by where pytest keeps them."""
_DEFAULTS = {"launcher": "warm", "nnodes": 0, "rdzv_endpoint": "", "srun": "", "seeds": 1, "reference": "run"}
"""What they are when nobody gave them, where that is something."""


def command(config: pytest.Config, nodeid: str) -> str:
    """Return the command that runs a test again."""
    return f'pytest "{test_name(config, nodeid)}"{options(config)}'


def test_name(config: pytest.Config, nodeid: str) -> str:
    """Return a test's name as it is given to pytest in the folder that this run was started in."""
    file, _, rest = nodeid.partition("::")
    return f"{Path(os.path.relpath(config.rootpath / file, config.invocation_params.dir)).as_posix()}::{rest}"


def options(config: pytest.Config) -> str:
    """Return the options that a test is run again with, a blank before each; empty where nothing was asked for."""
    # The plug-in itself has set where runs are stored by then.
    unasked: tuple[Any, ...] = (None, [], "file://./.benchmarks", f"file://{config.rootpath / 'baselines'}")
    words: list[str] = []
    for name, option in KEPT.items():
        value = config.getoption(name)
        if value not in unasked and value != _DEFAULTS.get(name):
            words += [f"{option}={one}" for one in (value if isinstance(value, list) else [value])]
    return "".join(f" {shlex.quote(word)}" for word in words)
