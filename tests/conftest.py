"""What the tests share: a cache of their own, and a warm pipeline for those that start ranks."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from harness.machine import host as hosts
from harness.profiles import Profile
from harness.registry import discover
from harness.running.pipeline import Pipeline
from harness.running.ranks import RunOptions

pytest_plugins = ["pytester"]

TINY = {
    "dataset": "cifar10",
    "embedded": "digits",
    "image_size": 8,
    "train_images": 32,
    "val_images": 13,
    "epochs": 1,
    "warmup_steps": 1,
    "measured_steps": 3,
    "batch_sizes": [4],
    "optimizer": {"name": "sgd", "arguments": {"lr": 0.01}},
}


def pytest_addoption(parser):
    """Take the option of the weekly run."""
    parser.addoption("--slow", action="store_true", help="run the tests too that are marked slow")


def pytest_configure(config):
    """Register the marker."""
    config.addinivalue_line(
        "markers", "slow: left out without --slow, for it takes long and others promise nearly as much"
    )


def pytest_collection_modifyitems(config, items):
    """Leave out what is slow, unless it is asked for or named by its id."""
    if config.getoption("--slow") or any("::" in str(one) for one in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """The embedded data are made once for all tests, away from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARDBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        # The tests' own small runs wait for each other, and for nobody's real one.
        patch.setenv("SHARDBENCH_LOCKS", str(tmp_path_factory.mktemp("locks")))
        yield


@pytest.fixture(autouse=True)
def _own_width(monkeypatch):
    """Lines are as wide as the terminal; the tests' own is the same whoever runs them."""
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="session")
def make_pipeline():
    """Return a function that opens a pipeline over the tests' own plug-ins."""
    sys.path.insert(0, str(Path(__file__).parent))
    opened = []

    def make(*, images=TINY, detection=TINY, host=None, **options) -> Pipeline:
        options.setdefault("plugins", ("plugins_for_tests",))
        pipeline = Pipeline(
            host=host or hosts.probe(),
            registry=discover(options["plugins"]),
            profile=Profile(name="tiny", about="", case_timeout_s=60, kinds={"images": images, "detection": detection}),
            options=RunOptions(**options),
            watch=lambda title, folder: nullcontext(),
        )
        opened.append(pipeline)
        return pipeline

    yield make
    for pipeline in opened:
        pipeline.close()
    sys.path.remove(str(Path(__file__).parent))


class _Shared:
    """A session that is another pipeline's to close."""

    conditions = ""

    def __init__(self, session) -> None:
        self.launch = session.launch

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def share():
    """Return a function that lets a pipeline start its ranks by another's warm agent, and returns it."""

    def shared(pipeline, other) -> Pipeline:
        pipeline.ranks._session = _Shared(other.ranks.start())
        return pipeline

    return shared


@pytest.fixture(scope="session")
def pipeline(make_pipeline):
    """One warm pipeline for all tests that can share it."""
    return make_pipeline()


@pytest.fixture(scope="session")
def suite_options():
    """The options of pytest with this suite."""
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "benches", "--help"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", told))
