"""Certificates are kept as long as nothing they depend on has changed, then made again; refused ones are never kept."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from harness import certificate as certificates
from harness.case import Case
from harness.certificate import Certificate, to_json
from harness.errors import StoreError, WorkerFailed
from harness.registry import discover
from harness.running import certifier as certifiers
from harness.running.certifier import Certifier
from harness.source import source_of
from tests.made import made_certificate, made_played, made_report, made_watched

CASE = Case.parse("resnet18-ddp-2gpu-bs4")
FACTS = {
    "settings": {"optimizer": {"name": "sgd", "arguments": {"lr": 0.1}}},
    "data": {"name": "digits"},
    "weights": None,
}
OF_RUN = {"versions": {"torch": "2.15.0"}, "machine": "2-core-made", "device_kind": "cpu", "plugins": ()}


class Ranks:
    """Stands for the launcher: reports what even ranks were seen to do, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.over: dict[str, object] = {}
        self.fails = False

    def __call__(self, case, title, *, purpose, reference, ranks=None):
        self.asked.append((purpose, case.id, reference.name))
        if self.fails:
            raise WorkerFailed("rank 0 was killed")
        if purpose == "play":
            assert ranks == 1, "one process plays every rank"
            return [made_report(extra={"played": to_json(made_played(case.gpu_count))})], 3.0
        watched = [made_watched(rank, **self.over) for rank in range(case.gpu_count)]
        return [made_report(rank, extra={"watched": to_json(w)}) for rank, w in enumerate(watched)], 2.0

    @property
    def purposes(self) -> list[str]:
        return [purpose for purpose, *_ in self.asked]


@pytest.fixture
def ranks():
    return Ranks()


@pytest.fixture
def certifier(tmp_path, ranks):
    """Return a function that opens a certifier, as each run does, over the same kept certificates."""

    def make(**over) -> Certifier:
        given = {"registry": discover(), "facts": OF_RUN, "kept": tmp_path / "kept", "folder": tmp_path / "run"}
        return Certifier(**(given | {"launch": ranks} | over))

    return make


def _kept(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "kept").glob("*"))


def test_a_certificate_is_paid_for_once(certifier, ranks, tmp_path):
    first = certifier()
    made = first.certificate(CASE, FACTS)
    assert made.granted
    assert ranks.purposes == ["play", "certify"]
    assert (first.made, first.reference_s, made.seconds) == ([made], 3.0, 2.0)
    assert first.certificate(CASE, FACTS) is made
    second = certifier()
    assert second.certificate(CASE, FACTS) == made
    assert len(ranks.asked) == 2, "nothing was launched again"
    assert (second.made, second.reference_s, second.known) == ([], 0.0, {CASE: made})
    assert _kept(tmp_path) == [f"{CASE}-{made.key}.json"]


def test_whether_one_is_kept_is_known_without_making_it(certifier, ranks):
    assert not certifier().keeps(CASE, FACTS)
    certifier().certificate(CASE, FACTS)
    asked = len(ranks.asked)
    assert certifier().keeps(CASE, FACTS)
    assert not certifier(recertify=True).keeps(CASE, FACTS)
    assert not certifier().keeps(CASE, FACTS | {"weights": "others"})
    assert len(ranks.asked) == asked


def test_recertify_pays_again_once_a_run(certifier, ranks):
    certifier().certificate(CASE, FACTS)
    again = certifier(recertify=True)
    again.certificate(CASE, FACTS)
    again.certificate(CASE, FACTS)
    assert ranks.purposes == ["play", "certify"] * 2
    assert len(again.made) == 1


@pytest.mark.parametrize(
    "facts",
    [
        FACTS | {"settings": {"optimizer": {"name": "sgd", "arguments": {"lr": 0.2}}}},
        FACTS | {"data": {"name": "cifar10"}},
        FACTS | {"weights": "resnet18-0123.pt"},
    ],
    ids=["settings", "data", "weights"],
)
def test_other_facts_of_the_case_make_another_certificate(certifier, facts):
    assert certifier()._key(CASE, facts) != certifier()._key(CASE, FACTS)


@pytest.mark.parametrize(
    "over", [{"versions": {"torch": "2.15.1"}}, {"machine": "4-core-made"}, {"device_kind": "cuda"}], ids=str
)
def test_other_facts_of_the_run_make_another_certificate(certifier, over):
    assert certifier(facts=OF_RUN | over)._key(CASE, FACTS) != certifier()._key(CASE, FACTS)


def test_the_order_of_facts_is_no_fact(certifier):
    turned = {name: FACTS[name] for name in reversed(FACTS)}
    assert certifier()._key(CASE, turned) == certifier()._key(CASE, FACTS)


def test_every_axis_of_the_case_makes_another_certificate(certifier):
    cases = [CASE, *map(Case.parse, ("resnet18-ddp-1gpu-bs4", "resnet18-ddp-2gpu-bs8", "resnet18-ddp-2gpu-bs4-bf16"))]
    cases += map(Case.parse, ("resnet50-ddp-2gpu-bs4", "resnet18-zero1-2gpu-bs4", "resnet18-zero2-2gpu-bs4"))
    assert len({certifier()._key(case, FACTS) for case in cases}) == len(cases)


@pytest.mark.parametrize(
    "changed",
    [
        "worker/certifying.py",
        "worker/reference.py",
        "worker/watching.py",
        "worker/options.py",
        "worker/loading.py",
        "worker/training.py",
        "gate/sameness.py",
        "certificate.py",
        "running/certifier.py",
        "strategies/_eager.py",
        "strategies/data_parallel.py",
        "models/resnet.py",
        "datasets/digits.py",
    ],
)
def test_a_changed_source_makes_another_certificate(certifier, monkeypatch, changed):
    from pathlib import Path

    before = certifier()._key(CASE, FACTS)
    file = certifiers._HARNESS / changed
    sound = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: sound(path) + (b"#" if path == file else b""))
    assert certifier()._key(CASE, FACTS) != before


def test_a_source_that_has_no_part_in_the_training_does_not(certifier, monkeypatch):
    from pathlib import Path

    before = certifier()._key(CASE, FACTS)
    others = [certifiers._HARNESS / name for name in ("report/terminal.py", "strategies/fsdp.py", "models/vit.py")]
    sound = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: sound(path) + (b"#" if path in others else b""))
    assert certifier()._key(CASE, FACTS) == before


def test_a_changed_plug_in_module_makes_another_certificate(certifier, tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text("A = 1\n")
    module = ModuleType("mine_for_certificates")
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    given = certifier(facts=OF_RUN | {"plugins": (module.__name__,)})
    before = given._key(CASE, FACTS)
    file.write_text("A = 2\n")
    assert given._key(CASE, FACTS) != before
    assert certifier()._key(CASE, FACTS) != before


def test_what_stands_in_for_a_function_has_its_source():
    class Callable:
        def __call__(self) -> None: ...

    here = source_of(made_report)
    assert b"def made_report" in here
    assert source_of(functools.partial(functools.partial(made_report), rank=1)) == here
    assert b"class Callable" in source_of(Callable())
    assert source_of(len) == b"", "built in, so that the version of Python stands for it"


def test_a_refused_certificate_is_not_kept(certifier, ranks, tmp_path):
    ranks.over = {"compute": ("bf16",)}
    refused = certifier().certificate(CASE, FACTS)
    assert not refused.granted
    assert _kept(tmp_path) == []
    ranks.over = {}
    assert certifier().certificate(CASE, FACTS).granted
    assert ranks.purposes == ["play", "certify"] * 2


def test_a_training_that_fails_leaves_nothing_and_is_tried_again(certifier, ranks, tmp_path):
    ranks.fails = True
    given = certifier()
    for _ in range(2):
        with pytest.raises(WorkerFailed, match="rank 0 was killed"):
            given.certificate(CASE, FACTS)
    assert (_kept(tmp_path), given.made, given.known) == ([], [], {})
    ranks.fails = False
    assert given.certificate(CASE, FACTS).granted


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"\xff\x00", b'{"case_id": "resnet18-ddp', b"[" * 100_000], ids=range(5)
)
def test_a_kept_certificate_that_is_damaged_is_made_again(certifier, ranks, tmp_path, damage):
    made = certifier().certificate(CASE, FACTS)
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(damage)
    assert certifier().certificate(CASE, FACTS).granted
    assert ranks.purposes == ["play", "certify"] * 2
    assert certificates.read(file).key == made.key


def test_all_strategies_share_a_reference_and_other_training_has_another(certifier, ranks):
    given = certifier()
    same = ("ddp-2gpu-bs4", "zero1-2gpu-bs4", "fsdp2-2gpu-bs4-ckpt", "zero3-2gpu-bs4-offload")
    for tokens in same:
        given.certificate(Case.parse(f"resnet18-{tokens}"), FACTS)
    assert ranks.purposes == ["play", *["certify"] * 4]
    assert {reference for _, _, reference in ranks.asked} == {"resnet18-any-2gpu-bs4.pt"}
    others = ("ddp-1gpu-bs4", "ddp-2gpu-bs8", "ddp-2gpu-bs4-bf16", "ddp-2gpu-bs4-accum2", "ddp-2gpu-bs4-clip1")
    for tokens in (*others, "ddp-2gpu-bs4-cosine", "ddp-2gpu-bs4-fused"):
        given.certificate(Case.parse(f"resnet18-{tokens}"), FACTS)
    assert ranks.purposes.count("play") == 8
    assert given.reference_s == 24.0
    assert len({reference for purpose, _, reference in ranks.asked if purpose == "play"}) == 8


# ------------------------------------------------------------------------------------------------------- records


def test_a_certificate_comes_back_as_it_was_kept(tmp_path):
    infinite = replace(made_certificate().figures[0], difference=float("inf"))
    for certificate in (
        made_certificate(from_fp32=0.01, found="rounding", demanded="rounding"),
        made_certificate(causes=("the gradient is halved",), figures=(infinite,)),
    ):
        certificates.write(certificate, tmp_path / "kept" / "a.json")
        assert certificates.read(tmp_path / "kept" / "a.json") == certificate
        assert certificates.certificate(to_json(certificate), where="here") == certificate
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["a.json"]


def test_what_overflowed_in_the_ranks_comes_back_through_a_report():
    """JSON has no word for it: as a number it would arrive as null."""
    import json

    played = made_played(unclipped_norms=(float("inf"), 4.0, 3.0))
    text = json.dumps(to_json(played), allow_nan=False)
    assert certificates.played(json.loads(text)) == played


def test_a_certificate_that_cannot_be_kept_is_told(tmp_path):
    (tmp_path / "kept").write_text("a file where the folder belongs")
    with pytest.raises(StoreError, match=r"a\.json cannot be kept: .*; set SHARDBENCH_CACHE"):
        certificates.write(made_certificate(), tmp_path / "kept" / "a.json")


@pytest.mark.parametrize("data", [None, [], {}, {"case_id": 3}, to_json(made_certificate()) | {"steps": "some"}])
def test_what_is_no_certificate_is_refused_by_the_name_of_its_file(data):
    with pytest.raises(StoreError, match=r"0001_a\.json holds no valid certificate; run with --recertify"):
        certificates.certificate(data, where="0001_a.json")


def test_a_certificate_is_granted_unless_something_is_wrong():
    assert made_certificate().granted
    refused: Certificate = made_certificate(causes=("clipping: to a norm of 1, the reference none seen",))
    assert not refused.granted
