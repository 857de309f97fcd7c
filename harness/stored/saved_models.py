"""A saved model: a folder with its weights, as its own library reads them, and beside them what they are.

    model.safetensors   the weights, unsharded; with config.json where the model is one of transformers'
    shardbench.json     a `SavedModel`

The folder appears by a rename when it is complete.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from harness.errors import StoreError
from harness.stored import reading
from harness.stored.checkpoints import digest_of

ABOUT = "shardbench.json"
_MEND = "name a folder that --save-model wrote, or save the model again"


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SavedModel:
    """What a saved model is."""

    schema_version: Literal[1] = 1
    model: str
    classes: int
    image_size: int
    dataset: str
    case_id: str
    profile: str
    epoch: int
    """After which it was saved, counted from 1."""
    metric: str
    """By which this was the best epoch."""
    scores: dict[str, dict[str, float]]
    """What the run itself scored, by split."""
    batch_size: int
    """Images that one process of the run evaluated together: kernels' last digits depend on it."""
    settings: dict[str, Any]
    """The profile's settings for the model, as resolved."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every other file, by its name."""


_SAVED: TypeAdapter[SavedModel] = TypeAdapter(SavedModel)


def complete(part: Path, target: Path, about: SavedModel) -> None:
    """Add to a folder of weights what they are, and put it in the place of whatever was there.

    Raises:
        StoreError: it cannot be written; what was there before is untouched.
    """
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        files = {file.name: digest_of(file) for file in sorted(part.iterdir())}
        (part / ABOUT).write_bytes(_SAVED.dump_json(replace(about, files=files), indent=1))
        for file in part.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        if target.exists():
            target.rename(old)
        part.rename(target)
    except OSError as error:
        raise StoreError(
            f"the model cannot be saved in {target}: {error.strerror}; free or change the folder"
        ) from error
    shutil.rmtree(old, ignore_errors=True)


def read(folder: Path) -> SavedModel:
    """Return what a saved model is, its files checked.

    Raises:
        StoreError: it is none, or damaged.
    """
    if not folder.is_dir():
        raise StoreError(f"there is no folder {folder}; {_MEND}")
    file = folder / ABOUT
    try:
        about = _SAVED.validate_python(reading.read(file, kind="saved model", mend=_MEND))
    except FileNotFoundError as error:
        raise StoreError(f"{folder} is no model of this suite: it has no {ABOUT}; {_MEND}") from error
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}; {_MEND}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise StoreError(f"{file} is damaged, or another version's: {first['msg']}; {_MEND}") from error
    for name, digest in about.files.items():
        if Path(name).name != name:
            raise StoreError(f"{file} is damaged: {name!r} is no name of a file beside it; {_MEND}")
        if not (folder / name).is_file():
            raise StoreError(f"{folder} lacks {name}; {_MEND}")
        if digest_of(folder / name) != digest:
            raise StoreError(f"{folder / name} is damaged: its checksum is not the one it was saved with; {_MEND}")
    return about
