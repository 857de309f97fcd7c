"""The documentation holds: its links lead somewhere, its commands exist, and its code is the example project's."""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
import yaml

from harness.__main__ import COMMANDS
from harness.case import grid
from harness.errors import HarnessError
from harness.gate.policy import POLICIES
from harness.profiles import load
from harness.registry import discover
from harness.session.selection import refuse_unknown, select
from harness.stored import store

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "slurm").glob("*.md"),
        *(ROOT / "examples").glob("*/README.md"),
    ]
)
MADE = {"gate.md", "gate_rules.md", "gate_live.md", "faults.md"}
"""Pages that the suite writes itself; their own tests hold them."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_OWN = ("pytest benches", 'pytest "benches', "pytest ../../benches", "python -m harness")


def _commands(page: Path) -> Iterator[str]:
    """Yield each line of shell of a page that calls this suite, comments and what is before it left out."""
    text = page.read_text(encoding="utf-8")
    blocks = [inside for language, inside in _FENCE.findall(text) if language in ("", "sh", "bash", "shell")]
    inline = _INLINE.findall(_FENCE.sub("", text))
    for block in [*blocks, *inline]:
        for line in block.replace("\\\n", " ").splitlines():
            start = min((line.find(own) for own in _OWN if own in line), default=-1)
            # In what a run prints, a command is said after a word.
            if start >= 0 and not re.match(r"\s*(rerun|accept)\b", line) and not line.endswith("..."):
                yield line[start:]


COMMANDS_OF = [(page, command) for page in PAGES for command in dict.fromkeys(_commands(page))]
PYTEST = [one for one in COMMANDS_OF if one[1].startswith("pytest")]
HARNESS = [one for one in COMMANDS_OF if one[1].startswith("python")]


def _place(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _named(of: list[tuple[Path, str]]) -> list[str]:
    return [f"{_place(page)}: {command}" for page, command in of]


@pytest.fixture(scope="module")
def registry():
    return discover(studies=True)


@pytest.fixture(scope="module")
def options(suite_options):
    return suite_options


@pytest.fixture(scope="module")
def cases(registry):
    """Every cell of the matrix, the heavy models' too, with those of two nodes of 4 GPUs."""
    profile = load(ROOT / "benches" / "profiles.toml")["smoke"]
    return [
        *grid(
            models=registry.models,
            strategies=registry.strategies,
            gpu_counts=(1, 2, 4),
            batch_sizes={name: profile.settings(model).batch_sizes for name, model in registry.models.items()},
        )
    ]


@pytest.fixture(scope="module")
def tests(cases):
    """Names of all tests in benches/, as a keyword can have them."""
    functions = [
        f"benches/{file.name}::{name}"
        for file in (ROOT / "benches").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), flags=re.MULTILINE)
    ]
    return [*functions, *(f"benches/test_classification.py::test_train[{case}]" for case in cases)]


def test_there_are_pages_and_commands_to_hold():
    assert {"README.md", "nightly.md", "extending.md", "CONTRIBUTING.md"} <= {page.name for page in PAGES}
    assert len(PYTEST) > 30
    assert len(HARNESS) > 4


@pytest.mark.parametrize(("page", "command"), PYTEST, ids=_named(PYTEST))
def test_a_command_for_pytest_has_options_and_names_that_there_are(page, command, registry, options, cases, tests):
    words = shlex.split(command, comments=True)
    own = "--plugins" in words  # of a module that is not this suite's
    given = {word.partition("=")[0] for word in words if word.startswith("--") and " " not in word}
    assert given - options == set()
    after = dict(itertools.pairwise(words))
    keyword, markexpr = after.get("-k", ""), after.get("-m", "")
    if not own:
        try:
            select(keyword, markexpr, [], names={*registry.models, *registry.strategies})
            # How many GPUs a node has is an option of a case, and in no name until there are several nodes.
            refuse_unknown(re.sub(r" and pernode\d+", "", keyword), markexpr, cases=cases, tests=tests)
        except HarnessError as error:
            pytest.fail(f"{page.name}: {command}: {error}")
        known = load(ROOT / "benches" / "profiles.toml")
        assert after.get("--profile", "smoke") in known
    assert after.get("--study", "vit") in registry.studies
    assert after.get("--launcher", "warm") in registry.launchers
    assert after.get("--gate-policy", "pr") in POLICIES


@pytest.mark.parametrize(("page", "command"), HARNESS, ids=_named(HARNESS))
def test_a_command_of_the_harness_can_be_read_by_it(page, command):
    parser = argparse.ArgumentParser(exit_on_error=False)
    subcommands = parser.add_subparsers(dest="command", required=True)
    for one in COMMANDS:
        one.add_arguments(subcommands.add_parser(one.NAME, exit_on_error=False))
    words = shlex.split(command, comments=True)[3:]
    if len(words) > 1:
        parser.parse_args(words)
    else:
        assert words[0] in {one.NAME for one in COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=_place)
def test_what_is_called_by_tox_and_by_tools_is_there(page):
    text = page.read_text(encoding="utf-8")
    environments = set(re.findall(r"^\[testenv:(\w+)\]", (ROOT / "tox.ini").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\btox -e (\w+)", text)) <= environments
    for tool, rest in re.findall(r"\btools/(\w+)([^\n`]*)", text):
        told = (ROOT / "tools" / tool).read_text()
        asked = re.findall(r"(?<!\S)--[a-z-]+", rest.partition(" -- ")[0])
        assert [option for option in asked if f'"{option}"' not in told] == []


def _anchors(page: Path) -> set[str]:
    """Return what its headings can be linked by, as MkDocs and GitHub spell it."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=_place)
def test_every_link_inside_the_project_leads_somewhere(page):
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in _anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in MADE], ids=_place)
def test_every_file_that_is_named_is_there(page):
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    for word in _INLINE.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        path = word.split("::")[0].rstrip("/")
        # What is made by a run, or is of the reader's own making, has a variable or a star in it, or is not kept.
        if re.fullmatch(r"[\w./-]+", path) and path.split("/")[0] in folders - {"site", "runs"} and "/" in path:
            assert (ROOT / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=_place)
def test_code_that_is_said_to_be_of_a_file_is_that_file(page):
    text = page.read_text(encoding="utf-8")
    for name, code in re.findall(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        assert code == (ROOT / name).read_text(encoding="utf-8"), f"{page.name} shows another {name} than there is"


def test_every_kind_of_plug_in_is_shown_by_code_of_the_example():
    shown = re.findall(r"^`(examples/[\w./]+)`:$", (ROOT / "docs" / "extending.md").read_text(), flags=re.MULTILINE)
    kinds = ("strategy", "model", "dataset", "metric", "launcher")
    assert {f"examples/shapes/shapebench/{kind}.py" for kind in kinds} <= set(shown)


def test_the_figures_of_the_readme_are_those_of_the_stored_run_that_it_names():
    text = (ROOT / "README.md").read_text()
    file = ROOT / re.search(r"baselines/[\w-]+/[\w.]+json", text)[0]
    stored = [store.unpack(one, where=file.name) for one in store.read_run(file)["benchmarks"]]
    step_ms = {one.result.case_id: f"{median(one.result.step_s) * 1e3:.1f}" for one in stored}
    model, table = re.search(r"```\n(\w+) on (.*?)```", text, flags=re.DOTALL).groups()
    rows = re.findall(r"^(\w+-\dgpu-bs\d+)[*!]? +([\d.]+) ms ", table, flags=re.MULTILINE)
    assert len(rows) > 5
    assert {f"{model}-{case}": shown for case, shown in rows}.items() <= step_ms.items()


def test_the_site_is_built_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"][0].values():
        assert (tmp_path / "site" / page).with_suffix(".html").exists()
    # Readable on a machine without a network: no page fetches a script, a style or a font.
    fetched = r'<(?:script|link)[^>]+(?:src|href)="https?://'
    assert not [file for file in (tmp_path / "site").glob("*.html") if re.search(fetched, file.read_text())]


def test_the_citation_has_what_its_format_demands_and_the_projects_own_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # Citation File Format 1.2.0, schema guide: these four are required.
    assert citation["cff-version"] == "1.2.0"
    assert all(citation[key] for key in ("message", "title", "authors"))
    assert citation["type"] in ("software", "dataset")
    persons = {"given-names", "family-names", "alias", "orcid", "affiliation", "email", "website"}
    assert all("name" in author or persons & author.keys() for author in citation["authors"])
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert project["license"] + " License" in (ROOT / "LICENSE").read_text()


def test_the_changelog_tells_of_the_version_that_is_next_or_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0].startswith(project["version"])
