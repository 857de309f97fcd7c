"""Hosts made of network namespaces: ranks train alike over them, links have their rate, and nothing stays behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.anatomy.communication import figures
from harness.case import Case
from harness.errors import HarnessError, WorkerFailed
from harness.launchers import namespaces

_REASON = namespaces.why_not()
needs_namespaces = pytest.mark.skipif(bool(_REASON), reason=f"the launcher namespaces {_REASON}")


def _left():
    folder = Path("/run/netns")
    return [path.name for path in folder.glob("shardbench-*")] if folder.exists() else []


def _case(strategy, gpus=2):
    return Case(model="tiny_net", strategy=strategy, gpu_count=gpus, batch_size=4)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("", None), ("unlimited", None), ("100mbit", 1e8), ("2.5gbit", 2.5e9), (" 50MBIT ", 5e7), ("1kbit", 1e3)],
)
def test_the_link_is_told_in_bits_per_second(monkeypatch, text, rate):
    monkeypatch.setenv("SHARDBENCH_LINK", text)
    assert namespaces.link_bits_per_s() == rate


@pytest.mark.parametrize("text", ["fast", "100", "100MB", "0mbit", "-5mbit"])
def test_what_is_no_rate_is_refused(monkeypatch, text):
    monkeypatch.setenv("SHARDBENCH_LINK", text)
    with pytest.raises(HarnessError, match="write it like 100mbit"):
        namespaces.link_bits_per_s()


def test_who_is_not_root_is_told_so(monkeypatch):
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: f"/sbin/{tool}")
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 1000)
    assert "needs root" in namespaces.why_not()


def test_a_missing_tool_is_named(monkeypatch):
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: None if tool == "tc" else "/sbin/ip")
    assert namespaces.why_not().startswith("needs tc of iproute2")


@needs_namespaces
def test_every_host_reaches_every_other_over_a_shaped_link_and_all_are_removed():
    with namespaces.joined(3, 1e8) as names:
        assert len(names) == 3
        shaped = subprocess.run(["tc", "-n", names[2], "qdisc"], capture_output=True, text=True, check=True).stdout
        assert "tbf" in shaped
        assert "rate 100Mbit" in shaped
        routes = subprocess.run(["ip", "-n", names[0], "addr"], capture_output=True, text=True, check=True).stdout
        assert "10.77.0.1/16" in routes
    assert not set(names) & set(_left())


@needs_namespaces
def test_namespaces_are_removed_though_what_ran_in_them_failed():
    with pytest.raises(RuntimeError), namespaces.joined(2, None) as names:
        raise RuntimeError
    assert not set(names) & set(_left())


@needs_namespaces
def test_what_a_killed_run_left_is_removed_and_nobody_elses():
    gone = subprocess.Popen(["true"])
    gone.wait()
    stale, alive = f"shardbench-{gone.pid}-0", "shardbench-1-0"
    try:
        for name in (stale, alive):
            subprocess.run(["ip", "netns", "add", name], check=True)
        namespaces.remove_stale()
        assert stale not in _left()
        assert alive in _left()
    finally:
        for name in (stale, alive):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.slow
@needs_namespaces
def test_ranks_train_over_links_as_they_do_without_and_a_killed_one_is_named(make_pipeline, pipeline, monkeypatch):
    monkeypatch.setenv("SHARDBENCH_LINK", "1gbit")
    over = make_pipeline(launcher="namespaces")
    before = set(_left())
    assert [r.loss for r in over.measure(_case("ddp")).ranks] == [r.loss for r in pipeline.measure(_case("ddp")).ranks]
    with pytest.raises(WorkerFailed, match=r"rank 1 of 2 was killed by SIGKILL during train"):
        over.measure(_case("killed"))
    assert set(_left()) <= before
    assert over.ranks.start()._ranks == {}


RATE_BITS_PER_S = 1e5
BURST_BYTES = 2 * 1514
"""What a token bucket lets through at once, that has been idle."""


@needs_namespaces
def test_exposed_communication_takes_what_the_links_rate_makes_of_its_bytes(make_pipeline, monkeypatch):
    """At least bytes over rate, on any machine."""
    monkeypatch.setenv("SHARDBENCH_LINK", "100kbit")
    traces = make_pipeline(launcher="namespaces").explainer.traces(_case("ddp"))
    (moved,) = (one for one in figures(traces) if one.kind == "all_reduce")
    # Of two ranks each sends its whole gradient: half to be reduced, half to be told.
    assert moved.size_bytes == 4 * 3130
    assert moved.exposed_s >= (moved.size_bytes - BURST_BYTES) / (RATE_BITS_PER_S / 8)
