"""Run a function on N gloo ranks, each a real process, and return what they returned."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest import mock

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = [
    "pytest",
    "deepspeed",
    "fairscale.nn.data_parallel",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    # Every rank would load these in its first step, or when DeepSpeed sets up.
    "torch._dynamo",
    "torch._inductor.compile_fx",
]
_ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
"""Ranks see no GPU, so that arithmetic is the same on any machine; the server they are forked from imports DeepSpeed,
which decides then."""
_ROOT = str(Path(__file__).parents[1])


class RankFailed(Exception):
    """A rank raised, died or did not end in time; the message holds its traceback."""


def run_ranks(function: Callable[..., Any], size: int, *arguments: Any, timeout_s: float = 120) -> list[Any]:
    """Return `function(rank, *arguments)` of every rank; both must pickle, and results hold no torch tensors.

    Raises:
        RankFailed: a rank did not return; all others are ended.
    """
    if _ROOT not in sys.path:
        sys.path.insert(0, _ROOT)  # ranks take it over, and find this module and the caller's by name
    _CONTEXT.set_forkserver_preload(_PRELOAD)
    with mock.patch.dict(os.environ, _ENVIRONMENT):
        forkserver.ensure_running()
    ends: dict[Any, int] = {}
    processes = []
    results: dict[int, Any] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            meeting = f"file://{folder}/ranks"  # unlike a port, nobody else can take it
            for rank in range(size):
                ours, theirs = _CONTEXT.Pipe(duplex=False)
                process = _CONTEXT.Process(target=_rank, args=(theirs, meeting, rank, size, function, arguments))
                process.start()
                processes.append(process)
                theirs.close()
                ends[ours] = rank
            while ends:
                ready = wait(list(ends), timeout=timeout_s)
                if not ready:
                    raise RankFailed(f"ranks {sorted(ends.values())} of {size} were not done after {timeout_s} s")
                for end in ready:
                    rank = ends.pop(end)
                    results[rank] = _received(end, rank)
    finally:
        for process in processes:
            if len(results) < size:
                process.kill()
            process.join()
    return [results[rank] for rank in range(size)]


def _received(end: Any, rank: int) -> Any:
    try:
        done, result = end.recv()
    except EOFError:
        raise RankFailed(f"rank {rank} died") from None
    if not done:
        raise RankFailed(f"rank {rank} raised\n{result}")
    return result


def _rank(
    end: Connection, meeting: str, rank: int, size: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    try:
        import torch
        import torch.distributed as dist

        os.environ |= _ENVIRONMENT | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
        end.send((True, function(rank, *arguments)))
        dist.barrier()  # no rank leaves while another still talks to it
        dist.destroy_process_group()
    except BaseException:
        end.send((False, traceback.format_exc()))
