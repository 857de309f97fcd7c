"""Figures hold every number they were given, show what is not known as such, and are the same bytes each time."""

from __future__ import annotations

import csv
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.errors import StoreError
from harness.figures.charts import Point, Series, bars, lines, matrix, scatter, spreads, write
from harness.figures.drawing import short
from harness.figures.palette import FIXED, look_of, published_look

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"

DDP = Series(label="ddp", x=(1, 2, 3), y=(0.5, None, 0.25), strategy="ddp")
ZERO = Series(label="zero1", x=(1, 2, 3), y=(0.6, 0.5, 0.4), strategy="zero1")
THEIRS = Series(label="ddp", x=(1, 2), y=(0.7, 0.6), strategy="ddp", published=True)


def made_lines(*series, **over):
    facts = {"name": "loss", "title": "Loss of each epoch", "x_label": "epoch", "y_label": "loss"}
    return lines(series=series or (DDP, ZERO, THEIRS), **(facts | over))


def made_bars(**over):
    facts = {
        "name": "power",
        "title": "Power",
        "y_label": "W",
        "groups": ["ddp", "zero1"],
        "series": {"power": [112.5, None]},
        "published": {"power": [112.84, 87.72]},
    }
    return bars(**(facts | over))


POINTS = (
    Point(label="ddp", x=2.0, y=100.0, strategy="ddp"),
    Point(label="zero1", x=1.5, y=80.0, strategy="zero1"),
    Point(label="zero2", x=1.75, y=80.0, strategy="zero2"),
    Point(label="fsdp1", x=None, y=200.0, strategy="fsdp1"),
    Point(label="ddp", x=0.1, y=900.0, strategy="ddp", published=True),
)


def made_scatter(*points, **over):
    facts = {"name": "trade", "title": "Memory against speed", "x_label": "GiB", "y_label": "images/s"}
    return scatter(points=points or POINTS, **(facts | over))


def made_matrix(**over):
    facts = {"name": "confusion", "title": "Classes", "labels": ["cat", "dog"], "counts": [[8, 2], [0, 0]]}
    return matrix(x_label="predicted", y_label="true", **(facts | over))


def made_spreads(**over):
    groups = {"ddp": [1.0, 2.0, 3.0, 4.0, 5.0], "zero1": [7.0], "fsdp1": []}
    return spreads(**({"name": "steps", "title": "Time of a step", "x_label": "ms", "groups": groups} | over))


EVERY = (made_lines, made_bars, made_scatter, made_matrix, made_spreads)


def texts(figure):
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(figure.svg).iter(f"{SVG}text")]


def styles(figure):
    return [node.get("style", "") for node in ElementTree.fromstring(figure.svg).iter()]


@pytest.mark.parametrize("make", EVERY)
def test_every_figure_has_title_labels_and_text_as_text(make):
    figure = make()
    assert figure.svg.startswith("<svg")
    assert figure.png.startswith(b"\x89PNG")
    assert figure.title in texts(figure)
    assert ElementTree.fromstring(figure.svg).find(f"{SVG}title").text == figure.title
    expected = {made_lines: {"epoch", "loss"}, made_bars: {"W"}, made_scatter: {"GiB", "images/s"}}
    expected |= {made_matrix: {"predicted", "true", "share of the row"}, made_spreads: {"ms"}}
    assert expected[make] <= set(texts(figure))


@pytest.mark.parametrize("make", EVERY)
def test_two_figures_in_one_page_share_no_id_that_would_mix_them_up(make):
    marks = {node.get("id") for node in ElementTree.fromstring(make().svg).iter() if node.get("id")}
    # What is left are names made of what they hold.
    assert all(mark[0] in "mphi" and len(mark) > 10 for mark in marks), marks


@pytest.mark.parametrize("make", EVERY)
def test_the_ground_is_transparent(make):
    assert not any("fill: #ffffff" in style for style in styles(make()) if make is not made_matrix)


def test_the_same_figures_are_the_same_bytes_in_another_process():
    tell = (
        "import hashlib; from tests.test_charts import EVERY\n"
        "for make in EVERY:\n"
        "    figure = make()\n"
        "    print(hashlib.sha256(figure.svg.encode() + figure.png + figure.csv.encode()).hexdigest())"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", tell], cwd=ROOT, capture_output=True, text=True, check=True, env=env
        ).stdout
        for env in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "SOURCE_DATE_EPOCH": "86400"})
    ]
    assert told[0] == told[1]
    assert len(told[0].split()) == len(EVERY)


def test_drawing_leaves_the_readers_own_settings_as_they_were_and_heeds_none_of_them():
    import matplotlib

    usual = made_lines().svg
    with matplotlib.rc_context(
        {"lines.linewidth": 9, "axes.facecolor": "red", "svg.fonttype": "path", "font.family": "monospace"}
    ):
        assert made_lines().svg == usual
        assert matplotlib.rcParams["lines.linewidth"] == 9


def test_drawing_needs_no_global_state_of_pyplot():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from tests.test_charts import *\nmade_lines()\nprint('matplotlib.pyplot' in sys.modules)",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_lines_hold_their_numbers_in_full_and_say_what_is_published():
    figure = made_lines(Series(label="ddp", x=(1, 2), y=(1 / 3, None), strategy="ddp"), THEIRS)
    assert figure.head == ("", "epoch", "loss")
    assert figure.rows == (
        ("ddp", 1, 1 / 3),
        ("ddp", 2, None),
        ("ddp, published", 1, 0.7),
        ("ddp, published", 2, 0.6),
    )
    assert {"ddp", "ddp, published"} <= set(texts(figure))


def test_strategies_have_their_own_colours_and_published_ones_greyer():
    drawn = " ".join(styles(made_lines()))
    for look in (look_of("ddp"), look_of("zero1"), published_look(look_of("ddp"))):
        assert f"stroke: {look.colour}" in drawn


def test_a_value_that_is_not_known_leaves_a_gap():
    def strokes(series):
        figure = made_lines(series)
        paths = ElementTree.fromstring(figure.svg).iter(f"{SVG}path")
        own = [
            p.get("d") for p in paths if look_of("ddp").colour in p.get("style", "") and "fill: none" in p.get("style")
        ]
        return own[0].count("M")

    x = (1, 2, 3, 4, 5)
    assert strokes(Series(label="ddp", x=x, y=(1, 2, 3, 4, 5), strategy="ddp")) == 1
    assert strokes(Series(label="ddp", x=x, y=(1, 2, None, 4, 5), strategy="ddp")) == 2


def test_a_value_between_two_gaps_has_a_marker_however_long_the_line():
    def markers(y):
        series = Series(label="ddp", x=tuple(range(len(y))), y=tuple(y), strategy="ddp")
        return sum(1 for _ in ElementTree.fromstring(made_lines(series).svg).iter(f"{SVG}use"))

    whole = [1.0 + place for place in range(200)]
    holed = list(whole)
    holed[100], holed[102] = None, None
    assert markers(holed) == markers(whole) + 1


@pytest.mark.parametrize(
    "figure",
    [
        made_lines(Series(label="ddp", x=(1, 2), y=(None, None), strategy="ddp")),
        made_bars(series={"power": [None, None]}, published={}),
        made_bars(groups=[], series={"power": []}, published={}),
        made_scatter(Point(label="ddp", x=None, y=1.0)),
        spreads(name="n", title="t", x_label="x", groups={"ddp": []}),
        matrix(name="n", title="t", labels=[], counts=[], x_label="x", y_label="y"),
    ],
    ids=["lines", "bars", "no-bars", "scatter", "spreads", "matrix"],
)
def test_a_figure_of_nothing_says_so(figure):
    assert "n/a" in texts(figure)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"figure loss: mine is (nan|inf) at place 3; None says"):
        made_lines(Series(label="mine", x=(1, 2), y=(1.0, value)))
    with pytest.raises(ValueError, match="figure power: power is"):
        made_bars(series={"power": [1.0, value]})
    with pytest.raises(ValueError, match="figure trade: p is"):
        made_scatter(Point(label="p", x=1.0, y=value))


def test_numbers_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="ddp has 2 x and 1 y"):
        made_lines(Series(label="ddp", x=(1, 2), y=(1.0,)))
    with pytest.raises(ValueError, match="power has 3 values of 2 groups"):
        made_bars(series={"power": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="2 labels"):
        made_matrix(counts=[[1, 2]])


def made_equal(length, *values):
    x = tuple(range(length))
    names = ("ddp", "zero1", "zero3")
    return made_lines(*(Series(label=n, x=x, y=values or (1.0,) * length, strategy=n) for n in names))


def test_of_lines_that_coincide_each_has_its_slices_of_what_is_seen():
    dashes = {
        style.split("stroke-dasharray: ")[1].split(";")[0] + style.split("stroke-dashoffset: ")[1].split(";")[0]
        for style in styles(made_equal(30))
        if "stroke-dasharray" in style and "stroke-dashoffset" in style
    }
    assert {"6,12" + offset for offset in ("0", "6", "12")} <= dashes


def places(figure, name):
    """Return where the markers of a strategy are, the last of the legend left out."""
    uses = ElementTree.fromstring(figure.svg).iter(f"{SVG}use")
    return [float(node.get("x")) for node in uses if look_of(name).colour in node.get("style", "")][:-1]


@pytest.mark.parametrize("length", [1, 5, 30])
def test_of_lines_that_coincide_no_marker_hides_another(length):
    own = [places(made_equal(length), name) for name in ("ddp", "zero1", "zero3")]
    every = sorted(place for markers in own for place in markers)
    assert all(own)
    assert all(b - a > 5 for a, b in itertools.pairwise(every))


def test_markers_beside_each_other_stay_within_the_axes():
    figure = made_lines(*(Series(label=n, x=(1, 2, 3), y=(1, 2, 3), strategy=n) for n in FIXED))
    grid = [
        [float(number) for number in re.findall("[ML] ([0-9.]+)", node.get("d"))]
        for node in ElementTree.fromstring(figure.svg).iter(f"{SVG}path")
        if "stroke-opacity: 0.25" in node.get("style", "")
    ]
    left, right = min(x for xs in grid for x in xs), max(x for xs in grid for x in xs)
    every = [x for name in FIXED for x in places(figure, name)]
    assert left + 3 < min(every)
    assert max(every) < right - 3


def test_what_differs_by_rounding_alone_is_not_drawn_as_large_as_the_figure():
    first, second = (Series(label=n, x=(1, 2), y=(v, v), strategy=n) for n, v in (("ddp", 0.5), ("zero1", 0.5000001)))
    shown = [float(text) for text in texts(made_lines(first, second)) if text.startswith("0.")]
    assert max(shown) - min(shown) > 0.01


def test_the_ideal_line_is_in_the_table_and_y_begins_at_nothing():
    figure = made_lines(
        Series(label="ddp", x=(1, 2, 4), y=(1.0, 1.9, 3.5), strategy="ddp"),
        ideal=Series(label="ideal", x=(1, 2, 4), y=(1, 2, 4)),
    )
    assert figure.rows[-1] == ("ideal", 4, 4)
    assert "0" in texts(figure)
    assert "3" not in texts(figure)[: texts(figure).index("epoch")], "GPUs are numbered where they are"


def test_logarithmic_axes_number_what_there_is():
    batches = Series(label="1 GPU", x=(32, 128, 512, 2048), y=(21.2, 6.4, 2.4, 3.0))
    assert {"32", "128", "512", "2048", "5", "10", "20"} <= set(texts(made_lines(batches, log_x=True, log_y=True)))


def test_bars_tell_every_value_and_what_is_missing():
    figure = made_bars()
    assert figure.head == ("", "power", "power, published")
    assert figure.rows == (("ddp", 112.5, 112.84), ("zero1", None, 87.72))
    assert {"112", "113", "87.7", "n/a"} <= set(texts(figure))


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_group_without_a_bar_has_its_place_wherever_it_is(missing):
    values = [None if place == missing else 1.0 for place in range(3)]
    figure = made_bars(groups=["ddp", "zero1", "zero2"], series={"power": values}, published={"power": [1, 1, 1]})
    assert texts(figure).count("n/a") == 1
    spread = spreads(
        name="n",
        title="t",
        x_label="x",
        groups={n: [] if v is None else [v] for n, v in zip("abc", values, strict=True)},
    )
    assert texts(spread).count("n/a") == 1


def test_bars_have_the_look_of_their_groups_strategy_else_of_their_series():
    by_group = made_bars(published={})
    assert f"fill: {look_of('ddp').colour}" in " ".join(styles(by_group))
    by_series = made_bars(groups=["1 GPU", "2 GPUs"], series={"zero1": [1, 2], "ddp": [2, 3]}, published={})
    for name in ("ddp", "zero1"):
        assert f"fill: {look_of(name).colour}" in " ".join(styles(by_series))
    by_first_word = made_bars(groups=["zero3-2gpu-bs8", "mine-2gpu-bs8"], series={"p": [1, 2]}, published={})
    for name in ("zero3", "mine"):
        assert f"fill: {look_of(name).colour}" in " ".join(styles(by_first_word))
    told = made_bars(groups=["mine at 2", "b"], strategies={"mine at 2": "mine"}, published={})
    assert f"fill: {look_of('mine').colour}" in " ".join(styles(told))


def test_series_that_are_called_so_already_are_not_called_published_twice():
    assert made_bars(series={"here": [1, 2]}, published={"published": [3, 4]}).head == ("", "here", "published")


def test_stacked_bars_tell_their_sum_and_no_sum_of_what_is_not_known():
    figure = bars(
        name="parts",
        title="Parts of an epoch",
        y_label="s",
        groups=["32", "128"],
        series={"compute": [15.5, 8.5], "communication": [11.4, None]},
        stacked=True,
    )
    assert {"26.9", "n/a", "compute", "communication"} <= set(texts(figure))
    assert "8.50" not in texts(figure)
    assert figure.rows == (("32", 15.5, 11.4), ("128", 8.5, None))


def test_the_front_has_what_no_other_beats_and_nothing_published():
    figure = made_scatter()
    front = {row[0]: row[3] for row in figure.rows}
    assert front == {"ddp": "yes", "zero1": "yes", "zero2": "no", "fsdp1": "no", "ddp, published": "no"}
    assert made_scatter(front=False).head == ("", "GiB", "images/s")


def test_of_two_equal_points_both_are_on_the_front():
    pair = [Point(label=name, x=1.0, y=1.0, strategy=name) for name in ("ddp", "zero1")]
    assert [row[3] for row in made_scatter(*pair).rows] == ["yes", "yes"]


def test_a_matrix_tells_counts_and_a_class_without_images_has_no_shares():
    figure = made_matrix()
    assert figure.head == ("true / predicted", "cat", "dog")
    assert figure.rows == (("cat", 8, 2), ("dog", 0, 0))
    assert {"8", "2"} <= set(texts(figure))


def test_a_matrix_of_a_hundred_classes_names_only_as_many_as_there_is_room_for():
    counts = [[10 if row == column else 0 for column in range(100)] for row in range(100)]
    figure = made_matrix(labels=[str(place) for place in range(100)], counts=counts)
    assert len(figure.rows) == 100
    assert "96" in texts(figure)
    assert "97" not in texts(figure)


def test_spreads_tell_count_range_quartiles_and_median():
    assert made_spreads().rows == (
        ("ddp", 5, 1.0, 2.0, 3.0, 4.0, 5.0),
        ("zero1", 1, 7.0, 7.0, 7.0, 7.0, 7.0),
        ("fsdp1", 0, None, None, None, None, None),
    )


def test_several_series_of_one_strategy_are_of_its_colour_and_told_apart():
    two, four = (Series(label=f"ddp {n} GPUs", x=(1, 2), y=(n, n), strategy="ddp") for n in (2, 4))
    uses = ElementTree.fromstring(made_lines(two, four).svg).iter(f"{SVG}use")
    own = [
        node.get("{http://www.w3.org/1999/xlink}href") for node in uses if look_of("ddp").colour in node.get("style")
    ]
    assert len(own) == 6, "two points of each, and one in the legend"
    assert len(set(own)) == 2


def test_a_name_that_looks_like_a_formula_or_markup_is_shown_as_it_is():
    figure = made_lines(Series(label="$a_b$ & <c>", x=(1,), y=(1.0,)), title="a < b & $c$")
    assert "$a_b$ & <c>" in texts(figure)
    assert "a < b & $c$" in texts(figure)


def test_a_long_title_is_broken_within_the_figure():
    title = "faster R-CNN with ResNet-50 FPN on COCO 2017, 4 GPUs, batch 8 per GPU: mAP@[.5:.95] after each epoch"
    shown = [text for text in texts(made_lines(title=title)) if text in title and len(text) > 20]
    assert len(shown) > 1
    assert max(map(len, shown)) <= 50


def test_files_hold_drawing_picture_and_table(tmp_path):
    files = write([made_lines(), made_bars()], tmp_path / "new" / "figures")
    names = {file.name for file in files}
    assert names == {f"{name}.{ending}" for name in ("loss", "power") for ending in ("svg", "png", "csv")}
    assert {file.name for file in (tmp_path / "new" / "figures").iterdir()} == names
    with files[2].open(newline="") as text:
        assert list(csv.reader(text))[1:4] == [["ddp", "1", "0.5"], ["ddp", "2", "n/a"], ["ddp", "3", "0.25"]]
    assert files[0].read_text() == made_lines().svg


def test_one_name_for_two_figures_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="two figures are named loss"):
        write([made_lines(), made_lines()], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_leaves_no_half_of_a_file(tmp_path):
    write([made_lines()], tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    # Every write to this device fails for lack of space.
    (tmp_path / f".loss.svg.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="No space left on device; free or change the folder"):
        write([made_lines(title="another")], tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


NUMBERS = {
    0: "0",
    1: "1.00",
    2.5: "2.50",
    1234.5: "1,234",
    0.001234: "0.00123",
    -2.0: "-2.00",
    9.999: "10.0",
    1e12: "1.00e+12",
}


@pytest.mark.parametrize("value", NUMBERS)
def test_numbers_are_written_in_three_digits(value):
    assert short(value) == NUMBERS[value]
