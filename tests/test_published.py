"""Published figures are stored once, with their source, and what cannot be right among them is found on reading."""

from __future__ import annotations

import json

import pytest

from harness.errors import StoreError
from harness.published import FOLDER, load

STUDIES = ("detection", "vit", "strategies", "dataparallel", "anchors")


def _figure(name, value, **over):
    return {"name": name, "unit": "s", "axes": {}, "values": [value]} | over


@pytest.fixture
def made(tmp_path):
    """Return a function that writes and reads a file of published figures."""

    def read(*figures, **over):
        facts = {
            "schema_version": 1,
            "study": "made",
            "title": "made",
            "source": "this test",
            "hardware": "none",
            "figures": figures,
        }
        file = tmp_path / "made.json"
        file.write_text(json.dumps(facts | over))
        return load(file)

    return read


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_has_a_file_with_its_source(study):
    found = load(FOLDER / f"{study}.json")
    assert found.study == study
    assert found.source
    assert found.figures


def test_figures_are_as_they_were_printed():
    detection = load(FOLDER / "detection.json")
    assert detection.row("epoch_s", strategy="zero1", gpus=4) == (342, 338, 340, 341, 340)
    assert detection.row("map", strategy="ddp", gpus=2)[-1] == 0.1359
    assert load(FOLDER / "strategies.json").value("power", strategy="ddp") == 112.84
    assert load(FOLDER / "dataparallel.json").value("speedup", batch=32, gpus=4) == 0.35


def test_what_was_not_published_for_some_axes_is_none_and_a_name_that_there_is_not_is_refused():
    detection = load(FOLDER / "detection.json")
    assert detection.value("epoch_s", strategy="zero3", gpus=2) is None
    assert detection.row("epoch_s", strategy="zero3", gpus=2) == ()
    with pytest.raises(StoreError, match="published figures of detection have no 'epochs_s'"):
        detection.value("epochs_s", strategy="ddp", gpus=2)


def test_the_printed_mistakes_are_found_and_nothing_else():
    data_parallel = load(FOLDER / "dataparallel.json")
    found = {one.what: one.why for one in data_parallel.mistakes()}
    assert found["speedup (batch 32, 4 GPUs)"] == "printed 0.35, but 15.8855 / 17.3871 is 0.91"
    assert "23.8 alone exceeds it" in found["communication s (batch 32, 4 GPUs)"]
    # One GPU at batch 512 takes 2.3797 s in one table, and 9.8217 s in the other.
    assert found["epoch s (batch 512, 1 GPU)"].endswith("4.1 times apart")
    assert len(found) == 5
    assert data_parallel.right("speedup", batch=32, gpus=4) == pytest.approx(0.9136, abs=1e-4)
    assert data_parallel.right("speedup", batch=128, gpus=4) == 0.86
    for study in ("detection", "vit", "strategies", "anchors"):
        assert load(FOLDER / f"{study}.json").mistakes() == ()


@pytest.mark.parametrize(("printed", "wrong"), [(1.98, False), (1.97, True), (1.99, True), (2.1, True)])
def test_a_ratio_may_be_off_by_its_rounding_and_no_more(made, printed, wrong):
    ratio = {"above": {"name": "a", "axes": {}}, "below": {"name": "b", "axes": {}}}
    told = made(_figure("a", 9.89), _figure("b", 5.0), _figure("x", printed, ratio=ratio, decimals=2))
    # 9.89 / 5 = 1.978
    assert bool(told.mistakes()) == wrong


def test_a_part_that_exceeds_its_whole_and_a_figure_told_twice_are_found(made):
    whole = {"name": "whole", "axes": {}}
    told = made(
        _figure("whole", 10.0),
        _figure("rest", 6.0),
        _figure("part", 5.0, part_of=whole, beside=[{"name": "rest", "axes": {}}]),
        _figure("again", 12.0, same_as=whole),
    )
    assert [one.what for one in told.mistakes()] == ["part", "again"]
    assert "5 + 6 = 11 s of a whole of 10" in told.mistakes()[0].why


@pytest.mark.parametrize(
    ("figures", "over", "says"),
    [
        ((), {"schema_version": 2}, "schema_version.*reads schema 1"),
        ((), {"sauce": "x"}, "sauce"),
        ((_figure("a", float("nan")),), {}, "holds NaN, which no measurement is"),
        ((_figure("a", 1, values=[]),), {}, "figures.0.values"),
        ((_figure("a", 1, values=[1, 2]),), {}, "what they follow"),
        ((_figure("a", 1, decimals=2),), {}, "a ratio needs the decimals"),
        ((_figure("a", 1), _figure("a", 2)), {}, "have 'a' twice"),
        ((_figure("a", 1, same_as={"name": "a", "axes": {"gpus": 2}}),), {}, "is named and not there"),
        ((_figure("a", 1, part_of={"name": "b", "axes": {}}),), {}, "no 'b'"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_place(made, figures, over, says):
    with pytest.raises(StoreError, match=says):
        made(*figures, **over)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"nowhere\.json cannot be read"):
        load(tmp_path / "nowhere.json")
