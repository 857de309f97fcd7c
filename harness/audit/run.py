"""A stored run: its seal, its machine, and of each case what pytest-benchmark's figures are made from.

Whoever edits a run can seal it again, for no key protects it. So each figure is computed from the samples beneath it,
and what the file holds twice must be equal: a reference stands with every case that refers to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, get_args

from pytest_benchmark import __version__ as benchmark_version
from pytest_benchmark.stats import Stats

from harness.audit import certified, measured
from harness.audit.findings import Place, same
from harness.case import Case
from harness.errors import StoreError
from harness.gate.limits import Word
from harness.gate.observations import plain_s
from harness.machine.host import Gpu, Host
from harness.registry import Registry
from harness.results import Result, result_to_json
from harness.running.pipeline import reference_of
from harness.session.told import told_seconds
from harness.stored import store
from harness.stored.store import KEY, SEAL, Stored

_ALIKE = ("min", "max", "mean", "stddev", "median", "rounds", "total", "ops")
"""Figures that every version of pytest-benchmark computes alike."""
_ADDED = ("samples", "beside", "plain_s", "accounts", "traces", "telemetry", "ceilings", "loaded")
"""What further runs add to a result, and to its copy as a reference of others not."""


_MOST_CORES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a run says of where it was made."""

    name: str
    hardware: str
    """Digest."""
    software: dict[str, str]
    cores: int
    gpus: int


def check(place: Place, content: Mapping[str, Any], registry: Registry, earlier: Mapping[str, set[float]]) -> Known:
    """Look at a whole run; returns what later runs of its folder may build on.

    Args:
        place: its file.
        content: as JSON has it.
        registry: of what its cases may name.
        earlier: what `Known.plain_s` has of the runs of its folder that are older, together.
    """
    place.holds(SEAL, store.seal_fits(content), "the run was changed after it was written: its seal does not fit")
    machine = _machine(place.at("machine_info"), content)
    cases: dict[str, Stored] = {}
    seen: set[str] = set()
    for number, benchmark in enumerate(_benchmarks(place, content)):
        fullname = benchmark.get("fullname")
        here = place.of(str(fullname) if fullname else f"benchmark {number}")
        here.holds("fullname", isinstance(fullname, str) and fullname not in seen, "it is missing, or stands twice")
        seen.add(str(fullname))
        try:
            stored = store.unpack(benchmark, where="the run")
        except StoreError as error:
            here.wrong(f"extra_info.{KEY}", str(error).removeprefix("the run "))
            continue
        if stored is None:
            place.found.count("other benchmark")
            _stats(here, benchmark, None)
            continue
        place.found.count("case")
        here = place.of(stored.result.case_id)
        cases.setdefault(stored.result.case_id, stored)
        _benchmark(here, benchmark, stored)
        _case(here, content, stored, machine, registry)
        _plain(here, stored, earlier)
    _references(place, cases)
    _keys(place, cases)
    return Known(plain_s={f"{case} {one.result.identity}": one.result.plain_s for case, one in cases.items()})


@dataclass(frozen=True, slots=True)
class Known:
    """What later runs of the same folder may build on."""

    plain_s: Mapping[str, float | None]
    """`Result.plain_s` of each case and identity."""


def _benchmarks(place: Place, content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    benchmarks = content.get("benchmarks")
    if not isinstance(benchmarks, list) or not benchmarks:
        place.wrong("benchmarks", "the run holds none")
        return
    for number, benchmark in enumerate(benchmarks):
        if isinstance(benchmark, dict):
            yield benchmark
        else:
            place.wrong(f"benchmarks.{number}", "it is no table")


def _machine(place: Place, content: Mapping[str, Any]) -> Machine | None:
    """Hold the machine's name and facts to each other; None where they are not there."""
    told: Any = content.get("machine_info")
    try:
        facts, versions, gpus = told["hardware"], dict(told["versions"]), told["gpus"]
        if not 0 < told["cpu"]["count"] <= _MOST_CORES:
            raise ValueError(f"{told['cpu']['count']} cores")
        host = Host(
            cpu=told["cpu"]["brand_raw"],
            cores=tuple(range(int(told["cpu"]["count"]))),
            memory_bytes=int(told["memory_bytes"]),
            gpus=tuple(Gpu(name=gpu["name"], memory_bytes=int(gpu["memory_bytes"])) for gpu in gpus),
            driver=told["driver"],
            versions=versions,
            processor=dict(facts),
        )
        place.equal("hardware", facts, host.hardware, by="processor, cores, memory and GPUs")
        place.equal("node", told["node"], host.name, by="the hardware")
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return Machine(
            name=host.name, hardware=digest, software=host.software, cores=len(host.cores), gpus=len(host.gpus)
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError) as error:
        place.wrong("", f"the machine's facts are missing or damaged ({type(error).__name__}: {error})")
        return None


def _benchmark(place: Place, benchmark: Mapping[str, Any], stored: Stored) -> None:
    """Hold what pytest-benchmark stores of a case to the case, and its figures to the samples."""
    case = Case.parse(stored.result.case_id)
    for name, right in (
        ("param", case.id),
        ("group", f"{case.model} bs{case.batch_size}"),
        ("name", f"{str(benchmark.get('name')).partition('[')[0]}[{case.id}]"),
    ):
        place.equal(name, benchmark.get(name), right, by="the case")
    fullname = str(benchmark.get("fullname"))
    place.holds("fullname", fullname.endswith(f"::{benchmark.get('name')}"), "it does not end with the name")
    params = benchmark.get("params")
    place.holds("params", isinstance(params, dict), "the case's axes are missing")
    for axis, value in params.items() if isinstance(params, dict) else ():
        place.equal(f"params.{axis}", value, case.axes.get(axis), by="the case")
    _stats(place, benchmark, stored.result)


def _stats(place: Place, benchmark: Mapping[str, Any], result: Result | None) -> None:
    """Compute pytest-benchmark's figures again, of a case of its samples, of another of the data beside them."""
    place = place.at("stats")
    stats = benchmark.get("stats")
    if not isinstance(stats, dict):
        place.wrong("", "the figures are missing")
        return
    data = stats.get("data")
    if result is not None:
        seconds, by = list(told_seconds(result)), "the processes" if result.samples else "the ranks' steps"
        if data is not None:
            place.equal("data", data, seconds, by=by)
    elif isinstance(data, list) and all(type(one) in (int, float) for one in data):
        seconds, by = data, "the data beside it"
    else:
        mean, total, rounds = (stats.get(name) for name in ("mean", "total", "rounds"))
        if all(type(one) in (int, float) for one in (mean, total, rounds)) and total and mean and rounds:
            place.equal("total", total, mean * rounds, by="mean and rounds")
            place.equal("ops", stats.get("ops"), 1 / mean, by="the mean")
        return
    if not seconds:
        place.wrong("", "there is no sample to compute the figures from")
        return
    again = Stats()
    for one in seconds:
        again.update(one)
    right = again.as_dict()
    alike = stored_by_this_version(benchmark) or not set(right) <= set(stats)
    for name in right if alike else _ALIKE:
        place.equal(name, stats.get(name), right[name], by=f"{len(seconds)} of {by}")


def stored_by_this_version(benchmark: Mapping[str, Any]) -> bool:
    """Return whether the installed pytest-benchmark is the one that a case was stored by, as its versions tell."""
    packed = (benchmark.get("extra_info") or {}).get(KEY) or {}
    versions = (packed.get("result") or {}).get("versions") or {}
    return bool(versions.get("pytest-benchmark", benchmark_version) == benchmark_version)


def _case(
    place: Place, content: Mapping[str, Any], stored: Stored, machine: Machine | None, registry: Registry
) -> None:
    result, certificate = stored.result, stored.certificate
    case = Case.parse(result.case_id)
    inside = place.at("result")
    measured.check(inside, result, registry, verdict=stored.verdict)
    _made_here(inside, result, machine)
    _in_time(inside, content, result)
    place.holds("verdict", stored.verdict in get_args(Word), f"{stored.verdict[:40]!r} is no word of the gate")
    unsaid = stored.reasons == () and stored.verdict == "regressed"
    place.holds("reasons", not unsaid, "a regression, and no reason for it")
    if certificate is not None:
        certified.check(place.at("certificate"), certificate, result.case_id)
    granted = certificate is not None and certificate.granted
    place.equal("verdict", stored.verdict != "uncertified", granted, by="the certificate, as being certified")
    if stored.reference is not None:
        inside = place.at("reference")
        place.equal("reference.case_id", stored.reference.case_id, reference_of(case).id, by="the case")
        measured.check(inside, stored.reference, registry)
        _made_here(inside, stored.reference, machine, copied=True)
        _in_time(inside, content, stored.reference)


def _made_here(place: Place, result: Result, machine: Machine | None, *, copied: bool = False) -> None:
    if machine is None:
        return
    place.equal("host", result.host, machine.name, by="machine_info")
    place.equal("hardware", result.hardware, machine.hardware, by="machine_info")
    if not copied:  # a reference may be taken from an earlier run, of other versions
        place.equal("versions", result.versions, machine.software, by="machine_info")
    case = Case.parse(result.case_id)
    kinds = {rank.device.partition(":")[0] for rank in result.ranks}
    place.equal("ranks.device", sorted(kinds), ["cuda" if machine.gpus else "cpu"], by="machine_info")
    shared = machine.gpus == 0 and case.gpu_count > machine.cores
    place.equal("oversubscribed", result.oversubscribed, shared, by="the case's GPUs and the machine's cores")


def _in_time(place: Place, content: Mapping[str, Any], result: Result) -> None:
    """What a run holds began before it was stored."""
    try:
        stored_s = datetime.fromisoformat(str(content.get("datetime"))).timestamp()
    except (ValueError, OverflowError):
        replace(place, case="", inside="").wrong("datetime", "it is missing, or no time")
        return
    processes = {f"samples.{number}.started_unix_s": one.started_unix_s for number, one in enumerate(result.samples)}
    for name, begun_s in ({"started_unix_s": result.started_unix_s} | processes).items():
        said = f"stored {begun_s!r}, after the run was stored, at {content.get('datetime')}"
        place.holds(name, begun_s <= stored_s, said)


def _plain(place: Place, stored: Stored, earlier: Mapping[str, set[float]]) -> None:
    """Hold the seconds that a level is told at to the run that measured them, if it is this or an earlier one."""
    result = stored.result
    told, own = result.plain_s, plain_s(result.samples) if result.samples else None
    before = earlier.get(f"{result.case_id} {result.identity}", set())
    if (told is None) != (own is None):
        place.equal("result.plain_s", told, own, by="the processes")
    elif told is not None and not same(told, own) and (before or stored.verdict == "new"):
        place.holds(
            "result.plain_s",
            any(same(told, one) for one in before),
            f"stored {told!r}, recomputed {own!r} from the processes; nor has an earlier run of the folder that figure",
        )


def _references(place: Place, cases: Mapping[str, Stored]) -> None:
    """Hold all copies of one measurement to each other."""
    copies: dict[tuple[str, float], tuple[str, dict[str, Any]]] = {}
    for case, stored in cases.items():
        for holder, result in ((case, stored.result), (f"{case}, as its reference", stored.reference)):
            if result is None:
                continue
            kept = {name: value for name, value in _plain_json(result).items() if name not in _ADDED}
            first, known = copies.setdefault((result.case_id, result.started_unix_s), (holder, kept))
            for name in kept:
                place.found.figures += 1
                if kept[name] != known.get(name):
                    inside = "reference" if holder != case else "result"
                    place.of(case).wrong(f"{inside}.{name}", f"it is not what {first} holds of the same measurement")


def _plain_json(result: Result) -> dict[str, Any]:
    return result_to_json(replace(result, accounts=(), traces=()))


def _keys(place: Place, cases: Mapping[str, Stored]) -> None:
    """No two cases have one certificate: its key is a digest of the case, among other things."""
    holders: dict[str, str] = {}
    for case, stored in cases.items():
        if stored.certificate is not None:
            other = holders.setdefault(stored.certificate.key, case)
            said = f"the certificate of {other} has the same digest"
            place.of(case).holds("certificate.key", other == case, said)
