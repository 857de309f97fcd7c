"""The files of a dataset made from what is installed: written once into the user's cache, then verified by checksum.

A folder appears by one rename when it is complete, so a run sees all of it or none, also when two make it at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from harness.errors import DataError
from harness.plugins import Split

if TYPE_CHECKING:
    from PIL import Image

MANIFEST = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a folder is to hold."""

    files: Mapping[str, bytes]
    """Content by path inside the folder, with `/` between the parts."""
    sources: Mapping[Split, Sequence[int]]
    """Of each split, the indices of the source images it was made from; no index is in two splits."""


def make_or_verify(folder: Path, render: Callable[[], Content]) -> None:
    """Make the folder if it is missing, otherwise compare every file with the checksum it was written with.

    Raises:
        DataError: the folder cannot be written (nothing half-written is left), or a file is missing or damaged.
    """
    if not folder.exists():
        _make(folder, render())
    verify(folder)


def _make(folder: Path, content: Content) -> None:
    digests = {}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True) as scratch:
            part = Path(scratch) / folder.name
            for name, data in content.files.items():
                file = part / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
                digests[name] = hashlib.sha256(data).hexdigest()
            manifest = {"format": _FORMAT, "files": digests, "sources": content.sources}
            (part / MANIFEST).write_text(json.dumps(manifest, indent=0), encoding="ascii")
            part.rename(folder)
    except OSError as error:
        # A folder that is there now was made by another run meanwhile, and is as good as this one's.
        if not folder.exists():
            raise DataError(
                f"dataset folder {folder} cannot be written ({len(digests)} of {len(content.files)} files were): "
                f"{error.strerror}; free space, or make {folder.parent} writable"
            ) from error


def verify(folder: Path) -> None:
    """Compare every file with its checksum in the manifest.

    Raises:
        DataError: a file is missing or damaged; the message names the first.
    """
    digests = read_manifest(folder)["files"]
    for name, expected in digests.items():
        file = folder / name
        try:
            found = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"dataset file {file} cannot be read: {error.strerror}; {mend(folder)}") from error
        if found != expected:
            raise DataError(f"dataset file {file} is damaged: its checksum is not the manifest's; {mend(folder)}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest: format, files (path to SHA-256) and sources (split to indices).

    Raises:
        DataError: it is missing, damaged, or of another format.
    """
    file = folder / MANIFEST
    try:
        manifest: Any = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"dataset manifest {file} cannot be read: {error.strerror}; {mend(folder)}") from error
    except ValueError as error:
        raise DataError(f"dataset manifest {file} is damaged: {error}; {mend(folder)}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT or not {"files", "sources"} <= set(manifest):
        raise DataError(f"dataset manifest {file} is not of format {_FORMAT}; {mend(folder)}")
    return manifest


def mend(folder: Path) -> str:
    """Return what to do about damage in the folder."""
    return f"delete the folder {folder} to have it made again"


def jpeg(image: Image.Image) -> bytes:
    """Return the image as a JPEG file."""
    from io import BytesIO

    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
