"""Cases on a real Slurm of two nodes: what comes out, what is recorded, and what becomes of a node that disappears."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.case import Case
from harness.errors import CannotRun, WorkerFailed
from harness.machine.nodes import Joining
from harness.registry import discover
from tests import slurm_cluster
from tests.waiting import soon

ROOT = Path(__file__).parents[1]
_REASON = slurm_cluster.why_not()
pytestmark = pytest.mark.skipif(bool(_REASON), reason=f"a Slurm of two nodes {_REASON}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running
    assert running.left() == []


@pytest.fixture(scope="module")
def nodes(slurm, make_pipeline):
    """A pipeline on both nodes."""
    joining = Joining(nodes=2, srun="--partition=both --account=someone")
    pipeline = make_pipeline(
        host=discover().find("launchers", "slurm").probe(joining), launcher="slurm", case_timeout_s=100
    )
    yield pipeline
    pipeline.close()


def _case(strategy, gpus=2, per_node=1):
    return Case(model="tiny_net", strategy=strategy, gpu_count=gpus, batch_size=4, gpus_per_node=per_node)


def test_a_case_over_two_nodes_trains_as_on_one_and_tells_where_each_rank_ran(nodes, pipeline):
    found = nodes.measure(_case("ddp"))
    here = pipeline.measure(_case("ddp", per_node=None))
    assert [report.loss for report in found.ranks] == [report.loss for report in here.ranks]
    assert [report.node for report in found.ranks] == [0, 1]
    assert [report.node for report in here.ranks] == [0, 0]
    assert all(report.phases_s["start"] >= 0 for report in found.ranks)
    assert len(nodes.host.nodes) == 2
    assert nodes.host.name.startswith("2-nodes-of-")


def test_a_case_of_one_node_runs_on_the_first(nodes):
    assert [report.node for report in nodes.measure(_case("ddp", per_node=None)).ranks] == [0, 0]


def test_a_node_that_disappears_is_named_within_a_bounded_time_and_the_next_case_runs(nodes, slurm):
    nodes.measure(_case("ddp"))

    def kill_the_second_nodes_step():
        assert soon(lambda: "train" in _progress(nodes), 60)
        for process in slurm.of_node("n2"):
            process.kill()

    killer = threading.Thread(target=kill_the_second_nodes_step)
    killer.start()
    with pytest.raises(WorkerFailed, match=r"node n2 \(2 of 2, rank 1 of 2\) disappeared during train"):
        nodes.measure(_case("hangs"))
    killer.join()
    assert soon(lambda: not slurm.of_node("n2"))
    assert len(nodes.measure(_case("fsdp2")).ranks) == 2


def test_a_rank_that_fails_on_another_node_is_named_with_its_cause(nodes):
    with pytest.raises(WorkerFailed, match="rank 1 of 2 failed during train: RuntimeError: planted: this rank raises"):
        nodes.measure(_case("raises"))


def test_closing_leaves_nothing_on_any_node(nodes, slurm):
    nodes.measure(_case("ddp"))
    nodes.ranks.renew()
    assert soon(lambda: not slurm.of_node("n1") + slurm.of_node("n2"))


@pytest.mark.slow
def test_a_batch_job_runs_pytest_over_its_nodes_and_stores_which(slurm, tmp_path):
    """The job script that users have, in an allocation of its own."""
    log = tmp_path / "job.log"
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        [
            *("sbatch", "--wait", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={log}"),
            *(str(ROOT / "docs" / "slurm" / "nodes.sbatch"), "-p", "no:cacheprovider", "--srun=--partition=both"),
            *("--plugins", "plugins_for_tests", "-k", "tiny_net and ddp and 2gpu and pernode1"),
            # As little else as can be.
            *("--reference", "baseline", "--gate-budget", "1s"),
            *(f"--benchmark-json={tmp_path / 'out.json'}", f"--benchmark-storage=file://{tmp_path}"),
        ],
        cwd=ROOT,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    told = log.read_text() if log.exists() else ""
    assert "1 passed" in told, told + done.stderr
    stored = json.loads((tmp_path / "out.json").read_text())
    assert [len(node["cores"]) for node in stored["machine_info"]["nodes"]] == [len(os.sched_getaffinity(0))] * 2
    assert soon(lambda: not slurm.of_node("n1") + slurm.of_node("n2"))


def _progress(nodes):
    return "".join(file.read_text() for file in nodes.ranks.folder.glob("*/rank1.progress"))


def test_what_srun_refuses_is_told_in_its_words(slurm):
    with pytest.raises(CannotRun, match=r"ended before they joined[\s\S]*invalid partition specified: nowhere"):
        discover().find("launchers", "slurm").probe(Joining(nodes=2, srun="--partition=nowhere"))
