"""Machines that join a run without a scheduler: who is let in, what is told where somebody is missing, that all end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from harness.case import Case
from harness.commands import join
from harness.errors import CannotRun, HarnessError, WorkerFailed
from harness.launchers import _nodes, torchrun
from harness.launchers._nodes import NodesSession, Way
from harness.machine import host as hosts
from harness.machine.nodes import Joining
from harness.registry import discover
from tests.made import made_host
from tests.waiting import soon

ROOT = Path(__file__).parents[1]


def _port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def _joined(port):
    """Make another process of this machine a second node, as a person would."""
    command = [sys.executable, "-m", "harness", "join", f"127.0.0.1:{port}", "--wait", "60"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _case(strategy):
    return Case(model="tiny_net", strategy=strategy, gpu_count=2, batch_size=4, gpus_per_node=1)


def _below(pid):
    return [p for p in psutil.Process(pid).children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_torchrun_over_two_machines_trains_as_on_one_and_names_the_one_that_disappears(make_pipeline, pipeline):
    port = _port()
    joining = Joining(nodes=2, rdzv_endpoint=f"127.0.0.1:{port}")
    with _joined(port) as other:
        over = make_pipeline(host=torchrun.TORCHRUN.probe(joining), launcher="torchrun", case_timeout_s=100)
        found = over.measure(_case("ddp"))
        assert [report.node for report in found.ranks] == [0, 1]
        here = pipeline.measure(Case(model="tiny_net", strategy="ddp", gpu_count=2, batch_size=4))
        assert [report.loss for report in found.ranks] == [report.loss for report in here.ranks]

        def kill_the_other():
            soon(lambda: "train" in "".join(f.read_text() for f in over.ranks.folder.glob("*/rank1.progress")), 90)
            lost.extend(_below(other.pid))
            other.kill()

        lost: list[psutil.Process] = []
        killer = threading.Thread(target=kill_the_other)
        killer.start()
        with pytest.raises(WorkerFailed, match=r"node \S+ \(2 of 2, rank 1 of 2\) disappeared during train"):
            over.measure(_case("hangs"))
        killer.join()
        assert lost
        assert soon(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in lost))
    over.close()


def _way(count=1, wait_s=30.0, agent="", port=0, start=None):
    def joins(port, log):
        command = [sys.executable, "-m", "harness", "join", f"127.0.0.1:{port}", "--once", "--place", "0"]
        with log.open("ab") as output:
            return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)

    return Way(
        address="127.0.0.1",
        port=port,
        count=count,
        agent=agent,
        start=start or joins,
        wait_s=wait_s,
        advice="do something",
    )


def _sleeps(port, log):
    return subprocess.Popen(["sleep", "60"])


def test_a_node_tells_what_it_is():
    (node,) = _nodes.look(_way())
    here = hosts.probe_node()
    assert (node.cpu, node.cores, node.memory_bytes) == (here.cpu, here.cores, here.memory_bytes)


def test_nodes_that_do_not_come_are_counted_and_it_is_said_what_to_do(tmp_path):
    session = NodesSession(_way(2, 0.5, start=_sleeps), "cpu", tmp_path)
    with pytest.raises(CannotRun, match=r"0 of 2 nodes joined within 0\.5 s; do something"):
        session.gather()
    assert session._starter is None


def test_nodes_that_once_did_not_come_are_waited_for_less_long(tmp_path, monkeypatch):
    monkeypatch.setattr(_nodes, "_GONE_S", 0.25)
    session = NodesSession(_way(2, 0.5, start=_sleeps), "cpu", tmp_path)
    for waited_s in ("0.5", "0.25", "0.25"):
        with pytest.raises(CannotRun, match=f"0 of 2 nodes joined within {waited_s} s"):
            session.gather()


def test_what_starts_the_agents_and_ends_at_once_is_told_with_its_words(tmp_path):
    def fails(port, log):
        log.write_text("srun: error: no such partition\n")
        return subprocess.Popen(["false"])

    with pytest.raises(CannotRun, match=r"ended before they joined\n  \| srun: error: no such partition"):
        NodesSession(_way(start=fails), "cpu", tmp_path).gather()


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        json.dumps({"name": "n", "place": 0, "secret": "guessed", "node": {}}).encode() + b"\n",
        json.dumps({"name": "n", "place": 0, "secret": None}).encode() + b"\n",
    ],
)
def test_a_stranger_is_let_go_and_is_no_node(tmp_path, says):
    port = _port()

    def strange(port, log):
        def talk():
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.recv(4096)
                connection.sendall(says)
                connection.shutdown(socket.SHUT_WR)
                answers.append(connection.recv(4096))

        threading.Thread(target=talk).start()
        return _sleeps(port, log)

    answers: list[bytes] = []
    session = NodesSession(_way(1, 1.5, start=strange, port=port), "cpu", tmp_path)
    with pytest.raises(CannotRun, match="0 of 1 nodes joined"):
        session.gather()
    assert soon(lambda: answers == [b""])


def test_the_secret_is_for_its_owner_alone(tmp_path):
    NodesSession(_way(), "cpu", tmp_path)
    assert (tmp_path / _nodes.SECRET).stat().st_mode & 0o077 == 0


def test_a_node_that_does_not_see_the_runs_folder_is_named(tmp_path):
    told = join._introduction(tmp_path / "elsewhere", 1)
    assert "all nodes must share it" in told["error"]
    assert "secret" not in told


def test_nobody_there_is_said_with_what_to_do():
    with pytest.raises(HarnessError, match=r"nobody is at 127\.0\.0\.1"):
        join.run(_arguments(f"127.0.0.1:{_port()}", wait=0.1))


def test_an_endpoint_without_a_port_is_refused():
    with pytest.raises(HarnessError, match="write HOST:PORT"):
        join.run(_arguments("node0", wait=0.1))


def _arguments(endpoint, wait):
    import argparse

    return argparse.Namespace(endpoint=endpoint, wait=wait, place=None, once=False)


def test_torchrun_over_several_needs_an_endpoint_and_over_one_none():
    with pytest.raises(HarnessError, match="--nnodes 2 needs --rdzv-endpoint HOST:PORT"):
        torchrun.TORCHRUN.probe(Joining(nodes=2))
    assert torchrun.TORCHRUN.probe(Joining()).nodes == ()


def test_slurm_without_srun_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CannotRun, match="needs srun, which is not on PATH"):
        discover().find("launchers", "slurm").probe(Joining(nodes=2))


def test_a_host_of_several_nodes_has_a_name_and_a_digest_of_its_own():
    one = made_host()
    node = hosts.Node(cpu=one.cpu, cores=one.cores, memory_bytes=one.memory_bytes)
    both = hosts.of_nodes((node, node), Joining(nodes=2))
    assert both.name == f"2-nodes-of-{one.name}"
    assert both.describe().startswith("2 nodes, each ")
    assert hosts.of_nodes((node,), Joining()).hardware_digest == one.hardware_digest
    faster = hosts.Node(cpu=one.cpu, cores=one.cores, memory_bytes=one.memory_bytes, network=("ethernet 1000 Mbit/s",))
    digests = {hosts.of_nodes(nodes, Joining()).hardware_digest for nodes in ((node,) * 2, (node,) * 3, (faster,) * 2)}
    assert len(digests | {one.hardware_digest}) == 4
    assert hosts.of_nodes((node, faster), Joining()).hardware["unlike the first node"] == "1"


def test_a_silent_connection_is_let_go_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(_nodes, "HELLO_S", 0.2)
    port = _port()

    def silent(port, log):
        silence.append(socket.create_connection(("127.0.0.1", port)))
        return _sleeps(port, log)

    silence: list[socket.socket] = []
    began = time.monotonic()
    with pytest.raises(CannotRun, match="0 of 1 nodes joined"):
        NodesSession(_way(1, 1.0, start=silent, port=port), "cpu", tmp_path).gather()
    assert time.monotonic() - began < 30
    silence[0].close()
