"""Stored runs: written whole or not at all, never replaced, and refused by name when they are none."""

from __future__ import annotations

import copy
import json
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import store
from harness.errors import StoreError
from tests.made import ANY_SPEED, made_certificate, made_report, made_result

CASE = "resnet18-ddp-2gpu-bs8"
STATS = {"min": 0.2, "max": 0.2, "mean": 0.2, "stddev": 0.0, "median": 0.2, "rounds": 4, "data": [0.2] * 4}


def _benchmark(case_id=CASE, reference=None, certificate=None, **over):
    """Return one benchmark as pytest-benchmark stores it; certified, unless another certificate is given."""
    held = store.pack(made_result(case_id, **over), reference, certificate or made_certificate(case_id))
    name = f"test_train[{case_id}]"
    fullname = f"benches/test_classification.py::{name}"
    return {"name": name, "fullname": fullname, "group": None, "params": {}, "extra_info": held, "stats": dict(STATS)}


def _run(*benchmarks):
    return {"machine_info": {"node": "made"}, "commit_info": {}, "benchmarks": list(benchmarks), "version": "5.3.1"}


@pytest.fixture
def storage(tmp_path):
    return store.BaselineStorage(str(tmp_path / "baselines"), logging.getLogger("test"), "2-core-made")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "baselines" / "2-core-made"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_runs_are_numbered_in_the_hosts_folder_and_come_back(storage, folder):
    for save in ("accepted", "nightly"):
        storage.save(_run(_benchmark(profile=save)), save)
    assert _names(folder) == ["0001_accepted.json", "0002_nightly.json"]
    loaded = list(storage.load())
    assert [path.name for path, _ in loaded] == ["0001_accepted.json", "0002_nightly.json"]
    back = store.unpack(loaded[1][1]["benchmarks"][0], where="here")
    assert back == store.Stored(
        where="here",
        result=made_result(CASE, profile="nightly"),
        reference=None,
        certificate=made_certificate(CASE),
    )


def test_a_reference_is_stored_with_the_case(storage):
    reference = made_result("resnet18-ddp-1gpu-bs8")
    storage.save(_run(_benchmark(reference=reference)), "a")
    ((_, run),) = storage.load()
    assert store.unpack(run["benchmarks"][0], where="here").reference == reference


def test_a_run_never_replaces_another_of_its_number(storage, folder, monkeypatch):
    """As happens when two runs end at once: both looked for the next free number and found the same."""
    storage.save(_run(), "a")
    held = (folder / "0001_a.json").read_bytes()
    monkeypatch.setattr(store.BaselineStorage, "_next_num", "0001")
    with pytest.raises(StoreError, match=r"0001_a\.json: File exists; nothing stored before is touched"):
        storage.save(_run(_benchmark()), "a")
    assert (folder / "0001_a.json").read_bytes() == held
    assert _names(folder) == ["0001_a.json"]


def test_a_full_disk_is_told_and_leaves_what_was_stored_and_nothing_else(storage, folder):
    storage.save(_run(_benchmark()), "a")
    held = (folder / "0001_a.json").read_bytes()
    # Every write to this device fails for lack of space.
    (folder / f"0002_b.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"0002_b\.json: No space left on device; .* free or change the folder"):
        storage.save(_run(_benchmark()), "b")
    assert _names(folder) == ["0001_a.json"]
    assert (folder / "0001_a.json").read_bytes() == held


def test_a_folder_that_cannot_be_made_is_told():
    storage = store.BaselineStorage("/proc/no/baselines", logging.getLogger("test"), "host")
    with pytest.raises(StoreError, match=r"cannot be stored as /proc/no/baselines/host/0001_a\.json: No such file"):
        storage.save(_run(), "a")


def test_a_file_in_the_place_of_the_folder_is_told(storage, folder):
    folder.write_text("no folder")
    with pytest.raises(StoreError, match="Not a directory"):
        storage.save(_run(), "a")
    assert folder.read_text() == "no folder"


WRONG_FILES = {
    "empty": b"",
    "truncated": json.dumps(_run(_benchmark())).encode()[:-40],
    "foreign": b'{"results": []}',
    "list": b"[1, 2]",
    "number": b"3",
    "no list": b'{"benchmarks": 3}',
    "no benchmarks": b'{"benchmarks": ["a", "b"]}',
    "no name": b'{"benchmarks": [{"name": "a"}]}',
    "name no text": b'{"benchmarks": [{"fullname": 3}]}',
    "no stats": b'{"benchmarks": [{"fullname": "a::b", "name": "b", "extra_info": {}}]}',
    "bytes": b"\xff\xfe\x00",
    "deep": b"[" * 200_000,
    "deep tables": b'{"benchmarks":' * 100_000,
    "long number": b'{"benchmarks": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("content", WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_file_that_is_no_stored_run_is_refused_by_name_and_the_others_stay(storage, folder, content):
    storage.save(_run(_benchmark()), "a")
    (folder / "0002_b.json").write_bytes(content)
    with pytest.raises(
        StoreError, match=r"0002_b\.json is no stored run .*; restore it from version control or delete"
    ):
        list(storage.load())
    with pytest.raises(StoreError, match=r"0002_b\.json is no stored run"):
        list(storage.load("0002"))
    assert len(list(storage.load("0001"))) == 1


def test_a_file_that_cannot_be_read_is_refused(folder):
    (folder / "0001_a.json").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"0001_a\.json is no stored run \(IsADirectoryError"):
        store.read_run(folder / "0001_a.json")


@pytest.mark.parametrize("extra", [{}, {"other": 3}])
def test_a_benchmark_of_somebody_elses_is_no_case(extra):
    assert store.unpack(_benchmark() | {"extra_info": extra}, where="here") is None


@pytest.mark.parametrize(
    "extra", [None, [], 3, {store.KEY: 3}, {store.KEY: []}, {store.KEY: {}}, {store.KEY: {"result": None}}]
)
def test_a_case_whose_record_is_damaged_is_refused_by_file(extra):
    with pytest.raises(StoreError, match=r"^0001_a\.json holds (no|a) result"):
        store.unpack(_benchmark() | {"extra_info": extra}, where="0001_a.json")


HUGE = st.sampled_from([float("inf"), float("nan"), 1e308, -1e308, 10**400, -(10**400), 2**64])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | HUGE | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def _places(tree, path=()):
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from _places(value, (*path, key))


WHOLE = _benchmark(reference=made_result("resnet18-ddp-1gpu-bs8"))
PLACES = [path for path in _places(WHOLE) if path[:1] == ("extra_info",)]


@settings(ANY_SPEED, max_examples=400)
@given(place=st.sampled_from(PLACES), value=ANYTHING)
def test_whatever_stands_in_a_records_place_is_taken_or_refused(place, value):
    damaged = copy.deepcopy(WHOLE)
    inner = damaged
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        store.unpack(damaged, where="0001_a.json")
    except StoreError as refused:
        assert str(refused).startswith("0001_a.json holds ")


def _mapping(*runs):
    """Return runs as pytest-benchmark keeps them to compare with: oldest first, benchmarks by full name."""
    return {Path(f"{number:04}_run.json"): {b["fullname"]: b for b in run} for number, run in enumerate(runs, 1)}


def test_the_newest_run_that_holds_the_test_is_recalled():
    other = "resnet18-zero1-2gpu-bs8"
    runs = _mapping([_benchmark(profile="old")], [_benchmark(profile="new")], [_benchmark(other)])
    found = store.recall(runs, _benchmark()["fullname"])
    assert (found.where, found.result.profile) == ("0002_run.json", "new")
    assert store.recall(runs, "benches/test_classification.py::test_train[unknown]") is None
    assert store.recall({}, _benchmark()["fullname"]) is None


def test_the_newest_record_of_an_identity_is_found_be_it_a_case_or_a_reference(storage, folder):
    reference = made_result("resnet18-ddp-1gpu-bs8", profile="as reference", identity="wanted")
    storage.save(_run(_benchmark("resnet18-ddp-1gpu-bs8", identity="wanted", profile="oldest")), "a")
    storage.save(_run(_benchmark(), _benchmark("resnet18-zero1-2gpu-bs8", reference=reference)), "b")
    storage.save(_run(_benchmark("resnet18-ddp-1gpu-bs8", identity="of other settings")), "c")
    found = store.newest(folder, case_id="resnet18-ddp-1gpu-bs8", identity="wanted")
    assert (found.where, found.result) == ("0002_b.json", reference)
    assert store.newest(folder, case_id="resnet18-ddp-1gpu-bs8", identity="unknown") is None
    assert store.newest(folder, case_id="resnet18-ddp-4gpu-bs8", identity="wanted") is None
    assert store.newest(folder / "none", case_id=CASE, identity="wanted") is None


def test_a_record_without_a_certificate_is_no_reference(storage, folder):
    identity = f"identity of {CASE}"
    storage.save(_run(_benchmark(profile="certified")), "a")
    refused = made_certificate(CASE, causes=("the gradient is divided by the 2 ranks twice",))
    storage.save(_run(_benchmark(certificate=refused, profile="refused")), "b")
    older = _benchmark(profile="stored before there were certificates")
    del older["extra_info"][store.KEY]["certificate"]
    storage.save(_run(older), "c")
    assert store.newest(folder, case_id=CASE, identity=identity).result.profile == "certified"
    (folder / "0001_a.json").unlink()
    assert store.newest(folder, case_id=CASE, identity=identity) is None
    # It still is a record to compare with.
    assert store.unpack(older, where="here").certificate is None


def test_a_certificate_that_is_damaged_is_refused_by_file():
    damaged = copy.deepcopy(_benchmark())
    damaged["extra_info"][store.KEY]["certificate"]["figures"] = 3
    with pytest.raises(StoreError, match=r"^0001_a\.json holds no valid certificate"):
        store.unpack(damaged, where="0001_a.json")


def test_the_newest_records_search_refuses_a_damaged_file_that_it_meets(storage, folder):
    storage.save(_run(_benchmark()), "a")
    (folder / "0002_b.json").write_text('{"benchmarks": [')
    with pytest.raises(StoreError, match=r"0002_b\.json is no stored run"):
        store.newest(folder, case_id=CASE, identity=f"identity of {CASE}")


def test_a_whole_result_stays_small_enough_to_be_stored():
    """A thousand steps on eight ranks are a few hundred kilobytes, in which nothing is rounded."""
    times = tuple(0.1 + step / 3e7 for step in range(1000))
    result = made_result(
        "resnet18-ddp-8gpu-bs8", *(made_report(rank, 8, step_s=times, loss=times) for rank in range(8))
    )
    text = json.dumps(store.pack(result, None, made_certificate(result.case_id)))
    assert len(text) < 500_000
    assert store.unpack({"extra_info": json.loads(text)}, where="here").result == result
