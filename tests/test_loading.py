"""Which rank gets which samples: each its own in training, and every one exactly once in validation."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DataError
from harness.plugins import InputKind, World
from harness.worker.loading import TrainingData, ValidationData, collate, shares, to_device
from tests.made import ANY_SPEED, Numbers


def _world(rank: int, size: int, **over) -> World:
    facts = {"rank": rank, "local_rank": rank, "size": size, "device": "cpu", "backend": "gloo"}
    return World(**(facts | over))


def _training(images, *, rank=0, size=1, batch=4, seed=0, **world) -> TrainingData:
    return TrainingData(
        Numbers(images), _world(rank, size, **world), kind=InputKind.IMAGES, batch_size=batch, seed=seed, workers=0
    )


def _epoch(images, *, size, batch, number=0, seed=0) -> list[list[list[int]]]:
    """Return the labels of an epoch by rank and step."""
    data = [_training(images, rank=rank, size=size, batch=batch, seed=seed) for rank in range(size)]
    return [[labels.tolist() for _, labels in of_rank.epoch(number)] for of_rank in data]


# ------------------------------------------------------------------------------------------------- validation


@given(images=st.integers(0, 400), ranks=st.integers(1, 9), batch=st.integers(1, 40))
@ANY_SPEED
def test_the_shares_of_all_ranks_are_every_image_once_in_as_many_rounds_for_each(images, ranks, batch):
    parts = [shares(images, ranks, rank, batch) for rank in range(ranks)]
    assert sorted(itertools.chain.from_iterable(itertools.chain.from_iterable(parts))) == list(range(images))
    assert len({len(rounds) for rounds in parts}) == 1
    assert all(len(indices) <= batch for rounds in parts for indices in rounds)
    # No more rounds than the fullest rank needs.
    assert len(parts[0]) == -(-len(range(0, images, ranks)) // batch)


@pytest.mark.parametrize(("images", "ranks", "batch"), [(13, 4, 2), (3, 4, 2), (1, 4, 8), (16, 4, 4), (13, 1, 5)])
def test_validation_batches_hold_the_images_their_indices_say_and_idle_ranks_keep_step(images, ranks, batch):
    seen = []
    rounds = set()
    for rank in range(ranks):
        data = ValidationData(Numbers(images), _world(rank, ranks), kind=InputKind.IMAGES, batch_size=batch, workers=0)
        batches = list(data)
        rounds.add(len(batches))
        assert len(batches) == len(data)
        for indices, (pictures, labels) in batches:
            assert labels.tolist() == (list(indices) or [0])
            assert pictures[:, 0, 0, 0].tolist() == labels.tolist()
            seen += indices
    assert sorted(seen) == list(range(images))
    assert len(rounds) == 1


def test_validation_can_be_gone_through_again():
    data = ValidationData(Numbers(7), _world(1, 2), kind=InputKind.IMAGES, batch_size=2, workers=0)
    first = [indices for indices, _ in data]
    assert [indices for indices, _ in data] == first == [(2, 3), (6,)]


def test_a_validation_without_an_image_is_refused():
    with pytest.raises(DataError, match="the validation split holds no image; raise val_images"):
        ValidationData(Numbers(0), _world(0, 1), kind=InputKind.IMAGES, batch_size=2, workers=0)


# --------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("images", [64, 71])
@pytest.mark.parametrize("number", [0, 3])
def test_every_world_size_sees_the_same_global_batches(images, number):
    alone = [sorted(batch) for batch in _epoch(images, size=1, batch=16, number=number)[0]]
    assert len(alone) == images // 16
    for size in (2, 4, 8):
        ranks = _epoch(images, size=size, batch=16 // size, number=number)
        together = [sorted(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]
        assert together == alone


@given(images=st.integers(1, 120), size=st.integers(1, 6), batch=st.integers(1, 9), seed=st.integers(0, 5))
@ANY_SPEED
def test_no_sample_is_given_to_two_ranks_or_twice_and_all_ranks_make_the_full_steps(images, size, batch, seed):
    if batch * size > images:
        with pytest.raises(DataError):
            _training(images, size=size, batch=batch, seed=seed)
        return
    ranks = _epoch(images, size=size, batch=batch, seed=seed)
    given_out = list(itertools.chain.from_iterable(itertools.chain.from_iterable(ranks)))
    assert len(set(given_out)) == len(given_out)
    assert set(given_out) <= set(range(images))
    steps = images // (size * batch)
    assert all([len(labels) for labels in of_rank] == [batch] * steps for of_rank in ranks)
    assert _training(images, size=size, batch=batch, seed=seed).steps_per_epoch == steps


def test_each_epoch_and_each_seed_has_an_order_of_its_own_and_it_is_repeatable():
    orders = [
        tuple(itertools.chain(*_epoch(64, size=1, batch=8, number=number, seed=seed)[0]))
        for number in (0, 1)
        for seed in (0, 7)
    ]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert _epoch(64, size=2, batch=8, number=1) == _epoch(64, size=2, batch=8, number=1)


def test_batches_without_end_go_on_with_the_next_epoch():
    data = _training(12, batch=4)
    labels = [batch.tolist() for _, batch in itertools.islice(data.endless(5), 7)]
    expected = [labels for number in (5, 6, 7) for labels in _epoch(12, size=1, batch=4, number=number)[0]]
    assert labels == expected[:7]


def test_loader_processes_bring_the_same_batches():
    data = TrainingData(Numbers(13), _world(1, 2), kind=InputKind.IMAGES, batch_size=3, seed=0, workers=2)
    for number in (0, 1):
        labels = [batch.tolist() for _, batch in data.epoch(number)]
        assert labels == _epoch(13, size=2, batch=3, number=number)[1]


def test_a_batch_larger_than_the_data_is_refused_in_numbers():
    with pytest.raises(DataError) as refused:
        _training(31, size=4, batch=8)
    assert str(refused.value) == (
        "a global batch of 32 (8 per GPU) is larger than the 31 training images; "
        "lower the batch, or raise train_images in the profile"
    )
    with pytest.raises(DataError, match=r"a global batch of 32 \(8 per GPU\) is larger than the 31 training"):
        _training(31, batch=32, devices_per_process=4)
    assert _training(32, size=4, batch=8).steps_per_epoch == 1


# ---------------------------------------------------------------------------------------------------- batches


def test_images_are_stacked_and_detection_images_stay_a_list_of_their_own_sizes():
    import torch

    images, labels = collate(InputKind.IMAGES)([(torch.zeros(3, 4, 4), 1), (torch.ones(3, 4, 4), 7)])
    assert images.shape == (2, 3, 4, 4)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [1, 7]
    samples = [(torch.zeros(3, 4, 5), {"boxes": 1}), (torch.zeros(3, 6, 4), {"boxes": 2})]
    images, targets = collate(InputKind.DETECTION)(samples)
    assert [tuple(image.shape) for image in images] == [(3, 4, 5), (3, 6, 4)]
    assert targets == [{"boxes": 1}, {"boxes": 2}]


def test_every_tensor_of_a_batch_reaches_the_device():
    import torch

    images, labels = to_device((torch.zeros(2, 3, 4, 4), torch.zeros(2)), "meta")
    assert images.device.type == labels.device.type == "meta"
    target = {"boxes": torch.zeros(1, 4), "image_id": 7}
    images, targets = to_device(([torch.zeros(3, 4, 4)], [target]), "meta")
    assert images[0].device.type == targets[0]["boxes"].device.type == "meta"
    assert targets[0]["image_id"] == 7


@pytest.mark.parametrize("devices", [2, 4])
def test_a_device_of_one_process_is_dealt_what_a_rank_of_its_own_would_be(devices):
    """`nn.DataParallel` gives each device a stretch of the batch; its BatchNorm is to see a rank's samples."""
    of_ranks = _epoch(32, size=devices, batch=4)
    data = _training(32, batch=4 * devices, devices_per_process=devices)
    for step, (_, labels) in enumerate(data.epoch(0)):
        assert [part.tolist() for part in labels.chunk(devices)] == [rank[step] for rank in of_ranks]


class Boxed(Numbers):
    """A dataset whose targets have tensors of every size, and what is none."""

    def __getitem__(self, index: int):
        import torch

        target = {
            "boxes": torch.full((index % 3, 4), float(index)),
            "image_id": torch.tensor(index),
            "masks": torch.full((1, 300, 300), index, dtype=torch.uint8),
            "name": f"image {index}",
        }
        return torch.full((3, 4, 4 + index), float(index)), target


@pytest.mark.parametrize("validation", [False, True])
def test_targets_come_from_a_loader_process_as_they_are_without_one(validation):
    import torch

    def batches(workers):
        if validation:
            data = ValidationData(Boxed(7), _world(0, 1), kind=InputKind.DETECTION, batch_size=3, workers=workers)
            return [batch for _, batch in data]
        data = TrainingData(Boxed(7), _world(0, 1), kind=InputKind.DETECTION, batch_size=3, seed=0, workers=workers)
        return list(data.epoch(0))

    alone, sent = batches(0), batches(1)
    assert len(alone) == len(sent) >= 2
    for (images, targets), (others, received) in zip(alone, sent, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(images, others, strict=True))
        for one, other in zip(targets, received, strict=True):
            assert list(one) == list(other) and one["name"] == other["name"]
            for key in ("boxes", "image_id", "masks"):
                assert torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype
            other["boxes"].add_(1)  # it is the rank's own


def test_what_torch_pins_are_the_targets_themselves(monkeypatch):
    import torch
    from torch.utils.data._utils.pin_memory import pin_memory

    from harness.worker.loading import _sent

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *device: tensor + 0)
    batch = _sent(collate(InputKind.DETECTION), [Boxed(7)[2], Boxed(7)[3]])
    images, targets = pin_memory(batch)
    assert [target["image_id"].item() for target in targets] == [2, 3]
    assert [target["name"] for target in targets] == ["image 2", "image 3"]
    assert targets[0]["masks"].shape == (1, 300, 300) and images[1].shape == (3, 4, 7)
