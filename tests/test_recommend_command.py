"""`python -m harness recommend`: a stored run becomes advice; what cannot be read becomes one clear error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.results import Memory
from harness.stored.store import pack, sealed
from tests.made import GIB, made_certificate, made_report, made_result

ROOT = Path(__file__).parents[1]


def _stored(case_id, *, gib=0.5, ms=200, causes=(), certified=True, **over):
    """Return a benchmark as pytest-benchmark stores it."""
    gpus = int(case_id.split("-")[2].removesuffix("gpu"))
    steps = (5.0, *(ms / 1e3 * (1 + 0.001 * at) for at in range(4)))
    ranks = [
        made_report(
            rank, gpus, step_s=steps, memory=Memory(peak_resident_bytes=None if gib is None else int(gib * GIB))
        )
        for rank in range(gpus)
    ]
    certificate = made_certificate(case_id, causes=causes) if certified else None
    packed = pack(made_result(case_id, *ranks, **over), None, certificate, verdict="passed")
    return {"fullname": case_id, "stats": {"mean": ms / 1e3}, "extra_info": packed}


CASES = (
    _stored("resnet18-ddp-2gpu-bs8", gib=2, ms=100),
    _stored("resnet18-fsdp2-2gpu-bs8", gib=1, ms=105),
    _stored("vit_tiny-zero3-1gpu-bs8", gib=0.5, ms=300),
)


@pytest.fixture
def recommend(tmp_path, capsys):
    """Return a function that runs the command on stored benchmarks: its exit code, output and errors."""

    def run(*options, cases=CASES, text=None):
        file = tmp_path / "0001_accepted.json"
        file.write_text(json.dumps(sealed({"benchmarks": cases})) if text is None else text)
        try:
            code = main(["recommend", str(file), *options])
        except SystemExit as left:  # argparse leaves this way
            code = left.code
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_a_run_becomes_tables_sentences_and_effort(recommend):
    code, out, err = recommend()
    assert (code, err) == (0, "")
    assert "resnet18 on digits, 2 GPUs, global batch 16" in out
    assert "fastest: ddp at 2 GPUs, 100.2 ms a step; fsdp2, the next, is 5% (by steps)\n    slower" in out
    assert "leanest: fsdp2 at 2 GPUs" in out
    assert "vit_tiny on digits, 1 GPU, global batch 8" in out
    effort = {line.split()[0]: line.split() for line in out.splitlines()[out.splitlines().index("") :] if line}
    assert effort["zero3"][2] == "deepspeed"
    assert 3 < int(effort["ddp"][1]) < int(effort["zero3"][1]) < 150


def test_what_is_asked_for_alone_is_shown(recommend):
    assert "vit_tiny" not in recommend("--model", "resnet18")[1]
    assert "resnet18" not in recommend("--gpus", "1")[1]


@pytest.mark.parametrize("size", ["1.5GiB", "1610612736", "1.7GB", "1700MB"])
def test_the_memory_is_a_limit(recommend, size):
    code, out, _ = recommend("--mem", size, "--gpus", "2")
    assert code == 0
    assert "fastest of the 1 that fit: fsdp2" in out
    fits = {line.split()[0]: line.split()[-1] for line in out.splitlines() if " ms " in line and "GiB" in line}
    assert fits == {"ddp": "no", "fsdp2": "yes"}


def test_gb_is_ten_to_the_ninth_and_gib_two_to_the_thirtieth(recommend):
    assert recommend("--mem", "1GB", "--gpus", "2")[0] == 1
    assert recommend("--mem", "1GiB", "--gpus", "2")[0] == 0


@pytest.mark.parametrize("share", ["3%", "0.03"])
def test_the_slowdown_is_a_share(recommend, share):
    assert "leanest: ddp at 2 GPUs too: nothing at most 3% slower" in recommend("--slowdown", share)[1]


def test_nothing_fits_names_the_smallest_and_ends_with_1(recommend):
    code, out, err = recommend("--mem", "1MB")
    assert code == 1
    assert "nothing fits: the least memory is 1.000 GiB, of fsdp2 at 2 GPUs" in " ".join(out.split())
    assert f"the least that exists is {GIB // 2}" in err


def test_cases_without_a_certificate_are_listed_and_do_not_count(recommend):
    bad = _stored("resnet18-zero1-2gpu-bs8", ms=1, causes=("clipping: to a norm of 1",))
    none = _stored("resnet18-fsdp1-2gpu-bs8", ms=1, certified=False)
    code, out, _ = recommend(cases=[*CASES, bad, none])
    assert code == 0
    assert "not counted: zero1: not certified: clipping: to a norm of 1" in out
    assert "not counted: fsdp1: it has no certificate" in out
    assert "fastest: ddp" in out
    code, out, err = recommend(cases=[bad, none])
    assert code == 1
    assert "none of the 2 cases is certified" in err


def test_memory_that_was_not_measured_is_na(recommend):
    code, out, err = recommend(cases=[_stored("resnet18-ddp-2gpu-bs8", gib=None)])
    assert code == 0
    assert "n/a" in out
    code, _, err = recommend("--mem", "1GB", cases=[_stored("resnet18-ddp-2gpu-bs8", gib=None)])
    assert code == 1
    assert "leave it out" in err


def test_shared_cores_are_marked(recommend):
    _, out, _ = recommend(cases=[_stored("resnet18-ddp-2gpu-bs8", oversubscribed=True)])
    assert "ddp*" in out
    assert "unsure: there were more ranks than cores" in out


def test_a_strategy_that_is_not_at_hand_has_no_effort(recommend):
    _, out, _ = recommend(cases=[_stored("resnet18-mine-1gpu-bs8")])
    assert ["mine", "n/a", "n/a", "n/a"] in [line.split() for line in out.splitlines()]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"benchmarks": 3}', '{"benchmarks": []}', '{"benchmarks": [{"fullname": 1}]}'],
)
def test_what_is_no_stored_run_is_one_clear_error(recommend, text):
    code, out, err = recommend(text=text)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "0001_accepted.json" in err
    assert "--benchmark-save" in err


def test_a_damaged_result_is_one_clear_error(recommend):
    damaged = json.loads(json.dumps(CASES[0]))
    del damaged["extra_info"]["shardbench"]["result"]["ranks"]
    code, _, err = recommend(cases=[damaged])
    assert code == 2
    assert "no valid result" in err


def test_no_file_and_a_folder_are_told_apart(tmp_path, capsys):
    assert main(["recommend", str(tmp_path / "none.json")]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert main(["recommend", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--mem", "24"), "nothing fits"),
        (("--mem", "much"), "no size of memory"),
        (("--slowdown", "fast"), "no share"),
        (("--slowdown", "-1"), "no share"),
        (("--slowdown", "nan"), "no share"),
        (("--model", "resnet81"), "did you mean 'resnet18'?"),
        (("--gpus", "3"), "no case of 3 GPUs; it has 1, 2"),
    ],
)
def test_wrong_usage_says_what_to_write(recommend, options, words):
    code, _, err = recommend(*options)
    assert code == (1 if "fits" in words else 2)
    assert words in err


def test_every_line_fits_into_eighty_columns(recommend):
    long = [_stored(f"fasterrcnn_r50-{name}-2gpu-bs8-bf16-ckpt") for name in ("fairscale_fsdp", "ddp")]
    _, out, _ = recommend("--mem", "1GiB", cases=[*CASES, *long])
    assert max(map(len, out.splitlines())) <= 80


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    file = tmp_path / "0001_accepted.json"
    file.write_text(json.dumps(sealed({"benchmarks": CASES})))
    out, write = os.pipe()
    os.close(out)
    command = [sys.executable, "-m", "harness", "recommend", str(file)]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_imports_nothing_heavy():
    code = "import sys, harness.__main__; print(sorted({'torch', 'numpy', 'scipy', 'deepspeed'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_forecast_can_be_held_to_published_scaling(capsys):
    assert main(["published"]) == 0
    told = capsys.readouterr().out
    # What the model does not reproduce is printed like the rest.
    assert "not reproduced" in told
    assert "fsdp1, 4 GPUs over 2" in told
