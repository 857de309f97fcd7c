"""The gate as a user meets it: a first run, one that is held to it, and everything that may not pass unseen."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.gate.observations import same_work
from harness.results import result_from_json
from harness.stored.store import sealed

ROOT = Path(__file__).parents[1]
CASE = "tiny_net-ddp-1gpu-bs8"
NEW = "tiny_net-zero1-1gpu-bs8"
CHOSEN = ("-k", "tiny_net and ddp and 1gpu")
UNDECIDED = 6


def _run(storage: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the suite on the small model with one process a case, so that nothing here takes minutes."""
    command = [sys.executable, "-m", "pytest", "benches", "--plugins", "plugins_for_tests", "--gate-policy", "pr"]
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS", "COLUMNS")}
    return subprocess.run(
        [*command, f"--benchmark-storage=file://{storage}", *arguments],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def _word(done: subprocess.CompletedProcess[str], case_id: str) -> str:
    """Return the verdict in the result table's row of a case."""
    short = re.escape(case_id.removeprefix("tiny_net-"))
    return re.search(rf"^{short}[*!]? .* (\w+)$", done.stdout, re.MULTILINE)[1]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The first run of a case, saved by name, and the folder of stored runs."""
    storage = tmp_path_factory.mktemp("stored")
    return _run(storage, *CHOSEN, "--benchmark-save=accepted"), storage


@pytest.fixture
def storage(first, tmp_path):
    """A copy of the stored runs that a test may spoil."""
    return Path(shutil.copytree(first[1], tmp_path / "stored"))


def _file(storage: Path) -> Path:
    (file,) = storage.rglob("*.json")
    return file


def test_the_first_run_of_a_case_is_new_and_passes(first):
    done, _ = first
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert _word(done, CASE) == "new"
    assert re.search(r"^1 new$", done.stdout, re.MULTILINE)
    assert "--benchmark-save=accepted" in done.stdout


def test_what_is_stored_of_it_are_processes_in_seconds(first):
    (benchmark,) = json.loads(_file(first[1]).read_text())["benchmarks"]
    packed = benchmark["extra_info"]["shardbench"]
    result = result_from_json(packed["result"], where="here")
    assert packed["verdict"] == "new"
    assert benchmark["stats"]["rounds"] == len(result.samples) >= 1
    told = [math.exp(same_work(one).mean) * result.plain_s for one in result.samples]
    assert (benchmark["stats"]["min"], benchmark["stats"]["max"]) == pytest.approx((min(told), max(told)))
    assert 0 < benchmark["stats"]["min"] <= benchmark["stats"]["max"] < 60
    # Each holds the case and both references, round by round.
    for samples in result.samples:
        (rank,) = samples.ranks
        assert {len(rank.plain_us), len(rank.convolution_us), len(rank.product_us)} == {len(rank.case_us)}
        assert samples.references.keys() == {"plain", "machine"}
        assert samples.watched is not None


def test_the_nightly_form_is_red_for_nothing_and_lets_no_new_case_pass_unseen(storage):
    done = _run(storage, "-k", "tiny_net and (ddp or zero1) and 1gpu", "--benchmark-compare")
    assert done.returncode == UNDECIDED, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert _word(done, CASE) in ("passed", "unresolved", "improved")
    assert _word(done, NEW) == "new"
    assert f"{NEW}: new: nothing is stored of it" in done.stdout
    test = f"benches/test_classification.py::test_train[{NEW}]"
    # The command that accepts is this run's own, with its options.
    assert re.search(rf"accept    pytest .?{re.escape(test)}.? .*--benchmark-save=accepted", done.stdout)


def test_a_case_that_is_held_to_its_own_stored_run_is_not_red(storage):
    done = _run(storage, *CHOSEN, "--benchmark-compare")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _word(done, CASE) in ("passed", "unresolved", "improved")


def test_a_stored_run_that_was_edited_is_refused_before_anything_runs(storage):
    file = _file(storage)
    text = file.read_text()
    file.write_text(re.sub(r'"mean": [\d.e-]+', '"mean": 99.5', text, count=1))
    assert file.read_text() != text
    for form in (("--benchmark-compare",), ()):
        refused = _run(storage, *CHOSEN, *form)
        assert refused.returncode == 4, refused.stdout + refused.stderr
        said = refused.stdout + refused.stderr
        assert f"{file} was changed after it was written: its seal does not fit what it holds" in said
        assert "restore it from version control, or delete it and record again with --benchmark-save" in said
        assert "Traceback" not in said


def test_a_case_that_vanished_is_named_in_every_form_and_fails_the_nightly_one(storage):
    """As if the case had had another name when it was stored; none of these runs has a case to launch."""
    file, old = _file(storage), "tiny_net-dpd-1gpu-bs8"
    file.write_text(json.dumps(sealed(json.loads(file.read_text().replace(CASE, old)))))
    chosen = ("-k", "dpd")
    nightly = _run(storage, *chosen, "--benchmark-compare")
    assert nightly.returncode == UNDECIDED, nightly.stdout + nightly.stderr
    where = f"{file.parent.name}/{file.name}"
    assert f"{old}: vanished: {where} holds it, and the suite no longer offers it" in nightly.stdout
    assert "nearest  tiny_net-" in nightly.stdout
    assert "accept   pytest benches --benchmark-save=accepted" in nightly.stdout
    plain = _run(storage, *chosen)
    assert plain.returncode == 0, plain.stdout + plain.stderr
    assert f"{old}: vanished" in _unwrapped(plain.stdout)


def _unwrapped(text: str) -> str:
    return " ".join(text.split())
