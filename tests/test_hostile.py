"""Records from a stranger: reading one executes nothing, and what is in it is taken or refused in one clear error."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import certificate, published, results
from harness.__main__ import main
from harness.audit.files import audit
from harness.errors import HarnessError, StoreError
from harness.proof import confusion, recorded
from harness.registry import discover
from harness.running import job, selftest
from harness.stored import checkpoints, escaping, history, reading, saved_models, store
from tests.made import ANY_SPEED, made_certificate, made_report

ROOT = Path(__file__).parents[1]
HARNESS = ROOT / "harness"
CASE = "resnet18-ddp-2gpu-bs8"
REGISTRY = discover()


def _stored_run() -> Any:
    content = json.loads((ROOT / "baselines/2-core-intel-xeon/0002_accepted.json").read_bytes())
    content["benchmarks"] = [one for one in content["benchmarks"] if one["param"] == CASE]
    # One process and one account of each are as good for this as all.
    for name in ("result", "reference"):
        of_case = content["benchmarks"][0]["extra_info"]["shardbench"][name]
        of_case |= {"samples": of_case["samples"][:1], "accounts": [], "telemetry": None}
    return store.sealed(content)


def _kept() -> Any:
    return {
        "facts": {"ranks": 1, "torch": "2.15.0"},
        "sha256": "0" * 64,
        "step_s": [0.5],
        "data_wait_s": [0.0],
        "loss": [1.0],
        "began": [0],
        "epochs": [{"seconds": 1.0, "steps": 1}],
    }


def _saved_model() -> Any:
    named = {"model": "resnet18", "dataset": "digits", "case_id": CASE, "profile": "smoke", "metric": "accuracy"}
    numbers = {"classes": 10, "image_size": 8, "epoch": 1, "batch_size": 8}
    return named | numbers | {"scores": {"val": {"accuracy": 0.5}}, "settings": {"epochs": 1}, "files": {"w": "0" * 64}}


def _read_stored_run(file: Path) -> None:
    content = store.read_run(file)
    store.commit_of(content), store.host_of(content)
    for benchmark in content["benchmarks"]:
        stored = store.unpack(benchmark, where=file.name)
        if stored is not None:
            for metric in REGISTRY.metrics.values():
                metric.value(stored.result, stored.reference)
    history.read(file)


@dataclass(frozen=True)
class Reader:
    """One kind of record."""

    file: str
    real: Any
    """A record as it is kept."""
    read: Callable[[Path], Any]


def _read_beside(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda file: function(file.parent)


READERS = {
    "stored run": Reader("0001_a.json", _stored_run(), _read_stored_run),
    "report": Reader("rank0.json", json.loads(results._REPORT.dump_json(made_report())), results.read_report),
    "certificate": Reader("certificate.json", certificate.to_json(made_certificate()), certificate.read),
    "checkpoint": Reader("rank0.json", _kept(), _read_beside(lambda folder: checkpoints.read(folder, 0))),
    "saved model": Reader(saved_models.ABOUT, _saved_model(), _read_beside(saved_models.read)),
    "self-test": Reader(
        "selftest-made.json",
        {"word": "not white", "lag1_z": 5.0, "trend_z": 0.1, "on": "2026-11-21"},
        _read_beside(lambda folder: selftest.forbids(folder, "made")),
    ),
    "published": Reader(
        "detection.json", json.loads((published.FOLDER / "detection.json").read_bytes()), published.load
    ),
    "nights": Reader(
        "time.json",
        json.loads((ROOT / "docs/nights/2-core-intel-xeon/time.json").read_bytes())[:1],
        lambda file: confusion.unpacked(file.read_bytes(), str(file)),
    ),
    "recorded": Reader(
        "gate_runs.json",
        {"processes": json.loads((ROOT / "tests/data/gate_runs.json").read_bytes())["processes"][:2]},
        recorded.load,
    ),
    "job": Reader(
        "job.json",
        {
            "case_id": CASE,
            "ranks": 2,
            "device_kind": "cpu",
            "backend": "gloo",
            "data": {"name": "digits", "root": "data", "image_size": 8},
            "epochs": 1,
            "warmup_steps": 1,
            "measured_steps": 3,
            "optimizer": {"name": "sgd", "arguments": {"lr": 0.1}},
            "folder": "jobs",
        },
        job.read,
    ),
}


def _deep(depth: int) -> Any:
    held: Any = 0
    for _ in range(depth):
        held = [held]
    return held


BEYOND = '"beyond what is calculated with"'
"""Written as 1e999."""
VALUES = st.sampled_from(
    [
        *(None, True, -1, 0, 2**64, 10**30, 10**400, -(10**4200), 1e308, -1e308, 5e-324),
        *(float("nan"), float("inf"), float("-inf"), json.loads(BEYOND)),
        *(
            "",
            "x" * 100_000,
            "../../x",
            "/etc/passwd",
            "a\0b",
            "\x1b[2J\x1b]0;title\x07",
            "\u202egnp.x",
            "a\rb",
            "\ud800",
        ),
        *(CASE + "\n", "resnet18-ddp-0gpu-bs8", "..-..-2gpu-bs8", "$(id)", "__import__('os')", "!!python/object:os"),
        *([], {}, [[]], {"": {}}, {"a": [{}]}, ["x"], [1e308] * 3, {"../x": 1}, {"\x1b[31m": 1}),
        *(_deep(60), _deep(70), _deep(900)),
    ]
)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from _places(value, (*path, key))


def _changed(real: Any, place: tuple[Any, ...], how: str, value: Any) -> Any:
    """Return a copy of which one place is replaced, left out, or has a further name beside it."""
    if not place:
        return value
    copy = json.loads(json.dumps(real))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    if how == "gone":
        del inner[place[-1]]
    elif how == "more" and isinstance(inner, dict):
        inner[value if isinstance(value, str) else "more"] = value
    else:
        inner[place[-1]] = value
    return copy


def _refused_or_taken(reader: Reader, folder: Path, content: bytes) -> str:
    """Read a record; returns what it was refused with, which is one of this suite's errors and fit for a terminal."""
    file = folder / reader.file
    file.write_bytes(content)
    try:
        reader.read(file)
    except StoreError as error:
        said = str(error)
        assert not escaping.steers(said)
        assert len(said) < 1000 + reading.MOST_TEXT
        return said
    return ""


def _audited(folder: Path) -> None:
    """What no reader is sure of, `verify` is not either; it ends in faults, never in an error of another kind."""
    for fault in audit([folder], REGISTRY).faults:
        assert not escaping.steers(escaping.escaped(str(fault)))


@pytest.mark.parametrize("kind", READERS)
@settings(ANY_SPEED, max_examples=70)
@given(data=st.data())
def test_whatever_stands_in_a_record_it_is_taken_or_refused_in_one_error(kind, data, tmp_path_factory):
    reader = READERS[kind]
    place = data.draw(st.sampled_from(list(_places(reader.real))))
    how = data.draw(st.sampled_from(["other", "other", "gone", "more"]))
    changed = _changed(reader.real, place, how, data.draw(VALUES))
    if kind == "stored run" and isinstance(changed, dict):
        with contextlib.suppress(ValueError, RecursionError):
            changed[store.SEAL] = store._digest(changed)  # a stranger can seal as well
    folder = tmp_path_factory.mktemp("hostile")
    _refused_or_taken(reader, folder, json.dumps(changed).replace(BEYOND, "1e999").encode())
    if kind not in ("report", "job", "recorded"):
        _audited(folder)


@pytest.mark.parametrize("kind", READERS)
@settings(ANY_SPEED, max_examples=25)
@given(data=st.data())
def test_a_record_of_which_bytes_are_cut_off_or_changed_is_refused_or_the_same(kind, data, tmp_path_factory):
    reader = READERS[kind]
    content = json.dumps(reader.real).encode()
    at = data.draw(st.integers(0, len(content) - 1))
    put = data.draw(
        st.sampled_from([b"", b"\0", b"\xff\xfe", b"[" * 3000, b"9" * 5000, b'"', b"}", b"\x1b", b'{"a":1,"a":2}'])
    )
    cut = data.draw(st.booleans())
    _refused_or_taken(
        reader, tmp_path_factory.mktemp("hostile"), content[:at] + put + (b"" if cut else content[at + len(put) :])
    )


WORST = {
    "deep": b'{"benchmarks":' + b"[" * 200_000,
    "not so deep": b'{"benchmarks":' + b"[" * 100 + b"]" * 100 + b"}",
    "many digits": b'{"benchmarks": ' + b"9" * 5000 + b"}",
    "a large number": b'{"benchmarks": ' + b"9" * 100 + b"}",
    "beyond floats": b'{"benchmarks": 1e999}',
    "NaN": b'{"benchmarks": NaN}',
    "twice": b'{"benchmarks": [], "benchmarks": [1]}',
    "an escape": b'{"benchmarks": ["\\u001b[2J"]}',
    "an escape in a name": b'{"\\u009b2J": 1}',
    "text turned around": '{"benchmarks": ["\u202egnp"]}'.encode(),
    "NUL": b'{"benchmarks": ["a\\u0000b"]}',
    "no UTF-8": b'{"benchmarks": ["\xff"]}',
    "empty": b"",
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("content", WORST.values(), ids=WORST)
def test_the_worst_is_refused_by_every_reader(kind, content, tmp_path):
    said = _refused_or_taken(READERS[kind], tmp_path, content)
    # What is kept in the cache alone is then made anew.
    assert said or kind in ("certificate", "self-test")
    assert "\n" not in said or kind == "job"


def test_a_file_that_would_fill_the_memory_is_not_read(tmp_path, monkeypatch):
    """With holes: a terabyte costs whoever sends it nothing."""
    file = tmp_path / "0001_a.json"
    with file.open("wb") as opened:
        opened.write(b'{"benchmarks": "')
        opened.truncate(2**40)
    monkeypatch.setattr(reading, "MOST_BYTES", 2**20)
    with pytest.raises(StoreError, match=r"is no stored run: it is larger than 1,048,576 bytes"):
        store.read_run(file)


def test_a_saved_model_names_no_file_outside_its_folder(tmp_path):
    for name in ("../../x", "/etc/passwd", "a/b", "..", "."):
        (tmp_path / saved_models.ABOUT).write_text(json.dumps(_saved_model() | {"files": {name: "0" * 64}}))
        with pytest.raises(StoreError, match=r"is no name of a file beside it|lacks \.\.?;"):
            saved_models.read(tmp_path)


def test_a_case_that_no_case_can_be_called_is_refused_before_it_names_a_file(tmp_path):
    for name in ("../../x", "a/../b-ddp-1gpu-bs8", "resnet18-ddp-1gpu-bs8\n", "resnet18-ddp-\u0661gpu-bs8"):
        content = json.loads(json.dumps(READERS["stored run"].real))
        content["benchmarks"][0]["extra_info"]["shardbench"]["result"]["case_id"] = name
        with pytest.raises(StoreError, match="holds no valid result"):
            store.unpack(content["benchmarks"][0], where="0001_a.json")


def test_names_from_outside_do_not_reach_the_terminal_as_they_are(tmp_path, capsys):
    hostile = tmp_path / "\x1b[2Jgone.json"
    assert main(["verify", str(hostile)]) == 2
    said = capsys.readouterr().err
    assert "\\x1b[2Jgone.json" in said
    assert "\x1b" not in said
    (tmp_path / "\x1b[31m.json").write_text("{}")
    assert main(["verify", str(tmp_path)]) == 1
    assert "\x1b" not in capsys.readouterr().out
    assert str(HarnessError("a\x9bb\u202ec\td\ne")) == "a\\x9bb\\u202ec\td\ne"


# Nothing is executed.

_REFUSED_CALLS = {"eval", "exec", "compile", "__import__"}
_REFUSED_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "jsonpickle"}
_MAY = {
    # CIFAR's official files are pickles; its unpickler knows no class (tests/test_cifar.py plants one that would run).
    "harness/datasets/_cifar_format.py": {"pickle"},
}


def _calls_of(node: ast.Call) -> str:
    return ast.unparse(node.func)


def _executing(source: str) -> list[str]:
    """Return what in a module could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in _REFUSED_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _REFUSED_MODULES:
            found.append(node.module or "")
        elif isinstance(node, ast.Call):
            called, given = _calls_of(node), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in _REFUSED_CALLS:
                found.append(called)
            if called.endswith("torch.load") and given.get("weights_only") != "True":
                found.append(f"{called} without weights_only")
            if re.search(r"\b(np|numpy)\.load$", called) or given.get("allow_pickle", "False") != "False":
                found.append(f"{called} may unpickle")
            if called.endswith(("read_pickle", "extractall")) and given.get("filter") != "'data'":
                found.append(called)
            if given.get("shell", "False") != "False" or called in ("os.system", "os.popen"):
                found.append(f"{called} by a shell")
            if given.get("trust_remote_code", "False") != "False":
                found.append(f"{called} runs remote code")
    return found


def _modules() -> list[Path]:
    return [file for folder in ("harness", "benches", "tools") for file in sorted((ROOT / folder).rglob("*.py"))]


def test_nothing_that_is_read_is_ever_executed():
    found = {str(file.relative_to(ROOT)): _executing(file.read_text(encoding="utf-8")) for file in _modules()}
    assert len(found) > 150
    assert {name: sorted({*said} - _MAY.get(name, set())) for name, said in found.items() if said} == {
        name: [] for name in _MAY
    }


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from yaml import load",
        "import torch\ntorch.load(file)",
        "torch.load(file, weights_only=False)",
        "eval(text)",
        "np.load(file, allow_pickle=True)",
        "pandas.read_pickle(file)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_what_would_be_executed_is_seen(source):
    assert _executing(source)
