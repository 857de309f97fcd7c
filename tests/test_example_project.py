"""The example project is installed and run as its README says: a user's plug-ins go the way of the built-in ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.case import Case
from harness.errors import WorkerFailed
from harness.plugins import Share
from harness.profiles import choose, load
from harness.registry import discover
from harness.strategies._sharding import whole_memory

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "examples" / "shapes"
OPTIONS = ("--plugins", "shapebench.plugins", "--profiles", "profiles.toml", "--profile", "shapes")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, and the folder that it is installed in."""
    copy, installed = tmp_path_factory.mktemp("project") / "shapes", tmp_path_factory.mktemp("installed")
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__", "runs"))
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"),
            *("--no-deps", "--no-build-isolation", "--target", str(installed), str(copy)),
        ],
        check=True,
    )
    shutil.rmtree(copy / "shapebench")  # what is imported from now on is what was installed
    return copy, installed


@pytest.fixture
def run(project, tmp_path):
    """Return a function that runs the benches with the project's plug-ins, from its folder."""
    folder, installed = project

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS", "COLUMNS")}
        return subprocess.run(
            [sys.executable, "-m", "pytest", str(ROOT / "benches"), *OPTIONS, *arguments],
            cwd=folder,
            # Locks of its own: another run on this machine is not waited for, since no time is the promise.
            env=kept | {"PYTHONPATH": str(installed), "COLUMNS": "120", "SHARDBENCH_LOCKS": str(tmp_path / "locks")},
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )

    return call


def test_its_plug_ins_run_are_certified_scored_stored_and_judged(run, project, tmp_path):
    folder, _ = project
    storage = f"--benchmark-storage=file://{tmp_path}/runs"
    quick = ("--gate-policy", "pr", "--gate-budget", "1s")
    chosen = ("-k", "shape_net and flat and 2gpu", storage, *quick)
    first = run(*chosen, "--benchmark-save=accepted", "--report", str(tmp_path / "summary.md"))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "1 passed" in first.stdout
    assert "shape_net on shapes: 256 training and 80 validation images of 16x16 pixels" in first.stdout
    assert re.search(r"^flat-2gpu-bs16!? .*\d %.* new", first.stdout, re.MULTILINE)
    assert "speedup against shape_net-ddp-1gpu-bs16" in first.stdout
    # Certified to the last bit, its traffic what its closed form says.
    assert re.search(r"^flat-bs16 +bit-equal +[\d.]+ MiB=$", first.stdout, re.MULTILINE)
    assert "shape_net-flat-2gpu-bs16" in (tmp_path / "summary.md").read_text()

    (stored,) = (tmp_path / "runs").rglob("*.json")
    (benchmark,) = json.loads(stored.read_text())["benchmarks"]
    scores = benchmark["extra_info"]["shardbench"]["result"]["ranks"][0]["epochs"][-1]["scores"]
    assert 0 <= scores["worst_class"] <= scores["accuracy"] <= 1

    # The next run is held to it. A planted fault is refused by its name, with the command that shows it again.
    worse = run(*chosen, "--benchmark-compare", "--gate-plant", "wrong_lr:5%")
    assert worse.returncode == 1, worse.stdout + worse.stderr
    assert "learning rate: " in worse.stdout
    again = re.search(r"rerun +(pytest .*)", worse.stdout)[1]
    assert "--plugins=shapebench.plugins --profiles=profiles.toml --profile=shapes" in again
    assert "--gate-plant=wrong_lr:5%" in again

    told = subprocess.run(
        [sys.executable, "-m", "harness", "recommend", str(stored)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "flat" in told.stdout
    assert (folder / "profiles.toml").read_text() == (PROJECT / "profiles.toml").read_text()


def test_a_plain_run_has_the_project_s_own_model_alone_under_every_strategy(run):
    done = run("--collect-only", "-q")
    cases = re.findall(r"::test_train\[(\S+)\]", done.stdout)
    assert {Case.parse(case).model for case in cases} == {"shape_net"}
    assert {Case.parse(case).strategy for case in cases} >= {"flat", "ddp", "fsdp2", "zero3"}
    assert {Case.parse(case).gpu_count for case in cases} == {1, 2, 4}


def test_its_profile_is_the_suite_s_but_for_what_it_says(monkeypatch):
    monkeypatch.syspath_prepend(PROJECT)
    registry = discover(["shapebench.plugins"])
    profiles = load(ROOT / "benches" / "profiles.toml", PROJECT / "profiles.toml")
    settings = choose(profiles, "shapes", device_kind="cpu").settings(registry.find("models", "shape_net"))
    assert (settings.embedded, settings.batch_sizes, settings.measured_steps) == ("shapes", (16,), 8)


def test_its_strategy_foretells_the_memory_of_plain_replication(monkeypatch):
    monkeypatch.syspath_prepend(PROJECT)
    flat = discover(["shapebench.plugins"]).find("strategies", "flat")
    for slots, counters in ((0, False), (1, False), (2, True)):
        share = Share(units=(), shapes=((3, 4), (5,)), ranks=2, rank=1, slots=slots, counters=counters)
        assert flat.memory(share) == whole_memory(share)


@pytest.mark.slow
def test_its_launcher_starts_ranks_that_meet_and_names_the_one_that_fails(monkeypatch, make_pipeline):
    monkeypatch.syspath_prepend(PROJECT)
    pipeline = make_pipeline(plugins=("plugins_for_tests", "shapebench.plugins"), launcher="nice")
    with pytest.raises(WorkerFailed, match="rank 1 of 2 exited with status 7 during train"):
        pipeline.measure(Case(model="tiny_net", strategy="exits", gpu_count=2, batch_size=4))
