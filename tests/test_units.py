"""Sizes of memory in words."""

from __future__ import annotations

import pytest

from harness.errors import HarnessError
from harness.units import bytes_of


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GB", 24 * 10**9), ("24GiB", 24 * 2**30), ("1.5 GiB", 3 * 2**29), ("500mb", 5 * 10**8), ("7", 7), ("7B", 7)],
)
def test_a_size_is_read_as_it_is_written(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "24 G B", "-1GB", "0GB", "1e9", "many", "24XB", "nanGB", "infGB"])
def test_no_size_is_one_clear_error(text):
    with pytest.raises(HarnessError, match="24GB"):
        bytes_of(text)
