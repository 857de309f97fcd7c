"""`history`: a case over the stored runs of a machine, with every gated figure and the changes that were accepted."""

from __future__ import annotations

import csv
import io

import pytest

from harness.__main__ import main
from harness.report.past import spark
from tests.made_runs import made_stored, write_run

CASE = "resnet18-ddp-2gpu-bs8"
NIGHT = "0002_0123456789abcdef0123456789abcdef01234567_20260102_030405.json"


@pytest.fixture
def runs(tmp_path):
    """Three runs of a machine: accepted, a night that was found bad, and one in which the slowdown was accepted."""
    here = tmp_path / "2-core-made"
    write_run(here / "0001_accepted.json", made_stored(CASE), made_stored("resnet18-fsdp2-2gpu-bs8"))
    write_run(here / NIGHT, made_stored(CASE, slower=1.3, started_unix_s=1_700_000_100.0), verdict="regressed")
    write_run(
        here / "0003_accepted.json",
        made_stored(CASE, slower=1.3, started_unix_s=1_700_000_200.0),
        verdict="regressed",
        commit="fedcba98" * 5,
    )
    write_run(here / "0004_accepted.json", made_stored(CASE, slower=1.3), verdict="passed")
    return tmp_path


@pytest.fixture
def tell(runs, capsys, monkeypatch):
    """Return a function that asks for a history: the exit code, output and errors."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(case=CASE, *options):
        code = main(["history", case, "--runs", str(runs), *options])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_each_run_is_a_row_oldest_first_with_its_mark(tell):
    code, out, err = tell()
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith("000")}
    night = NIGHT.removesuffix(".json")
    assert list(rows) == ["0001_accepted+", f"{night}-", "0003_accepted+", "0004_accepted"]
    # 10 ms a step beside 8 ms of the plain loop, and .4 % for layouts; 30 % more from the second run on.
    assert [row[2] for row in rows.values()] == ["1.255", "1.631", "1.631", "1.631"]
    assert [row[-1] for row in rows.values()] == ["new", "regressed", "regressed", "passed"]
    assert rows["0003_accepted+"][1] == "fedcba98"
    assert "  + accepted: it began a level, which later runs are held to" in out.splitlines()
    assert "  - history: nobody accepted it, so that nothing is held to it" in out.splitlines()


def test_each_figure_has_its_course_in_a_line(tell):
    lines = tell()[1].splitlines()
    assert "same work  |.@@@| 1.255 to 1.631, +30.0% since first" in lines
    assert "accuracy   |----| 87.5 % to 87.5 %, +0.0% since first" in lines


def test_a_course_is_denser_where_the_figure_is_larger_and_tells_what_is_not_known():
    assert spark([1.0, 2.0, None, 3.0]) == ".+?@"
    assert spark([5.0, 5.0]) == "--"
    assert spark([None]) == "?"


def test_csv_has_every_digit_and_the_unit_in_each_name(tell):
    code, out, _ = tell(CASE, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [row["mark"] for row in rows] == ["accepted", "history", "accepted", ""]
    assert {"step_time_s", "peak_memory_bytes", "same_work_ratio", "accuracy_share"} <= rows[0].keys()
    assert float(rows[0]["step_time_s"]) == 0.2
    assert rows[0]["map"] == "" == rows[0]["mask_map"]


def test_a_run_that_cannot_be_compared_with_the_one_before_says_so(runs, tell):
    here = runs / "2-core-made"
    write_run(here / "0005_accepted.json", made_stored(CASE, hardware="other"), verdict="new")
    write_run(here / "0006_accepted.json", made_stored(CASE, identity="other"), verdict="new")
    out = tell()[1]
    assert "  0005_accepted: other hardware under the same name; its time is not comparable" in out.splitlines()
    assert "  0006_accepted: another set-up than the run before it; not comparable" in out.splitlines()


def test_each_machine_has_its_own_history(runs, tell):
    write_run(runs / "8-core-made" / "0001_accepted.json", made_stored(CASE, host="8-core-made"), host="8-core-made")
    both = tell()[1]
    assert both.count("stored run") == 2
    assert "8-core-made" not in tell(CASE, "--host", "2-core-made")[1]
    code, _, err = tell(CASE, "--host", "9-core-made")
    assert code == 2
    assert "did you mean" in err


@pytest.mark.parametrize("case", ["resnet18-dpd-2gpu-bs8", "resnet18-ddp-2gpu", ""])
def test_an_unknown_case_gets_a_suggestion(tell, case):
    code, out, err = tell(case)
    assert (code, out) == (2, "")
    assert "did you mean 'resnet18-ddp-2gpu-bs8'?" in err or "known: resnet18-ddp-2gpu-bs8" in err


def test_without_stored_runs_it_says_how_to_make_one(tmp_path, capsys):
    assert main(["history", CASE, "--runs", str(tmp_path)]) == 2
    assert "--benchmark-save" in capsys.readouterr().err
    assert main(["history", CASE, "--runs", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [60, 80])
def test_its_lines_fit_the_terminal(runs, tell, monkeypatch, columns):
    (runs / "2-core-made" / NIGHT).unlink()
    monkeypatch.setenv("COLUMNS", str(columns))
    assert max(map(len, tell()[1].splitlines())) <= columns
