"""The HTML report: the answer first, every figure with its numbers, nothing from outside obeyed, nothing fetched."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from harness.anatomy import memory
from harness.case import Case
from harness.figures.palette import look_of
from harness.records.telemetry import CoreReading, Measured, Reading, Telemetry
from harness.report import html
from harness.report.html import beside, drawings, panels
from harness.results import EpochReport
from tests import browser
from tests.made import made_account, made_baseline, made_call, made_report, made_result, made_trace
from tests.made_runs import REGISTRY, made_outcome, made_run, node

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'--> {{ 7 * 7 }} \u2028"
FAILED = "resnet18-zero1-2gpu-bs8"
IDS = (
    "resnet18-ddp-1gpu-bs8",
    "resnet18-ddp-2gpu-bs8",
    "resnet18-fsdp2-2gpu-bs8",
    FAILED,
    "vit_tiny-ddp-1gpu-bs8",
)
STEP_S = dict(zip(IDS, (0.2, 0.22, 0.4, 0.3, 0.05), strict=True))


def sampled():
    """Return what a machine of two cores told four times, one of them idle in between."""
    readings = tuple(
        Reading(
            at_s=10.0 + at,
            cores={
                core: CoreReading(processes=100 * at * (1 - core), interrupts=0, stolen=0, idle=100 * at * core)
                for core in (0, 1)
            },
        )
        for at in range(4)
    )
    return Telemetry(
        interval_s=1.0,
        ticks_per_s=100,
        memory_total_bytes=2**33,
        gpus=(),
        zones=(),
        readings=readings,
        names={},
        missing={"energy of the processor": "no such counter under /sys/class/powercap"},
        cost_s=0.01,
        measured=Measured(begin_s=10.0, end_s=13.0, images=64),
    )


def traced(case):
    """Return traces: 60 ms of compute, and an all-reduce of 30 ms of which compute hides 10."""
    calls = (made_call("all_reduce", 50, 80),) if case.gpu_count > 1 else ()
    return tuple(made_trace(compute=((0, 60),), calls=calls) for _ in range(case.gpu_count))


def outcome(case_id, word="passed", **over):
    case = Case.parse(case_id)
    made = made_outcome(case_id, word, step_s=STEP_S.get(case_id, 0.2))
    accounts = tuple(made_account() for _ in range(case.gpu_count))
    result = replace(
        made.result, accounts=accounts, traces=traced(case), telemetry=sampled(), confusion=((8, 2), (1, 9))
    )
    earlier = replace(result, started_unix_s=result.started_unix_s - 3600)
    held = memory.figures(case, REGISTRY.strategies[case.strategy], accounts)
    return replace(made, result=result, memory=held, baseline=made_baseline(earlier), **over)


def rich_run(**over):
    outcomes = [outcome(case_id, "regressed" if case_id == FAILED else "passed") for case_id in IDS]
    facts = {
        "failed": {node(FAILED): f"{FAILED}: regressed against the stored runs\n  cause  a planted one"},
        "skipped": {
            "benches/test_a.py::test_train[one]": "needs CUDA",
            "benches/test_a.py::test_train[two]": "needs CUDA",
        },
        "out_of_memory": {Case.parse("resnet18-zero3-2gpu-bs8"): "zero3: needed 9 GiB of 8"},
        "history": {one.case: one.baseline.level for one in outcomes},
        "sections": (("the gate", ("5 cases", "all of them")),),
    }
    return made_run(*outcomes, **(facts | over))


class Parsed(HTMLParser):
    """A page's elements and their text; what is not closed as it was opened is noted."""

    VOID = ("meta", "input", "br", "img", "path", "use", "rect", "image", "g", "link")

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.wrong, self.texts = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append((tag, self.getpos()))

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


@pytest.fixture(scope="module")
def page():
    return html.render(rich_run())


def test_the_answer_stands_before_the_tables_and_they_before_the_figures(page):
    places = [
        page.index(text) for text in ("1 of 6 cases got worse", "What got worse", "Which strategy", "Tables</h2>")
    ]
    assert [*places, page.index("Figures</h2>")] == sorted([*places, page.index("Figures</h2>")])
    top = page[page.index("<main>") : page.index("Tables</h2>")]
    assert "cause  a planted one" in top
    assert f"pytest &#34;{node(FAILED)}&#34; --benchmark-compare" in top
    assert "told apart from all: zero1, the next, is 36% (by steps) slower" in top


def test_the_page_is_sound_and_fetches_nothing(page):
    parsed = Parsed(page)
    assert parsed.wrong == []
    assert parsed.open == []
    sources = [
        value for _, attributes in parsed.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert {value[0] for value in sources} == {"#"}
    assert "@import" not in page
    assert {value[0] for value in re.findall(r"url\(([^)]*)\)", page)} == {"#"}


def test_no_script_but_its_own_may_run(page):
    (policy,) = [
        one["content"] for one in Parsed(page).of("meta") if "content" in one and "default-src" in one["content"]
    ]
    assert "default-src 'none'" in policy
    script = re.search(r"<script>(.*?)</script>", page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_what_comes_from_outside_is_shown_and_not_obeyed():
    one = made_outcome(IDS[0])
    result = replace(one.result, ranks=tuple(replace(rank, weights=EVIL) for rank in one.result.ranks), dataset=EVIL)
    run = made_run(
        replace(one, result=result, reference=None, reference_note=EVIL),
        outcome(FAILED, "regressed"),
        host=EVIL,
        machine=EVIL,
        about=EVIL,
        command=EVIL,
        commit=EVIL,
        software={EVIL: EVIL},
        options={EVIL: EVIL},
        failed={node(FAILED): EVIL, EVIL: EVIL},
        skipped={EVIL: EVIL},
        out_of_memory={Case.parse("resnet18-zero3-2gpu-bs8"): EVIL},
        left_out={EVIL: 1},
        sections=((EVIL, (EVIL,)),),
    )
    page = html.render(run)
    parsed = Parsed(page)
    assert parsed.wrong == []
    assert len(parsed.of("script")) == 2
    assert parsed.of("img") == []
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    assert sum(EVIL.strip() in text for text in parsed.texts) > 8, "it is shown as it is"
    assert data_of(page)["host"] == EVIL
    assert "\u2028" not in re.search(r'id="data">(.*?)</script>', page, re.S)[1]


def test_every_figure_has_its_numbers_in_a_table_and_in_the_data(page):
    drawn = re.findall(r'data-figure="([^"]*)"', page)
    data = data_of(page)["figures"]
    assert len(drawn) > 30
    assert sorted(drawn) == sorted(data)
    assert page.count('<figure class="panel"') == page.count('<details class="numbers">') == len(drawn)
    assert data["resnet18-digits-2gpu-bs8-communication"]["rows"][0][1:] == pytest.approx([20, 10, 0, 30])
    assert {one["result"]["case_id"] for one in data_of(page)["results"]} == set(IDS)
    assert data_of(page)["results"][0]["result"]["ranks"][0]["step_s"] == [9.0, 0.2, 0.2, 0.2, 0.2]


def test_every_kind_of_figure_is_there(page):
    titles = set(re.findall(r"<h4><span[^>]*>[^<]*</span> ([^<]*)</h4>", page))
    wanted = {one.title for one in drawings.of_run(rich_run())} - {"MAP", "Mask mAP", "Power"}
    # These need processes of the time layer, and references, of two runs.
    wanted -= {"Step over the same work in a plain loop", "Step over frozen kernels", "Speedup"}
    assert titles == wanted
    assert len(titles) == 16


def test_what_is_not_drawn_is_told_with_the_reason(page):
    assert "<b>Power</b>: n/a, energy of the processor: no such counter under /sys/class/powercap" in page
    bare = html.render(made_run(made_outcome(IDS[0])))
    for reason in ("--traced does", "--accounted does", "--tested does", "one number of GPUs makes no line"):
        assert reason in bare
    assert "no earlier run of this set-up is stored beside" in bare


def test_one_epoch_makes_no_line():
    epochs = (EpochReport(seconds=1.0, steps=4, scores={"accuracy": 0.5}),)
    result = made_result(IDS[0], made_report(epochs=epochs))
    (model,) = panels.of_run(made_run(replace(made_outcome(IDS[0]), result=result)))
    assert {"Loss by epoch", "Seconds by epoch", "Accuracy by epoch"} <= {title for title, _ in model.missing}
    assert "Loss by step" in {card.title for card in model.cards}


def test_what_is_not_known_is_told_so_and_no_speed_without_a_certificate_counts():
    report = made_report(step_s=(), data_wait_s=(), loss=(), epochs=(), warmup_steps=0)
    nothing = replace(made_outcome(IDS[0]), result=made_result(IDS[0], report), reference=None)
    page = html.render(made_run(nothing, outcome(FAILED, "uncertified")))
    row = page[page.index(f'<tr data-case="{FAILED}"') :]
    assert "struck" in row[: row.index("</tr>")]
    assert "not counted" not in page
    assert "0 of 1; not zero1" in page
    assert "NaN" not in page


def test_an_empty_run_has_a_page():
    page = html.render(made_run())
    assert "No case was run" in page
    assert Parsed(page).wrong == []


def test_a_strategy_has_one_colour_in_tables_and_figures(page):
    assert f'<i class="swatch" style="background:{look_of("zero1").colour}"></i>zero1' in page
    assert f"stroke: {look_of('zero1').colour}" in page


def test_no_two_figures_share_an_id(page):
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_a_figure_is_small(page):
    sizes = sorted(len(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.S))
    assert sizes[-1] < 60_000
    assert sum(sizes) / len(sizes) < 20_000


def test_published_scaling_is_that_of_the_same_family_and_nearest_batch():
    (theirs,) = beside.published("resnet18", 40, share=False)
    assert (theirs.label, theirs.x) == ("dp", (1, 2, 4))
    assert theirs.y == pytest.approx((1, 15.8855 / 28.0401, 15.8855 / 17.3871))
    detection = beside.published("fasterrcnn_r18", 2, share=True)
    assert {one.strategy: one.y[0] for one in detection} == {"ddp": 1.0, "fsdp1": 1.0, "zero1": 1.0}
    assert "Faster R-CNN R50-FPN" in beside.sources("fasterrcnn_r18", 2)
    assert beside.published("vit_tiny", 8, share=False) == []
    assert beside.sources("vit_tiny", 8) == ""


def test_history_rings_what_was_accepted_and_leaves_out_other_set_ups():
    one = outcome(IDS[0])
    begin, *_ = one.baseline.level
    other = replace(begin, where="2-core-made/0000_x.json", result=replace(begin.result, identity="other"))
    improved = replace(
        begin,
        where="2-core-made/0002_x.json",
        verdict="improved",
        result=replace(begin.result, started_unix_s=1.7e9 - 60),
    )
    run = made_run(one, history={one.case: (other, begin, improved)})
    (model,) = panels.of_run(run)
    (card,) = [card for card in model.cards if card.title == "Peak memory"]
    assert [row[3:6] for row in card.panels[0].figure.rows] == [
        ("0001_accepted", "passed", "accepted"),
        ("0002_x", "improved", "accepted"),
        ("this run", "passed", ""),
    ]
    assert "accepted" in card.panels[0].figure.svg


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "report.html"
    html.write(made_run(), file)
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(OSError, match="No such file"):
        html.write(made_run(), tmp_path / "none" / "report.html")


def test_a_traced_case_links_to_its_trace_beside_the_page(tmp_path):
    file = tmp_path / "night #1.html"
    html.write(rich_run(), file)
    parsed = Parsed(file.read_text(encoding="utf-8"))
    assert (parsed.wrong, parsed.open) == ([], [])
    links = [unquote(one["href"]) for one in parsed.of("a") if one["href"][0] != "#"]
    assert links == [f"night #1_traces/{case}.json" for case in IDS]
    assert all(json.loads((tmp_path / link).read_text())["traceEvents"] for link in links)


# ------------------------------------------------------------------------------------------------- in a browser

needs_browser = pytest.mark.skipif(browser.found() is None, reason=f"needs a browser: {' or '.join(browser.NAMES)}")


@pytest.fixture(scope="module")
def opened(page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")
    with browser.opened(browser.found(), folder / "profile") as shown:
        yield shown, file


def at(opened, address="", *, width=1280, dark=False, media="", phone=False):
    shown, file = opened
    shown.sized(width, phone=phone)
    shown.looks(dark=dark, media=media)
    shown.open(file, address)
    return shown


ROWS = """
Array.from(document.querySelectorAll(".results tbody tr")).filter((row) => row.checkVisibility())
  .map((row) => row.dataset.case)
"""


@needs_browser
def test_a_browser_asks_for_the_page_alone_and_complains_of_nothing(opened):
    shown = at(opened)
    # A confusion matrix has its shades as an image within the page.
    assert {url for url in shown.requests if not url.startswith("data:")} == {opened[1].as_uri()}
    assert shown.errors == []
    assert shown.ask("document.title") == "ShardBench: 1 of 6 cases got worse or failed"


@needs_browser
def test_rows_are_filtered_by_what_the_address_says_and_by_typing(opened):
    shown = at(opened, "#gpus=2&model=resnet18&verdict=passed")
    assert shown.ask(ROWS) == ["resnet18-ddp-2gpu-bs8", "resnet18-fsdp2-2gpu-bs8"]
    assert shown.ask("document.querySelector('.found').textContent") == "2 of 6 cases"
    shown = at(opened)
    shown.ask(
        "const q = document.querySelector('[name=q]'); q.value = 'zero1 regress'; "
        "q.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert shown.ask(ROWS) == [FAILED]
    assert shown.ask("location.hash") == "#q=zero1+regress"


@needs_browser
def test_rows_are_sorted_by_figures_and_what_is_not_known_is_last(opened):
    step = [*sorted(IDS[:4], key=lambda name: STEP_S[name]), "resnet18-zero3-2gpu-bs8"]
    assert at(opened, "#sort=step_time&model=resnet18").ask(ROWS) == step
    shown = at(opened, "#model=resnet18")
    shown.ask("document.querySelector('th[data-sort=step_time]').click()")
    assert shown.ask(ROWS) == [*step[3::-1], step[4]]
    assert shown.ask("document.querySelector('th[data-sort=step_time]').getAttribute('aria-sort')") == "descending"


@needs_browser
def test_of_several_numbers_of_gpus_one_is_shown_and_the_filter_chooses_it(opened):
    panel = """
      Array.from(document.querySelectorAll('.card[aria-label="Step times"] .panel'))
        .filter((panel) => panel.checkVisibility()).map((panel) => panel.dataset.gpus)
    """
    assert at(opened).ask(panel) == ["2", "1"], "the most of each model"
    assert at(opened, "#gpus=1").ask(panel) == ["1", "1"]
    shown = at(opened)
    shown.ask("document.querySelector('.card[aria-label=\"Step times\"] .tabs button').click()")
    assert shown.ask(panel) == ["1", "1"]


@needs_browser
@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_phone_scrolls_down_and_never_sideways(opened, width):
    shown = at(opened, width=width, phone=True)
    assert shown.ask("document.documentElement.scrollWidth") <= width
    wide = """
      Array.from(document.querySelectorAll(".results td, .choices td, figure svg"))
        .filter((one) => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 1).length
    """
    if width < 700:
        assert shown.ask(wide) == 0


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_by_day_and_by_night(opened, dark):
    shown = at(opened, dark=dark)
    contrast = """
      (() => {
        const light = (text) => {
          const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = (element) => {
          for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (!colour.endsWith(", 0)")) return colour;
          }
          return "rgb(255, 255, 255)";
        };
        const found = [];
        for (const one of document.querySelectorAll("h1, td, th, .note, .word, summary, button, a, code, svg text")) {
          const style = getComputedStyle(one);
          const [a, b] = [light(one instanceof SVGElement ? style.fill : style.color), light(ground(one))];
          const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          if (one.checkVisibility() && ratio < 4.5 && !one.closest(".confusion, [data-figure$=confusion]"))
            found.push([one.tagName, one.textContent.slice(0, 30), ratio]);
        }
        return found;
      })()
    """
    assert shown.ask(contrast) == []
    grounds = shown.ask("getComputedStyle(document.body).backgroundColor")
    assert grounds == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")


@needs_browser
def test_on_paper_there_are_all_models_and_no_controls(opened):
    shown = at(opened, width=720, media="print")
    shown.ask("window.dispatchEvent(new Event('beforeprint'))")
    assert shown.ask("document.documentElement.scrollWidth") <= 720
    hidden = "Array.from(document.querySelectorAll('nav, form, .tabs, button')).filter(e => e.checkVisibility()).length"
    assert shown.ask(hidden) == 0
    assert shown.ask("Array.from(document.querySelectorAll('details.model')).every(e => e.open)")
    assert shown.printed().startswith(b"%PDF")


@needs_browser
def test_numbers_can_be_taken_away_as_csv(opened):
    shown = at(opened)
    text = shown.ask(
        """
        new Promise((done) => {
          URL.createObjectURL = (blob) => { blob.text().then(done); return "#"; };
          document.querySelector('[data-figure="resnet18-digits-2gpu-bs8-communication"] [data-take=csv]').click();
        })
        """
    )
    head, first, *_ = text.splitlines()
    assert head == ",exposed,hidden behind compute,waiting for a late rank,sum"
    assert [float(cell) for cell in first.split(",")[1:]] == pytest.approx([20, 10, 0, 30])


@needs_browser
def test_without_its_script_everything_is_there(page, opened, tmp_path):
    shown, _ = opened
    file = tmp_path / "bare.html"
    file.write_text(re.sub(r"<script>.*?</script>", "", page, flags=re.S), encoding="utf-8")
    shown.sized(1280)
    shown.looks()
    shown.open(file)
    assert len(shown.ask(ROWS)) == 6
    assert shown.ask("Array.from(document.querySelectorAll('.panel')).every(e => e.checkVisibility())")
