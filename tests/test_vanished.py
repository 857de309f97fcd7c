"""A stored case that the suite no longer offers fails by name, among the tests that were chosen and no others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.session.vanished import Vanished, vanished
from harness.stored import store
from harness.stored.baselines import ACCEPT, Baselines
from tests.made import made_certificate, made_host, made_result

HOST = made_host()
FILE = "benches/test_made.py"
STORED = ("resnet18-ddp-1gpu-bs8", "resnet18-zero1-2gpu-bs8", "vit_tiny-ddp-2gpu-bs8")


def _store(folder: Path, *cases: str, file: str = FILE, name: str = "accepted", profile: str = "smoke", **more) -> None:
    place = folder / HOST.name
    place.mkdir(parents=True, exist_ok=True)
    records = []
    for case_id in cases:
        result = made_result(host=HOST.name, hardware=HOST.hardware_digest, profile=profile)
        result = replace(result, case_id=case_id)
        packed = store.pack(result, None, made_certificate(case_id), verdict="passed")
        test = f"test_train[{case_id}]"
        records.append({"fullname": f"{file}::{test}", "name": test, "extra_info": packed, "stats": {"mean": 0.2}})
    content = {"machine_info": {"node": HOST.name}, "benchmarks": records} | more
    number = len(list(place.iterdir())) + 1
    (place / f"{number:04}_{name}.json").write_text(json.dumps(store.sealed(content)))


def _vanished(folder, offered, skipped=(), profile="smoke"):
    (folder / "benches").mkdir(exist_ok=True)
    for file in offered:
        (folder / file).touch()
    baselines = Baselines(folder / "baselines", HOST)
    found = vanished(offered, dict(skipped), baselines, profile=profile, root=folder)
    return {one.case_id: one for one in found}


@pytest.fixture
def stored(tmp_path):
    _store(tmp_path / "baselines", *STORED)
    return tmp_path


def test_while_all_that_is_stored_is_offered_nothing_vanished(stored):
    assert _vanished(stored, {FILE: {*STORED, "resnet18-ddp-4gpu-bs8"}}) == {}
    empty = stored / "none"
    empty.mkdir()
    assert _vanished(empty, {FILE: set()}) == {}


def test_a_renamed_case_is_named_with_what_it_may_be_called_now(stored):
    found = _vanished(stored, {FILE: {*STORED[:2], "vit_mini-ddp-2gpu-bs8"}})
    assert found == {
        STORED[2]: Vanished(
            fullname=f"{FILE}::test_train[{STORED[2]}]",
            case_id=STORED[2],
            where=f"{HOST.name}/0001_accepted.json",
            nearest="vit_mini-ddp-2gpu-bs8",
        )
    }
    assert found[STORED[2]].message() == (
        f"{STORED[2]}: vanished: {HOST.name}/0001_accepted.json holds it, and the suite no longer offers it\n"
        f"  nearest  vit_mini-ddp-2gpu-bs8\n"
        f"  accept   pytest benches {ACCEPT}"
    )


def test_a_case_unlike_any_other_is_given_no_wrong_hint(stored):
    assert _vanished(stored, {FILE: {"a"}})[STORED[0]].nearest == ""


def test_a_stored_case_that_is_skipped_now_has_vanished_with_its_reason(stored):
    found = _vanished(stored, {FILE: set(STORED)}, {STORED[1]: "zero1 needs deepspeed; pip install deepspeed"})
    assert list(found) == [STORED[1]]
    assert "and it is skipped now: zero1 needs deepspeed; pip install deepspeed\n" in found[STORED[1]].message()


def test_a_case_with_options_that_nobody_asked_for_is_there_as_long_as_its_model_and_strategy_are(tmp_path):
    _store(tmp_path / "baselines", "resnet18-zero1-2gpu-bs8-bf16", "resnet18-gone-2gpu-bs8-bf16", "an_id-of_old")
    found = _vanished(tmp_path, {FILE: {"resnet18-zero1-4gpu-bs8", "resnet18-ddp-2gpu-bs8"}})
    assert set(found) == {"resnet18-gone-2gpu-bs8-bf16", "an_id-of_old"}


def test_a_bench_file_that_is_not_looked_at_loses_nothing_and_one_that_was_deleted_does(stored):
    other = "benches/test_other.py"
    (stored / "benches").mkdir()
    (stored / FILE).touch()
    assert _vanished(stored, {other: {"resnet18-ddp-4gpu-bs8"}}) == {}
    (stored / FILE).unlink()
    assert set(_vanished(stored, {other: {"resnet18-ddp-4gpu-bs8"}})) == set(STORED)
    # What moved to another file is offered.
    assert _vanished(stored, {other: set(STORED)}) == {}


def test_cases_of_another_profile_are_not_missed(stored):
    assert _vanished(stored, {FILE: set()}, profile="paper") == {}


PLUGIN = """
import pytest
from pathlib import Path
from harness.session import vanished
from harness.stored.baselines import Baselines
from harness.case import Case
from tests.made import made_host

def pytest_configure(config):
    config.addinivalue_line("markers", "bench(**axes): a case")
    config.addinivalue_line("markers", "when_named(word): heavy")

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config, items):
    baselines = Baselines(config.rootpath / "baselines", made_host())
    fails = not config.getoption("benchmark_save")
    vanished.add(items, baselines, arguments=config.args, profile="smoke", root=config.rootpath, fails=fails)
    yield

def pytest_collection_finish(session):
    print("to be accepted:", vanished.names(session.items))
"""
BENCH = """
import pytest
from harness.case import Case

def param(text, *marks):
    return pytest.param(text, id=text, marks=[pytest.mark.bench(**Case.parse(text).axes), *marks])

@pytest.mark.parametrize("case", [
    param("resnet18-ddp-1gpu-bs8"),
    param("resnet18-zero1-2gpu-bs8", pytest.mark.skip(reason="no deepspeed")),
    param("resnet50-ddp-1gpu-bs8", pytest.mark.when_named("resnet50")),
])
def test_train(case, benchmark):
    benchmark.pedantic(lambda: None)
"""


@pytest.fixture
def suite(pytester):
    """Return a function that runs a suite of two cases, of which a stored run holds five."""
    pytester.syspathinsert(Path(__file__).parents[1])
    pytester.makeini("[pytest]\n")
    pytester.makeconftest(PLUGIN)
    (pytester.mkdir("benches") / "test_made.py").write_text(BENCH)
    _store(pytester.path / "baselines", *STORED, "resnet18-gone-2gpu-bs8", "resnet50-gone-2gpu-bs8")

    def run(*arguments):
        done = pytester.inline_run("benches" if not any("::" in a for a in arguments) else "-q", *arguments)
        reports = [r for r in done.getreports("pytest_runtest_logreport") if r.when == "call" or r.skipped]
        assert len({r.nodeid for r in reports}) == len(reports), "two tests of one name"
        return {r.nodeid.partition("[")[2].removesuffix("]"): r for r in reports}

    return run


def test_they_fail_among_the_others_with_one_clear_message(suite, capsys):
    reports = suite("--benchmark-disable")
    assert {name: report.outcome for name, report in reports.items()} == {
        "resnet18-ddp-1gpu-bs8": "passed",
        "resnet18-zero1-2gpu-bs8": "failed",
        "resnet50-ddp-1gpu-bs8": "passed",
        "vit_tiny-ddp-2gpu-bs8": "failed",
        "resnet18-gone-2gpu-bs8": "failed",
        "resnet50-gone-2gpu-bs8": "failed",
    }
    said = str(reports["resnet18-gone-2gpu-bs8"].longrepr)
    assert said.startswith(
        "resnet18-gone-2gpu-bs8: vanished: 2-core-made/0001_accepted.json holds it, and the suite no"
    )
    assert said.endswith(ACCEPT)
    assert "no deepspeed" in str(reports["resnet18-zero1-2gpu-bs8"].longrepr)
    assert reports["vit_tiny-ddp-2gpu-bs8"].nodeid == f"{FILE}::test_train[vit_tiny-ddp-2gpu-bs8]"
    assert ("verdict", "vanished") in reports["vit_tiny-ddp-2gpu-bs8"].user_properties


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (("-k", "resnet18"), {"resnet18-ddp-1gpu-bs8", "resnet18-zero1-2gpu-bs8", "resnet18-gone-2gpu-bs8"}),
        (("-k", "vit_tiny or zero1"), {"vit_tiny-ddp-2gpu-bs8", "resnet18-zero1-2gpu-bs8"}),
        (("-k", "test_made and gone and not resnet50"), {"resnet18-gone-2gpu-bs8"}),
        (
            ("-m", "bench(strategy='ddp')"),
            {"resnet18-ddp-1gpu-bs8", "resnet50-ddp-1gpu-bs8", "vit_tiny-ddp-2gpu-bs8"},
        ),
        (("-m", "bench(strategy='ddp', gpu_count=2)"), {"vit_tiny-ddp-2gpu-bs8"}),
        (("-m", "not when_named"), {*STORED, "resnet18-gone-2gpu-bs8"}),
        ((f"{FILE}::test_train[resnet18-ddp-1gpu-bs8]",), {"resnet18-ddp-1gpu-bs8"}),
        (("--benchmark-only", "-k", "vit_tiny"), {"vit_tiny-ddp-2gpu-bs8"}),
        (("--deselect", f"{FILE}::test_train[vit_tiny-ddp-2gpu-bs8]", "-k", "tiny or 1gpu and resnet18"), {STORED[0]}),
    ],
)
def test_a_selection_holds_for_them_as_for_the_others(suite, arguments, seen):
    assert set(suite(*arguments)) == seen


def test_where_they_need_not_fail_they_are_visible_and_say_the_same(suite, capsys):
    report = suite("--benchmark-disable", "-k", "vit_tiny", "--benchmark-save=accepted")["vit_tiny-ddp-2gpu-bs8"]
    assert report.skipped
    assert "vit_tiny-ddp-2gpu-bs8: vanished: 2-core-made/0001_accepted.json holds it, and the" in report.longrepr[2]
    # Only what was chosen is accepted as gone.
    assert f"to be accepted: ['{FILE}::test_train[vit_tiny-ddp-2gpu-bs8]']" in capsys.readouterr().out


def test_what_an_accepted_run_saw_vanish_is_missed_no_more(suite, pytester):
    gone = [f"{FILE}::test_train[{case}]" for case in (*STORED[1:], "resnet18-gone-2gpu-bs8")]
    _store(pytester.path / "baselines", STORED[0], vanished=gone)
    assert {name for name, report in suite("--benchmark-disable").items() if report.failed} == {
        "resnet50-gone-2gpu-bs8"
    }


def test_one_whose_file_is_gone_fails_under_its_old_name(suite, pytester):
    (pytester.path / "benches" / "test_made.py").rename(pytester.path / "benches" / "test_new.py")
    reports = suite("--benchmark-disable", "-k", "vit_tiny and test_made")
    assert [report.nodeid for report in reports.values()] == [f"{FILE}::test_train[vit_tiny-ddp-2gpu-bs8]"]
    assert reports["vit_tiny-ddp-2gpu-bs8"].failed


def test_cases_that_are_made_with_other_options_alone_did_not_vanish(stored):
    """As `--options bf16` makes them."""
    assert _vanished(stored, {FILE: {f"{case_id}-bf16" for case_id in STORED}}) == {}
    found = _vanished(stored, {FILE: {f"{case_id}-bf16" for case_id in STORED[:2]}})
    assert [*found] == ["vit_tiny-ddp-2gpu-bs8"]
