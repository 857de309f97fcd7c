"""Files of results are there whole or as they were: one function writes them, and no module goes past it unseen."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from harness.stored.writing import whole

ROOT = Path(__file__).parents[1]
_MAY = {
    "harness/stored/writing.py": "it is the function",
    "harness/stored/store.py": "a link into place, which refuses to replace a run",
    "harness/stored/saved_models.py": "into a folder that is renamed when it is complete",
    "harness/datasets/_embedded.py": "into a folder that is renamed when it is complete",
    "harness/machine/leftovers.py": "a file that is locked, not read",
    "harness/launchers/_nodes.py": "a secret of this run's own nodes, read after it was written",
    "harness/worker/process.py": "a file of the kernel's",
    "harness/worker/breaking.py": "a planted fault cuts a report off",
    "harness/worker/cold.py": "a log",
}
"""Modules that write otherwise, and why that is no half result."""


def _writes(source: str) -> list[str]:
    """Return the calls that write a file in place."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        modes = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        if called.endswith((".write_text", ".write_bytes", "json.dump")) or (
            called.split(".")[-1] == "open"
            and any(set(mode) <= set("wbtx+") and set(mode) & set("wx") for mode in modes)
        ):
            found.append(called)
    return found


def test_no_module_writes_results_past_the_function():
    files = sorted((ROOT / "harness").rglob("*.py"))
    found = {str(file.relative_to(ROOT)): _writes(file.read_text(encoding="utf-8")) for file in files}
    assert {name: calls for name, calls in found.items() if calls and name not in _MAY} == {}


@pytest.mark.parametrize("source", ["file.write_text(a)", "Path(x).open('wb')", "open(x, 'w')", "json.dump(a, f)"])
def test_a_planted_write_is_seen(source):
    assert _writes(source)


def test_what_is_read_or_made_longer_is_let_through():
    assert _writes("open(x)\nPath(x).open('rb')\nopen(x, 'ab')\njson.dumps(a)\nos.open(x, 3)\nopen_port('127')") == []


def test_who_reads_meanwhile_sees_the_old_or_the_new(tmp_path):
    file = tmp_path / "result.json"
    whole(file, b"old")
    seen = []

    def writes(part):
        part.write(b"new")
        part.flush()
        seen.append(file.read_bytes())

    whole(file, writes, durable=True)
    assert (seen, file.read_bytes()) == ([b"old"], b"new")
    assert [one.name for one in tmp_path.iterdir()] == ["result.json"]


def test_what_fails_leaves_the_old_and_nothing_else(tmp_path):
    file = tmp_path / "result.json"
    whole(file, b"old")

    def fails(part):
        part.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        whole(file, fails)
    assert file.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["result.json"]
