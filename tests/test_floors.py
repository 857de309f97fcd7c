"""Imports inside the harness go strictly down its floors, and torch is imported in one room alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HARNESS = Path(__file__).parents[1] / "harness"

FLOORS = (
    # words
    {"escaping"},
    {"errors", "cache", "source", "writing", "progress", "flight"},
    {"reading"},
    {"records", "units", "plant", "published"},
    {"case", "results", "certificate"},
    # contracts
    {"plugins"},
    {"registry"},
    {"job"},
    {"profiles", "checkpoints"},
    {"saved_models"},
    # subjects: rooms that do not know each other
    {"strategies", "models", "datasets", "metrics"},
    # one rank from start to report
    {"worker"},
    # parent
    {"nodes", "gate"},
    {"host", "leftovers", "store", "anatomy", "sampling"},
    {"launchers", "baselines", "selftest", "figures", "frames", "evidence", "told", "devices"},
    # flow
    {"proof", "studies", "history", "comparing"},
    {"feasible", "certifier", "explainer", "sampler", "trainings", "finished"},
    {"ranks"},
    {"accepted"},
    {"judging", "timekeeper"},
    {"pipeline"},
    # what a person reads of the flow's outcomes
    {"report", "audit"},
    # the command line
    {"commands"},
    {"__main__"},
    # pytest
    {"command_line", "recording", "rerun", "selection", "studying", "vanished"},
    {"suite"},
    {"fixtures", "reporting", "exclusive"},
    {"summary"},
    {"pytest_plugin"},
)
"""A room is a module or a folder of harness/. It imports itself and what is on the floors above in this list."""

WINGS = ("machine", "running", "stored", "session")
"""Folders whose modules are rooms of their own: they belong together, on several floors."""

TORCH_FAMILY = {
    "torch",
    "torchvision",
    "deepspeed",
    "fairscale",
    "transformers",
    "sklearn",
    "scipy",
    "numpy",
    "PIL",
    "pycocotools",
    "torchmetrics",
    "matplotlib",
    "pandas",
    "jinja2",
    "markupsafe",
}

MODULES = {path.relative_to(HARNESS).with_suffix("").as_posix(): path for path in sorted(HARNESS.rglob("*.py"))}


def _room(module: str) -> str:
    first, *rest = module.split("/")
    return rest[0] if first in WINGS and rest else first


def _floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def _imports(source: str) -> Iterator[tuple[str, bool]]:
    """Yield each imported name in full, and whether importing the module imports it; not those of annotations."""

    def walk(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            children: list[ast.AST] = list(node.orelse)
        else:
            children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides which room it goes to"
            yield from ((f"{node.module}.{alias.name}", at_once) for alias in node.names)
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in children:
            yield from walk(child, at_once and not deferred)

    return walk(ast.parse(source), True)


def _wrong(module: str, source: str) -> list[str]:
    """Return what is wrong about a module's imports, a sentence each."""
    found = []
    room = _room(module)
    for name, at_once in _imports(source):
        top, *rest = name.split(".")
        rest = rest[1:] if rest and rest[0] in WINGS else rest
        if top == "harness" and rest and rest[0] != room and _floor(rest[0]) >= _floor(room):
            found.append(f"{module} imports {name}, which is not below it")
        if top == "harness" and rest and rest[0] == "worker" and room != "worker":
            found.append(f"{module} imports {name}, and torch with it")
        if top in TORCH_FAMILY and at_once and room != "worker":
            found.append(f"{module} imports {name} when it is imported itself")
    return found


def test_every_module_has_a_floor():
    rooms = {_room(module) for module in MODULES} - {"__init__"}
    assert not rooms & {*WINGS}
    assert rooms == set().union(*FLOORS)
    assert len(rooms) == sum(len(floor) for floor in FLOORS)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__"])
def test_imports_go_strictly_down_and_torch_is_left_to_the_worker(module):
    assert _wrong(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("case", "from harness.plugins import Model"),
        ("case", "from harness import results"),
        ("plugins", "def f():\n    import harness.running.pipeline"),
        ("models/resnet", "from harness.strategies.fsdp import FSDP1"),
        ("gate/limits", "from harness.stored import store"),
        ("running/pipeline", "from harness.worker.rank import main"),
        ("models/resnet", "import torch.nn as nn"),
        ("models/resnet", "try:\n    import numpy\nexcept ImportError:\n    pass"),
        ("models/resnet", "class A:\n    from torchvision import ops"),
    ],
)
def test_a_planted_import_is_seen(module, source):
    assert len(_wrong(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("models/resnet", "def build():\n    import torch"),
        ("models/resnet", "if TYPE_CHECKING:\n    from torch import nn\n    from harness.running.job import Job"),
        ("worker/rank", "import torch\nfrom harness.worker import process"),
        ("running/pipeline", "from harness.stored import store\nfrom harness.gate.limits import judge"),
    ],
)
def test_what_keeps_the_rules_is_let_through(module, source):
    assert _wrong(module, source) == []
