"""Files that a reader sees all of or nothing of, whatever happens to who writes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def whole(file: Path, content: bytes | Callable[[BinaryIO], object], *, durable: bool = False) -> None:
    """Write a file so that it is there in full or as it was before.

    Args:
        file: in a folder that there is.
        content: what it is to hold, or what writes that.
        durable: whether it is to outlast the machine's end too, and not this process's alone.

    Raises:
        OSError: it cannot be written; nothing is left of the attempt.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as opened:
            if isinstance(content, bytes):
                opened.write(content)
            else:
                content(opened)
            if durable:
                opened.flush()
                os.fsync(opened.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def probe(folder: Path) -> Path:
    """Return a folder, made if it is not there, in which a file was written and deleted again.

    Raises:
        OSError: it cannot be made, or nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{os.getpid()}.part"
    part.touch()
    part.unlink()
    return folder
