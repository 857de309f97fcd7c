"""The accepted code is laid out from its commit, runs as itself, and is refused where its time would say nothing."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.case import Case
from harness.launchers import _outcome
from harness.running.accepted import AcceptedCode, NoAcceptedCode, chosen, lay_out, refuse
from harness.running.ranks import RunOptions
from harness.stored.store import Stored, commit_of
from tests.made import made_host, made_result

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _git(folder, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    told = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return told.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository whose suite said `then` when it was accepted, and says `now`."""
    root = tmp_path / "repository"
    (root / "harness").mkdir(parents=True)
    (root / "rest.txt").write_text("not wanted")
    _git(root, "init", "-q")
    for word in ("then", "now"):
        (root / "harness" / "__init__.py").write_text(f"WORD = {word!r}\n")
        _git(root, "add", ".")
        _git(root, "commit", "-q", "-m", word)
    return root


def _stored(**over):
    return Stored(
        **({"where": "host/0001_a.json", "result": made_result(), "reference": None, "verdict": "new"} | over)
    )


def test_the_suite_of_the_commit_is_laid_out_and_nothing_else(repository, tmp_path):
    then = _git(repository, "rev-parse", "HEAD~1")
    folder = lay_out(_stored(commit=then), tmp_path / "out", root=repository)
    assert [path.name for path in folder.iterdir()] == ["harness"]
    said = subprocess.run(
        [sys.executable, "-c", "import harness; print(harness.WORD)"],
        cwd=folder,
        env=_outcome.environment("cpu", folder),
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip() == "then"
    # What the repository holds is not touched.
    assert _git(repository, "status", "--porcelain") == ""


def test_a_commit_that_is_not_there_is_refused_by_name(repository, tmp_path):
    with pytest.raises(NoAcceptedCode, match=f"git has no commit {COMMIT[:12]} of host/0001_a.json"):
        lay_out(_stored(commit=COMMIT), tmp_path / "out", root=repository)


@pytest.mark.parametrize(
    ("stored", "options", "why"),
    [
        (None, {}, "nothing is stored"),
        (_stored(commit=""), {}, "changes that no commit holds"),
        (_stored(commit=COMMIT), {"plugins": ("mine",)}, "plug-ins"),
        (_stored(commit=COMMIT), {"launcher": "torchrun"}, "launcher torchrun"),
        (
            _stored(commit=COMMIT, result=replace(made_result(), versions={"torch": "1.0"})),
            {},
            "recorded with torch 1.0, this run has 2.0",
        ),
    ],
)
def test_code_whose_time_would_say_nothing_is_refused(stored, options, why):
    with pytest.raises(NoAcceptedCode, match=why):
        refuse(stored, software={"torch": "2.0"}, options=RunOptions(**options))


def test_the_same_libraries_are_no_reason():
    stored = _stored(commit=COMMIT, result=replace(made_result(), versions={"torch": "2.0"}))
    refuse(stored, software={"torch": "2.0"}, options=RunOptions())


@pytest.mark.parametrize(
    ("told", "commit"),
    [
        ({"id": COMMIT, "dirty": False}, COMMIT),
        ({"id": COMMIT, "dirty": True}, ""),
        ({"id": "unversioned", "dirty": False}, ""),
        ({"id": "--output=/tmp/x", "dirty": False}, ""),
        ({"id": None, "dirty": False}, ""),
        ("nothing", ""),
        (None, ""),
    ],
)
def test_only_a_clean_commit_is_one(told, commit):
    assert commit_of({"commit_info": told}) == commit


def test_a_reason_is_looked_for_once_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    asked = []

    def level(case):
        asked.append(case)
        return ()

    rest = dict.fromkeys(("registry", "profile", "watch"))
    code = AcceptedCode(host=made_host(), **rest, options=RunOptions(), level=level, order=random.Random())
    for _ in range(2):
        with pytest.raises(NoAcceptedCode, match="nothing is stored"):
            code.of(Case.parse("resnet18-ddp-1gpu-bs8"))
    code.close()
    assert list(Path(tmp_path).iterdir()) == []


def test_the_code_that_began_the_level_is_chosen_if_a_commit_holds_it():
    newest, middle, first = (_stored(commit=commit) for commit in ("c", "b", "a"))
    assert chosen([newest, middle, first]) is first
    assert chosen([newest, middle, _stored(commit="")]) is middle
    assert chosen([uncommitted := _stored(commit=""), _stored(commit="")]) is uncommitted
    assert chosen([]) is None
