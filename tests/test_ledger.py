"""The ledger counts every storage once, when it is made, resized and freed; the flop counter tells recomputation."""

from __future__ import annotations

import gc
import itertools

import pytest

from harness.plugins import Trainee

MIB = 2**20


def _held(ledger):
    return sum(ledger.held().values())


def test_a_storage_counts_once_however_many_tensors_are_views_of_it():
    import torch

    from harness.worker.ledger import Ledger

    ledger = Ledger()
    with ledger:
        whole = torch.zeros(1000)
        parts = whole.chunk(4)
        turned = whole.view(10, 100).t()
        alias = whole.detach()
    assert _held(ledger) == 4000
    del whole, turned, alias
    assert _held(ledger) == 4000
    del parts
    assert _held(ledger) == 0


def test_frees_and_resizes_are_seen_while_it_is_not_entered_or_no_operator_runs():
    import torch

    from harness.worker.ledger import Ledger

    ledger = Ledger()
    with ledger:
        tensor, other = torch.zeros(1000), torch.zeros(10)
        tensor.untyped_storage().resize_(0)
        assert _held(ledger) == 40
        tensor.untyped_storage().resize_(8000)
    assert _held(ledger) == 8040
    del other
    assert _held(ledger) == 8000
    assert torch.UntypedStorage.resize_.__name__ == "resize_"


def test_the_peak_is_the_first_moment_at_which_most_is_held():
    from harness.worker.ledger import peak

    events = [(100, 0), (50, 1), (-100, 0), (90, 2), (10, 3)]
    assert peak(events, {}) == {0: 100, 1: 50}
    assert peak(events, {7: 5}) == {0: 100, 1: 50, 7: 5}
    assert peak([(-5, 7)], {7: 5}) == {7: 5}
    assert peak([], {}) == {}


def test_every_storage_has_an_origin_a_person_can_look_up():
    import torch

    from harness.worker.ledger import Ledger

    ledger = Ledger()
    with ledger:
        tensor = torch.zeros(3, 5).clone()
    (number,) = ledger.numbers([tensor])
    origin = ledger.origins[number]
    assert origin.operator == "aten.clone.default"
    assert origin.place.startswith("tests/test_ledger.py:")
    assert (origin.shape, origin.type, origin.device) == ((3, 5), "float32", "cpu")


def test_the_log_is_the_same_in_every_run():
    import torch

    def log():
        torch.manual_seed(0)
        books = _train(_two_layers())[0]
        return books.ledger.events

    assert log() == log()


def _two_layers():
    from torch import nn

    return nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 8))


def _train(module, *, keep=None, batch=16, momentum=0.9):
    """Train a module by SGD under the ledger; `keep` is called with what each step keeps for ever."""
    import torch

    from harness.worker.accounting import STEPS, Books
    from harness.worker.ledger import Ledger

    books = Books(Ledger(), "cpu")
    with books.ledger:
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()
        for buffer in module.buffers():
            buffer.data = buffer.data.clone()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=momentum)

    def step(images):
        optimizer.zero_grad()
        loss = module(images).square().mean()
        loss.backward()
        optimizer.step()
        if keep is not None:
            keep()
        return loss.detach()

    trainee = Trainee(module=module, step=step, full_state=dict, optimizer=optimizer, applied=optimizer)
    books.open(trainee)
    for _ in range(STEPS):
        books.step(lambda: torch.ones(batch, 64))
    return books, trainee


def test_bytes_are_sorted_by_what_they_are_for():
    from harness.worker.accounting import STEPS

    books, _ = _train(_two_layers())
    figures = books.figures()
    elements = 64 * 128 + 128 + 2 * 128 + 128 * 8 + 8
    kept = figures["kept"]
    assert (kept.parameters, kept.gradients, kept.optimizer) == (4 * elements,) * 3
    assert kept.buffers == 4 * 2 * 128 + 8
    assert (kept.master, kept.work, kept.rest) == (0, 0, 0)
    # The batch is there besides, and the loss.
    assert figures["at_update"].total - kept.total >= 4 * 16 * 64
    assert figures["at_peak"].total == sum(figures["at_peak"].by_kind().values())
    assert figures["ends_bytes"] == (kept.total,) * STEPS
    assert figures["growth"] == ()


def test_activations_grow_with_the_batch_and_model_state_does_not():
    small, large = (_train(_two_layers(), batch=batch)[0].figures() for batch in (16, 160))
    assert small["kept"] == large["kept"]
    assert large["at_peak"].work > 5 * small["at_peak"].work
    # At least what backward needs of each layer: its inputs.
    assert large["at_peak"].work >= 4 * 160 * (64 + 128 + 128)


def test_what_more_is_kept_with_every_step_is_named_by_its_shape_and_place():
    import torch

    from harness.worker.accounting import STEPS

    leaked = []
    books, _ = _train(_two_layers(), keep=lambda: leaked.append(torch.ones(33, 5)))
    figures = books.figures()
    (growth,) = figures["growth"]
    assert (growth.shape, growth.type, growth.bytes_per_step) == ((33, 5), "float32", 4 * 33 * 5)
    assert growth.operator == "aten.ones.default"
    assert growth.place.startswith("tests/test_ledger.py:")
    ends = figures["ends_bytes"]
    assert [after - before for before, after in itertools.pairwise(ends)] == [660] * (STEPS - 1)
    assert figures["kept"].rest == STEPS * 660


def test_what_is_kept_now_and_then_and_garbage_in_cycles_are_no_leaks():
    import torch

    from harness.worker.accounting import STEPS

    steps = iter(range(10))
    seldom = []

    def keep():
        if (step := next(steps)) in (0, STEPS - 1):
            seldom.append(torch.ones(7 + step))
        circle = [torch.ones(1000)]
        circle.append(circle)

    # Lest Python collect by itself.
    thresholds = gc.get_threshold()
    gc.set_threshold(10**6)
    try:
        figures = _train(_two_layers(), keep=keep)[0].figures()
    finally:
        gc.set_threshold(*thresholds)
    assert figures["growth"] == ()
    assert figures["kept"].rest == 4 * (7 + 7 + STEPS - 1)
    assert gc.isenabled()


def test_without_an_update_nothing_is_said_of_that_moment():
    import torch
    from torch import nn

    from harness.worker.accounting import STEPS, Books
    from harness.worker.ledger import Ledger

    books = Books(Ledger(), "cpu")
    module = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    books.open(
        Trainee(module=module, step=lambda _: torch.ones(()), full_state=dict, optimizer=optimizer, applied=optimizer)
    )
    for _ in range(STEPS):
        books.step(lambda: torch.ones(1))
    assert books.figures()["at_update"] is None


def _operators(step):
    from harness.worker.accounting import Operators

    operators = Operators()
    operators.step(Trainee(module=None, step=step, full_state=dict, optimizer=None, applied=None), lambda: None)
    return operators


@pytest.mark.parametrize("checkpointed", [False, True])
def test_recomputation_is_counted_apart(checkpointed):
    import torch
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    first, second = nn.Linear(32, 64), nn.Linear(64, 16)
    block = nn.Sequential(nn.Linear(64, 64), nn.Tanh())
    images = torch.ones(8, 32)

    def step(_):
        hidden = first(images)
        hidden = checkpoint(block, hidden, use_reentrant=False) if checkpointed else block(hidden)
        loss = second(hidden).square().mean()
        loss.backward()
        return loss.detach()

    operators = _operators(step)
    one, two, three = (2 * 8 * a * b for a, b in ((32, 64), (64, 64), (64, 16)))
    # Forward once; backward by weights and by inputs, but for the images.
    plain = 2 * one + 3 * two + 3 * three
    assert operators.recomputed_flops == (two if checkpointed else 0)
    assert operators.flops - operators.recomputed_flops == plain


def test_an_operator_moves_its_inputs_and_its_result_and_a_view_moves_nothing():
    import torch

    a, b = torch.ones(1000), torch.ones(1000)
    read = 4  # the loss, by the host
    with torch.no_grad():
        assert _operators(lambda _: (a.view(10, 100) + b.view(10, 100))[0, 0]).bytes == 3 * 4000 + read
        assert _operators(lambda _: torch.empty(1000)[:1].fill_(1.0)[0]).bytes == 2 * 4 + read
