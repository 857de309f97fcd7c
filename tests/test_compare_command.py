"""`compare`: two stored runs beside each other; what cannot be compared is refused, and what is worse is told."""

from __future__ import annotations

import json

import pytest

from harness.__main__ import main
from harness.results import Memory
from harness.stored.store import sealed
from tests.made import GIB, made_certificate, made_report
from tests.made_runs import made_stored, write_run

CASES = ("resnet18-ddp-1gpu-bs8", "resnet18-ddp-2gpu-bs8", "resnet18-fsdp2-2gpu-bs8", "resnet18-zero2-2gpu-bs8")


@pytest.fixture
def compare(tmp_path, capsys, monkeypatch):
    """Return a function that compares two runs of results: the exit code, what was told as one line, and errors."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(first, second, *options, before=None, after=None):
        files = [
            write_run(tmp_path / name / "0001_made.json", *results, **(over or {}))
            for name, results, over in (("a", first, before), ("b", second, after))
        ]
        code = main(["compare", *map(str, files), *options])
        told = capsys.readouterr()
        return code, " ".join(told.out.split()), told.err

    return run


def _results(**slower):
    return [made_stored(case, slower=slower.get(case.split("-")[1], 1.0)) for case in CASES]


def test_the_same_run_twice_is_alike_in_all(compare):
    code, out, err = compare(_results(), _results())
    assert (code, err) == (0, "")
    assert "4 cases in both runs: 4 alike" in out


def test_a_slowdown_of_one_case_is_told_with_its_interval_and_what_to_run_and_fails(compare):
    code, out, _ = compare(_results(), _results(fsdp2=1.3))
    assert code == 1
    assert "4 cases in both runs: 1 worse, 3 alike" in out
    assert "resnet18-fsdp2-2gpu-bs8: same work +30.0% (95 % interval +" in out
    assert 'pytest "benches/test_classification.py::test_train[resnet18-fsdp2-2gpu-bs8]" --benchmark-compare' in out


def test_a_case_that_became_faster_is_better_and_no_failure(compare):
    code, out, _ = compare(_results(fsdp2=1.3), _results())
    assert code == 0
    assert "1 better, 3 alike" in out
    assert "same work -23.1%" in out


def test_a_change_that_is_smaller_than_what_counts_is_alike(compare):
    assert compare(_results(), _results(fsdp2=1.005))[0] == 0


def test_a_change_that_chance_may_have_made_is_alike_however_large(compare):
    first, second = (made_stored(CASES[0], slower=slower, processes=1) for slower in (1.0, 1.03))
    code, out, _ = compare([first], [second])
    assert code == 0
    assert "ddp-1gpu-bs8 +3.0%" in out
    assert "1 alike" in out


def test_no_time_is_compared_across_machines_and_what_is_portable_is(compare):
    here = [made_stored(case) for case in CASES]
    there = [made_stored(case, slower=3.0, host="8-core-made", hardware="other") for case in CASES]
    code, out, _ = compare(here, there, after={"host": "8-core-made"})
    assert code == 0
    assert "4 cases: other machines: time and memory peaks are not compared" in out
    assert "same work" not in out.partition("step: against")[0]
    # A model of other parameters is another model on any machine.
    more = made_stored(CASES[0], host="8-core-made", hardware="other", ranks=(made_report(parameters=12_000_000),))
    code, out, _ = compare(here[:1], [more], after={"host": "8-core-made"})
    assert code == 1
    assert "parameters: 11,181,642 -> 12,000,000" in out


def test_another_setup_is_refused_case_by_case_and_whole(compare):
    other = {"identity": "another", "settings": {"image_size": 32}, "profile": "standard"}
    code, out, err = compare([made_stored(CASES[0])], [made_stored(CASES[0], **other)])
    assert (code, out) == (2, "")
    assert "profile smoke -> standard, image_size 16 -> 32" in err
    code, out, _ = compare(_results(), [made_stored(CASES[0], **other), *_results()[1:]])
    assert code == 0
    assert "3 alike, 1 refused" in out
    assert "another set-up, so another training (profile smoke -> standard" in out


def test_what_is_lost_in_certificate_memory_or_traffic_is_worse(compare):
    bad = made_certificate(CASES[0], causes=("clipping: to a norm of 1",))
    code, out, _ = compare([made_stored(CASES[0])], [made_stored(CASES[0])], after={"certificate": bad})
    assert code == 1
    assert "not certified: clipping: to a norm of 1" in out
    on_cuda = {"device": "cuda:0", "device_name": "made"}
    small, large = (
        made_stored(CASES[0], ranks=(made_report(**on_cuda, memory=Memory(peak_allocated_bytes=size)),))
        for size in (GIB, 2 * GIB)
    )
    code, out, _ = compare([small], [large])
    assert code == 1
    assert "peak_memory regressed: 2.000 GiB against 1.000 GiB" in out


def test_with_other_versions_what_differs_is_told_and_no_failure(compare):
    newer = {"versions": {"python": "3.11.7", "torch": "2.16.0"}, "ranks": (made_report(parameters=12_000_000),)}
    code, out, _ = compare([made_stored(CASES[0])], [made_stored(CASES[0], **newer)])
    assert code == 0
    assert "versions: torch 2.15.0 -> 2.16.0" in out
    assert "parameters: 11,181,642 -> 12,000,000" in out


@pytest.mark.parametrize(
    ("over", "why"),
    [
        ({"oversubscribed": True}, "ranks shared cores: time not compared"),
        ({"samples": ()}, "no processes of its time are stored in both"),
        ({"conditions": "links of 100mbit"}, "the machine's own links then and links of 100mbit now"),
    ],
)
def test_a_time_that_says_nothing_is_not_compared_and_says_why(compare, over, why):
    code, out, _ = compare([made_stored(CASES[0])], [made_stored(CASES[0], slower=2.0, **over)])
    assert code == 0
    assert why in out


def test_runs_without_a_case_in_common_cannot_be_compared(compare):
    code, _, err = compare([made_stored(CASES[0])], [made_stored(CASES[1])])
    assert code == 2
    assert "no case in common" in err
    code, _, err = compare(_results(), _results(), "-k", "nothing")
    assert code == 2
    assert "no case with 'nothing' in its id in common" in err


def test_cases_of_one_run_alone_are_named(compare):
    _, out, _ = compare(_results(), _results()[:2])
    assert "only in the first run: resnet18-fsdp2-2gpu-bs8, resnet18-zero2-2gpu-bs8" in out


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_its_lines_fit_the_terminal_but_for_commands(tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    long = "fasterrcnn_r18-fairscale_fsdp-2gpu-bs8"
    files = [
        write_run(tmp_path / name / "0001_made.json", made_stored(long, slower=slower))
        for name, slower in (("a", 1.0), ("b", 1.3))
    ]
    main(["compare", *map(str, files)])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("    pytest")) <= max(columns, 70)


def test_a_run_is_found_by_file_name_number_and_commit(tmp_path, capsys):
    commit = "abcdef0123456789abcdef0123456789abcdef01"
    write_run(tmp_path / "2-core-made" / "0001_accepted.json", made_stored(CASES[0]))
    write_run(tmp_path / "2-core-made" / "0002_nightly.json", made_stored(CASES[0]), commit=commit)
    for first, second in (
        ("0001", "0002"),
        ("0001_accepted", "abcdef01"),
        ("2-core-made/0001", "2-core-made/0002_nightly"),
    ):
        assert main(["compare", first, second, "--runs", str(tmp_path)]) == 0, capsys.readouterr().err
    write_run(tmp_path / "8-core-made" / "0001_accepted.json", made_stored(CASES[0]), host="8-core-made")
    assert main(["compare", "0001", "0002", "--runs", str(tmp_path)]) == 2
    assert "'0001' is 2 stored runs: 2-core-made/0001_accepted, 8-core-made/0001_accepted" in capsys.readouterr().err
    assert main(["compare", "0002_nigthly", "0002", "--runs", str(tmp_path)]) == 2
    assert "did you mean '0002_nightly'?" in capsys.readouterr().err


def test_what_is_no_stored_run_is_one_clear_error(tmp_path, capsys):
    good = write_run(tmp_path / "a" / "0001_made.json", made_stored(CASES[0]))
    other = json.loads(good.read_text())
    other["benchmarks"][0]["extra_info"]["shardbench"]["result"]["schema_version"] = 9
    schema = tmp_path / "9.json"
    schema.write_text(json.dumps(sealed(other)))
    torn = tmp_path / "torn.json"
    torn.write_text(good.read_text()[:-200])
    for file, said in ((tmp_path / "none.json", "there is no file"), (schema, "schema 9"), (torn, "is truncated")):
        assert main(["compare", str(good), str(file)]) == 2
        told = capsys.readouterr()
        assert said in told.err
        assert told.err.count("\n") == 1
