"""What ranks record of a training, and the one process that plays them all: each measure sees what it is there for."""

from __future__ import annotations

import math
import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.case import Case
from harness.plugins import InputKind, World
from tests.made import ANY_SPEED, Numbers
from tests.ranks import run_ranks

WORDS = st.integers(0, 2**32 - 1).filter(lambda bits: (bits >> 23) & 0xFF != 0xFF)
"""Bits of finite FP32 numbers."""


def _tensor(words):
    import torch

    return torch.frombuffer(bytearray(b"".join(struct.pack("<I", word) for word in words)), dtype=torch.float32)


def _digest(words) -> int:
    from harness.worker.watching import digest

    return digest(_tensor(words)) if words else 0


# ------------------------------------------------------------------------------------------------------- digest


@ANY_SPEED
@given(words=st.lists(WORDS, min_size=1, max_size=40), data=st.data())
def test_a_digest_is_the_same_however_a_tensor_is_cut_ordered_and_padded(words, data):
    cut = data.draw(st.integers(0, len(words)))
    shuffled = data.draw(st.permutations(words))
    parts = (shuffled[:cut], [*shuffled[cut:], *[0] * data.draw(st.integers(0, 3))])
    assert sum(map(_digest, parts)) % 2**64 == _digest(words)


@ANY_SPEED
@given(words=st.lists(WORDS, min_size=1, max_size=8), data=st.data())
def test_a_digest_changes_with_any_bit(words, data):
    place = data.draw(st.integers(0, len(words) - 1))
    changed = words.copy()
    changed[place] ^= 1 << data.draw(st.integers(0, 31))
    if changed[place] << 1 & 0xFFFFFFFF or words[place] << 1 & 0xFFFFFFFF:
        assert _digest(changed) != _digest(words)
    else:  # 0 and -0 are one number, and what sums of them give depends on the order
        assert _digest(changed) == _digest(words)


def test_numbers_that_change_places_between_tensors_of_one_sum_are_seen():
    """Values whose plain sums are equal have other digests."""
    import torch

    from harness.worker.watching import digest

    assert digest(torch.tensor([1.0, 4.0])) != digest(torch.tensor([2.0, 3.0]))
    assert digest(torch.zeros(7)) == digest(-torch.zeros(7)) == 0
    half = torch.tensor([0.5, -3.0], dtype=torch.bfloat16)
    assert digest(half) == digest(half.float())
    assert digest(torch.arange(6.0).reshape(2, 3).t()) == digest(torch.arange(6.0))


def test_a_checksum_is_of_the_samples_values_whatever_they_are_held_in():
    import torch

    from harness.worker.watching import checksum

    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert checksum(image) == checksum(image.bfloat16()) == checksum(image.contiguous().clone())
    assert checksum(image[None].contiguous(memory_format=torch.channels_last)[0]) == checksum(image)
    assert checksum(image) != checksum(image.flip(0))
    assert checksum(image) != checksum(torch.rand(3, 4, 4))


# ---------------------------------------------------------------------------------------------------- difference


def test_a_difference_is_a_share_of_what_the_training_changed():
    import torch

    from harness.worker.watching import changed, difference

    before = {"a": torch.zeros(3), "b": torch.zeros(2)}
    theirs = {"a": torch.tensor([3.0, 0.0, 0.0]), "b": torch.tensor([0.0, 4.0])}
    moved = changed(before, theirs)
    assert moved == 5.0
    same = difference({name: tensor.clone() for name, tensor in theirs.items()}, theirs, moved)
    assert (same.equal, same.share) == (True, 0.0)
    ours = {"a": torch.tensor([3.0, 0.0, 0.3]), "b": torch.tensor([0.0, 4.4])}
    apart = difference(ours, theirs, moved)
    assert (apart.equal, apart.worst) == (False, "b")
    assert apart.share == pytest.approx(0.1)
    # Where nothing was trained, the norm itself.
    assert difference(ours, theirs, 0.0).share == pytest.approx(0.5)


def test_other_names_other_types_and_no_numbers_differ():
    import torch

    from harness.worker.watching import difference

    theirs = {"a": torch.ones(2), "b": torch.ones(1)}
    assert difference({"a": torch.ones(2)}, theirs, 1.0).worst == "b"
    assert not difference({"a": torch.ones(2)}, theirs, 1.0).equal
    half = difference(theirs | {"a": torch.ones(2, dtype=torch.bfloat16)}, theirs, 1.0)
    assert (half.equal, half.worst) == (False, "a")
    lost = difference(theirs | {"b": torch.tensor([math.nan])}, theirs, 1.0)
    assert (lost.equal, lost.share, lost.worst) == (False, math.inf, "b")


# -------------------------------------------------------------------------------------------------- the optimizer


def _step(make, watch=None, frozen=0, **loss):
    """Return a small trained module's optimizer after one step, watched if asked for."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    for parameter in list(module.parameters())[:frozen]:
        parameter.requires_grad_(False)
    optimizer = make(module.parameters())
    if watch:
        watch.begin_step()
        watch.optimizer(optimizer)
    module(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()
    return optimizer


def test_the_state_is_told_by_kind_without_counters():
    import torch

    from harness.worker.watching import digest, squares, state_slots

    optimizer = _step(lambda p: torch.optim.AdamW(p, lr=0.1))
    slots, types, elements = state_slots(optimizer, {})
    assert set(slots) == {"exp_avg", "exp_avg_sq"}
    assert (types, elements) == ({"fp32"}, 2 * (6 + 2 + 2 + 1))
    held = [state["exp_avg"] for state in optimizer.state.values()]
    assert slots["exp_avg"].digest == sum(map(digest, held)) % 2**64
    assert slots["exp_avg"].squares == pytest.approx(sum(map(squares, held)))
    assert state_slots(_step(lambda p: torch.optim.SGD(p, lr=0.1)), {}) == ({}, set(), 0)


def test_what_lay_in_the_padding_is_no_state():
    """DeepSpeed's shards end in memory that nobody wrote, and weight decay carries it into the momentum."""
    import torch

    from harness.worker.watching import Watch, state_slots

    def trained(padding):
        flat = torch.nn.Parameter(torch.tensor([1.0, 2.0, *padding]))
        optimizer = torch.optim.SGD([flat], lr=0.1, momentum=0.9, weight_decay=0.1)
        watch = Watch()
        watch.optimizer(optimizer)
        for gradient in ((0.0, 3.0), (1.0, 0.0)):
            watch.begin_step()
            flat.grad = torch.tensor([*gradient, *(0.0 for _ in padding)])
            optimizer.step()
        slots, _, elements = state_slots(optimizer, watch.untouched)
        if not padding:
            assert slots == state_slots(optimizer, {})[0], "each element had a gradient once"
        return slots["momentum_buffer"], elements

    plain, elements = trained(())
    assert trained((1e30, -7.0)) == (plain, elements + 2)
    assert plain.squares > 0


def test_the_gradients_that_are_applied_are_summed_up_with_their_group():
    import torch

    from harness.worker.watching import Watch, squares

    watch = Watch()
    optimizer = _step(lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=0.1), watch)
    gradients = [p.grad for p in optimizer.param_groups[0]["params"]]
    assert watch.squares == pytest.approx([sum(map(squares, gradients))])
    (group,) = watch.group_records()
    assert (group.weight_decay, group.elements, group.learning_rates) == (0.1, 11, (0.5,))
    assert group.rest == "momentum 0.9"
    assert (watch.master, watch.gradient) == ({"fp32"}, {"fp32"})


def test_frozen_parameters_are_of_no_group():
    import torch

    from harness.worker.watching import Watch

    watch = Watch()
    _step(lambda p: torch.optim.SGD(p, lr=0.5), watch, frozen=2)
    assert [group.elements for group in watch.group_records()] == [3]


def test_a_fused_optimizer_is_watched_with_the_scale_it_is_given_taken_off():
    import torch

    from harness.worker.watching import Watch

    plain, scaled = Watch(), Watch()
    _step(lambda p: torch.optim.SGD(p, lr=0.5), plain)

    def make(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.5, fused=True)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
        return optimizer

    _step(make, scaled)
    assert scaled.squares[0] * 16 == pytest.approx(plain.squares[0])


def test_an_optimizer_that_is_stepped_part_by_part_has_made_one_step():
    """As ZeRO-3 does, with another part in its group each time."""
    import torch

    from harness.worker.watching import Watch

    parts = [torch.nn.Parameter(torch.ones(n)) for n in (3, 4)]
    optimizer = torch.optim.SGD([parts[0]], lr=0.5)
    watch = Watch()
    watch.optimizer(optimizer)
    for _ in range(2):
        watch.begin_step()
        for part in parts:
            optimizer.param_groups[0]["params"] = [part]
            part.grad = torch.ones_like(part)
            optimizer.step()
    (group,) = watch.group_records()
    assert (group.elements, group.learning_rates, watch.squares) == (7, (0.5, 0.5), [7.0, 7.0])


def test_types_are_those_of_the_running_modules():
    import torch
    from torch import nn

    from harness.worker.watching import Watch

    watch = Watch()
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    handles = watch.modules(module)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(torch.ones(2, 3))
    assert (watch.live, watch.compute) == ({"fp32"}, {"bf16"})
    for handle in handles:
        handle.remove()
    module(torch.ones(2, 3))
    assert watch.compute == {"bf16"}


def test_the_loss_is_noted_with_its_samples_and_the_gradient_it_receives():
    import torch

    from harness.worker.watching import Watch, checksum

    watch = Watch()
    images = torch.arange(8.0).reshape(2, 1, 2, 2)
    weight = torch.ones((), requires_grad=True)
    called = []
    loss = watch.loss(lambda _, batch: weight * sum(image.mean() for image in batch[0]), lambda: called.append(1))
    watch.begin_step()
    (loss(None, (images, torch.tensor([3, 4]))) / 4).backward()
    boxes = [{"labels": torch.ones(n)} for n in (2, 0)]
    loss(None, (list(images), boxes)).detach()
    assert called == [1, 1]
    assert watch.samples == [(checksum(images[0]), checksum(images[1])) * 2]
    assert watch.targets == [4]
    assert watch.loss_gradients == [0.25]


def _reductions(rank: int):
    import torch
    import torch.distributed as dist

    from harness.worker.watching import Watch

    def seen(*tensors, call=dist.all_reduce):
        watch = Watch()
        with watch.collectives():
            for tensor in tensors:
                call(tensor)
        return sorted(watch.reduction)

    def scatter(tensor):
        dist.reduce_scatter_tensor(torch.zeros(2, dtype=tensor.dtype), tensor)

    def gather(tensor):
        dist.all_gather_into_tensor(torch.zeros(8, dtype=tensor.dtype), tensor)

    return [
        seen(torch.ones(4, dtype=torch.bfloat16)),
        seen(torch.ones(2, 2), torch.ones(3, dtype=torch.bfloat16)),
        seen(torch.ones(1), torch.ones(())),
        seen(torch.ones(4), call=scatter),
        seen(torch.ones(4, dtype=torch.bfloat16), call=gather),
        seen(),
    ]


def test_the_types_that_collectives_sum_are_seen_and_single_numbers_are_not():
    wanted = [["bf16"], ["bf16", "fp32"], [], ["fp32"], [], []]
    assert run_ranks(_reductions, 2) == [wanted, wanted]


# ------------------------------------------------------------------------------------------------- the reference


@pytest.mark.parametrize(
    ("graph", "terms"),
    [
        (lambda x, w: (w * x).sum(), 1),
        (lambda x, w: (x * w + w.relu()).sum(), 2),  # a parameter that is used twice
        (lambda x, w: ((h := x * w) + h.relu()).sum(), 2),  # a residual
        (lambda x, w: ((h := x * w).relu() + h.sigmoid() + h.tanh()).sum(), 3),
        (lambda x, w: sum((x * w * n).sum() for n in range(5)), 5),
    ],
    ids=["chain", "shared", "residual", "three consumers", "five images"],
)
def test_the_most_gradients_that_meet_at_one_place_are_counted(graph, terms):
    import torch

    from harness.worker.reference import most_terms

    weight = torch.ones(3, requires_grad=True)
    assert most_terms(graph(torch.arange(3.0), weight)) == terms


@pytest.mark.parametrize(
    ("tokens", "terms", "device", "wanted"),
    [
        ("1gpu-bs4", 2, "cpu", True),
        ("2gpu-bs4", 2, "cpu", True),
        ("2gpu-bs4-bf16", 2, "cpu", True),
        ("2gpu-bs4-ckpt", 2, "cpu", True),
        ("2gpu-bs4-offload", 2, "cpu", True),
        ("2gpu-bs4-cosine-warmup2", 2, "cpu", True),
        ("2gpu-bs4", 3, "cpu", False),
        ("3gpu-bs4", 1, "cpu", False),
        ("2gpu-bs4-accum2", 1, "cpu", False),
        ("2gpu-bs4-clip1", 1, "cpu", False),
        ("2gpu-bs4-fused", 1, "cpu", False),
        ("2gpu-bs4-compile", 1, "cpu", False),
        ("2gpu-bs4-chlast", 1, "cpu", False),
        ("2gpu-bs4", 1, "cuda", False),
    ],
)
def test_the_same_bits_are_demanded_where_every_sum_has_one_order(tokens, terms, device, wanted):
    from harness.worker.reference import exact

    assert exact(Case.parse(f"net-ddp-{tokens}"), terms, device) is wanted


def test_micro_batches_are_consecutive_parts_of_one_size():
    import torch

    from harness.strategies._eager import micro_batches as of_strategies
    from harness.worker.certifying import micro_batches

    tensors = (torch.arange(6), torch.arange(6) * 10)
    lists = (["a", "b", "c", "d"], [1, 2, 3, 4])
    assert [(x.tolist(), y.tolist()) for x, y in micro_batches(tensors, 3)] == [
        ([0, 1], [0, 10]),
        ([2, 3], [20, 30]),
        ([4, 5], [40, 50]),
    ]
    assert list(micro_batches(lists, 2)) == [(["a", "b"], [1, 2]), (["c", "d"], [3, 4])]
    assert list(micro_batches(lists, 1)) == [lists]
    # The strategies cut by code of their own.
    assert [x.tolist() for x, _ in of_strategies(tensors, 3)] == [x.tolist() for x, _ in micro_batches(tensors, 3)]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("images", [8, 11, 15])
@pytest.mark.parametrize("base", [0, 3])
def test_the_reference_draws_what_the_ranks_are_dealt_over_the_end_of_an_epoch(ranks, images, base):
    """Two accounts of one data order: the loader's, through torch's sampler, and the reference's, by its definition."""
    from harness.worker.certifying import STEPS
    from harness.worker.loading import TrainingData
    from harness.worker.reference import _batches

    each = 8 // ranks  # so that an epoch is over after one step
    context = SimpleNamespace(
        case=Case(model="net", strategy="ddp", gpu_count=ranks, batch_size=each),
        job=SimpleNamespace(seed=base, data=SimpleNamespace(augment="none")),
        model=SimpleNamespace(input=InputKind.IMAGES),
        open=lambda split: Numbers(images),
    )
    drawn = [[labels.tolist() for _, labels in step] for step in _batches(context)]
    dealt = []
    for rank in range(ranks):
        world = World(rank=rank, local_rank=rank, size=ranks, device="cpu", backend="gloo")
        data = TrainingData(
            Numbers(images), world, kind=InputKind.IMAGES, batch_size=each, seed=base, workers=0
        ).endless(0)
        dealt.append([next(data)[1].tolist() for _ in range(STEPS)])
    assert drawn == [list(step) for step in zip(*dealt, strict=True)]
    assert drawn[0] != drawn[images // 8], "each epoch has an order of its own"


def test_every_forward_of_every_rank_draws_its_own():
    import torch

    from harness.worker.certifying import seed

    drawn = set()
    for base, step, rank, part in [(0, 1, 0, 0), (1, 1, 0, 0), (0, 2, 0, 0), (0, 1, 1, 0), (0, 1, 0, 1), (0, 2, 1, 3)]:
        seed(base, step, rank, part)
        drawn.add(torch.rand(1).item())
    assert len(drawn) == 6
    seed(0, 1, 0, 0)
    assert torch.rand(1).item() in drawn
