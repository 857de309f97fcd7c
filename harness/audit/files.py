"""Files and folders of stored records: which kind each is, and its audit.

A file is known by what it holds. One that is of no kind is a fault: something that a reader takes for a record, and
that nothing here vouches for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.audit import others, run
from harness.audit.findings import Findings, Place
from harness.errors import StoreError
from harness.registry import Registry
from harness.stored import reading, saved_models

_MEND = "restore it from version control, or delete it"


def audit(paths: Iterable[Path], registry: Registry) -> Findings:
    """Look at every record among files and folders.

    Args:
        paths: stored runs, published figures, counted nights, certificates, study reports, saved models; or folders of
            them, at any depth.
        registry: of what they may name.

    Raises:
        StoreError: a path is not there, or a folder holds no record at all.
    """
    found = Findings()
    earlier: dict[Path, dict[str, set[float]]] = {}
    for path in paths:
        files = list(_files(path))
        if not files:
            raise StoreError(f"{path} holds no record: name a stored run, or a folder such as baselines/")
        for file in files:
            _file(Place(found=found, where=str(file)), file, registry, earlier.setdefault(file.parent, {}))
    return found


def _files(path: Path) -> Iterator[Path]:
    """Yield the files of records, those of a folder in the order of their names, so that older runs come first."""
    if path.is_dir():
        # Of what is linked from elsewhere nothing is read.
        yield from sorted(file for file in path.rglob("*.json") if file.is_file() and not file.is_symlink())
    elif path.exists():
        yield path
    else:
        raise StoreError(f"there is no file or folder {path}; stored runs are in baselines/<host>/")


def _file(place: Place, file: Path, registry: Registry, earlier: dict[str, set[float]]) -> None:
    try:
        content = reading.read(file, kind="record", mend=_MEND)
    except OSError as error:
        place.wrong("", f"it cannot be read: {error.strerror}")
        return
    except StoreError as error:
        place.wrong("", str(error).removeprefix(f"{file} "))
        return
    if isinstance(content, dict) and "benchmarks" in content:
        place.found.count("run")
        known = run.check(place, content, registry, earlier)
        _folder(place, file, content)
        for name, plain_s in known.plain_s.items():
            if plain_s is not None:
                earlier.setdefault(name, set()).add(plain_s)
    elif file.name == saved_models.ABOUT:
        others.saved_model(place, file.parent)
    elif not others.check(place, file, content, registry):
        place.wrong("", "it is no record of this suite, or lacks what it would be known by")


def _folder(place: Place, file: Path, content: dict[str, Any]) -> None:
    """A stored run lies in a folder of its machine's name, unless it was written elsewhere by name."""
    machine = content.get("machine_info")
    node = machine.get("node") if isinstance(machine, dict) else None
    if file.name[:4].isdigit() and file.absolute().parents[1].name == "baselines":
        place.equal("machine_info.node", node, file.absolute().parent.name, by="the folder that it lies in")
