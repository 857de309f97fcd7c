"""The last self-test of this machine, kept in the cache: where its ratios were not white, time is not gated."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import StoreError
from harness.gate.selftest import Selftest
from harness.stored import reading
from harness.stored.writing import whole


def keep(found: Selftest, folder: Path, hardware: str) -> None:
    """Keep what was found, all of it or nothing; what cannot tell takes nothing back.

    Args:
        found: by the self-test.
        folder: of the findings.
        hardware: digest of this machine's, as `Host.hardware_digest`.

    Raises:
        StoreError: it cannot be written.
    """
    if found.word == "cannot tell":
        return
    file = _file(folder, hardware)
    said = {
        "word": found.word,
        "lag1_z": found.lag1_z,
        "trend_z": found.trend_z,
        "on": datetime.now(UTC).date().isoformat(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        whole(file, json.dumps(said).encode())
    except OSError as error:
        raise StoreError(f"the self-test {file} cannot be kept: {error.strerror}; set SHARDBENCH_CACHE") from error


def forbids(folder: Path, hardware: str) -> str:
    """Return why times are not gated on this machine; nothing where they are, or where no self-test says."""
    try:
        said = reading.read(_file(folder, hardware), kind="self-test", mend="make it again with --gate-selftest")
        word, on = said["word"], said["on"]
    except (OSError, StoreError, KeyError, TypeError):
        return ""
    if word != "not white":
        return ""
    return (
        f"the self-test of {on} found that processes of this machine are not independent, so times say nothing: "
        "run pytest benches --gate-selftest again on a quieter one"
    )


def _file(folder: Path, hardware: str) -> Path:
    return folder / f"selftest-{hardware}.json"
