"""The summary for a pull request: what got worse first, its cause and commands, and no text from outside in control."""

from __future__ import annotations

import html
import re

import pytest

from harness.case import Case
from harness.report import markdown
from harness.report.markdown import plain, render
from tests.made import made_trace
from tests.made_runs import made_outcome, made_run, node

GOOD, BAD = "resnet18-ddp-1gpu-bs8", "resnet18-fsdp2-2gpu-bs8"


def _lines(*outcomes, **over):
    return list(render(made_run(*outcomes, **over), {}))


def test_a_run_in_which_nothing_got_worse_says_so_first():
    lines = _lines(made_outcome(GOOD))
    assert lines[0].startswith("## ")
    assert "nothing got worse: 1 passed" in lines[0]
    assert not any("What got worse" in line for line in lines)


def test_what_got_worse_stands_first_with_its_cause_and_the_commands_that_go_on():
    said = f"{BAD}: regressed against the stored runs\n  cause     a made one\n  rerun     pytest again"
    lines = _lines(made_outcome(GOOD), made_outcome(BAD, "regressed"), failed={node(BAD): said}, exit_code=1)
    text = "\n".join(lines)
    assert "1 of 2 cases got worse or failed" in lines[0]
    headings = [line for line in lines if line.startswith("#")]
    assert headings[1] == "### What got worse"
    row = next(line for line in lines if line.startswith(f"| <code>{BAD}</code>"))
    assert "| regressed | same work: +5.2% (95 % interval +4.1% to +6.3%)" in row
    assert "| +5.2% | +4.1% to +6.3% | 3.4% |" in row
    assert "  cause     a made one" in text
    assert f'pytest "{node(BAD)}" --benchmark-save=accepted' in text


def test_a_stored_run_that_says_no_more_than_the_word_still_has_its_commands():
    text = "\n".join(_lines(made_outcome(BAD, "regressed")))
    assert f'rerun     pytest "{node(BAD)}" --benchmark-compare' in text


def test_a_case_that_was_not_measured_is_told_with_what_it_said():
    test = node("resnet18-zero3-2gpu-bs8")
    text = "\n".join(_lines(made_outcome(GOOD), failed={test: "rank 1 of 2 was killed by SIGKILL\nmore of it"}))
    assert "### What failed to run" in text
    assert "rank 1 of 2 was killed by SIGKILL |" in text
    assert "1 passed, 1 failed to run" in text


def test_every_case_has_a_row_and_the_details_are_folded():
    outcomes = [made_outcome(GOOD), made_outcome("vit_tiny-ddp-1gpu-bs16")]
    full = Case.parse("vit_tiny-zero1-1gpu-bs16")
    lines = _lines(*outcomes, out_of_memory={full: "no room"}, skipped={"a": "needs CUDA", "b": "needs CUDA"})
    text = "\n".join(lines)
    for case in (GOOD, "vit_tiny-ddp-1gpu-bs16", str(full)):
        assert sum(line.startswith(f"| <code>{case}</code>") for line in lines) == 1
    assert "out of memory |" in text
    assert "- 2 x needs CUDA" in lines
    assert text.count("<details") == text.count("</details>") == text.count("<summary>") > 2
    assert "speedup against resnet18-ddp-1gpu-bs8" in text


def test_what_to_take_is_told_of_each_model():
    outcomes = [made_outcome("resnet18-ddp-2gpu-bs8"), made_outcome("resnet18-zero1-2gpu-bs8", step_s=0.4)]
    text = "\n".join(_lines(*outcomes))
    assert "- **resnet18 on digits, 2 GPUs, global batch 16**: fastest: ddp at 2 GPUs" in text


HOSTILE = (
    "a|b `code` <script>alert(1)</script> [x](javascript:y) ![i](z) **bold** _em_ @user #1 </details> &amp; "
    "https://a.bc www.a.bc \x1b[31mred \u202eright $x$ \\ ~~gone~~\n| --- |\n# heading"
)


def test_no_text_from_outside_is_more_than_text():
    safe = plain(HOSTILE)
    assert not re.search(r"[|`<>\[\]*_@#$\\~!\n]", re.sub(r"&#\d+;", "", safe))
    assert "&" not in re.sub(r"&#\d+;", "", safe)
    # And nothing is lost but what would steer a terminal.
    assert html.unescape(safe).startswith("a|b `code` <script>alert(1)</script> [x](javascript:y)")
    assert not re.search(r"://|www\.", safe)
    assert "\x1b" not in html.unescape(safe)
    assert "\u202e" not in html.unescape(safe)


def test_a_hostile_run_has_the_tables_and_folds_of_a_plain_one():
    test = f"benches/test_x.py::test_train[{HOSTILE}]"
    over = {
        "host": HOSTILE,
        "command": HOSTILE,
        "profile": HOSTILE,
        "skipped": {"x": HOSTILE},
        "failed": {test: HOSTILE},
    }
    lines = _lines(made_outcome(GOOD), made_outcome(BAD, "passed | <b>"), **over)
    fences = [line for line in lines if re.match("`{3,}", line)]
    outside, inside = [], False
    for line in lines:
        if re.match("`{3,}", line):
            inside = not inside
        elif not inside:
            outside.append(line)
    assert len(fences) % 2 == 0
    text = "\n".join(outside)
    assert "<script" not in text
    assert "<b>" not in text
    assert text.count("<details") == text.count("</details>")
    # Two cells have three borders, whatever stands in them.
    (row,) = [line for line in outside if line.startswith("| <code>benches/test")]
    assert row.count("|") == 3


def test_a_fence_is_longer_than_any_in_what_it_holds():
    said = "first\n```` \nlast"
    lines = _lines(made_outcome(BAD, "regressed"), failed={node(BAD): said})
    assert "`````text" in lines


def test_a_summary_that_would_be_too_long_leaves_out_what_the_terminal_showed():
    section = ("the gate", tuple("x" * 100 for _ in range(100)))
    assert "x" * 100 in "\n".join(_lines(made_outcome(GOOD), sections=(section,)))
    text = "\n".join(_lines(made_outcome(GOOD), sections=(section,) * 10))
    assert "x" * 100 not in text
    assert len(text.encode()) < 65_536


def test_a_traced_case_links_to_its_trace(tmp_path):
    outcome = made_outcome(GOOD)
    object.__setattr__(outcome.result, "traces", (made_trace(compute=[(0, 40)]),))
    markdown.write(made_run(outcome), tmp_path / "summary.md")
    (link,) = re.findall(r"\[trace\]\((.*?)\)", (tmp_path / "summary.md").read_text())
    assert link == f"summary_traces/{GOOD}.json"
    assert (tmp_path / link).is_file()


@pytest.mark.parametrize("text", ["", "plain words, 12.5 % (of 3)", "benches/test_x.py::test_train(a-b)"])
def test_plain_words_stay_as_they_are(text):
    assert plain(text) == text
