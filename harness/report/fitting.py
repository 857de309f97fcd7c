"""The largest batch of each case, and the throughput there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.anatomy.fitting import MOST, RESOLUTION, Largest
from harness.case import Case
from harness.report.lines import table, wrapped


def render(found: Mapping[Case, Largest], *, device_memory_bytes: int | None) -> Iterator[str]:
    """Yield the lines of the section.

    Args:
        found: what was searched for.
        device_memory_bytes: what a rank could allocate; None where the device was the limit.
    """
    limit = "the device" if device_memory_bytes is None else f"{device_memory_bytes / 2**30:.2f} GiB a rank"
    yield from wrapped(
        f"the largest batch per GPU that fits {limit}, to a {RESOLUTION}th, and images/s with it: three steps on one "
        "batch, the slower of the last two on the slowest rank"
    )
    yield ""
    rows = []
    for case, one in found.items():
        beyond = f"does not fit {one.refused}" if one.refused else f"the search ends at {MOST}"
        rows.append(
            [
                case.id,
                "none" if one.batch_size is None else str(one.batch_size),
                "n/a" if one.images_per_s is None else f"{one.images_per_s:.1f}",
                beyond,
                str(len(one.tried)),
            ]
        )
    head = ["case", "batch per GPU", "images/s", "beyond", "tried"]
    yield from table(head, rows, left=(0, 3), optional=(4,))
