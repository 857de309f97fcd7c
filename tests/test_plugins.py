"""A plug-in is one file: found by its folder or by its module's name, and named when it is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import plugins
from harness.errors import PluginError
from harness.registry import discover

ROOT = Path(__file__).parents[1]

STRATEGY = """
from harness.plugins import Strategy
MINE = Strategy(name="{name}", shard=lambda workload, world: None)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a module which can be imported during the test."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)

    def write(name: str, source: str) -> Path:
        file = tmp_path / Path(*name.split(".")).with_suffix(".py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)
        return file

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_every_file_of_the_folders_is_found():
    found = discover()
    assert {"dp", "ddp", "fsdp1", "fsdp2", "fairscale_fsdp", "fairscale_sdp", "zero1", "zero2", "zero3"} <= set(
        found.strategies
    )
    assert {"resnet18", "resnet50", "vit_b16", "vit_tiny", "fasterrcnn_r50", "fasterrcnn_r18"} <= set(found.models)
    assert {"digits", "scenes", "cifar10", "cifar100", "coco2017"} <= set(found.datasets)
    assert {"step_time", "throughput", "speedup", "efficiency", "peak_memory", "loss", "accuracy", "map"} <= set(
        found.metrics
    )
    assert {"warm", "torchrun"} <= set(found.launchers)


def test_each_is_registered_under_its_own_name():
    found = discover()
    for named in (found.strategies, found.models, found.datasets, found.metrics, found.launchers):
        assert all(plugin.name == name for name, plugin in named.items())
        assert list(named) == sorted(named)


def test_a_module_named_by_the_user_may_define_any_kind_and_tuples_of_them(module):
    module(
        "my_plugins",
        "from harness.plugins import *\n"
        "from harness.strategies.data_parallel import DDP\n"
        "TWO = tuple(Strategy(name=n, shard=DDP.shard) for n in ('mine_a', 'mine_b'))\n"
        "NET = Model(name='my_net', input=InputKind.IMAGES, build=lambda spec: None)\n",
    )
    found = discover(["my_plugins"])
    assert {"mine_a", "mine_b", "ddp"} <= set(found.strategies)
    assert found.find("models", "my_net").input == "images"


def test_a_users_module_is_found_in_the_folder_the_run_was_started_in(tmp_path, monkeypatch):
    (tmp_path / "left_here.py").write_text(STRATEGY.format(name="left_here"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    try:
        assert "left_here" in discover(["left_here"]).strategies
    finally:
        sys.modules.pop("left_here", None)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def broken(:\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('usage: train.py')\n", "SystemExit: usage: train.py"),
    ],
    ids=["import", "syntax", "raises", "exits"],
)
def test_a_module_that_does_not_import_is_named_with_its_file_and_the_cause(module, source, cause):
    file = module("wont_import", source)
    with pytest.raises(PluginError) as refused:
        discover(["wont_import"])
    assert "plug-in module wont_import cannot be imported" in str(refused.value)
    assert cause in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_module_in_a_package_that_does_not_import_is_named_with_the_cause(module):
    module("broken_package.__init__", "raise RuntimeError('planted')\n")
    module("broken_package.inside", STRATEGY.format(name="inside"))
    with pytest.raises(PluginError, match=r"broken_package.inside cannot be imported: RuntimeError: planted"):
        discover(["broken_package.inside"])


@pytest.mark.parametrize("name", ["no_such_module", "no_such.module", "my plugins.py", ""])
def test_a_module_that_is_nowhere_is_said_to_be_searched_for(name):
    with pytest.raises(PluginError, match=f"mend the name {name!r}, or the folder it is searched in"):
        discover([name])


def test_two_plug_ins_of_one_name_are_named_with_both_files(module):
    file = module("second_ddp", STRATEGY.format(name="ddp"))
    with pytest.raises(PluginError) as refused:
        discover(["second_ddp"])
    message = str(refused.value)
    assert "two plug-ins in strategies are named 'ddp'" in message
    assert str(file) in message
    assert str(Path(plugins.__file__).parent / "strategies" / "data_parallel.py") in message


def test_one_plug_in_seen_in_two_modules_is_one(module):
    module("borrows", "from harness.strategies.data_parallel import DDP\nAGAIN = DDP\n")
    assert discover(["borrows", "borrows"]).strategies.keys() == discover().strategies.keys()


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("models", "resnet81", "no model 'resnet81'; did you mean 'resnet18'?"),
        ("strategies", "zero", "no strategy 'zero'; did you mean 'zero"),
        ("launchers", "qqq", "no launcher 'qqq'; known: namespaces, slurm, torchrun, warm"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(kind, name, message):
    with pytest.raises(PluginError) as refused:
        discover().find(kind, name)
    assert message in str(refused.value)


@pytest.fixture
def copy_of_the_suite(tmp_path):
    """A copy to add files to, and a function that collects it."""
    for part in ("harness", "benches", "conftest.py", "pytest.ini"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)

    def collect(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "benches", "--collect-only", "-q", *options],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    return tmp_path, collect


def test_one_new_file_is_a_strategy_of_every_model(copy_of_the_suite):
    folder, collect = copy_of_the_suite
    (folder / "harness" / "strategies" / "mine.py").write_text(STRATEGY.format(name="mine"))
    printed = collect("-k", "mine").stdout
    assert "test_classification.py::test_train[resnet18-mine-2gpu-bs" in printed
    assert "test_detection.py::test_train[fasterrcnn_r18-mine-4gpu-bs" in printed


def test_one_new_file_is_a_model_under_every_strategy(copy_of_the_suite):
    folder, collect = copy_of_the_suite
    (folder / "harness" / "models" / "mine.py").write_text(
        "from harness.plugins import InputKind, Model\n"
        "MINE = Model(name='my_net', input=InputKind.IMAGES, build=lambda spec: None)\n"
    )
    printed = collect("-k", "my_net").stdout
    for strategy in ("ddp", "fsdp2", "fairscale_sdp", "zero3"):
        assert f"test_classification.py::test_train[my_net-{strategy}-1gpu-bs" in printed


def test_a_file_that_is_wrong_stops_the_run_with_its_name(copy_of_the_suite):
    folder, collect = copy_of_the_suite
    file = folder / "harness" / "metrics" / "wrong.py"
    file.write_text("import no_such_library\n")
    done = collect()
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert str(file) in done.stderr
    assert "Traceback" not in done.stderr
