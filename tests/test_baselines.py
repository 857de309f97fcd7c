"""Which stored runs a case is judged by: accepted ones of this machine and set-up, back to where their level began."""

from __future__ import annotations

import json

import pytest

from harness.errors import StoreError
from harness.stored import store
from harness.stored.baselines import MOST_AUTOSAVED, MOST_RUNS, Baselines, is_autosaved
from tests.made import made_certificate, made_host, made_result

CASE = "resnet18-zero1-2gpu-bs8"
OTHER = "resnet18-ddp-2gpu-bs8"
IDENTITY = f"identity of {CASE}"
TEST = f"benches/test_classification.py::test_train[{CASE}]"
HOST = made_host(cpu="made")
AUTOSAVED = "ab12" * 10 + "_20260101_120000"


def _record(case_id=CASE, verdict="passed", certificate=None, reference=None, **over):
    facts = {"host": HOST.name, "hardware": HOST.hardware_digest} | over
    certificate = certificate or made_certificate(case_id)
    packed = store.pack(made_result(case_id, **facts), reference, certificate, verdict=verdict)
    name = f"test_train[{case_id}]"
    fullname = f"benches/test_classification.py::{name}"
    return {"name": name, "fullname": fullname, "extra_info": packed, "stats": {"mean": 0.2}}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "baselines"


@pytest.fixture
def stored(folder):
    """Return a function that stores a run, as the next of its host."""

    def write(*records, name="accepted", host=HOST, machine=None, **more):
        place = folder / host.name
        place.mkdir(parents=True, exist_ok=True)
        content = {
            "machine_info": {"node": machine or host.name, "hardware": host.hardware},
            "benchmarks": list(records),
        }
        file = place / f"{len(list(place.iterdir())) + 1:04}_{name}.json"
        file.write_text(json.dumps(store.sealed(content | more)))
        return file

    return write


@pytest.fixture
def baselines(folder):
    return Baselines(folder, HOST)


def _names(baseline):
    return [one.where.partition("/")[2][:4] for one in baseline.level]


def test_a_level_goes_back_to_the_run_that_began_it(stored, baselines):
    for verdict in ("new", "passed", "improved", "passed", "passed"):
        stored(_record(verdict=verdict), _record(OTHER))
    found = baselines.of(CASE, IDENTITY)
    assert _names(found) == ["0005", "0004", "0003"]
    assert found.newest is found.level[0]
    assert (found.newest.where, found.newest.verdict) == (f"{HOST.name}/0005_accepted.json", "passed")
    assert (found.note, found.others, found.incomparable) == ("", (), False)
    assert baselines.of(TEST, IDENTITY) == found
    assert _names(baselines.of(OTHER, f"identity of {OTHER}")) == ["0005", "0004", "0003", "0002", "0001"]


def test_a_level_is_not_longer_than_what_tells_more(stored, baselines):
    for _ in range(MOST_RUNS + 3):
        stored(_record())
    # The newest, and the run that began it, from which a creep is seen.
    assert _names(baselines.of(CASE, IDENTITY)) == [f"{number:04}" for number in (*range(MOST_RUNS + 3, 4, -1), 1)]


@pytest.mark.parametrize("word", ["regressed", "uncertified", "mispredicted", "unresolved", "vanished", "incomparable"])
def test_a_failure_is_history_until_it_is_saved_by_name(stored, baselines, folder, word):
    stored(_record(verdict="new"))
    stored(_record(verdict=word), name=AUTOSAVED)
    stored(_record(verdict="passed"), name=AUTOSAVED + "_uncommitted-changes")
    assert _names(baselines.of(CASE, IDENTITY)) == ["0003", "0001"]
    stored(_record(verdict=word), name="accepted")
    # What was accepted is a level of its own, unless nothing showed that it is another.
    level = ["0004", "0003", "0001"] if word == "unresolved" else ["0004"]
    assert _names(Baselines(folder, HOST).of(CASE, IDENTITY)) == level


def test_a_case_that_only_failed_has_no_baseline_and_it_is_said(stored, baselines):
    stored(_record(verdict="regressed"), name=AUTOSAVED)
    found = baselines.of(CASE, IDENTITY)
    assert (found.level, found.newest, found.others) == ((), None, ())
    assert found.note == f"{HOST.name}/0001_{AUTOSAVED}.json holds it as regressed, which nobody accepted: not compared"


@pytest.mark.parametrize(
    ("stem", "autosaved"),
    [
        (f"0001_{AUTOSAVED}", True),
        (f"0001_{AUTOSAVED}_uncommitted-changes", True),
        ("0001_unversioned_20260101_120000", True),
        ("0001_accepted", False),
        ("0001_nightly_2026", False),
        ("0001_a_b_20260101_120000", False),
    ],
)
def test_what_pytest_benchmark_named_itself_is_told_from_a_name(tmp_path, stem, autosaved):
    assert is_autosaved(tmp_path / f"{stem}.json") == autosaved


def test_pytest_benchmarks_own_name_for_an_autosaved_run_is_known(tmp_path):
    from pytest_benchmark.utils import get_tag

    assert is_autosaved(tmp_path / f"0001_{get_tag('made')}.json")


def test_runs_of_another_set_up_conditions_or_hardware_are_left_out_and_named(stored, baselines):
    assert baselines.of(CASE, IDENTITY).note == f"no stored run of {HOST.name} holds it"
    stored(_record(identity="other"))
    found = baselines.of(CASE, IDENTITY)
    assert (
        found.note
        == f"{HOST.name}/0001_accepted.json holds it with another set-up (profile, settings or data): not compared"
    )
    assert not found.incomparable
    assert baselines.of(CASE, "other").newest
    assert baselines.of(CASE, "other", conditions="links of 100 Mbit/s").note == (
        f"{HOST.name}/0001_accepted.json was run with the machine's own links and this run with links of 100 Mbit/s: "
        "not compared"
    )


def test_a_set_up_of_ones_own_reaches_over_runs_of_others(stored, baselines):
    stored(_record())
    stored(_record(identity="other"))
    stored(_record(conditions="links of 100 Mbit/s"))
    stored(_record())
    assert _names(baselines.of(CASE, IDENTITY)) == ["0004", "0001"]


def test_other_hardware_under_the_same_name_is_incomparable_and_says_what_is_other(stored, folder):
    stored(_record(verdict="new"))
    newer = made_host(cpu="made", processor={"stepping": "2"}, memory_bytes=16 * 2**30)
    assert newer.name == HOST.name
    here = Baselines(folder, newer)
    found = here.of(CASE, IDENTITY)
    assert (found.level, found.incomparable) == ((), True)
    assert found.note == (
        f"{HOST.name}/0001_accepted.json is of other hardware under this name "
        "(memory 8 GiB then, 16 GiB now; stepping n/a then, 2 now): time not compared"
    )
    # What no hardware decides is held to it all the same.
    assert found.others[0].result.hardware == HOST.hardware_digest
    assert here.reference(CASE, IDENTITY) is None
    # Nor is it the hardware where something else would keep them apart as well.
    assert not here.of(CASE, "other").incomparable
    assert not here.of(CASE, IDENTITY, conditions="slow links").incomparable
    # Once the new hardware has a run of its own, that is the level.
    stored(_record(hardware=newer.hardware_digest), host=newer)
    found = Baselines(folder, newer).of(CASE, IDENTITY)
    assert (_names(found), found.incomparable) == (["0002"], False)
    assert _names(Baselines(folder, HOST).of(CASE, IDENTITY)) == ["0001"]


def test_of_other_machines_the_newest_certified_record_of_each_is_found(stored, baselines):
    big, gpu = made_host(cores=64, cpu="big"), made_host(gpus=2)
    at = {"started_unix_s": 1e9, "host": big.name, "hardware": big.hardware_digest}
    on_gpu = {"started_unix_s": 2e9, "host": gpu.name, "hardware": gpu.hardware_digest}
    refused = made_certificate(CASE, causes=("the gradient is halved",))
    stored(_record(**at | {"wall_s": 1.0}), host=big)
    stored(_record(**at | {"wall_s": 2.0}), host=big)
    stored(_record(**at | {"wall_s": 3.0}, certificate=refused), host=big)
    stored(_record(**at | {"wall_s": 4.0, "identity": "other"}), host=big)
    stored(_record(**at | {"wall_s": 5.0}, verdict="regressed"), host=big, name=AUTOSAVED)
    stored(_record(**on_gpu), host=gpu)
    found = baselines.of(CASE, IDENTITY)
    assert [one.where for one in found.others] == [f"{gpu.name}/0001_accepted.json", f"{big.name}/0002_accepted.json"]
    assert not found.incomparable
    stored(_record())
    assert Baselines(baselines._folder, HOST).of(CASE, IDENTITY).others == ()


def test_the_newest_record_of_a_reference_is_found_be_it_a_case_or_beside_one(stored, baselines):
    one_gpu = "resnet18-ddp-1gpu-bs8"
    facts = {"host": HOST.name, "hardware": HOST.hardware_digest, "identity": "wanted"}
    beside = made_result(one_gpu, **facts, wall_s=2.0)
    stored(_record(one_gpu, identity="wanted", wall_s=1.0))
    stored(_record(), _record(OTHER, reference=beside))
    stored(_record(one_gpu, identity="of other settings"))
    stored(_record(one_gpu, identity="wanted", certificate=made_certificate(one_gpu, causes=("halved",))))
    stored(_record(one_gpu, identity="wanted", verdict="regressed"), name=AUTOSAVED)
    found = baselines.reference(one_gpu, "wanted")
    assert (found.where, found.result) == (f"{HOST.name}/0002_accepted.json", beside)
    assert baselines.reference(one_gpu, "unknown") is None
    assert baselines.reference(one_gpu, "wanted", conditions="slow links") is None
    assert baselines.reference("resnet18-ddp-4gpu-bs8", "wanted") is None


def test_without_a_folder_or_a_run_there_is_nothing_to_hold_to(tmp_path):
    for nothing in (Baselines(None, HOST), Baselines(tmp_path / "none", HOST)):
        assert nothing.of(CASE, IDENTITY).note == f"no stored run of {HOST.name} holds it"
        assert nothing.reference(CASE, IDENTITY) is None
        assert nothing.held("smoke") == {}


def test_files_that_are_named_are_the_only_ones(stored, baselines, folder, tmp_path):
    for verdict in ("new", "passed", "passed"):
        stored(_record(verdict=verdict))
    baselines.restrict([baselines._folder / HOST.name / "0002_accepted.json"])
    assert _names(baselines.of(CASE, IDENTITY)) == ["0002"]
    relative = Baselines(folder, HOST)
    relative.restrict([(folder / HOST.name / "0001_accepted.json").relative_to(folder)])
    assert _names(relative.of(CASE, IDENTITY)) == ["0001"]
    kept = (folder / HOST.name / "0003_accepted.json").rename(tmp_path / "fetched.json")
    elsewhere = Baselines(folder, HOST)
    elsewhere.restrict([kept])
    assert elsewhere.of(CASE, IDENTITY).newest.verdict == "passed"


def test_files_are_read_when_they_are_needed_and_once(stored, baselines, monkeypatch):
    stored(_record(), host=made_host(cores=64))
    for verdict in ("new", "new", "passed"):
        stored(_record(verdict=verdict))
    read = []
    plain = store.read_baseline
    monkeypatch.setattr(store, "read_baseline", lambda file: read.append(file.name) or plain(file))
    for _ in range(2):
        baselines.of(CASE, IDENTITY)
    assert read == ["0003_accepted.json", "0002_accepted.json"]


def test_a_year_of_nights_is_not_read_but_every_accepted_run_is(stored, baselines):
    stored(_record())
    for _ in range(MOST_AUTOSAVED + 5):
        stored(_record(OTHER), name=AUTOSAVED)
    assert _names(baselines.of(CASE, IDENTITY)) == ["0001"]
    assert len(baselines._entries) == MOST_AUTOSAVED + 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:-50], "is truncated"),
        (lambda text: text.replace('"wall_s": 6.5', '"wall_s": 6.4'), "was changed after it was written"),
        (lambda text: text.replace('"wall_s": 6.5', '"wall_s": NaN'), "holds NaN"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 7'), "of schema 7"),
        (lambda text: "no JSON", "is no JSON"),
    ],
)
def test_a_damaged_file_that_is_met_refuses_the_run_and_is_left_as_it_is(stored, baselines, damage, said):
    stored(_record())
    file = stored(_record())
    file.write_text(damage(file.read_text()))
    held = file.read_bytes()
    for ask in (
        lambda: baselines.of(CASE, IDENTITY),
        lambda: baselines.reference(CASE, IDENTITY),
        lambda: baselines.held("smoke"),
    ):
        with pytest.raises(StoreError, match=rf"0002_accepted\.json .*{said}"):
            ask()
    assert file.read_bytes() == held


def test_another_hosts_run_in_this_folder_is_refused_with_where_it_belongs(stored, baselines):
    stored(_record(), machine="4-core-other")
    with pytest.raises(
        StoreError, match=r"recorded on '4-core-other' and lies among .*move it to baselines/4-core-other/"
    ):
        baselines.of(CASE, IDENTITY)


def test_this_hosts_run_in_another_folder_is_refused_where_others_are_asked(stored, baselines):
    stored(_record(), host=made_host(cores=64), machine=HOST.name)
    with pytest.raises(StoreError, match=f"recorded on '{HOST.name}' and lies among the runs of '64-core-made'"):
        baselines.of(CASE, IDENTITY)


def test_a_sealed_file_whose_result_lacks_what_is_looked_up_is_refused(stored, baselines):
    record = _record()
    del record["extra_info"][store.KEY]["result"]["identity"]
    stored(record)
    with pytest.raises(StoreError, match=r"0001_accepted\.json holds no valid result \(no 'identity'\)"):
        baselines.of(CASE, IDENTITY)


def test_held_cases_are_of_this_host_and_profile_and_not_accepted_as_gone(stored, baselines):
    stored(_record(), _record(OTHER), _record("vit_tiny-ddp-2gpu-bs8", profile="paper"))
    stored(_record("resnet50-ddp-2gpu-bs8"), host=made_host(cores=64))
    stored(_record(OTHER), vanished=[TEST])
    other_test = TEST.replace(CASE, OTHER)
    assert baselines.held("smoke") == {other_test: (OTHER, f"{HOST.name}/0002_accepted.json")}
    # It came back, and is held again.
    stored(_record())
    back = Baselines(baselines._folder, HOST).held("smoke")
    assert back[TEST] == (CASE, f"{HOST.name}/0003_accepted.json")
    assert other_test in back


def test_a_run_that_nobody_saved_by_name_accepts_no_case_as_gone(stored, baselines):
    stored(_record(), _record(OTHER))
    stored(_record(OTHER), name=AUTOSAVED, vanished=[TEST])
    assert TEST in baselines.held("smoke")
