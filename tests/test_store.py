"""Stored runs: sealed, written whole or not at all, never replaced, and refused by name when they are not what was."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import StoreError
from harness.stored import reading, store
from tests.made import ANY_SPEED, made_certificate, made_report, made_result

CASE = "resnet18-ddp-2gpu-bs8"
STATS = {"min": 0.2, "max": 0.2, "mean": 0.2, "stddev": 0.0, "median": 0.2, "rounds": 4, "data": [0.2] * 4}


def _benchmark(case_id=CASE, reference=None, certificate=None, verdict="passed", reasons=(), **over):
    """Return one benchmark as pytest-benchmark stores it; certified, unless another certificate is given."""
    certificate = certificate or made_certificate(case_id)
    held = store.pack(made_result(case_id, **over), reference, certificate, verdict=verdict, reasons=reasons)
    name = f"test_train[{case_id}]"
    fullname = f"benches/test_classification.py::{name}"
    return {"name": name, "fullname": fullname, "group": None, "params": {}, "extra_info": held, "stats": dict(STATS)}


def _run(*benchmarks):
    return {
        "machine_info": {"node": "2-core-made"},
        "commit_info": {},
        "benchmarks": list(benchmarks),
        "version": "5.3.1",
    }


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
        verdict="passed",
        reasons=(),
    )


def test_what_could_not_be_stored_is_refused_before_it_is_measured(tmp_path, storage, folder):
    storage.refuse_unwritable()
    assert _names(folder) == []
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file", Path("/dev/null/stored")):
        other = store.BaselineStorage(str(path), logging.getLogger("test"), "2-core-made")
        with pytest.raises(StoreError, match=r"could not be stored in .*/2-core-made: .*--benchmark-storage"):
            other.refuse_unwritable()


def test_the_reasons_of_a_verdict_are_stored_with_it(storage):
    storage.save(_run(_benchmark(verdict="regressed", reasons=("slower", "larger"))), "a")
    ((_, run),) = storage.load()
    assert store.unpack(run["benchmarks"][0], where="here").reasons == ("slower", "larger")


def test_a_record_of_before_there_were_reasons_is_read():
    benchmark = copy.deepcopy(_benchmark())
    del benchmark["extra_info"][store.KEY]["reasons"]
    assert store.unpack(benchmark, where="here").reasons is None


@pytest.mark.parametrize("reasons", ["slower", [3], {"why": "slower"}, 0])
def test_reasons_that_are_no_texts_are_refused(reasons):
    benchmark = copy.deepcopy(_benchmark())
    benchmark["extra_info"][store.KEY]["reasons"] = reasons
    with pytest.raises(StoreError, match=r"^0001_a\.json holds reasons that are no texts"):
        store.unpack(benchmark, where="0001_a.json")


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


WHOLE_RUN = _run(_benchmark())
SEALED = store.sealed(WHOLE_RUN)
TEXT = json.dumps(SEALED)


def _edited(old, new):
    assert TEXT.count(old) == 1
    return TEXT.replace(old, new).encode()


def _resealed(change):
    """Return a run that was changed before it was sealed."""
    run = copy.deepcopy(WHOLE_RUN)
    change(run["benchmarks"][0])
    return json.dumps(store.sealed(run)).encode()


def _without_seal(**over):
    return json.dumps({key: value for key, value in (SEALED | over).items() if key != store.SEAL}).encode()


def _set_schema(bench):
    bench["extra_info"][store.KEY]["result"]["schema_version"] = 2


def _drop_verdict(bench):
    del bench["extra_info"][store.KEY]["verdict"]


WRONG_FILES = {
    "empty": (b"", "is truncated: it ends within its JSON, after 0 bytes"),
    "truncated": (TEXT.encode()[:-200], "is truncated: it ends within its JSON, after"),
    "truncated behind a table": (TEXT.encode()[: TEXT.rindex("}, ") + 1], "is truncated"),
    "truncated in a text": (TEXT.encode()[: TEXT.index("fullname") + 4], "is truncated"),
    "text": (b"no JSON at all", "is no JSON"),
    "bytes": (b"\xff\xfe\x00", "is no stored run ('utf-8' codec"),
    "list": (b"[1, 2]", "is no stored run: it holds no table"),
    "number": (b"3", "is no stored run: it holds no table"),
    "deep": (b"[" * 200_000, "nested too deeply"),
    "deep tables": (b'{"benchmarks":' * 100_000, "nested too deeply"),
    "long number": (b'{"benchmarks": ' + b"9" * 5000 + b"}", "is no stored run"),
    "NaN": (_edited('"wall_s": 6.5', '"wall_s": NaN'), "holds NaN, which no measurement is"),
    "infinite": (_edited('"wall_s": 6.5', '"wall_s": Infinity'), "holds Infinity, which no"),
    "negative infinite": (_edited('"wall_s": 6.5', '"wall_s": -Infinity'), "holds -Infinity, which no"),
    "read as infinite": (
        _edited('"wall_s": 6.5', '"wall_s": 1e999'),
        "holds 1e999, a number beyond all that can be calculated with",
    ),
    "foreign": (b'{"results": []}', "has no list of benchmarks"),
    "no list": (b'{"benchmarks": 3}', "has no list of benchmarks"),
    "no benchmarks": (b'{"benchmarks": ["a", "b"]}', "benchmark 0 has no name"),
    "name no text": (b'{"benchmarks": [{"fullname": 3}]}', "benchmark 0 has no name"),
    "no stats": (b'{"benchmarks": [{"fullname": "a::b", "name": "b", "extra_info": {}}]}', "a::b has no mean"),
    "no seal": (_without_seal(), "has no seal: an older suite wrote it, or something else"),
    "seal of nothing": (_edited(f'"{SEALED[store.SEAL]}"', "null"), "was changed after it was written"),
    "one digit": (_edited('"wall_s": 6.5', '"wall_s": 6.4'), "was changed after it was written"),
    "one word": (_edited('"verdict": "passed"', '"verdict": "Passed"'), "was changed after it was written"),
    "more": (_edited('{"machine_info"', '{"added": 1, "machine_info"'), "was changed after it was written"),
    "schema": (_resealed(_set_schema), "of schema 2, and this suite reads schema 1; delete it and record again"),
    "no verdict": (
        _resealed(_drop_verdict),
        f"holds benches/test_classification.py::test_train[{CASE}] without a verdict",
    ),
}


@pytest.mark.parametrize(("content", "said"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_file_that_is_not_what_was_written_is_refused_in_its_own_words_and_none_is_touched(
    storage, folder, content, said
):
    storage.save(_run(_benchmark()), "a")
    (folder / "0002_b.json").write_bytes(content)
    held = {path: path.read_bytes() for path in folder.iterdir()}
    for refused in (
        lambda: list(storage.load()),
        lambda: list(storage.load("0002")),
        lambda: store.read_run(folder / "0002_b.json"),
    ):
        with pytest.raises(StoreError) as error:
            refused()
        assert str(error.value).startswith(f"{folder}/0002_b.json ")
        assert said in str(error.value)
        assert str(error.value).endswith("record again with --benchmark-save")
    assert len(list(storage.load("0001"))) == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == held


def test_any_one_byte_that_is_changed_is_seen(folder):
    """Except between figures, and where the same figure is spelled otherwise."""
    folder.mkdir(parents=True)
    file = folder / "0001_a.json"
    text = json.dumps(SEALED, separators=(",", ":"))
    file.write_text(text)
    store.read_run(file)
    for place in range(0, len(text), 97):
        file.write_text(text[:place] + ("7" if text[place] != "7" else "8") + text[place + 1 :])
        # Two writes within one tick of the file system's clock are one time to it.
        os.utime(file, ns=(place, place))
        with pytest.raises(StoreError):
            store.read_run(file)


def test_both_ways_of_writing_are_sealed_and_the_layout_does_not_matter(storage, folder, tmp_path):
    storage.save(WHOLE_RUN, "a")
    wide = tmp_path / "run.json"
    wide.write_text(json.dumps(dict(reversed(SEALED.items())), indent=4))
    assert store.read_run(wide) == store.read_run(folder / "0001_a.json") == SEALED
    # Sealed once more, as where both pytest-benchmark's hook and the storage do it, nothing changes.
    assert store.sealed(SEALED) == SEALED


def test_what_json_cannot_hold_is_sealed_as_it_is_written(storage, folder):
    odd = WHOLE_RUN | {"odd": {1: (math.pi, object), "text": "\u00fc\ud800"}}
    storage.save(odd, "a")
    assert store.read_run(folder / "0001_a.json")["odd"]["1"][0] == math.pi


@pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_no_number_is_not_stored(storage, folder, figure):
    with pytest.raises(StoreError, match="this run is not stored, for a figure in it is no number"):
        storage.save(WHOLE_RUN | {"odd": [figure]}, "a")
    assert not folder.exists() or _names(folder) == []


def test_a_file_is_parsed_once_until_it_changes(storage, folder, monkeypatch):
    storage.save(_run(_benchmark()), "a")
    file = folder / "0001_a.json"
    read = []
    plain = reading.read
    monkeypatch.setattr(reading, "read", lambda file, **words: read.append(file) or plain(file, **words))
    list(storage.load())
    list(storage.load("0001"))
    assert store.read_run(file)
    assert len(read) == 1
    os.utime(file, ns=(1, 1))
    assert store.read_run(file)
    assert len(read) == 2


def test_a_run_in_another_hosts_folder_is_refused_with_where_it_belongs(storage, folder, monkeypatch):
    storage.save(_run(_benchmark()), "a")
    other = _run(_benchmark()) | {"machine_info": {"node": "4-core-other"}}
    (folder / "0002_b.json").write_text(json.dumps(store.sealed(other)))
    with pytest.raises(
        StoreError,
        match=r"0002_b\.json was recorded on '4-core-other' and lies among the runs of '2-core-made': "
        r"move it to baselines/4-core-other/",
    ):
        list(storage.load())
    assert len(list(storage.load("0001"))) == 1
    # A file that is named where it lies is anybody's.
    elsewhere = folder.parents[1] / "run.json"
    (folder / "0002_b.json").rename(elsewhere)
    assert [path for path, _ in storage.load(str(elsewhere))] == [elsewhere]
    monkeypatch.chdir(elsewhere.parent)
    assert [path for path, _ in storage.load("run.json")] == [elsewhere]


def test_a_file_that_cannot_be_read_is_refused(folder):
    (folder / "0001_a.json").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"0001_a\.json cannot be read \(Is a directory\)"):
        store.read_run(folder / "0001_a.json")
    with pytest.raises(StoreError, match=r"0002_a\.json cannot be read \(No such file or directory\)"):
        store.read_run(folder / "0002_a.json")


@pytest.mark.parametrize("extra", [{}, {"other": 3}])
def test_a_benchmark_of_somebody_elses_is_no_case(extra):
    assert store.unpack(_benchmark() | {"extra_info": extra}, where="here") is None


def test_a_record_without_a_verdict_is_refused():
    with pytest.raises(StoreError, match=r"^0001_a\.json holds no verdict"):
        benchmark = copy.deepcopy(_benchmark())
        _drop_verdict(benchmark)
        store.unpack(benchmark, where="0001_a.json")


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


def test_a_certificate_that_is_damaged_is_refused_by_file():
    damaged = copy.deepcopy(_benchmark())
    damaged["extra_info"][store.KEY]["certificate"]["figures"] = 3
    with pytest.raises(StoreError, match=r"^0001_a\.json holds no valid certificate"):
        store.unpack(damaged, where="0001_a.json")


def test_a_whole_result_stays_small_enough_to_be_stored():
    """A thousand steps on eight ranks are a few hundred kilobytes, in which nothing is rounded."""
    times = tuple(0.1 + step / 3e7 for step in range(1000))
    result = made_result(
        "resnet18-ddp-8gpu-bs8", *(made_report(rank, 8, step_s=times, loss=times) for rank in range(8))
    )
    text = json.dumps(store.pack(result, None, made_certificate(result.case_id), verdict="new"))
    assert len(text) < 500_000
    assert store.unpack({"extra_info": json.loads(text)}, where="here").result == result


def test_a_run_is_written_by_name_whole_or_not_at_all_and_takes_no_devices_place(tmp_path):
    file = tmp_path / "run.json"
    store.write_run(file, WHOLE_RUN)
    assert store.read_run(file) == SEALED
    with pytest.raises(StoreError, match="is not stored"):
        store.write_run(file, WHOLE_RUN | {"odd": math.nan})
    assert store.read_run(file) == SEALED
    assert [one.name for one in tmp_path.iterdir()] == ["run.json"]
    with pytest.raises(OSError, match="No space left on device"):
        store.write_run(Path("/dev/full"), WHOLE_RUN)
    assert Path("/dev/full").is_char_device()
