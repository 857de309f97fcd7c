"""The command that runs a test again has all that its result depended on, and starts from where the user stands."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.session import rerun

ROOT = Path(__file__).parents[1]
TEST = "benches/test_classification.py::test_train[resnet18-ddp-2gpu-bs8]"


@pytest.fixture
def config(pytestconfig):
    """Return a function that makes a run's configuration from what pytest would have read and where it was started."""

    def make(folder=ROOT, **given):
        assert given.keys() <= rerun.KEPT.keys()
        return SimpleNamespace(
            rootpath=ROOT,
            invocation_params=SimpleNamespace(dir=folder),
            getoption=lambda name: given.get(name, pytestconfig.getoption(name)),
        )

    return make


def test_a_plain_run_needs_no_options(config):
    assert rerun.options(config()) == ""
    assert rerun.test_name(config(), TEST) == TEST


def test_what_the_result_depended_on_is_asked_for_again(config):
    given = config(bench_plugins=["mine.a", "mine.b"], launcher="torchrun", seeds=5, data_root=Path("/some data"))
    assert shlex.split(rerun.options(given)) == [
        *("--plugins=mine.a", "--plugins=mine.b", "--data-root=/some data", "--launcher=torchrun", "--seeds=5")
    ]


def test_it_starts_from_where_the_user_stands(config):
    assert rerun.test_name(config(ROOT / "examples" / "shapes"), TEST) == f"../../{TEST}"
