"""Records beside stored runs: published figures, counted nights, certificates, saved models, and a study's report."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from harness import certificate as certificates
from harness import published
from harness.audit import certified, measured
from harness.audit.findings import Place
from harness.case import Case
from harness.errors import HarnessError, StoreError
from harness.proof import confusion
from harness.registry import Registry
from harness.results import result_from_json
from harness.running.plant import parse
from harness.stored import saved_models

_PAGE = "gate_live.md"


def check(place: Place, file: Path, content: Any, registry: Registry) -> bool:
    """Look at a record that is no stored run; returns whether it is of a kind that is known."""
    if isinstance(content, list):
        return _nights(place, file)
    if not isinstance(content, dict):
        return False
    if "study" in content and "figures" in content:
        _published(place, file)
    elif "study" in content and "claims" in content:
        _study(place, file, content)
    elif "regime" in content and "causes" in content:
        _certificate(place, file, content)
    elif content and all(isinstance(one, dict) and one.get("case_id") == name for name, one in content.items()):
        _results(place, content, registry)
    else:
        return False
    return True


def saved_model(place: Place, folder: Path) -> None:
    """Look at a model that --save-model saved: every file of it has its digest."""
    try:
        about = saved_models.read(folder)
        Case.parse(about.case_id)
        place.found.count("saved model")
        place.found.figures += len(about.files)
    except HarnessError as error:
        place.wrong("", str(error))


def _published(place: Place, file: Path) -> None:
    """What a study printed is kept as it was printed, wrong figures too; that they can be read is all there is."""
    try:
        study = published.load(file)
    except StoreError as error:
        place.wrong("", str(error))
        return
    place.found.count("publication")
    place.found.figures += len(study.figures)
    if file.absolute().parent == published.FOLDER:
        place.equal("study", study.study, file.stem, by="the file's name")


def _nights(place: Place, file: Path) -> bool:
    """Look at counted nights, and at the page that was made of them, where it lies beside their folder."""
    try:
        nights = confusion.unpacked(file.read_bytes(), str(file))
    except StoreError as error:
        place.wrong("", str(error))
        return True
    for number, night in enumerate(nights):
        here = place.at(str(number))
        here.found.count("night")
        try:
            date.fromisoformat(night.date)
        except ValueError:
            here.wrong("date", f"{night.date[:40]!r} is no date")
        here.equal("trials", list(night.trials), list(confusion.counted(night.trials)), by="those that are alike")
        for one in night.trials:
            here.holds("trials.count", one.count > 0, f"{one.case[:60]!r} was counted {one.count} times")
            try:
                parse(one.plant) if one.plant else None
            except HarnessError as error:
                here.wrong("trials.plant", str(error))
    folder = file.absolute().parents[1]
    page = folder.parent / _PAGE
    if page.is_file():
        _page(Place(found=place.found, where=str(page)), page, folder)
    return True


def _page(place: Place, page: Path, folder: Path) -> None:
    """Hold a page to the nights that it was made of."""
    stored = page.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        right = confusion.page(folder)
    except HarnessError as error:
        place.wrong("", f"it cannot be made again: {error}")
        return
    place.equal("lines", len(stored), len(right), by=f"{folder.name}/, as their number")
    for number, (line, wanted) in enumerate(zip(stored, right, strict=False), start=1):
        if line.rstrip() != wanted.rstrip():
            place.equal(f"line {number}", line, wanted, by=f"{folder.name}/")
            break


def _certificate(place: Place, file: Path, content: Mapping[str, Any]) -> None:
    """Look at a kept certificate, which its name names."""
    try:
        kept = certificates.certificate(content, where="the certificate")
        Case.parse(kept.case_id)
    except HarnessError as error:
        place.wrong("", str(error))
        return
    place.found.count("certificate")
    certified.check(place, kept, kept.case_id)
    place.equal("key", file.stem, f"{kept.case_id}-{kept.key}", by="case and digest, as the file's name")
    place.holds("causes", kept.granted, "a certificate that was refused is not kept")


def _results(place: Place, content: Mapping[str, Any], registry: Registry) -> None:
    """Look at the raw results of a study's report."""
    for name, one in content.items():
        here = place.of(str(name))
        try:
            result = result_from_json(one, where="the study")
            Case.parse(result.case_id)
        except HarnessError as error:
            here.wrong("", str(error))
            continue
        place.found.count("case")
        measured.check(here, result, registry)


def _study(place: Place, file: Path, content: Mapping[str, Any]) -> None:
    """Hold the tables of a study's report to their files, which were made from them."""
    place.found.count("study report")
    place.equal("schema_version", content.get("schema_version"), 1, by="this suite")
    place.equal("study", content.get("study"), file.stem, by="the file's name")
    for table in content.get("tables") or ():
        try:
            name, head, rows = str(table["name"]), table["head"], table["rows"]
            text = io.StringIO()
            writer = csv.writer(text)
            writer.writerow(head)
            writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
        except (KeyError, TypeError) as error:
            place.wrong("tables", f"one is damaged ({type(error).__name__}: {error})")
            continue
        _table(place, file.parent, name, text.getvalue())


def _table(place: Place, folder: Path, name: str, text: str) -> None:
    if Path(name).name != name:
        place.wrong("tables", f"{name[:60]!r} is no name of a file beside it")
        return
    file = next((one for one in (folder / f"{name}.csv", folder / "tables" / f"{name}.csv") if one.is_file()), None)
    if file is None:
        place.wrong("tables", f"the table {name} has no file {name}.csv")
        return
    stored = list(csv.reader(io.StringIO(file.read_bytes().decode(errors="replace"), newline="")))
    right = list(csv.reader(io.StringIO(text, newline="")))
    there = Place(found=place.found, where=str(file))
    there.equal("rows", len(stored), len(right), by=f"{folder.name}'s JSON")
    for number, (row, wanted) in enumerate(zip(stored, right, strict=False), start=1):
        if row != wanted:
            there.equal(f"row {number}", row, wanted, by="the study's JSON")
