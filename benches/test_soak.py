"""Two hundred tiny cases in one run: what outlives a case neither grows nor becomes slower.

The figures are kept in the cache, in `drills/<machine>/soak.json`; as a file of `docs/drills/` they are shown by
`docs/faults.md`.
"""

import os
from contextlib import nullcontext
from datetime import UTC, datetime

import psutil
import pytest

from harness.case import Case
from harness.metrics.timing import fixed_s
from harness.profiles import Profile
from harness.proof.drill import Drill, Soak, halves, packed
from harness.running.pipeline import Pipeline
from harness.running.ranks import cache_folder
from harness.session.recording import ReplayClock
from harness.session.suite import suite_of
from harness.stored.writing import whole

pytestmark = pytest.mark.when_named("soak")

CASES = 200
CASE = Case(model="vit_tiny", strategy="ddp", gpu_count=2, batch_size=4)
TINY = {
    "dataset": "cifar10",
    "embedded": "digits",
    "image_size": 8,
    "train_images": 16,
    "val_images": 8,
    "epochs": 1,
    "warmup_steps": 1,
    "measured_steps": 1,
    "batch_sizes": [4],
    "optimizer": {"name": "sgd", "arguments": {"lr": 0.01}},
}
MOST_RUN_BYTES = 4 * 2**20
"""The second half may have more than the first: the memory of the run, which keeps what it measured, ..."""
MOST_AGENT_BYTES = 4 * 2**20
"""... that of the agent, which keeps nothing, ..."""
MOST_SLOWER = 1.2
"""... and the fixed cost of a case, times so much on a machine whose speed changes; open files not one."""


@pytest.mark.benchmark(timer=ReplayClock())
def test_soak(cost, request):
    """Fails where memory, open files or a case's fixed cost grow from the first half of the cases to the second."""
    suite = suite_of(request.config)
    profile = Profile(name="soak", about="", case_timeout_s=120, kinds={"images": TINY, "detection": TINY})
    pipeline = Pipeline(
        host=suite.host,
        registry=suite.registry,
        profile=profile,
        options=suite.options,
        watch=lambda title, folder: nullcontext(),
    )
    run = psutil.Process()
    seen = []
    try:
        for _ in range(CASES):
            fixed = fixed_s(pipeline.fresh(CASE))
            agent = [child for child in run.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
            files = sum(len(os.listdir(f"/proc/{one.pid}/fd")) for one in (run, *agent))  # noqa: PTH208
            seen.append((run.memory_info().rss, sum(one.memory_info().rss for one in agent), files, fixed))
    finally:
        pipeline.close()
    resident, agents, files, seconds = (tuple(column) for column in zip(*seen, strict=True))
    soak = Soak(case_id=str(CASE), resident_bytes=resident, agent_bytes=agents, files=files, fixed_s=seconds)
    folder = cache_folder() / "drills" / suite.host.name
    folder.mkdir(parents=True, exist_ok=True)
    date = datetime.now(UTC).date().isoformat()
    whole(folder / "soak.json", packed(Drill(date=date, versions=suite.host.versions, soak=soak)))
    grown, agent_grown, more = (late - early for early, late in map(halves, (resident, agents, files)))
    early, late = halves(seconds)
    cost.record(
        f"{CASES} cases in one run, second half against first: {grown / 2**20:+.2f} MiB in the run, "
        f"{agent_grown / 2**20:+.2f} MiB in the agent, {more:+.0f} open files, fixed cost {early:.3f} to {late:.3f} s; "
        f"kept in {folder}",
        seconds,
    )
    assert grown <= MOST_RUN_BYTES
    assert agent_grown <= MOST_AGENT_BYTES
    assert more <= 0
    assert late <= early * MOST_SLOWER
