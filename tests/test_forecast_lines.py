"""The lines of the forecast: every number has its place, every assumption is said, n/a where nothing is known."""

from __future__ import annotations

from harness.anatomy.forecast import Measured, Moved, Overlap, errors, forecast
from harness.anatomy.links import Fabric, Link, fabric
from harness.report.forecast import published, render, validation

MB = 10**6
ONE = Fabric(node=Link(name="made", latency_s=1e-3, bytes_per_s=100e6))


def _forecast(counts=(1, 4), joined=ONE, **over):
    facts = {
        "name": "resnet18-ddp-bs8",
        "ranks": 2,
        "step_s": (0.2,) * 6,
        "collectives": lambda ranks: [Moved(kind="all_reduce", calls=2, size_bytes=8 * MB)],
        "overlap": Overlap(hidden_s=0.01, exposed_s=0.05, beside_s=0.1),
        "memory_bytes": lambda ranks: 2**30 * (1 + 1 / ranks),
    }
    return forecast(Measured(**(facts | over)), joined, counts)


def _text(*forecasts):
    return " ".join("\n".join(render(forecasts)).split())


def test_a_count_of_gpus_has_a_line():
    rows = [line.split() for line in render([_forecast()])]
    assert ["1", "150.0", "150.0-150.0", "1.00", "100%", "0.00", "0.00", "2.00", "GiB"] in rows
    # 132 ms of communication, 10 hidden: 150 + 122.
    assert ["4", "272.0", "272.0-272.0", "2.21", "55%", "132.0", "122.0", "1.25", "GiB"] in rows


def test_what_is_not_known_is_not_zero():
    rows = [line.split() for line in render([_forecast(step_s=(0.2,), memory_bytes=None)])]
    assert ["4", "272.0", "n/a", "2.21", "55%", "132.0", "122.0", "n/a"] in rows


def test_it_is_said_what_was_measured_and_over_which_links():
    text = _text(_forecast(counts=[8], joined=fabric("nvlink4*8+ndr*4")))
    assert "resnet18-ddp-bs8, from 6 steps on 2 GPUs, over nvlink4 (371 GB/s each way, 82% of nominal" in text
    assert "between nodes of 8 GPUs 4 x ndr (48.5 GB/s each way, 97% of nominal, 14 us a message)" in text


def test_what_is_known_of_the_overlap_is_said():
    assert "overlap: a step hides 10.0 ms" in _text(_forecast())
    hidden = Overlap(hidden_s=0.05, exposed_s=0.05, beside_s=0.1)
    assert "all but the last calls was hidden, 50.0 ms; a step is taken to hide up to 100.0 ms" in _text(
        _forecast(overlap=hidden)
    )
    assert "overlap: not seen on 1 GPU; none is assumed" in _text(_forecast(ranks=1))


def test_it_is_said_whether_the_slowest_rank_counts():
    assert "its being slower among more is left out" in _text(_forecast())
    assert "varies by 20.0 ms (sd), normally" in _text(_forecast(rank_sd_s=0.02))


def test_every_assumption_is_printed_once():
    text = _text(_forecast(), _forecast())
    for words in ("batch per GPU is kept", "a device, cores", "one call of each kind", "nobody else uses", "95 %"):
        assert text.count(words) == 1


def test_errors_are_printed_with_the_largest_in_words():
    lines = list(validation("4 ranks from 2", errors({"a": 1.1, "b": 0.5}, {"a": 1.0, "b": 1.0}), unit="s"))
    assert [line.split() for line in lines] == [
        ["4", "ranks", "from", "2"],
        ["predicted", "s", "measured", "s", "error"],
        ["a", "1.1", "1", "+10.0%"],
        ["b", "0.5", "1", "-50.0%"],
        ["largest", "error", "-50.0%", "(b)"],
    ]


def test_published_scaling_is_printed_with_what_was_found():
    text = " ".join("\n".join(published()).split())
    assert "zero1, 4 GPUs over 2 1.986 1.7 +16.8%" in text
    assert "which cannot be" in text


def test_no_line_is_wider_than_80():
    longest = "fasterrcnn_r50-fairscale_fsdp-bs16"
    every = [
        *render([_forecast(counts=[1, 1024], joined=fabric("nvlink4*8+ndr*4"), rank_sd_s=0.02, step_s=(9.9,) * 6)]),
        *validation("4 ranks from 2", errors({longest: 1.0}, {longest: 2.0}), unit="s"),
        *published(),
    ]
    assert max(map(len, every)) <= 80


def test_nothing_forecast_has_no_lines():
    assert list(render([])) == []
    assert list(validation("nothing", [], unit="s")) == []
