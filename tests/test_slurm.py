"""The Slurm jobs are shell scripts that run, and ask pytest for nothing that there is not."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "slurm" / "strategies.sbatch"
NODES = ROOT / "docs" / "slurm" / "nodes.sbatch"


@pytest.fixture
def submit(tmp_path):
    """Return a function that runs the script where `srun` tells its arguments, one a line, and does nothing."""

    def run(**environment):
        srun = tmp_path / "srun"
        srun.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
        srun.chmod(0o755)
        path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
        return subprocess.run(
            ["bash", str(SCRIPT)], capture_output=True, text=True, check=False, env={"PATH": path, **environment}
        )

    return run


@pytest.mark.parametrize("script", [SCRIPT, NODES])
def test_bash_can_read_it(script):
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_runs_the_study_as_published_on_the_users_data(submit):
    done = submit(DATA_ROOT="/some data", SLURM_JOB_ID="17", SLURM_SUBMIT_DIR=str(ROOT))
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    command = words[words.index("python") :]
    assert command[:4] == ["python", "-m", "pytest", "benches"]
    asked = dict(itertools.pairwise(command))
    assert asked["--study"] == "strategies"
    assert asked["--profile"] == "paper"
    assert asked["--data-root"] == "/some data"
    assert asked["--benchmark-save"] == asked["--study-report"] == "strategies-17"


def test_without_data_it_says_how_to_name_them(submit):
    done = submit()
    assert done.returncode != 0
    assert "sbatch --export=ALL,DATA_ROOT=" in done.stderr


def test_pytest_has_every_option_that_it_is_given(submit):
    words = submit(DATA_ROOT="/data").stdout.splitlines()
    given = {word for word in words[words.index("pytest") :] if word.startswith("--")}
    assert "--study" in given
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "benches", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert given - set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", told)) == set()


def test_slurm_starts_one_process_on_one_whole_node():
    directives = re.findall(r"^#SBATCH (--\S+)$", SCRIPT.read_text(), flags=re.MULTILINE)
    assert {"--nodes=1", "--ntasks=1", "--exclusive"} <= set(directives)
    assert any(re.fullmatch(r"--gpus-per-node=\d+", one) for one in directives)


def test_over_several_nodes_pytest_runs_by_itself_and_gets_what_follows_the_script(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", str(NODES), "-k", "hsdp and pernode4"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": path, "SLURM_SUBMIT_DIR": str(ROOT)},
    )
    assert done.stdout.splitlines() == ["-m", "pytest", "benches", "--launcher", "slurm", "-k", "hsdp and pernode4"]


def test_slurm_starts_one_agent_on_each_whole_node():
    directives = set(re.findall(r"^#SBATCH (--\S+)$", NODES.read_text(), flags=re.MULTILINE))
    assert {"--nodes=2", "--ntasks-per-node=1", "--exclusive"} <= directives
