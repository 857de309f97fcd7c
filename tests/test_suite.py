"""The suite as a user runs it: `pytest benches` in a process of its own, on a small model given as a plug-in."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from harness.case import Case
from harness.results import result_from_json
from harness.session.told import told_seconds
from harness.stored.store import sealed

ROOT = Path(__file__).parents[1]
TEST = "benches/test_classification.py::test_train"


def _command(*arguments: str) -> list[str]:
    folder = [] if any("::" in argument for argument in arguments) else ["benches"]
    return [sys.executable, "-m", "pytest", *folder, "--plugins", "plugins_for_tests", *arguments]


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    for name in ("CI", "PYTEST_ADDOPTS", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return os.environ


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


QUICK = ("--gate-policy", "pr")
"""For runs that are stored or compared, and whose time is not the promise: one process a case."""


def test_a_selection_runs_is_tabled_stored_and_compared(environment, tmp_path):
    storage = f"--benchmark-storage=file://{tmp_path}/stored"
    chosen = ("-k", "tiny_net and zero and 4gpu", storage, *QUICK)
    first = _run(*chosen, "--benchmark-save=first", f"--benchmark-json={tmp_path}/run.json")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "3 passed" in first.stdout
    for strategy in ("zero1", "zero2", "zero3"):
        assert re.search(rf"^{strategy}-4gpu-bs8[*!]? .* ms .*x ", first.stdout, re.MULTILINE)
    # The reference is in nobody's selection: it ran once, and the table names it.
    assert re.search(r"^ddp-1gpu-bs8!? .* 1\.00x ", first.stdout, re.MULTILINE)
    assert "speedup against tiny_net-ddp-1gpu-bs8" in first.stdout

    run = json.loads((tmp_path / "run.json").read_text())
    assert len(run["benchmarks"]) == 3
    for benchmark in run["benchmarks"]:
        result = benchmark["extra_info"]["shardbench"]["result"]
        warm = result["ranks"][0]["warmup_steps"]
        slowest = [max(step) for step in zip(*(r["step_s"] for r in result["ranks"]), strict=True)][warm:]
        # pytest-benchmark holds what was measured, so its own tools work on it.
        told = told_seconds(result_from_json(result, where="run.json"))
        assert benchmark["stats"]["data"] == list(told)
        # Where four ranks share cores no processes are sampled, and it holds the true times of steps.
        assert result["samples"] or list(told) == slowest
        assert benchmark["params"]["strategy"] in ("zero1", "zero2", "zero3")

    (stored,) = (tmp_path / "stored").rglob("*.json")
    again = _run(*chosen, "--benchmark-compare")
    assert again.returncode == 0, again.stdout + again.stderr
    word = re.search(r"^zero1-4gpu.* (\w+)$", again.stdout, re.MULTILINE)[1]
    shared = any(b["extra_info"]["shardbench"]["result"]["oversubscribed"] for b in run["benchmarks"])
    assert word == "passed" or (not shared and word in ("unresolved", "improved"))

    # A baseline that was more accurate: what runs now is a regression against it.
    content = json.loads(stored.read_text())
    for benchmark in content["benchmarks"]:
        for rank in benchmark["extra_info"]["shardbench"]["result"]["ranks"]:
            for epoch in rank["epochs"]:
                epoch["scores"] = epoch["scores"] and {"accuracy": 1.0}
    stored.write_text(json.dumps(sealed(content)))
    told = [f"--report={tmp_path}/told{ending}" for ending in (".md", ".csv", ".parquet")]
    worse = _run(*chosen, "--benchmark-compare", *told, f"--junitxml={tmp_path}/junit.xml")
    assert worse.returncode == 1
    assert "3 failed" in worse.stdout
    # The answer comes before the tables, and what to do next after them.
    parts = [worse.stdout.index(f" {title} =") for title in ("the answer", "results", "what to do next")]
    assert parts == sorted(parts)
    assert "3 of 3 cases got worse or failed" in worse.stdout
    _is_reported(tmp_path, [f"tiny_net-zero{stage}-4gpu-bs8" for stage in (1, 2, 3)])
    assert "tiny_net-zero1-4gpu-bs8: regressed against the stored runs" in worse.stdout
    assert re.search(r"accuracy regressed: [\d.]+ % against 100.0 %", worse.stdout)

    stored.write_text(stored.read_text()[:-200])
    refused = _run(*chosen, "--benchmark-compare")
    assert refused.returncode == 4
    assert f"{stored} is truncated" in refused.stderr


def _is_reported(folder: Path, cases: list[str]) -> None:
    """Hold each kind of report to what the run found: every case lost accuracy."""
    summary = (folder / "told.md").read_text()
    assert "### What got worse" in summary
    rows = list(csv.DictReader((folder / "told.csv").open()))
    assert [row["case"] for row in rows] == cases
    junit = {case.get("name"): case for case in ElementTree.parse(folder / "junit.xml").getroot().iter("testcase")}
    for row in rows:
        assert row["verdict"] == "regressed"
        assert row["case"] in summary
        failing = junit[f"test_train[{row['case']}]"]
        assert "accuracy regressed" in failing.find("failure").get("message")
        told = {one.get("name"): one.get("value") for one in failing.iter("property")}
        assert (told["verdict"], float(told["step_ms"])) == ("regressed", float(row["step_ms"]))
    assert (folder / "told.parquet").read_bytes()[:4] == b"PAR1"


def test_a_run_that_cannot_be_stored_in_the_end_fails_and_still_shows_its_results(environment):
    done = _run("-k", "tiny_net and ddp and 1gpu", "--benchmark-json=/dev/full", *QUICK)
    assert done.returncode == 1
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert re.search(r"^ddp-1gpu-bs8!? .* 1\.00x ", done.stdout, re.MULTILINE)
    assert re.search(r"NOT STORED: .*No space left on device", done.stdout)


def test_a_store_that_cannot_be_written_is_refused_before_anything_runs(environment, tmp_path):
    folder = tmp_path / "stored"
    folder.mkdir()
    (folder / _host_name()).write_text("a file where the host's folder belongs")
    done = _run("-k", "tiny_net and ddp and 1gpu", "--benchmark-save=x", f"--benchmark-storage=file://{folder}")
    assert done.returncode == 4
    assert re.search(r"ERROR: this run could not be stored in \S+: File exists; .*--benchmark-storage", done.stderr)


def _host_name() -> str:
    from harness.machine import host

    return host.probe().name


def test_a_failing_rank_fails_its_own_test_and_the_rest_of_the_run_goes_on(environment):
    done = _run("-k", "tiny_net and 2gpu and (ddp or killed)")
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert done.stdout.count("tiny_net-killed-2gpu-bs8: rank 1 of 2 was killed by SIGKILL during train") == 2
    assert "another exception" not in done.stdout
    assert 'rerun  pytest "benches/test_classification.py::test_train[tiny_net-killed-2gpu-bs8]"' in done.stdout
    # A user's failure is no place for the harness's own traceback.
    assert "pytest_plugin.py" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--profile", "smok"), "no profile 'smok'; did you mean 'smoke'?"),
        (("-k", "resnt18"), "no case with 'resnt18'; did you mean 'resnet18'?"),
        (("-m", "bench(strategy='fdsp2')"), "no strategy 'fdsp2'; did you mean 'fsdp2'?"),
        (("-k", "bf61 and 2gpu"), "no case with 'bf61'; did you mean 'bf16'?"),
        (("-m", "bench(clipping=0.5)"), "pytest reads no fraction there; name the option instead: -k clip0.5"),
        (("--options", "bf61"), "--options: no option 'bf61'; did you mean 'bf16'?"),
        ((f"{TEST}[resnet18-ddp-2gpu-bs8-accum3]",), "batch of 8 per GPU does not divide into 3 micro-batches"),
        ((f"{TEST}[resnt18-ddp-2gpu-bs8]",), "no model 'resnt18'; did you mean 'resnet18'?"),
        (("--launcher", "torchrum"), "no launcher 'torchrum'; did you mean 'torchrun'?"),
        (("--data-root", "/nowhere/at/all"), "--data-root /nowhere/at/all is no folder"),
        (("--download",), "--download has nowhere to put the data"),
        (("--plugins", "no_such_module"), "plug-in module no_such_module cannot be imported"),
        (
            ("--report", "told.pdf"),
            "report told.pdf: no report ends in '.pdf'; known: .html, .md, .csv, .parquet",
        ),
        (("--report", "/nowhere/at/all/told.md"), "there is no folder /nowhere/at/all"),
        (("-p", "no:benchmark"), "unrecognized arguments|needs the plugin pytest-benchmark"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_wrong_name_is_one_clear_error(environment, arguments, said):
    done = _run("--collect-only", "-q", *arguments)
    assert done.returncode == 4, done.stdout + done.stderr
    assert re.search(re.escape(said) if "|" not in said else said, done.stdout + done.stderr)
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(("model", "code"), [("tiny_net", 0), ("tiny_ent", 4)])
def test_a_profile_may_name_a_model_of_plugins_and_none_that_there_is_not(environment, tmp_path, model, code):
    file = tmp_path / "benches" / "profiles.toml"
    file.parent.mkdir()
    own = (ROOT / "benches" / "profiles.toml").read_text()
    file.write_text(own + "".join(f"[{name}.models.{model}]\nepochs = 9\n" for name in ("smoke", "standard")))
    done = _run("--collect-only", "-q", f"--rootdir={tmp_path}", f"--confcutdir={ROOT}")
    assert done.returncode == code, done.stdout + done.stderr
    assert ("no model 'tiny_ent'; did you mean 'tiny_net'?" in done.stderr) == bool(code)


def test_a_mark_selects_exactly(environment):
    done = _run("--collect-only", "-q", "-m", "bench(model='resnet18', strategy='ddp', gpu_count=2)")
    assert re.findall(r"test_train\[(.*?)\]", done.stdout) == [
        name for name in re.findall(r"test_train\[(.*?)\]", done.stdout) if name.startswith("resnet18-ddp-2gpu-")
    ]
    assert len(re.findall(r"test_train\[", done.stdout)) == 1


def test_heavy_models_run_when_named_and_not_otherwise(environment):
    plain = _run("--collect-only", "-q")
    assert "resnet50" not in plain.stdout
    assert "resnet18-ddp-1gpu" in plain.stdout
    assert "resnet50-ddp-1gpu" in _run("--collect-only", "-q", "-k", "resnet50").stdout
    assert "resnet50-ddp-1gpu" in _run("--collect-only", "-q", "--matrix", "full").stdout


def _collected(*arguments: str) -> list[str]:
    done = _run("--collect-only", "-q", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"test_train\[(.*)\]", done.stdout)


def test_a_plain_run_has_plain_cases_alone_and_collects_nothing_more(environment):
    done = _run("--collect-only", "-q")
    assert not [case for case in re.findall(r"test_train\[(.*)\]", done.stdout) if Case.parse(case).options]
    assert _counts(done) == _counts(_run("--collect-only", "-q", "--options", ""))
    assert _counts(done)[0] < _counts(_run("--collect-only", "-q", "-k", "bf16"))[0]


def _counts(done: subprocess.CompletedProcess[str]) -> tuple[int, int]:
    """Return how many tests were collected, and how many of them were deselected."""
    _, collected, deselected = re.search(r"(\d+)/(\d+) tests collected \((\d+) deselected\)", done.stdout).groups()
    return int(collected), int(deselected)


def test_an_option_that_is_named_is_in_the_matrix(environment):
    zero = [f"tiny_net-zero{stage}-2gpu-bs8" for stage in (1, 2, 3)]
    assert _collected("-k", "tiny_net and zero and 2gpu and bf16") == [f"{case}-bf16" for case in zero]
    assert _collected("-k", "tiny_net and zero1 and 2gpu and ckpt and clip0.5") == [f"{zero[0]}-ckpt-clip0.5"]
    assert _collected("-k", "tiny_net and zero1 and 2gpu and not bf16") == zero[:1]
    mark = "bench(model='tiny_net', strategy='zero3', precision='bf16', accumulation=2, gpu_count=2)"
    assert _collected("-m", mark) == [f"{zero[2]}-bf16-accum2"]


def test_options_make_the_whole_matrix_with_them(environment):
    plain = _collected()
    assert _collected("--options", "bf16-ckpt") == [f"{case}-bf16-ckpt" for case in plain]
    both = _collected("--options", "", "--options", "ckpt-bf16", "-k", "tiny_net and ddp and 1gpu")
    assert both == ["tiny_net-ddp-1gpu-bs8", "tiny_net-ddp-1gpu-bs8-bf16-ckpt"]


def test_a_test_named_by_its_id_runs_even_if_no_grid_has_it(environment):
    heavy = "vit_b16-zero3-3gpu-bs64-bf16-offload-ckpt"
    assert _collected(f"{TEST}[{heavy}]") == [heavy]
    two = ["tiny_net-ddp-1gpu-bs8", "tiny_net-ddp-1gpu-bs24-accum3"]
    assert _collected(*(f"{TEST}[{case}]" for case in two)) == two


def test_an_option_that_a_batch_cannot_have_skips_its_case_with_the_reason(environment):
    done = _run("-k", "accum3 and ddp and 1gpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no such case: batch of 8 per GPU does not divide into 3 micro-batches" in done.stdout
    # What is left out is told of what was selected: one case each, and not the plain one beside it.
    told = " ".join(done.stdout.split())
    for model in ("fasterrcnn_r50", "maskrcnn_r50", "resnet50", "swin_t", "vit_b16"):
        assert f"{model} (1)" in told.partition("left out: ")[2]


def test_a_dataset_that_is_not_there_skips_its_cases_with_what_would_help(environment, tmp_path):
    done = _run("-k", "resnet18 and ddp and 1gpu", "--data-root", str(tmp_path))
    assert done.returncode == 0
    assert "1 skipped" in done.stdout
    assert "cifar10 is not under --data-root" in done.stdout


def test_a_case_without_room_has_a_row_and_is_no_failure(environment, tmp_path):
    storage = f"--benchmark-storage=file://{tmp_path}/stored"
    chosen = ("-k", "tiny_net and ddp and 1gpu", storage, *QUICK)
    full = _run(*chosen, "--device-memory", "1kB")
    assert full.returncode == 0, full.stdout + full.stderr
    assert re.search(r"^ddp-1gpu-bs8 .*out of memory$", full.stdout, re.MULTILINE)
    assert "--device-memory leaves a rank" in full.stdout
    assert "1 skipped" in full.stdout
    # What once had room and has none now is a regression.
    assert _run(*chosen, "--benchmark-save=fits").returncode == 0
    worse = _run(*chosen, "--device-memory", "1kB", "--benchmark-compare")
    assert worse.returncode == 1
    assert "the stored run fits" in worse.stdout


def test_a_traced_run_says_where_the_time_goes(environment):
    run = _run("-k", "tiny_net and fsdp2 and 2gpu", "--traced")
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(
        r"^fsdp2-2gpu-bs8 +\d.* ms +\d+% .* (compute|communication|host|no core|data)$", run.stdout, re.MULTILINE
    )
    assert re.search(r"^fsdp2-2gpu-bs8 +all_gather +\d+ ", run.stdout, re.MULTILINE)
    assert "the profiler adds" in run.stdout


def test_an_accounted_run_holds_memory_to_its_prediction_and_names_a_leak(environment):
    run = _run("-k", "tiny_net and (ddp or leaky) and 2gpu", "--accounted")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 failed, 1 passed" in run.stdout
    assert re.search(r"^ddp-2gpu-bs8 +[\d.]+ .*= +2\.\d\d$", run.stdout, re.MULTILINE)
    assert "tiny_net-leaky-2gpu-bs8: its memory is not what leaky must keep" in run.stdout
    # 5,000 elements of FP32, where they were made.
    said = " ".join(run.stdout.split())
    assert "0.0191 MiB more every step: float32 [5000] of aten.zeros.default at" in said
    assert "plugins_for_tests.py" in said
    assert re.search(r"^leaky-2gpu-bs8!? .* mispredicted$", run.stdout, re.MULTILINE)


@pytest.mark.slow
def test_a_forecast_is_made_and_held_to_what_was_measured(environment):
    run = _run("-k", "tiny_net and ddp and (1gpu or 2gpu)", "--forecast")
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^1024 +[\d.]+ ", run.stdout, re.MULTILINE)
    assert re.search(r"tiny_net-ddp-2gpu-bs8 from 1 +[\d.]+ +[\d.]+ +[+-][\d.]+%", run.stdout)
    wrong = _run("-k", "tiny_net and ddp and 1gpu", "--forecast", "nvlnk4")
    assert wrong.returncode == 4
    assert "did you mean 'nvlink4'?" in wrong.stderr


def test_a_launcher_that_cannot_open_is_one_clear_error(environment, monkeypatch):
    monkeypatch.setenv("SHARDBENCH_LINK", "fast")
    run = _run("-k", "tiny_net and ddp and 1gpu", "--launcher", "namespaces")
    assert run.returncode == 4
    assert "SHARDBENCH_LINK is 'fast'" in run.stderr or "the launcher namespaces" in run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_the_largest_batch_is_found_where_memory_ends(environment):
    refused = _run("-k", "tiny_net and ddp and 1gpu", "--find-max-batch")
    assert refused.returncode == 4
    assert "say what a rank is to have: --device-memory 1GB" in refused.stderr
    found = _run("-k", "tiny_net and ddp and 1gpu", "--find-max-batch", "--device-memory", "100MB")
    assert found.returncode == 0, found.stdout + found.stderr
    row = re.search(r"^tiny_net-ddp-1gpu-bs8 +(\d+) +[\d.]+  does not fit (\d+) ", found.stdout, re.MULTILINE)
    # 16 x 16 pixels: some tens of kilobytes of activations an image.
    assert 8 < int(row[1]) < int(row[2]) < 65536
    assert int(row[2]) - int(row[1]) <= int(row[1]) / 16 + 1


@pytest.mark.parametrize("way", ["interrupt", "terminate", "kill"])
def test_ending_a_run_leaves_no_process(environment, way):
    with subprocess.Popen(
        _command("-k", "tiny_net and hangs and 2gpu"), cwd=ROOT, stdout=subprocess.DEVNULL, preexec_fn=_mind_interrupts
    ) as run:
        try:
            family = _family_once_training(run.pid)
            sent = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM, "kill": signal.SIGKILL}[way]
            run.send_signal(sent)
            run.wait(timeout=60)
        finally:
            run.kill()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []


def _mind_interrupts() -> None:
    """Where the tests run in the background, a shell had SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _family_once_training(pid: int) -> list[psutil.Process]:
    """Return the processes of a run as soon as two ranks of it train; far later than that is a failure."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        family = psutil.Process(pid).children(recursive=True)
        training = [p for p in family if _trains(p)]
        if len(training) == 2:
            return family
        time.sleep(0.1)
    raise AssertionError("no two ranks came to train")


def _trains(process: psutil.Process) -> bool:
    folder = Path(f"/proc/{process.pid}/fd")
    try:
        for link in folder.iterdir():
            target = link.readlink()
            if target.suffix == ".progress" and target.read_text().startswith("train"):
                return True
    except OSError:
        return False
    return False


def test_a_terminal_shows_where_the_run_is_and_a_log_file_does_not(environment):
    chosen = ("-k", "tiny_net and ddp and 2gpu")
    assert "\x1b[K" not in _run(*chosen).stdout
    leader, follower = pty.openpty()
    with subprocess.Popen(_command(*chosen), cwd=ROOT, stdout=follower, stderr=follower) as run:
        os.close(follower)
        seen = b""
        while True:
            try:
                chunk = os.read(leader, 65536)
            except OSError:
                break
            if not chunk:
                break
            seen += chunk
        run.wait(timeout=120)
    os.close(leader)
    assert run.returncode == 0, seen.decode()
    assert re.search(rb"\x1b\[K\[1/1\]  tiny_net-ddp-2gpu-bs8  \w+", seen), seen.decode()
    assert b"warning" not in seen.lower()
