"""What runs by itself is well formed: workflows call environments that there are, and the lowest versions are true."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
JOB = ROOT / "docs" / "slurm" / "nightly.sbatch"


def _environments() -> set[str]:
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    return {name.removeprefix("testenv:") for name in tox.sections() if name.startswith("testenv:")}


def _commands(workflow: dict) -> list[tuple[str, dict]]:
    """Return every command of a workflow, with the job that it is a step of."""
    return [(step["run"], job) for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def test_there_is_a_nightly_a_pull_request_and_a_dependency_workflow():
    assert {path.stem for path in WORKFLOWS} >= {"nightly", "pull-request", "dependencies"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_environments_that_there_are(path):
    workflow = yaml.safe_load(path.read_text())
    # YAML 1.1 reads the key `on` as true.
    assert workflow["name"]
    assert workflow[True]
    assert workflow["jobs"]
    called = set()
    for command, job in _commands(workflow):
        matrix = [one["env"] for one in job.get("strategy", {}).get("matrix", {}).get("include", [])]
        for name in re.findall(r"\btox -e (\$\{\{ matrix\.env \}\}|\S+)", command):
            called |= set(matrix) if "matrix" in name else {name}
    assert called
    assert called <= _environments()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_s_steps_are_whole_and_a_shell_can_read_them(path):
    workflow = yaml.safe_load(path.read_text())
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] > 0
        assert job["runs-on"]
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    for command, _ in _commands(workflow):
        # What GitHub fills in is no shell; and nothing that a person typed is pasted into a command.
        assert not re.search(r"\$\{\{\s*(inputs|github\.event)", command)
        read = subprocess.run(
            ["bash", "-n", "-c", re.sub(r"\$\{\{.*?\}\}", "x", command)], capture_output=True, text=True, check=False
        )
        assert read.returncode == 0, read.stderr


def test_workflows_and_tox_give_pytest_options_that_it_has(suite_options):
    texts = [command for path in WORKFLOWS for command, _ in _commands(yaml.safe_load(path.read_text()))]
    texts += [part.partition(" benches ")[2] for part in (ROOT / "tox.ini").read_text().split("\n\n")]
    given = set()
    for text in texts:
        words = re.findall(r"(?<!\S)--[a-z][a-z-]*", text.replace("\\\n", " "))
        given |= {word for word in words if word not in ("--notest", "--good", "--bad", "--format")}
    assert "--benchmark-compare" in given
    assert given - suite_options == set()


def test_the_slurm_job_runs_the_nightly_form_with_options_that_pytest_has(tmp_path, suite_options):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    done = subprocess.run(
        ["bash", str(JOB), "-k", "zero"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    command = words[words.index("python") :]
    assert command[:4] == ["python", "-m", "pytest", "benches"]
    assert command[-2:] == ["-k", "zero"]
    assert "--benchmark-compare" in command
    assert {word for word in command if word.startswith("--")} - suite_options == set()
    assert (tmp_path / "runs" / "nightly-17").is_dir()


def test_a_cron_line_is_five_fields_and_a_command():
    lines = [line for line in JOB.read_text().splitlines() if "sbatch docs" in line and "* * *" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r"#\s+(\d+|\*)( (\d+|\*)){4}  \S.*", line)


def test_every_dependency_has_a_lower_bound_that_the_lowest_environment_installs():
    kept = (ROOT / "requirements" / "lowest.txt").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        name, bound = re.fullmatch(r"([a-z0-9-]+)>=(\d+(?:\.\d+)*)", requirement).groups()
        assert f"\n{name}=={bound}.*\n" in kept
    check = subprocess.run([sys.executable, "tools/lowest", "--check"], cwd=ROOT, check=False)
    assert check.returncode == 0, "pyproject.toml changed: run tools/lowest"


def test_the_lowest_environment_is_constrained_by_that_file_on_the_lowest_python():
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    lowest = tox["testenv:lowest"]
    assert lowest["set_env"].endswith("{/}requirements{/}lowest.txt")
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert least.startswith(">=" + lowest["base_python"].removeprefix("python"))


def test_ci_calls_the_tests_as_the_readme_does():
    command = "pip install tox && tox -e tests"
    assert command in (ROOT / "README.md").read_text()
    last = (ROOT / ".ci" / "run").read_text().strip().splitlines()[-1]
    assert shlex.split(last) == shlex.split(command)
