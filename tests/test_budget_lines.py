"""The lines of the time budget: what was found in words, and n/a where nothing is known."""

from __future__ import annotations

from harness.case import Case
from harness.report.budget import render
from tests.made import made_call as call
from tests.made import made_trace as trace

CASE = Case.parse("resnet18-ddp-2gpu-bs8")
MB = 250_000


def _two(**of_first):
    late = trace(update=(0, 100), compute=[(0, 60)], calls=[call("all_reduce", 60, 62, elements=8 * MB)])
    made = {"update": (0, 100), "compute": [(0, 30)], "calls": [call("all_reduce", 30, 62, elements=8 * MB)]}
    return [trace(**(made | of_first)), late]


def _text(traces, **over):
    return "\n".join(render(traces, **over))


def test_a_case_has_a_line_that_adds_up():
    lines = _text({CASE: _two()}).splitlines()
    head = next(line for line in lines if line.startswith("resnet18"))
    (row,) = [line for line in lines if line.startswith("ddp-2gpu-bs8  100.0 ms")]
    cells = dict(zip(head.split()[1:], row.replace(" ms", "").split()[1:], strict=False))
    assert (cells["compute"], cells["comm"], cells["late"], cells["host"]) == ("45%", "2%", "15%", "38%")
    assert row.endswith("compute")


def test_who_is_waited_for_is_said():
    assert "ddp-2gpu-bs8: the others wait 30.0 ms a step for rank 1" in _text({CASE: _two()})


def test_a_collective_has_a_line_with_its_share_of_the_best():
    text = _text({CASE: _two()}, ceiling={2: {"all_reduce": 5e9}})
    (row,) = [line for line in text.splitlines() if "all_reduce" in line]
    # 8 MB in 2 ms by two ranks: busbw 4 GB/s, of 5.
    assert row.split() == ["ddp-2gpu-bs8", "all_reduce", "1", "7.6", "2.0", "4.00", "80%", "0%", "15.0"]
    assert "n/a" in _text({CASE: _two()})


def test_what_is_not_known_is_not_zero():
    text = _text({CASE: _two(queued=None)})
    (row,) = [line for line in text.splitlines() if line.startswith("ddp-2gpu-bs8  100.0 ms")]
    assert row.split()[-3:] == ["n/a", "0%", "compute"]


def test_a_large_remainder_is_flagged():
    assert "9.0% of the step is not explained: more than 2%" in _text({CASE: [trace(update=(0, 91))]})
    assert "not explained:" not in _text({CASE: [trace(update=(0, 99))]})


def test_what_the_profiler_adds_is_said():
    assert "the profiler adds +25% to a step, at most +25%" in _text({CASE: _two()})


def test_compute_alone_stands_beside_the_step():
    ranks = [trace(unsynchronised_s=(0.05, 0.06, 0.07)), trace(unsynchronised_s=(0.04, 0.05, 0.06))]
    assert "without synchronisation the same step takes 60.0 of 80.0 ms" in _text({CASE: ranks})


def test_what_more_is_known_takes_the_place_of_the_word():
    assert "  memory" in _text({CASE: _two()}, bound={CASE: "memory"})


def test_its_tables_are_no_wider_than_other_lines():
    case = Case.parse("fasterrcnn_r18-fairscale_sdp-4gpu-bs16")
    table = [line for line in render({case: _two()}) if line.startswith(("fair", "per", "---", "faster"))]
    assert max(map(len, table)) <= 100


def test_nothing_traced_has_no_lines():
    assert list(render({})) == []
