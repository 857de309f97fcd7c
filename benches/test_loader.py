"""Loading keeps up: the loader beside torchvision's own for the same files, and beside what each model consumes."""

from dataclasses import replace
from math import exp, log, sqrt
from statistics import NormalDist, fmean, median, stdev

import pytest

from harness.case import Case, grid
from harness.errors import CannotRun
from harness.session.recording import ReplayClock
from harness.session.suite import suite_of

pytestmark = pytest.mark.when_named("loader")

GPU_COUNTS = (1, 2, 4)
MOST_WORKERS = (1, 2, 4, 8)


def pytest_generate_tests(metafunc):
    suite = suite_of(metafunc.config)
    settings = {name: suite.profile.settings(model) for name, model in suite.registry.models.items()}
    metafunc.parametrize("model", [name for name, of_model in settings.items() if of_model.in_default_matrix])


@pytest.mark.benchmark(timer=ReplayClock())
def test_loader(cost, model):
    """Fails when a loader is, beyond doubt, slower than torchvision's, or gives less than the fastest case consumes."""
    pipeline = cost.pipeline
    settings = pipeline.profile.settings(pipeline.registry.models[model])
    fastest, consumed = _fastest(pipeline, model, settings) or (None, 0.0)
    case = fastest or Case(model=model, strategy="ddp", gpu_count=1, batch_size=settings.batch_sizes[0])
    data = replace(pipeline.ranks.data(settings), train_images=None, carved_images=None)
    cores = len(pipeline.host.cores)
    workers = {0, settings.loader_workers, *(count for count in MOST_WORKERS if count * case.gpu_count <= cores)}
    said, seconds, slower, gives = [], [], [], 0.0
    for count in sorted(workers):
        ours, theirs = _rates(pipeline, replace(case, strategy="ddp", offload="none"), data, count)
        ratios = [log(one / other) for one, other in zip(ours, theirs, strict=True)]
        margin = NormalDist().inv_cdf(0.975) * stdev(ratios) / sqrt(len(ratios))
        low, high = (exp(fmean(ratios) + side * margin) for side in (-1, 1))
        said.append(
            f"{count} workers: {median(ours):.0f} images/s, torchvision's {median(theirs):.0f}, "
            f"{exp(fmean(ratios)):.2f}x ({low:.2f} to {high:.2f})"
        )
        if high < 1:
            slower.append(said[-1])
        if count == settings.loader_workers:
            gives = median(ours)
            seconds = [case.global_batch_size / rate for rate in ours]
    known = (
        f"{fastest} consumes {consumed:.0f}, with {settings.loader_workers} workers" if fastest else "none is stored"
    )
    title = f"loader of {model}, {data.name}, {case.gpu_count} ranks"
    cost.record("\n  ".join([title, *said, f"the fastest case of the stored runs: {known}"]), seconds)
    assert not slower, f"slower than torchvision's: {'; '.join(slower)}"
    assert gives > consumed, f"loader-bound: {fastest} consumes {consumed:.0f} images/s, the loader gives {gives:.0f}"


def _rates(pipeline, case, data, workers):
    """Return the images per second of this loader and of torchvision's, all ranks together, of each round."""
    title = f"loaders of {case.model}, {workers} workers"
    try:
        reports, _ = pipeline.ranks.launch(case, title, purpose="loaders", loader_workers=workers, data=data)
    except CannotRun as reason:
        pytest.skip(str(reason))
    # A step waits for the slowest rank.
    return (
        [len(reports) * min(of_round) for of_round in zip(*(r.extra[name] for r in reports), strict=True)]
        for name in ("ours", "theirs")
    )


def _fastest(pipeline, model, settings):
    """Return the case of the stored runs of this machine that consumes most images per second, and how many."""
    cells = grid(
        models=[model],
        strategies=pipeline.registry.strategies,
        gpu_counts=GPU_COUNTS,
        batch_sizes={model: settings.batch_sizes},
    )
    stored = {case: held.newest.result for case in cells if (held := pipeline.baseline(case)).newest is not None}
    rates = {
        case: case.global_batch_size / median(result.step_s)
        for case, result in stored.items()
        if result.step_s and not result.oversubscribed
    }
    return max(rates.items(), key=lambda item: item[1], default=None)
