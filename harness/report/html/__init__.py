"""The report as one HTML page that needs nothing else: no network, no file beside it, and no script to be read.

Traced cases link to their traces, which are files of their own for another viewer.

What a script adds is sorting, filtering, one number of GPUs at a time, and files to take away. Everything from outside
goes through a template that escapes it, and the page forbids every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.anatomy.advice import TOLD_APART
from harness.report import traces
from harness.report.html import data, overview, panels, tables
from harness.report.reported import Run
from harness.stored.writing import whole

if TYPE_CHECKING:
    from jinja2 import Environment


def write(run: Run, file: Path) -> None:
    """Write the report of a run, and the traces of traced cases beside it.

    Raises:
        OSError: it cannot be written; nothing is left of the attempt.
    """
    whole(file, render(run, traces.write(run, file)).encode())


def render(run: Run, links: Mapping[str, str] = {}) -> str:
    """Return the page of a run.

    Args:
        run: that is told.
        links: of each traced case, by its id, its trace as seen from the page.
    """
    page, models = panels.of_run(run), tables.of_run(run)
    return (
        _environment()
        .get_template("report.html")
        .render(
            run=run,
            overview=overview.of_run(run),
            models=models,
            links=links,
            told_apart=TOLD_APART,
            columns=list({column.name: column for table in models for column in table.columns}.values()),
            choices=tables.choices(run),
            panels=page,
            data=data.of_run(run, page),
            style=_part("report.css"),
            script=_part("report.js"),
            script_hash=base64.b64encode(hashlib.sha256(_part("report.js").encode()).digest()).decode(),
        )
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("harness.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The filter tojson spells <, >, & and ' so that no text ends the element that the data stand in.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["number"] = tables.number
    return environment


def _part(name: str) -> Any:
    """Return a file of this package that the page holds as it is."""
    from markupsafe import Markup

    return Markup(files(__package__).joinpath("templates", name).read_text(encoding="utf-8"))
