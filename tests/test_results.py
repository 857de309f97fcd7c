"""Records come back as they were written, and what is no record is refused whole."""

from __future__ import annotations

import json
import os
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import results
from harness.errors import StoreError
from harness.records.account import Account
from harness.records.ceilings import Ceilings, Loaded
from harness.records.samples import RankSamples, Samples
from harness.records.telemetry import GpuReading, Telemetry
from harness.records.trace import RankTrace
from harness.results import EpochReport, Failure, Memory, RankReport, Repeat, Result, result_from_json, result_to_json
from tests.made import ANY_SPEED, made_report, made_result

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
COUNTS = st.integers(0, 2**53)
FIGURES = st.floats(allow_nan=False, allow_infinity=False)
SERIES = st.lists(FIGURES, max_size=4).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | COUNTS | FIGURES | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
NAMED = st.dictionaries(TEXTS, JSON, max_size=3)
MEMORIES = st.builds(
    Memory,
    peak_allocated_bytes=st.none() | COUNTS,
    peak_reserved_bytes=st.none() | COUNTS,
    peak_resident_bytes=st.none() | COUNTS,
)
FAILURES = st.builds(
    Failure,
    kind=TEXTS,
    message=TEXTS,
    phase=TEXTS,
    traceback=TEXTS,
    expected=st.booleans(),
    unix_time=FIGURES,
    step=st.none() | COUNTS,
)
EPOCHS = st.builds(
    EpochReport,
    seconds=FIGURES,
    steps=COUNTS,
    scores=st.none() | st.dictionaries(TEXTS, FIGURES, max_size=3),
    learning_rate=st.none() | FIGURES,
)
REPORT_FIELDS = {
    "rank": COUNTS,
    "node": COUNTS,
    "world_size": COUNTS,
    "device": TEXTS,
    "device_name": TEXTS,
    "cores": st.lists(COUNTS, max_size=3).map(tuple),
    "threads": COUNTS,
    "failure": st.none() | FAILURES,
    "step_s": SERIES,
    "data_wait_s": SERIES,
    "loss": SERIES,
    "warmup_steps": COUNTS,
    "epochs": st.lists(EPOCHS, max_size=2).map(tuple),
    "memory": MEMORIES,
    "phases_s": st.dictionaries(TEXTS, FIGURES, max_size=3),
    "parameters": st.none() | COUNTS,
    "trained_parameters": st.none() | COUNTS,
    "weights": TEXTS,
    "train_images": st.none() | COUNTS,
    "val_images": st.none() | COUNTS,
    "extra": NAMED,
}
REPORTS = st.builds(RankReport, **REPORT_FIELDS)
MICROS = st.lists(COUNTS, max_size=3).map(tuple)
RANK_SAMPLES = st.builds(
    RankSamples,
    case_us=st.just((10_000, 11_000)),
    plain_us=MICROS,
    convolution_us=MICROS,
    product_us=MICROS,
    collective_us=MICROS,
)
SAMPLES = st.builds(
    Samples,
    stage=st.sampled_from(["screen", "confirm"]),
    started_unix_s=FIGURES,
    wall_s=FIGURES,
    settled_after=st.none() | COUNTS,
    steps=COUNTS,
    references=st.dictionaries(TEXTS, TEXTS, max_size=2),
    ranks=st.lists(RANK_SAMPLES, min_size=1, max_size=2).map(tuple),
    watched=st.none(),
)
RESULT_FIELDS = {
    "case_id": TEXTS,
    "profile": TEXTS,
    "identity": TEXTS,
    "dataset": TEXTS,
    "settings": NAMED,
    "host": TEXTS,
    "launcher": TEXTS,
    "conditions": TEXTS,
    "versions": st.dictionaries(TEXTS, TEXTS, max_size=3),
    "oversubscribed": st.booleans(),
    "wall_s": FIGURES,
    "started_unix_s": FIGURES,
    "repeats": st.lists(st.builds(Repeat, seed=COUNTS, epochs=st.lists(EPOCHS, max_size=2).map(tuple)), max_size=2).map(
        tuple
    ),
    "ranks": st.lists(
        st.builds(
            RankReport,
            **(
                REPORT_FIELDS
                | {"step_s": st.just((0.5,)), "data_wait_s": st.just((0.25,)), "loss": st.just((1.0, 2.0))}
                | {"epochs": st.just((EpochReport(seconds=1.0, steps=2, scores={"accuracy": 0.5}),))}
            ),
        ),
        min_size=1,
        max_size=2,
    ).map(tuple),
    "samples": st.lists(SAMPLES, max_size=2).map(tuple),
    "beside": st.lists(SAMPLES, max_size=2).map(tuple),
    "plain_s": st.none() | FIGURES,
    "hardware": TEXTS,
    "best_epoch": st.none() | COUNTS,
    "test_scores": st.dictionaries(TEXTS, FIGURES, max_size=2),
    "confusion": st.lists(MICROS, max_size=2).map(tuple),
    "resumed": TEXTS,
}
st.register_type_strategy(float, FIGURES)  # a record holds no NaN
st.register_type_strategy(str, TEXTS)
st.register_type_strategy(
    GpuReading,
    st.builds(
        GpuReading,
        violation_ns=st.dictionaries(TEXTS, COUNTS, max_size=2),
        processes=st.none() | st.dictionaries(COUNTS, st.sampled_from(["own", "other", "unknown"]), max_size=2),
    ),
)
RECORDS = {"accounts": Account, "traces": RankTrace, "loaded": Loaded, "ceilings": Ceilings, "telemetry": Telemetry}
# Large as they are they are drawn one at a time, in a test of their own.
RESULT_FIELDS |= {"accounts": st.just(()), "traces": st.just(()), "loaded": st.just(())}
RESULT_FIELDS |= {"ceilings": st.none(), "telemetry": st.none(), "watched": st.none()}
RESULTS = st.builds(Result, **RESULT_FIELDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reports")


@ANY_SPEED
@given(report=REPORTS)
def test_a_report_comes_back_as_it_was_written(folder, report):
    results.write_report(report, folder / "rank0.json")
    assert results.read_report(folder / "rank0.json") == report


@ANY_SPEED
@given(result=RESULTS)
def test_a_result_comes_back_from_json_as_it_was(result):
    text = json.dumps(result_to_json(result), allow_nan=False)
    assert result_from_json(json.loads(text), where="here") == result


@pytest.mark.parametrize("name", RECORDS)
@settings(ANY_SPEED, max_examples=15)
@given(data=st.data())
def test_what_further_runs_add_comes_back_as_it_was(name, data):
    record = data.draw(st.from_type(RECORDS[name]))
    result = made_result(**{name: record if name in ("ceilings", "telemetry") else (record,)})
    text = json.dumps(result_to_json(result), allow_nan=False)
    assert result_from_json(json.loads(text), where="here") == result


def test_a_result_that_was_stored_before_there_were_seeds_has_one():
    data = result_to_json(made_result())
    del data["repeats"]
    assert result_from_json(data, where="here") == made_result()


def test_the_last_scores_are_those_of_every_seed_in_order():
    """None for a seed that has none, so that seeds of two strategies stay paired."""

    def epochs(*scores):
        return tuple(EpochReport(seconds=1.0, steps=2, scores=score) for score in scores)

    repeats = (
        Repeat(seed=1, epochs=epochs({"accuracy": 0.25}, {"accuracy": 0.75})),
        Repeat(seed=2, epochs=epochs({"accuracy": 0.5}, None)),
        Repeat(seed=3, epochs=()),
    )
    assert made_result(repeats=repeats).last_scores("accuracy") == (0.875, 0.75, None, None)
    assert made_result(repeats=repeats).last_scores("map") == (None,) * 4
    assert made_result().last_scores("accuracy") == (0.875,)


def test_these_tests_draw_every_field():
    assert {field.name for field in fields(RankReport)} == REPORT_FIELDS.keys() | {"schema_version"}
    assert {field.name for field in fields(Result)} == RESULT_FIELDS.keys() | {"schema_version"}


def test_a_report_is_replaced_as_a_whole(tmp_path):
    """Who still reads the old one reads it to its end; who opens it now gets the new one."""
    file = tmp_path / "rank0.json"
    results.write_report(made_report(), file)
    whole = file.read_text()
    with file.open() as old:
        results.write_report(made_report(weights="other"), file)
        assert old.read() == whole
    assert results.read_report(file).weights == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["rank0.json"]


def test_a_full_disk_is_told_and_leaves_the_old_report(tmp_path):
    file = tmp_path / "rank0.json"
    results.write_report(made_report(), file)
    # Every write to this device fails for lack of space.
    (tmp_path / f".rank0.json.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"rank0\.json cannot be written: No space left on device; free or change"):
        results.write_report(made_report(weights="other"), file)
    assert results.read_report(file) == made_report()


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(StoreError, match="cannot be written: No such file or directory"):
        results.write_report(made_report(), tmp_path / "gone" / "rank0.json")


def test_a_failure_may_say_what_is_no_valid_unicode(tmp_path):
    """As the names of files do that are not UTF-8, and those in a damaged COCO JSON."""
    failure = Failure(
        kind="DataError",
        message="image caf\udce9.jpg cannot be read",
        phase="data",
        traceback="",
        expected=True,
        unix_time=1.0,
    )
    results.write_report(made_report(failure=failure), tmp_path / "rank0.json")
    assert "caf" in results.read_report(tmp_path / "rank0.json").failure.message


def _report_json(**over) -> dict:
    return json.loads(results._REPORT.dump_json(made_report())) | over


@pytest.mark.parametrize(
    ("over", "place"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"rank": "first"}, "rank"),
        ({"rank": 1.5}, "rank"),
        ({"rank": None}, "rank"),
        ({"step_s": 0.25}, "step_s"),
        ({"step_s": [0.25, "slow"]}, "step_s.1"),
        ({"step_s": [0.25, float("nan")]}, "step_s.1"),
        ({"loss": [float("inf")]}, "loss.0"),
        ({"memory": {"peak_bytes": 3}}, "memory.peak_bytes"),
        ({"epochs": [{"seconds": 1.0, "steps": 2, "scores": {"map": float("nan")}}]}, "epochs.0.scores.map"),
        ({"step_ms": []}, "step_ms"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_a_report_with_a_wrong_field_is_refused_with_its_place(tmp_path, over, place):
    file = tmp_path / "rank1.json"
    file.write_text(json.dumps(_report_json(**over)))
    with pytest.raises(StoreError) as refused:
        results.read_report(file)
    assert str(refused.value).startswith(f"report rank1.json is no report: {place}: ")


@pytest.mark.parametrize("absent", ["rank", "world_size", "device", "device_name"])
def test_a_report_without_a_field_it_needs_is_refused(tmp_path, absent):
    held = _report_json()
    del held[absent]
    (tmp_path / "rank1.json").write_text(json.dumps(held))
    with pytest.raises(StoreError, match=f"{absent}: "):
        results.read_report(tmp_path / "rank1.json")


def test_a_report_cut_off_anywhere_is_refused(tmp_path):
    file = tmp_path / "rank0.json"
    results.write_report(made_report(), file)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(StoreError, match=r"rank0\.json is no report: top level"):
            results.read_report(file)


@pytest.mark.parametrize(
    "content", [b"\xff\x00\x80", b"[]", b"null", b"[" * 100_000, b'{"rank": 1' + b"0" * 5000 + b"}"]
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, content):
    (tmp_path / "rank0.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"rank0\.json is no report"):
        results.read_report(tmp_path / "rank0.json")


def test_a_report_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StoreError, match=r"no report rank0\.json: No such file or directory"):
        results.read_report(tmp_path / "rank0.json")
    (tmp_path / "rank1.json").mkdir()
    with pytest.raises(StoreError, match=r"no report rank1\.json: Is a directory"):
        results.read_report(tmp_path / "rank1.json")


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_a_result_of_another_schema_is_refused_with_what_to_do(version):
    data = result_to_json(made_result()) | {"schema_version": version}
    with pytest.raises(StoreError) as refused:
        result_from_json(data, where="0001_run.json")
    assert str(refused.value) == (
        f"0001_run.json holds a result of schema {version!r}; this suite reads schema 1: "
        "record it again with --benchmark-save"
    )


@pytest.mark.parametrize("data", [None, [], "result", 3, {}, {"case_id": "net-ddp-1gpu-bs8"}])
def test_what_has_no_schema_is_no_result(data):
    with pytest.raises(StoreError, match="holds a result of schema None"):
        result_from_json(data, where="here")


@pytest.mark.parametrize(
    ("over", "place"),
    [
        ({"wall_s": float("nan")}, "wall_s"),
        ({"wall_s": "long"}, "wall_s"),
        ({"ranks": {}}, "ranks"),
        ({"ranks": [3]}, "ranks.0"),
        ({"ranks": [{"rank": 0}]}, "ranks.0.world_size"),
        ({"verdict": "passed"}, "verdict"),
        ({"settings": None}, "settings"),
        ({"oversubscribed": "perhaps"}, "oversubscribed"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_a_result_with_a_wrong_field_is_refused_with_its_place(over, place):
    with pytest.raises(StoreError) as refused:
        result_from_json(result_to_json(made_result()) | over, where="0001_run.json")
    assert str(refused.value).startswith(f"0001_run.json holds no valid result: {place}: ")


@pytest.mark.parametrize("steps", [[], [[0.5, 0.25], [0.5]]], ids=["no rank", "unequal ranks"])
def test_a_stored_result_whose_ranks_make_no_whole_is_refused(steps):
    """Every figure is a maximum or a mean over ranks, step by step."""
    data = result_to_json(made_result("resnet18-ddp-2gpu-bs8"))
    data["ranks"] = [rank | {"step_s": of_rank} for rank, of_rank in zip(data["ranks"], steps, strict=False)]
    with pytest.raises(StoreError, match=r"0001_run\.json holds no valid result"):
        result_from_json(data, where="0001_run.json")
