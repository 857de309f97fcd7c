"""pytest's own process imports no torch, nor anything else that only ranks need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HEAVY = ("torch", "torchvision", "deepspeed", "fairscale", "transformers", "sklearn", "scipy", "numpy", "PIL")
HEAVY += ("pandas", "pycocotools", "matplotlib", "jinja2", "markupsafe")

TELL = f"""
import sys
HEAVY = {HEAVY}
def pytest_unconfigure(config):
    with open("{{file}}", "w") as out:
        out.write(" ".join(name for name in HEAVY if name in sys.modules))
"""


def _run(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(path)])}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def collect(tmp_path):
    """Return a function that collects the whole suite and returns what it imported and what it printed."""

    def run(*options: str) -> tuple[set[str], str]:
        told = tmp_path / "imported.txt"
        (tmp_path / "tell_modules.py").write_text(TELL.format(file=told))
        done = _run(
            *("-m", "pytest", "benches", "--collect-only", "-q", "-p", "tell_modules", "-p", "no:cacheprovider"),
            *options,
            path=tmp_path,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return set(told.read_text().split()), done.stdout

    return run


def test_finding_every_plug_in_imports_nothing_heavy(tmp_path):
    done = _run(
        "-c",
        "import json, sys, harness.session.pytest_plugin\n"
        "from harness.registry import discover\n"
        "found = discover()\n"
        f"print(json.dumps([sorted(set({HEAVY}) & set(sys.modules)), len(found.strategies), len(found.models)]))",
        path=tmp_path,
    )
    heavy, strategies, models = json.loads(done.stdout)
    assert heavy == []
    assert strategies >= 9
    assert models >= 6


def test_collecting_the_whole_matrix_imports_nothing_heavy(collect):
    imported, printed = collect("--matrix", "full", "-m", "bench(gpu_count=4) or bench(strategy='zero3')")
    assert imported == set()
    assert "test_train[fasterrcnn_r50-zero3-4gpu-" in printed


def test_a_plug_in_that_imports_too_much_would_be_seen(collect, tmp_path):
    (tmp_path / "too_heavy.py").write_text("import numpy\n")
    imported, _ = collect("--plugins", "too_heavy")
    assert imported == {"numpy"}
