"""Reports as files: what writes each kind, known by the ending of a file's name."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from harness.errors import HarnessError, StoreError
from harness.report.reported import Run

Writer = Callable[[Run, Path], None]

WRITERS = {
    ".html": "harness.report.html",
    ".md": "harness.report.markdown",
    ".csv": "harness.report.rows",
    ".parquet": "harness.report.rows",
}
"""The module whose `write(run, file)` writes a report, by the file's ending. Named, as a run without reports needs none
of them."""


def refuse_unwritable(file: Path) -> Path:
    """Return the absolute path of a report that can be written, looked at before anything runs.

    Raises:
        HarnessError: no report has this ending, or the place cannot be written to.
    """
    if file.suffix.lower() not in WRITERS:
        what = f"no report ends in {file.suffix!r}" if file.suffix else "it has no ending"
        raise HarnessError(f"report {file}: {what}; known: {', '.join(WRITERS)}")
    folder = file.absolute().parent
    if not folder.is_dir():
        raise HarnessError(f"report {file}: there is no folder {folder}; make it, or name another")
    if file.is_dir():
        raise HarnessError(f"report {file} is a folder; name a file in it, such as {file / 'run'}{file.suffix}")
    if not os.access(folder, os.W_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise HarnessError(f"report {file} cannot be written; change its rights, or name another place")
    return file.absolute()


def write(run: Run, file: Path) -> None:
    """Write a run as the report that the file's ending names.

    Raises:
        StoreError: the file cannot be written.
    """
    writer: Writer = import_module(WRITERS[file.suffix.lower()]).write
    try:
        writer(run, file)
    except OSError as error:
        raise StoreError(
            f"report {file} cannot be written: {error.strerror or error}; free or change its folder"
        ) from error
