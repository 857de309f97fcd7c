"""Reports as files: refused before anything runs, or written; tables for other programs, traces for viewers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.__main__ import main
from harness.case import Case
from harness.errors import HarnessError, StoreError
from harness.report import files, rows, traces
from harness.report.stored import of_stored
from harness.results import EpochReport
from harness.stored import store
from tests.made import made_call, made_report, made_result, made_trace
from tests.made_runs import REGISTRY, made_outcome, made_run, made_stored, node, write_run

GOOD, BAD = "resnet18-ddp-1gpu-bs8", "resnet18-fsdp2-2gpu-bs8"


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.pdf", "no report ends in '.pdf'"), ("a", "it has no ending"), (".md", "has no ending")],
)
def test_an_unknown_ending_is_refused_naming_the_known_ones(tmp_path, name, said):
    with pytest.raises(HarnessError, match=r"known: \.html, \.md, \.csv, \.parquet") as refused:
        files.refuse_unwritable(tmp_path / name)
    assert said in str(refused.value)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(HarnessError, match="there is no folder"):
        files.refuse_unwritable(tmp_path / "none" / "a.md")
    (tmp_path / "b.md").mkdir()
    with pytest.raises(HarnessError, match="is a folder"):
        files.refuse_unwritable(tmp_path / "b.md")
    assert files.refuse_unwritable(tmp_path / "a.MD") == tmp_path / "a.MD"


def test_every_ending_has_a_writer_that_leaves_a_whole_file_or_none(tmp_path):
    run = made_run(made_outcome(GOOD), made_outcome(BAD, "regressed"))
    endings = [ending for ending in files.WRITERS if ending != ".html"]  # which has tests of its own, and takes longer
    for ending in endings:
        files.write(run, tmp_path / f"run{ending}")
        assert (tmp_path / f"run{ending}").stat().st_size > 100
        with pytest.raises(StoreError, match="cannot be written"):
            files.write(run, tmp_path / "none" / f"run{ending}")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"run{ending}" for ending in endings)


# ------------------------------------------------------------------------------------------- CSV and Parquet


def _read(tmp_path, run, ending):
    import pandas

    file = tmp_path / f"run{ending}"
    rows.write(run, file)
    return pandas.read_csv(file, keep_default_na=True) if ending == ".csv" else pandas.read_parquet(file)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_case_is_a_row_with_units_in_the_names(tmp_path, ending):
    table = _read(tmp_path, made_run(made_outcome(GOOD), made_outcome(BAD, "regressed")), ending).set_index("case")
    good, bad = table.loc[GOOD], table.loc[BAD]
    assert (good.gpus, good.step_ms, good.images_per_s, good.val_accuracy) == (1, 200, 40, 0.875)
    assert (bad.verdict, bad.reference, bad.baseline) == ("regressed", GOOD, "2-core-made/0001_accepted.json")
    assert bad.reason.startswith("regressed: same work: +5.2%")
    assert bad.same_work_change_percent == pytest.approx(5.2)
    assert (bad.same_work_change_low_percent, bad.same_work_sees_percent) == pytest.approx((4.1, 3.4))
    assert bad.isna().machine_change_percent
    assert (bad.test, bad.torch) == (node(BAD), "2.15.0")


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_what_was_not_measured_has_a_row_that_says_why(tmp_path, ending):
    full = Case.parse("resnet18-zero1-1gpu-bs8")
    run = made_run(
        made_outcome(GOOD),
        out_of_memory={full: "rank 0 needed more"},
        failed={node("resnet18-zero3-2gpu-bs8"): "rank 1 died"},
        skipped={node(str(full)): "out of memory, see the table", node("resnet18-dp-2gpu-bs8"): "needs CUDA"},
        tests={Case.parse(GOOD): node(GOOD), full: node(str(full))},
    )
    table = _read(tmp_path, run, ending)
    assert list(zip(table.case, table.verdict, strict=True)) == [
        (GOOD, "passed"),
        (str(full), "out of memory"),
        ("resnet18-zero3-2gpu-bs8", "failed"),
        ("resnet18-dp-2gpu-bs8", "skipped"),
    ]
    assert list(table.reason)[1:] == ["rank 0 needed more", "rank 1 died", "needs CUDA"]
    assert list(table.step_ms.isna()) == [False, True, True, True]


def test_columns_and_their_types_are_the_same_whatever_a_run_holds():
    empty, full = rows.frame(made_run()), rows.frame(made_run(made_outcome(GOOD), made_outcome(BAD)))
    assert list(empty.dtypes.items()) == list(full.dtypes.items())


def test_scores_of_the_test_split_are_columns_where_there_are_any():
    outcome = made_outcome(GOOD)
    tested = replace(outcome, result=made_result(GOOD, made_report(), test_scores={"accuracy": 0.5}, best_epoch=2))
    assert rows.frame(made_run(tested)).test_accuracy.tolist() == [0.5]


def test_no_cell_of_a_csv_is_a_formula(tmp_path):
    run = made_run(made_outcome(GOOD), failed={"x": '=HYPERLINK("a")', "y": "@sum", "z": "-1+1"})
    rows.write(run, tmp_path / "run.csv")
    table = _read(tmp_path, run, ".csv")
    assert list(table.reason[1:]) == ['\'=HYPERLINK("a")', "'@sum", "'-1+1"]
    # A program reads what was said.
    assert list(_read(tmp_path, run, ".parquet").reason[1:]) == ['=HYPERLINK("a")', "@sum", "-1+1"]


# ----------------------------------------------------------------------------------------------------- traces


def test_a_trace_has_each_ranks_steps_compute_and_collectives(tmp_path):
    ranks = [
        made_trace(data=(0, 10), compute=[(10, 40), (50, 60)], calls=[made_call("all_reduce", 40, 50)]) for _ in "ab"
    ]
    outcome = made_outcome(BAD)
    outcome = replace(outcome, result=replace(outcome.result, traces=tuple(ranks)))
    written = traces.write(made_run(made_outcome(GOOD), outcome), tmp_path / "report.html")
    assert written == {BAD: f"report_traces/{BAD}.json"}
    events = json.loads((tmp_path / written[BAD]).read_text())["traceEvents"]
    spans = [(e["pid"], e["tid"], e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
    assert (0, 0, "step 0", 0, pytest.approx(100_000)) in spans
    assert (1, 1, "compute", pytest.approx(10_000), pytest.approx(30_000)) in spans
    assert (1, 2, "all_reduce", pytest.approx(40_000), pytest.approx(10_000)) in spans
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {"rank 0 on cpu", "rank 1 on cpu"}


def test_without_traced_cases_nothing_is_written(tmp_path):
    assert traces.write(made_run(made_outcome(GOOD)), tmp_path / "report.html") == {}
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------- of a stored run


def test_a_stored_run_is_told_with_its_history_and_what_it_was_held_to(tmp_path):
    first = write_run(tmp_path / "2-core-made" / "0001_accepted.json", made_stored(GOOD))
    second = write_run(
        tmp_path / "2-core-made" / "0002_accepted.json",
        made_stored(GOOD, started_unix_s=1_700_000_100.0),
        made_stored(BAD),
        verdict="passed",
        commit="0123456789abcdef" * 2 + "01234567",
    )
    run = of_stored(second, REGISTRY)
    assert [str(outcome.case) for outcome in run.outcomes] == [GOOD, BAD]
    assert (run.host, run.profile, run.commit[:8], run.exit_code) == ("2-core-made", "smoke", "01234567", None)
    good, bad = run.outcomes
    assert [stored.where for stored in good.baseline.level] == ["2-core-made/0001_accepted.json"]
    assert bad.baseline.level == ()
    assert len(run.history[good.case]) == 2
    assert run.tests[good.case] == node(GOOD)
    assert of_stored(first, REGISTRY).outcomes[0].baseline.level == ()


def test_a_stored_verdict_is_told_with_the_reasons_that_its_run_had(tmp_path):
    why = "same work: +5.2% (95 % interval +4.1% to +6.3%), 25 processes against 5 of 1 stored runs"
    file = write_run(tmp_path / "2-core-made" / "0001_a.json", made_stored(BAD), verdict="regressed", reasons=[why])
    pages = [tmp_path / f"told{ending}" for ending in (".html", ".md", ".csv")]
    assert main(["report", str(file), *(part for page in pages for part in ("-o", str(page)))]) == 0
    for page in pages:
        assert why in page.read_text()


def test_a_run_that_was_stored_without_reasons_says_so(tmp_path):
    file = write_run(tmp_path / "2-core-made" / "0001_a.json", made_stored(BAD), verdict="regressed", reasons=["slow"])
    content = json.loads(file.read_text())
    del content["benchmarks"][0]["extra_info"][store.KEY]["reasons"]
    file.write_text(json.dumps(store.sealed(content)))
    (outcome,) = of_stored(file, REGISTRY).outcomes
    assert outcome.verdict.reasons == ()
    assert outcome.verdict.note.startswith("that run was stored without its reasons")


def test_a_case_that_was_stored_without_a_certificate_is_left_out_and_named(tmp_path):
    file = write_run(tmp_path / "a" / "0001_made.json", made_stored(GOOD), certificate=None)
    run = of_stored(file, REGISTRY)
    assert run.outcomes == ()
    assert "without a certificate" in run.skipped[node(GOOD)]


def test_a_stored_run_is_written_as_any_report(tmp_path, capsys):
    file = write_run(tmp_path / "2-core-made" / "0001_accepted.json", made_stored(GOOD), made_stored(BAD))
    out = [tmp_path / f"told{ending}" for ending in (".md", ".csv", ".parquet")]
    assert main(["report", str(file), *(part for path in out for part in ("-o", str(path)))]) == 0
    assert all(path.stat().st_size for path in out)
    assert GOOD in out[0].read_text()
    told = capsys.readouterr().out.splitlines()
    assert told == [f"written: {path}" for path in out]


@pytest.mark.parametrize(
    ("run", "output", "said"),
    [("none.json", "a.md", "there is no file"), ("0009", "a.md", "no stored run '0009'"), ("0001", "a.doc", "'.doc'")],
)
def test_what_cannot_be_told_is_one_clear_error(tmp_path, capsys, run, output, said):
    write_run(tmp_path / "2-core-made" / "0001_accepted.json", made_stored(GOOD))
    assert main(["report", run, "-o", str(tmp_path / output), "--runs", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_score_that_only_some_metric_has_is_missing_elsewhere():
    scored = EpochReport(seconds=1.0, steps=2, scores={"map": 0.25})
    detector = made_outcome("fasterrcnn_r18-ddp-1gpu-bs2")
    detector = replace(detector, result=made_result("fasterrcnn_r18-ddp-1gpu-bs2", made_report(epochs=(scored,))))
    table = rows.frame(made_run(made_outcome(GOOD), detector))
    assert table.val_map.isna().tolist() == [True, False]
