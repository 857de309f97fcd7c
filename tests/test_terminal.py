"""The table at the end: every figure is its metric's, what is absent says so, and it fits on a screen."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from harness.case import Case
from harness.gate.limits import Verdict
from harness.profiles import Profile
from harness.registry import discover
from harness.report.terminal import plain_strike, render, skipped, terminal_strike
from harness.results import EpochReport, Memory
from harness.running.pipeline import Outcome
from tests.made import GIB, made_baseline, made_certificate, made_host, made_report, made_result

NAMES = ("step_time", "throughput", "speedup", "efficiency", "peak_memory", "loss", "accuracy", "map")
METRICS = {name: discover().find("metrics", name) for name in NAMES}
PROFILE = Profile(name="made", about="a few words about it", case_timeout_s=1)


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Give the table room for all of its columns."""
    monkeypatch.setenv("COLUMNS", "120")


def _outcome(case_id, *, reference=None, note="", word="passed", step_s=0.2, **over):
    gpus = Case.parse(case_id).gpu_count
    causes = ("the gradient is halved",) if word == "uncertified" else ()
    ranks = (made_report(rank, gpus, step_s=(9.0, *[step_s] * 4)) for rank in range(gpus))
    return Outcome(
        case=Case.parse(case_id),
        result=made_result(case_id, *ranks, **over),
        reference=reference,
        reference_note=note,
        verdict=Verdict(word=word),
        certificate=made_certificate(case_id, causes=causes),
        baseline=made_baseline(),
    )


def _render(*outcomes, extra=None, strike=plain_strike) -> list[str]:
    extra = {result.case_id: result for result in extra or ()}
    return list(
        render(
            outcomes,
            extra=extra,
            metrics=METRICS.values(),
            profile=PROFILE,
            host=made_host(cores=2),
            strike=strike,
        )
    )


def _tables(lines) -> list[list[dict[str, str]]]:
    """Return each table's rows, cells by the head of their column."""
    tables = []
    for number, line in enumerate(lines):
        if re.fullmatch(r"-+( +-+)+", line):
            spans = [match.span() for match in re.finditer(r"-+", line)]
            rows = []
            for row in lines[number + 1 :]:
                # Notes are indented, and an empty line ends a model.
                if not row or row.startswith("  "):
                    break
                rows.append({lines[number - 1][a:b].strip(): row[a:b].strip() for a, b in spans})
            tables.append(rows)
    return tables


def test_every_cell_is_its_metrics_own_figure():
    reference = _outcome("resnet18-ddp-1gpu-bs8", step_s=0.25)
    outcomes = [
        replace(reference, reference=reference.result),
        _outcome("resnet18-zero2-2gpu-bs8", reference=reference.result, step_s=0.3),
        _outcome("resnet18-fsdp2-4gpu-bs8", reference=reference.result, step_s=0.9),
    ]
    (rows,) = _tables(_render(*outcomes))
    assert [row.pop("case") for row in rows] == ["ddp-1gpu-bs8", "zero2-2gpu-bs8", "fsdp2-4gpu-bs8"]
    by_title = {metric.title: metric for metric in METRICS.values() if metric.name != "map"}
    for row, outcome in zip(rows, outcomes, strict=True):
        told = {title: metric.value(outcome.result, outcome.reference) for title, metric in by_title.items()}
        shown = {title: by_title[title].show(value) for title, value in told.items()}
        assert row == shown | {"same": "=", "verdict": "passed"}
    # And so that this test is not only the code said again:
    assert rows[1] == {
        "step": "300.0 ms",
        "images/s": "53.3",
        "speedup": "1.67x",
        "effic.": "83%",
        "peak mem": "0.500 GiB",
        "loss": "0.750",
        "accuracy": "87.5 %",
        "same": "=",
        "verdict": "passed",
    }


def test_columns_stand_in_the_metrics_order_and_only_where_some_case_has_the_figure():
    detector = made_report(epochs=(EpochReport(seconds=1.0, steps=2, scores={"map": 0.415}),), memory=Memory())
    outcome = _outcome("fasterrcnn_r18-ddp-1gpu-bs4")
    outcome = replace(outcome, result=made_result("fasterrcnn_r18-ddp-1gpu-bs4", detector))
    ((row,),) = _tables(_render(outcome))
    assert list(row) == ["case", "step", "images/s", "loss", "mAP", "same", "verdict"]
    assert row["mAP"] == ".415"


def test_what_one_case_lacks_is_not_a_number():
    reference = _outcome("resnet18-ddp-1gpu-bs8").result
    alone = _outcome("resnet18-zero1-2gpu-bs8", note="the reference failed")
    (rows,) = _tables(_render(_outcome("resnet18-zero2-2gpu-bs8", reference=reference), alone))
    assert (rows[0]["speedup"], rows[0]["effic."]) == ("2.00x", "100%")
    assert (rows[1]["speedup"], rows[1]["effic."]) == ("n/a", "n/a")


def test_ranks_that_shared_cores_are_marked_and_the_mark_is_explained():
    lines = _render(_outcome("resnet18-ddp-2gpu-bs8"), _outcome("resnet18-ddp-4gpu-bs8", oversubscribed=True))
    (rows,) = _tables(lines)
    assert [row["case"] for row in rows] == ["ddp-2gpu-bs8", "ddp-4gpu-bs8*"]
    assert [line for line in lines if line.startswith("  *")] == [
        "  * more ranks than cores: it ran, but its timing says little and is not gated"
    ]
    assert not any("*" in line for line in _render(_outcome("resnet18-ddp-2gpu-bs8")))


def test_the_reference_is_named_and_stands_in_the_table_even_if_no_test_asked_for_it():
    reference = _outcome("resnet18-ddp-1gpu-bs8").result
    outcome = _outcome("resnet18-zero2-2gpu-bs8", reference=reference)
    of_another_model = _outcome("resnet50-ddp-1gpu-bs8").result
    lines = _render(outcome, extra=[reference, of_another_model])
    (rows,) = _tables(lines)
    assert [row["case"] for row in rows] == ["zero2-2gpu-bs8", "ddp-1gpu-bs8"]
    assert (rows[1]["speedup"], rows[1]["verdict"]) == ("1.00x", "reference")
    assert "  speedup against resnet18-ddp-1gpu-bs8" in lines


def test_a_reference_that_a_test_asked_for_stands_there_once():
    reference = _outcome("resnet18-ddp-1gpu-bs8")
    (rows,) = _tables(_render(reference, extra=[reference.result]))
    assert len(rows) == 1


def test_every_case_has_its_verdict_be_there_something_to_compare_with_or_not():
    words = ("regressed", "incomparable", "unresolved", "improved", "passed", "new")
    cases = [f"resnet18-ddp-2gpu-bs{1 << place}" for place in range(len(words))]
    (rows,) = _tables(_render(*(_outcome(case, word=word) for case, word in zip(cases, words, strict=True))))
    assert [row["verdict"] for row in rows] == [*words]


def test_the_speed_of_a_case_that_is_not_certified_is_struck_through_and_nothing_else():
    reference = _outcome("resnet18-ddp-1gpu-bs8").result
    sound = _outcome("resnet18-zero1-2gpu-bs8", reference=reference)
    lines = _render(sound, _outcome("resnet18-zero2-2gpu-bs8", word="uncertified"))
    (rows,) = _tables(lines)
    assert rows[1] == {
        "case": "zero2-2gpu-bs8",
        "step": "~~200.0 ms~~",
        "images/s": "~~80.0~~",
        "speedup": "n/a",
        "effic.": "n/a",
        "peak mem": "0.500 GiB",
        "loss": "0.750",
        "accuracy": "87.5 %",
        "same": "NO",
        "verdict": "uncertified",
    }
    assert "~" not in "".join(value for name, value in rows[0].items())
    assert "  struck through: not certified to do the same training, so its speed says nothing" in lines
    assert not any("struck through" in line for line in _render(sound))


def test_a_terminal_strikes_through_without_moving_a_column():
    outcomes = [_outcome("resnet18-zero1-2gpu-bs8"), _outcome("resnet18-zero2-2gpu-bs8", word="uncertified")]
    lines = _render(*outcomes, strike=terminal_strike)
    assert sum("\x1b[9m200.0 ms\x1b[0m" in line for line in lines) == 1
    # As wide as if nothing were struck through: what a terminal does not show has no width.
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in lines] == _render(*outcomes, strike=str)


def test_each_model_has_a_table_headed_by_what_it_was_trained_on():
    lines = _render(
        _outcome("resnet18-ddp-1gpu-bs8"), _outcome("resnet50-ddp-1gpu-bs8"), _outcome("resnet18-ddp-2gpu-bs8")
    )
    assert [len(rows) for rows in _tables(lines)] == [2, 1]
    assert lines[0] == "profile made: a few words about it"
    assert lines[1].startswith("machine 2-core-made: ")
    # One line where it fits a hundred columns, else broken between words.
    assert (
        "resnet18 on digits: 256 training and 100 validation images of 16x16 pixels, 2 epochs, 11.2 M parameters"
        in " ".join(line.strip() for line in lines)
    )
    assert "  weights: random initialisation" in lines


def test_notes_are_counted_not_repeated():
    outcomes = [_outcome(f"resnet18-{name}-2gpu-bs8", note="the reference failed") for name in ("zero1", "zero2")]
    lines = _render(*outcomes, _outcome("resnet18-zero3-2gpu-bs8", note="another"))
    assert "  the reference failed (2 cases)" in lines
    assert "  another" in lines


def test_a_run_whose_steps_wait_for_data_says_by_how_much():
    def waited(case_id, *of_ranks, **over):
        count = len(of_ranks)
        ranks = [made_report(n, count, data_wait_s=(9.0, *[wait] * 4)) for n, wait in enumerate(of_ranks)]
        return replace(_outcome(case_id), result=made_result(case_id, *ranks, **over))

    lines = _render(
        waited("resnet18-ddp-2gpu-bs8", 0.01, 0.05),
        waited("resnet18-zero1-2gpu-bs8", 0.018, 0.001),
        waited("resnet18-zero2-2gpu-bs8", 0.3, 0.3),
        waited("resnet18-ddp-4gpu-bs8", *[0.1] * 4, oversubscribed=True),
    )
    told = " ".join(" ".join(lines).split())
    assert (
        "loader-bound: 25% of the step waits for data in ddp-2gpu-bs8, 100% of the step waits for data in "
        "zero2-2gpu-bs8; raise loader_workers in the profile"
    ) in told
    assert told.count("waits for data") == 2
    assert "loader-bound" not in "\n".join(_render(_outcome("resnet18-ddp-1gpu-bs8")))


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
@pytest.mark.parametrize(
    ("model", "step_s", "score"), [("resnet18", 0.98765, "accuracy"), ("fasterrcnn_r18", 9.8765, "map")]
)
def test_every_line_fits_the_terminal_and_what_has_no_room_is_named(monkeypatch, model, step_s, score, columns):
    """With the longest name of a strategy, and figures as long as they become on a CPU."""
    monkeypatch.setenv("COLUMNS", str(columns))
    longest = max(discover().strategies, key=len)
    facts = {
        "step_s": (step_s,) * 3,
        "memory": Memory(peak_resident_bytes=3 * GIB),
        "epochs": (EpochReport(seconds=1.0, steps=2, scores={score: 0.415}),),
    }
    case_id = f"{model}-{longest}-4gpu-bs8"
    outcome = replace(
        _outcome(case_id, reference=_outcome(f"{model}-ddp-1gpu-bs8").result, word="regressed"),
        result=made_result(case_id, *(made_report(rank, 4, **facts) for rank in range(4)), oversubscribed=True),
    )
    lines = _render(outcome)
    ((row,),) = _tables(lines)
    assert max(map(len, lines)) <= columns
    # The verdict, the certificate and what the clock is gated by have room everywhere.
    assert {"case", "step", "speedup", "same", "verdict"} <= row.keys()
    told = re.search(r"no room for (.*?): COLUMNS=", " ".join(" ".join(lines).split()))
    named = told[1].split(", ") if told else []
    titles = {"case", "step", "images/s", "speedup", "effic.", "peak mem", "loss", METRICS[score].title}
    assert row.keys() | set(named) == titles | {"same", "verdict"}
    assert bool(named) == (columns < 100)


def test_columns_that_nothing_is_gated_by_go_first(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    reference = _outcome("resnet18-ddp-1gpu-bs8")
    outcomes = [_outcome("resnet18-fairscale_fsdp-2gpu-bs8", reference=reference.result, word="unresolved")]
    ((row,),) = _tables(_render(*outcomes))
    assert list(row) == ["case", "step", "speedup", "peak mem", "accuracy", "same", "verdict"]


def test_how_closely_a_case_trains_as_the_reference_is_a_sign_that_is_explained():
    lines = _render(_outcome("resnet18-ddp-1gpu-bs8"), _rounded("resnet18-zero3-1gpu-bs8"))
    ((first, second),) = _tables(lines)
    assert (first["same"], second["same"]) == ("=", "~")
    assert "= bit for bit, ~ within rounding, NO not at all" in " ".join(" ".join(lines).split())


def _rounded(case_id):
    outcome = _outcome(case_id)
    return replace(outcome, certificate=made_certificate(case_id, found="rounding"))


def test_skips_are_grouped_by_reason_the_most_frequent_first():
    assert list(skipped(["needs CUDA", "no such package", "needs CUDA"])) == [
        "    2 x needs CUDA",
        "    1 x no such package",
    ]
    assert list(skipped([])) == []
