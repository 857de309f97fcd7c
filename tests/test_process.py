"""A rank as a process: what its peak memory counts, and what it does not."""

from __future__ import annotations

import ctypes
import gc
import mmap

import pytest

from harness.worker.process import ResidentPeak

MIB = 2**20


@pytest.fixture
def peak():
    # What other tests left behind would else be given back meanwhile, and hide what is taken.
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    made = ResidentPeak()
    if made.peak_bytes() is None:
        pytest.skip("this system does not tell a process its peak resident set")
    return made


def test_memory_that_was_given_back_stays_in_the_peak(peak):
    block = bytearray(b"x" * MIB) * 200
    assert len(block) == 200 * MIB
    del block
    # The kernel counts pages by the batch, so either reading may be some hundred kilobytes off.
    assert 190 * MIB <= peak.peak_bytes() < 260 * MIB


def test_what_was_there_before_is_not_counted():
    block = bytearray(b"x" * MIB) * 200
    later = ResidentPeak()
    if later.peak_bytes() is not None:
        assert later.peak_bytes() < 50 * MIB
    del block


def test_pages_of_files_are_not_counted(peak, tmp_path):
    file = tmp_path / "library"
    file.write_bytes(b"x" * 100 * MIB)
    before = peak.peak_bytes()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[i] for i in range(0, len(mapped), 4096)) > 0
        assert peak.peak_bytes() - before < 20 * MIB
