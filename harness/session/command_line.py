"""The suite's own options of pytest."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import pytest

from harness.gate.policy import POLICIES
from harness.running.progress import HANG_S


def add_options(parser: pytest.Parser) -> None:
    """Add them to pytest's."""
    group = parser.getgroup("shardbench", "distributed training benchmarks")
    group.addoption(
        "--profile",
        metavar="NAME",
        help="set-up from benches/profiles.toml: smoke (default without CUDA), standard (default with CUDA), paper",
    )
    group.addoption(
        "--profiles",
        dest="bench_profiles",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="file with further profiles, or with tables for models of your own in the known ones, laid over "
        "benches/profiles.toml; may be given several times",
    )
    group.addoption(
        "--matrix",
        choices=("default", "full"),
        default="default",
        help="full: also the heavy models that a plain run leaves out unless -k, -m or a test id names them",
    )
    group.addoption(
        "--study",
        metavar="NAME",
        help="run a published study whole, in place of the matrix: detection, vit, strategies, dataparallel; "
        "as published with --profile paper, in small with smoke",
    )
    group.addoption(
        "--study-report",
        type=Path,
        metavar="DIR",
        help="write the study's figures, its tables and its raw results there",
    )
    group.addoption(
        "--report",
        dest="bench_reports",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="write the run as a report too: .html (charts, one file), .md (for a pull request), .csv or .parquet (one "
        "row a case); may be given several times",
    )
    group.addoption(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="folder with CIFAR-10, CIFAR-100 or COCO 2017 in their official formats; without it: the embedded data",
    )
    group.addoption(
        "--options",
        dest="bench_options",
        action="append",
        default=[],
        metavar="TOKENS",
        help='options that every case is to have, for example "bf16-ckpt"; may be given several times, "" for none',
    )
    group.addoption("--download", action="store_true", help="fetch what is missing under --data-root")
    group.addoption(
        "--launcher",
        default="warm",
        metavar="NAME",
        help="how ranks start: warm (default), torchrun, slurm: by srun on the nodes of a cluster, "
        "or namespaces: hosts of their own, over links of SHARDBENCH_LINK such as 100mbit",
    )
    group.addoption(
        "--nnodes",
        type=_count,
        default=0,
        metavar="N",
        help="nodes to have, with --launcher slurm (default: all of the allocation) or torchrun (default: 1); cases "
        "that fill 2, 4, ... of them are then in the matrix, as in -k pernode8",
    )
    group.addoption(
        "--rdzv-endpoint",
        default="",
        metavar="HOST:PORT",
        help="with --launcher torchrun and --nnodes: where on this machine the others join, each by "
        "`python -m harness join HOST:PORT`",
    )
    group.addoption(
        "--srun",
        default="",
        metavar="OPTIONS",
        help='further options of srun, with --launcher slurm: --srun="--partition=gpu --account=x"',
    )
    group.addoption(
        "--plugins",
        dest="bench_plugins",
        action="append",
        default=[],
        metavar="MODULE",
        help="module with further strategies, models, datasets or metrics; may be given several times",
    )
    group.addoption(
        "--case-timeout", type=float, metavar="SECONDS", help="end a case that takes longer (default: the profile's)"
    )
    group.addoption(
        "--hang-timeout",
        type=_seconds,
        default=HANG_S,
        metavar="TIME",
        help="end a training in which no rank finished a step for so long, and show where each stands (default: 600s)",
    )
    group.addoption(
        "--wait-for-devices",
        type=_wait,
        default=3600.0,
        metavar="TIME",
        help="wait so long for another run to be done with the devices (default: 3600s); 0 fails at once and says who "
        "has them",
    )
    group.addoption(
        "--recertify", action="store_true", help="make every certificate again, instead of relying on kept ones"
    )
    group.addoption(
        "--accounted",
        action="store_true",
        help="run each case once more to count the bytes of every tensor, and hold its memory to what is predicted",
    )
    group.addoption(
        "--traced",
        action="store_true",
        help="run each case once more under torch's profiler, and say where the time of its step goes",
    )
    group.addoption(
        "--forecast",
        nargs="?",
        const="measured",
        metavar="LINKS",
        help="forecast step time, speedup and memory on up to 1024 GPUs, over the links measured here, or over given "
        "ones: pcie4, nvlink4, or for nodes of 8 GPUs with 4 ports nvlink4*8+ndr*4; traces and accounts each case",
    )
    group.addoption(
        "--find-max-batch",
        action="store_true",
        help="instead of measuring, find the largest batch per GPU that each case fits, and the throughput there",
    )
    group.addoption(
        "--device-memory",
        metavar="SIZE",
        help="let each rank allocate no more, for example 24GB, to see what a smaller GPU would fit",
    )
    group.addoption(
        "--seeds",
        type=_count,
        default=1,
        metavar="N",
        help="train each case with N seeds, the same for all, and say which strategies are equivalent in accuracy",
    )
    group.addoption(
        "--tested",
        action="store_true",
        help="score each case's best epoch by validation on the test split too, class by class",
    )
    group.addoption(
        "--save-model",
        type=Path,
        metavar="DIR",
        help="save the model of each case's best epoch as DIR/<case>, for `python -m harness evaluate` and for others",
    )
    group.addoption(
        "--resume",
        action="store_true",
        help="keep finished cases in the cache, and each training after every epoch; go on where an earlier run with "
        "this option was interrupted",
    )
    group.addoption(
        "--gate-policy",
        choices=tuple(POLICIES),
        help="how much is sampled to judge the time, and what becomes of a case that cannot be judged: pr (default; "
        "it passes), nightly (default with --benchmark-compare or --benchmark-save; the exit code tells), release "
        "(it fails)",
    )
    group.addoption(
        "--gate-budget",
        type=_seconds,
        metavar="TIME",
        help="seconds for the processes of a case that its time is judged by, for example 60s; "
        "suspects are confirmed beyond it",
    )
    group.addoption(
        "--gate-plant",
        metavar="FAULT",
        help="plant a fault in every case, for example burn:5%%, to see that the gate finds it; nothing is stored",
    )
    group.addoption(
        "--gate-selftest",
        action="store_true",
        help="instead of measuring, hold each case's unchanged step to itself: is this machine's noise what the gate "
        "takes it for, and what can it see?",
    )
    group.addoption(
        "--reference",
        choices=("run", "baseline"),
        default="run",
        help="where a speedup's one-GPU reference comes from when this run does not hold it: run it (default), "
        "or take the newest stored run",
    )


def _wait(text: str) -> float:
    return 0.0 if text.removesuffix("s").strip() == "0" else _seconds(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s").strip())
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time in seconds, such as 60s")
    return seconds


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)
