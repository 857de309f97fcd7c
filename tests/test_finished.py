"""Cases that an interrupted run finished are kept for the next one, as long as nothing that they depend on changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.case import Case
from harness.gate.timing import Effect, TimeVerdict
from harness.stored.finished import Finished, FinishedCases
from tests.made import made_certificate, made_result, made_samples

ROOT = Path(__file__).parents[1]
CASE = Case.parse("resnet18-zero1-2gpu-bs8")
TIME = TimeVerdict(
    word="passed",
    effects=(
        Effect(
            view="same work",
            better="lower",
            estimate=0.01,
            low=-0.02,
            high=0.04,
            mde=0.05,
            new_processes=5,
            stored_processes=5,
            stored_runs=1,
        ),
    ),
    reasons=("why",),
)
FOUND = Finished(
    unix_time=1_700_000_000.0,
    result=made_result(CASE.id, samples=(made_samples(ranks=2),)),
    certificate=made_certificate(CASE.id),
    reference=made_result("resnet18-ddp-1gpu-bs8"),
    reference_note="",
    time=TIME,
    speedup=1.25,
)


@pytest.fixture
def facts():
    return {"settings": "a", "source code": "b", "options": {"seeds": 1, "plugins": ("x",)}}


@pytest.fixture
def run(tmp_path, facts):
    """Return a function that opens a run with --resume."""
    return lambda **changed: FinishedCases(folder=tmp_path / "finished", facts=lambda case: facts | changed)


def test_what_a_case_came_to_is_found_by_the_next_run(run):
    run().keep(CASE, FOUND)
    again = run()
    assert again.find(CASE) == FOUND
    assert again.sentence().startswith("1 case was finished by the interrupted run, until 2023-11-1")
    assert again.without([CASE, Case.parse("resnet18-ddp-1gpu-bs8")]) == [Case.parse("resnet18-ddp-1gpu-bs8")]
    assert again.said == []


def test_a_case_without_a_reference_or_a_judged_time_is_found_too(run):
    plain = replace(FOUND, reference=None, reference_note="the reference failed", time=None, speedup=None)
    run().keep(CASE, plain)
    assert run().find(CASE) == plain


@pytest.mark.parametrize("fact", ["settings", "source code", "options"])
def test_a_case_is_run_again_where_something_that_it_depends_on_changed(run, fact):
    run().keep(CASE, FOUND)
    again = run(**{fact: "changed"})
    assert again.find(CASE) is None
    assert again.said == [f"{CASE} is run again: since it was finished its {fact} changed"]
    assert again.sentence() == ""


def test_a_run_that_came_to_its_end_forgets_its_cases_and_those_that_it_took_over(run, tmp_path):
    other = Case.parse("resnet18-ddp-1gpu-bs8")
    run().keep(CASE, FOUND)
    last = run()
    last.find(CASE)
    last.keep(other, replace(FOUND, result=made_result(other.id)))
    last.forget()
    assert run().without([CASE, other]) == [CASE, other]
    assert list((tmp_path / "finished").iterdir()) == []


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-40], lambda text: "[]", lambda text: "{}"], ids=["cut", "list", "empty"]
)
def test_what_cannot_be_read_is_run_again_and_said(run, tmp_path, damage):
    run().keep(CASE, FOUND)
    (file,) = (tmp_path / "finished").iterdir()
    file.write_text(damage(file.read_text()))
    again = run()
    assert again.find(CASE) is None
    assert again.find(CASE) is None
    assert len(again.said) == 1
    assert again.said[0].startswith(f"{CASE} is run again: what is kept of it cannot be read")


def test_another_schema_is_run_again(run, tmp_path):
    run().keep(CASE, FOUND)
    (file,) = (tmp_path / "finished").iterdir()
    packed = json.loads(file.read_text())
    packed["facts"]["schema"] = 0
    file.write_text(json.dumps(packed))
    assert run().find(CASE) is None


def test_a_folder_that_cannot_be_written_is_said_and_the_run_goes_on(tmp_path, facts):
    (tmp_path / "finished").touch()
    run = FinishedCases(folder=tmp_path / "finished" / "smoke", facts=lambda case: facts)
    run.keep(CASE, FOUND)
    assert run.said == [f"{CASE} is not kept for --resume: Not a directory; free or change SHARDBENCH_CACHE"]


def test_without_resume_nothing_is_kept_or_found(facts):
    run = FinishedCases(folder=None, facts=lambda case: facts)
    run.keep(CASE, FOUND)
    assert run.find(CASE) is None
    run.forget()


def _run(locks: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pytest", "benches", "--plugins", "plugins_for_tests", "--resume", *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    environment["SHARDBENCH_LOCKS"] = str(locks)  # no other run of this machine is waited for
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_run_that_a_scheduler_ended_goes_on_where_it_was_and_ends_without_a_trace(tmp_path):
    """In one test, since each of its runs is some seconds of starting."""
    kept = Path(os.environ["SHARDBENCH_CACHE"], "finished", "smoke")
    with _run(tmp_path, "-k", "tiny_net and 1gpu and (ddp or hangs)", "--profile", "smoke") as run:
        try:
            family = _family_once_one_hangs(run.pid)
            assert [file.stem for file in kept.iterdir()] == ["tiny_net-ddp-1gpu-bs8"]
            run.terminate()
            told, _ = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 2, told
    assert "interrupted by SIGTERM while tiny_net-hangs-1gpu-bs8: certificate ran" in told
    assert re.search(r"^ddp-1gpu-bs8!? .* 1\.00x ", told, re.MULTILINE), "what was measured is told"
    assert psutil.wait_procs(family, timeout=15)[1] == []

    with _run(tmp_path, "-k", "tiny_net and 1gpu and (ddp or fsdp2)", "--profile", "smoke") as run:
        told, _ = run.communicate(timeout=200)
    assert run.returncode == 0, told
    assert "1 case was finished by the interrupted run" in told
    assert "2 passed" in told
    assert re.search(r"^fsdp2-1gpu-bs8!? ", told, re.MULTILINE)
    assert re.search(r"^ddp-1gpu-bs8!? .* 1\.00x ", told, re.MULTILINE)
    assert list(kept.iterdir()) == [], "it came to its end"


def _family_once_one_hangs(pid: int) -> list[psutil.Process]:
    end = time.monotonic() + 150
    while time.monotonic() < end:
        family = psutil.Process(pid).children(recursive=True)
        if any("hangs" in _output(process) for process in family):
            return family
        time.sleep(0.1)
    raise AssertionError("it did not come to train")


def _output(process: psutil.Process) -> str:
    """Return the log of a rank that trains; nothing for any other process."""
    try:
        log = Path(f"/proc/{process.pid}/fd/1").readlink()
        return str(log) if log.with_suffix(".progress").read_text().startswith("train") else ""
    except OSError:
        return ""
