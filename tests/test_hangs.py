"""Ranks that no longer move are seen where they train, and nowhere else; those that are asked tell where they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from harness.running.progress import ask, file_of, hangs, was_stopped


@pytest.fixture
def place(tmp_path):
    """Return a function that lets a rank have told where it is so many seconds ago."""

    def tell(rank: int, phase: str, ago_s: float) -> None:
        file_of(tmp_path, rank).write_text(f"{phase} 1 1 2 8")
        then = time.time() - ago_s
        os.utime(file_of(tmp_path, rank), (then, then))

    return tell


@pytest.mark.parametrize(
    ("phases", "ago_s", "hung"),
    [
        (("train", "train"), (70, 80), True),
        (("train", "train"), (70, 20), False),  # one of them moves still
        (("train", "evaluate"), (70, 70), True),
        (("data", "data"), (999, 999), False),  # a download tells of no steps
        (("train", None), (70, None), True),  # and the other never came
        ((None, None), (None, None), False),
    ],
    ids=str,
)
def test_ranks_hang_that_train_and_tell_nothing_for_long(tmp_path, place, phases, ago_s, hung):
    for rank, (phase, ago) in enumerate(zip(phases, ago_s, strict=True)):
        if phase is not None:
            place(rank, phase, ago)
    assert hangs(tmp_path, range(2), 60.0) is hung


RANK = """
import sys, threading
from pathlib import Path
from harness.worker import process
folder, rank = Path(sys.argv[1]), int(sys.argv[2])
process.log_to(folder / f"rank{rank}.log")
(folder / f"ready{rank}").touch()
def hang_here():
    threading.Event().wait()
hang_here()
"""


def test_ranks_that_are_asked_write_their_stacks_a_stopped_one_too(tmp_path):
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(tmp_path), str(rank)]) for rank in range(2)]
    try:
        end = time.monotonic() + 100
        while len(list(tmp_path.glob("ready*"))) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        ranks[1].send_signal(signal.SIGSTOP)
        while psutil.Process(ranks[1].pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < end
            time.sleep(0.01)
        ask(rank.pid for rank in ranks)
        for rank in range(2):
            assert "in hang_here" in (tmp_path / f"rank{rank}.log").read_text()
        assert [was_stopped(tmp_path, rank) for rank in range(2)] == [False, True]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def test_asking_one_that_has_ended_is_no_failure():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    ask([done.pid])
