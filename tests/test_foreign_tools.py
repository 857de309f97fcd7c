"""What is stored and told stays readable by others' tools: pytest-benchmark's own, dashboards', JUnit's."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
RUNS = sorted((ROOT / "baselines").glob("*/[0-9][0-9][0-9][0-9]_*.json"))


def _tool(*arguments: str) -> str:
    command = [sys.executable, "-m", "pytest_benchmark", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_pytest_benchmarks_own_tool_lists_the_stored_runs():
    told = _tool(f"--storage=file://{ROOT}/baselines", "list")
    assert all(str(file) in told for file in RUNS)


def test_pytest_benchmarks_own_tool_compares_stored_runs_and_writes_them_as_csv(tmp_path):
    told = _tool("compare", *map(str, RUNS[:1]), "--sort=mean", f"--csv={tmp_path}/out.csv")
    assert "test_train[resnet18-ddp-1gpu-bs8]" in told
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert len(rows) - 1 == len(json.loads(RUNS[0].read_text())["benchmarks"])


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_dashboards_find_the_fields_they_read(file):
    """Of github-action-benchmark (tool `pytest`): fullname and stats.ops, stddev, mean, rounds. Of Bencher's adapter
    `python_pytest`: that machine_info and commit_info are objects, and fullname, stats.mean, stddev, median, iqr.
    """
    content = json.loads(file.read_text())
    assert isinstance(content["machine_info"], dict)
    assert isinstance(content["commit_info"], dict)
    assert isinstance(content["version"], str)
    assert isinstance(content["datetime"], str)
    names = [benchmark["fullname"] for benchmark in content["benchmarks"]]
    assert len(set(names)) == len(names)
    for benchmark in content["benchmarks"]:
        # Bencher takes names of at most 1024 bytes.
        assert 0 < len(benchmark["fullname"].encode()) <= 1024
        assert isinstance(benchmark["extra_info"], dict)
        stats = benchmark["stats"]
        for field in ("ops", "stddev", "mean", "median", "iqr"):
            assert isinstance(stats[field], float | int)
            assert math.isfinite(stats[field])
        assert isinstance(stats["rounds"], int)
        # More is better there: so many steps a second, of the time that is compared.
        assert stats["ops"] == pytest.approx(1 / stats["mean"])


HOSTILE = "]]> <a&b> \\x1b[31m \\x00 \\ud800 \\uffff \\u202e \\\"'"

TEST = """
import pytest
from dataclasses import replace
from harness.report import rows
from tests.made import made_certificate
from tests.made_runs import made_outcome

HOSTILE = "{hostile}"

@pytest.mark.parametrize("case", [1], ids=["resnet18-fsdp2-2gpu-bs8 " + HOSTILE])
def test_train(case, request):
    outcome = made_outcome("resnet18-fsdp2-2gpu-bs8", "uncertified")
    outcome = replace(outcome, certificate=made_certificate(causes=(HOSTILE,)))
    request.node.user_properties.extend(rows.properties(outcome))
    pytest.fail("the reason: " + HOSTILE, pytrace=False)
"""


def test_junit_xml_is_well_formed_and_says_verdict_reason_and_figures_whatever_they_hold(tmp_path):
    (tmp_path / "test_made.py").write_text(TEST.format(hostile=HOSTILE))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={tmp_path}/junit.xml"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    (case,) = suite.iter("testcase")
    (failure,) = case.iter("failure")
    assert "the reason: ]]> <a&b> " in failure.get("message")
    told = {one.get("name"): one.get("value") for one in case.iter("property")}
    assert told["verdict"] == "uncertified"
    assert told["reason"].startswith("uncertified: ]]> <a&b> ")
    assert (float(told["step_ms"]), float(told["speedup"]), told["certificate"]) == (200, 2, "differs")
    assert "power_w" not in told, "what was not measured is not there"
