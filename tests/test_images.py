"""Pictures of every kind are read alike or refused by name, and augmented alike wherever they are loaded."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest

from harness.case import Case
from harness.datasets._images import as_tensor, presentation, read_rgb
from harness.datasets.cifar import CIFAR10, CIFAR100
from harness.datasets.digits import DIGITS
from harness.errors import DataError
from harness.plugins import DataSpec, InputKind, World
from harness.worker.loading import TrainingData
from tests.cifar_files import write
from tests.conftest import TINY

# ---------------------------------------------------------------------------------------------- files of every kind


def saved(folder: Path, mode: str, name: str, **options: Any) -> Path:
    """Write a picture that is dark on the left and bright on the right."""
    import numpy as np
    from PIL import Image

    ramp = np.linspace(20, 230, 48).astype(np.uint8)[None].repeat(32, axis=0)
    Image.fromarray(ramp).convert("RGB").convert(mode).save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "colour.jpg"),
        ("L", "grey.jpg"),
        ("CMYK", "print.jpg"),
        ("YCbCr", "video.jpg"),
        ("RGBA", "opacity.png"),
        ("LA", "grey_opacity.png"),
        ("P", "palette.png"),
        ("1", "bits.png"),
        ("RGB", "colour.webp"),
    ],
)
def test_a_picture_of_any_kind_is_read_as_colour(mode, name, tmp_path):
    import numpy as np

    pixels = np.asarray(read_rgb(saved(tmp_path, mode, name), mend="")).astype(int)
    assert pixels.shape == (32, 48, 3)
    assert pixels[:, :8].mean() < 60 and pixels[:, -8:].mean() > 180
    if mode != "P":  # whose 216 colours are coarse
        assert np.abs(pixels - pixels.mean(axis=2, keepdims=True)).max() < 12, "grey stays grey"


def test_an_orientation_is_not_followed_as_in_torchvision(tmp_path):
    import numpy as np
    from PIL import Image
    from torchvision.datasets.folder import pil_loader

    turned = Image.Exif()
    turned[0x0112] = 6
    plain, marked = saved(tmp_path, "RGB", "plain.jpg"), saved(tmp_path, "RGB", "marked.jpg", exif=turned)
    with Image.open(marked) as image:
        assert image.getexif()[0x0112] == 6
    assert (np.asarray(read_rgb(marked, mend="")) == np.asarray(read_rgb(plain, mend=""))).all()
    assert (np.asarray(read_rgb(marked, mend="")) == np.asarray(pil_loader(str(marked)))).all()


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("kept", [0, 0.01, 0.2, 0.5, 0.8])
def test_a_truncated_file_is_one_clear_error_with_its_name(kept, name, tmp_path):
    file = saved(tmp_path, "RGB", name)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError) as caught:
        read_rgb(file, mend="put the official file in its place")
    assert str(caught.value).startswith(f"image {file} cannot be read: ")
    assert str(caught.value).endswith("; put the official file in its place")


def test_what_is_no_picture_a_folder_or_too_large_to_be_one_is_refused_by_name(tmp_path, monkeypatch):
    from PIL import Image

    (tmp_path / "text.jpg").write_text("<html>404</html>")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("text.jpg", "folder.jpg", "absent.jpg"):
        with pytest.raises(DataError, match=rf"image .*{name} cannot be read: .*; do this"):
            read_rgb(tmp_path / name, mend="do this")
    large = saved(tmp_path, "RGB", "large.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # an error at twice that
    with pytest.raises(DataError, match=r"large.jpg cannot be read: Image size \(1536 pixels\)"):
        read_rgb(large, mend="")


@pytest.mark.parametrize("size", [0, 16, 48, 100])
@pytest.mark.parametrize("normal", [(), (0.5, 0.4, 0.3)])
def test_a_tensor_is_to_the_last_bit_what_torchvision_makes(size, normal):
    import numpy as np
    import torch
    from PIL import Image
    from torchvision.transforms import functional

    picture = Image.fromarray(np.random.RandomState(0).randint(0, 256, (30, 48, 3)).astype(np.uint8))
    wanted = functional.to_tensor(picture.resize((size, size), Image.Resampling.BILINEAR) if size else picture)
    if normal:
        wanted = functional.normalize(wanted, normal, normal)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = as_tensor(picture, image_size=size, mean=normal, std=normal)
    assert torch.equal(found, wanted) and found.is_contiguous() and found.dtype == torch.float32


# ---------------------------------------------------------------------------------------------------- augmentation


@pytest.fixture
def cifar(tmp_path, monkeypatch) -> Path:
    write(tmp_path, monkeypatch, train=40, val=10)
    return tmp_path


def spec(root: Path, **fields: Any) -> DataSpec:
    return DataSpec(**({"root": root, "image_size": 32} | fields))


def loaded(part: DataSpec, *, size=1, workers=0, epoch=0, seed=0, dataset=CIFAR10) -> dict[tuple[int, ...], Any]:
    """Return the images of an epoch's training batches of all ranks, by their pixels' order in the unaugmented set."""
    found = {}
    for rank in range(size):
        world = World(rank=rank, local_rank=rank, size=size, device="cpu", backend="gloo")
        data = TrainingData(
            dataset.open(part, "train"),
            world,
            kind=InputKind.IMAGES,
            batch_size=8 // size,
            seed=seed,
            workers=workers,
            augmented=True,
        )
        for step, (images, _) in enumerate(data.epoch(epoch)):
            for place, image in enumerate(images):
                # Rank r of n is dealt the samples r, r + n, ... of each global batch.
                found[step, place * size + rank] = image
    return found


def equal(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    import torch

    assert one.keys() == other.keys()
    return all(torch.equal(image, other[key]) for key, image in one.items())


@pytest.mark.parametrize("augment", ["crop", "crop_flip", "resized_crop_flip"])
def test_an_image_is_augmented_alike_in_any_rank_and_loader_process(augment, cifar):
    part = spec(cifar, augment=augment)
    alone = loaded(part, epoch=3)
    assert len(alone) == 40
    for size, workers in itertools.product((1, 2, 4), (0, 2)):
        assert equal(loaded(part, epoch=3, size=size, workers=workers), alone), (size, workers)


def test_what_is_drawn_follows_the_seed_the_epoch_and_the_image_alone(cifar):
    import torch

    part = spec(cifar, augment="crop_flip")
    torch.manual_seed(1)
    first = loaded(part)
    torch.manual_seed(2)
    assert equal(loaded(part), first)
    assert not equal(loaded(part, epoch=1), first) and not equal(loaded(part, seed=1), first)
    # One image by itself, wherever the order puts it: of two epochs, and of two places in the set.
    items = TrainingData(
        CIFAR10.open(part, "train"),
        World(rank=0, local_rank=0, size=1, device="cpu", backend="gloo"),
        kind=InputKind.IMAGES,
        batch_size=4,
        seed=0,
        workers=0,
        augmented=True,
    )._loader.dataset
    before = torch.get_rng_state()
    assert torch.equal(items[0, 5][0], items[0, 5][0])
    assert torch.equal(torch.get_rng_state(), before), "who draws from torch's generator elsewhere is not disturbed"
    assert len({tuple(items[epoch, 5][0].flatten().tolist()) for epoch in range(8)}) > 5


@pytest.mark.parametrize(("augment", "least", "most"), [("crop", 0, 0), ("crop_flip", 8, 32)])
def test_a_crop_is_the_picture_moved_by_at_most_an_eighth_over_black_and_a_flip_mirrors(augment, least, most, cifar):
    import torch
    from torch.nn import functional

    dataset = CIFAR10.open(spec(cifar, augment=augment, normalise="half"), "train")
    plain = CIFAR10.open(spec(cifar, normalise="half"), "train")
    torch.manual_seed(0)
    mirrored, places = 0, set()
    for index in range(40):
        padded = functional.pad(plain[index][0], (4, 4, 4, 4), value=-1.0)
        cuts = {
            (flip, y, x): (padded[:, y : y + 32, x : x + 32].flip(2) if flip else padded[:, y : y + 32, x : x + 32])
            for flip, y, x in itertools.product((False, True), range(9), range(9))
        }
        image = dataset[index][0]
        where = [place for place, cut in cuts.items() if torch.equal(cut, image)]
        assert len(where) == 1
        mirrored += where[0][0]
        places.add(where[0][1:])
    assert least <= mirrored <= most and len(places) > 20


def test_a_resized_crop_is_a_part_of_the_picture_at_the_models_size():
    import numpy as np
    import torch
    from PIL import Image

    # Bright to the right and downwards, so that a part is told by its range in each direction.
    across, down = np.meshgrid(np.arange(32) * 8, np.arange(32) * 8)
    picture = Image.fromarray(np.stack([across, down, across * 0], axis=2).astype(np.uint8))
    part = DataSpec(root=Path(), image_size=64, augment="resized_crop_flip", normalise="half")
    show = presentation(part, "train", side=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    torch.manual_seed(0)
    shares, mirrored = [], 0
    for _ in range(200):
        image = (show(picture) + 1) * 127.5
        assert image.shape == (3, 64, 64)
        width = (image[0].max() - image[0].min()).item() / 8 + 1
        height = (image[1].max() - image[1].min()).item() / 8 + 1
        shares.append(width * height / 32**2)
        mirrored += bool(image[0, 0, 0] > image[0, 0, -1])
    assert 0.15 > min(shares) > 0.03 and 0.85 < max(shares) < 1.01
    assert 70 <= mirrored <= 130


@pytest.mark.parametrize("dataset", [CIFAR10, CIFAR100], ids=lambda dataset: dataset.name)
def test_only_what_is_trained_on_is_augmented(dataset, cifar):
    import torch

    for augment in ("crop", "crop_flip", "resized_crop_flip"):
        part, plain = spec(cifar, augment=augment, carved_images=8), spec(cifar, carved_images=8)
        for split in ("val", "test"):
            pairs = zip(dataset.open(part, split), dataset.open(plain, split), strict=True)
            assert all(torch.equal(one[0], other[0]) for one, other in pairs)
        ours, theirs = dataset.open(part, "train"), dataset.open(plain, "train")
        assert ours.indices == theirs.indices and [label for _, label in ours] == [label for _, label in theirs]
        assert not all(torch.equal(one[0], other[0]) for one, other in zip(ours, theirs, strict=True))


def test_digits_are_augmented_and_split_as_cifar_is(tmp_path):
    import torch

    part = spec(tmp_path, carved_images=100, augment="crop_flip", image_size=16)
    DIGITS.prepare(part)
    names = {}
    for split, count in (("pretrain", 600), ("train", 737), ("val", 100), ("test", 360)):
        items = DIGITS.open(part, split)
        names[split] = {Path(items.dataset.samples[i][0]).name for i in items.indices}
        assert len(items) == len(names[split]) == count
    assert len(set().union(*names.values())) == 1797, "no source digit is in two splits"
    plain = spec(tmp_path, image_size=16)
    before = DIGITS.open(plain, "val")
    assert {Path(before.dataset.samples[i][0]).name for i in before.indices} == names["test"]
    assert DIGITS.untested(part) is None
    with pytest.raises(DataError, match=r"digits has no test split: .*carved_images"):
        DIGITS.open(plain, "test")
    drawn = DIGITS.open(part, "train")
    torch.manual_seed(0)
    assert not torch.equal(drawn[0][0], drawn[0][0])
    assert torch.equal(*(DIGITS.open(part, "pretrain")[0][0] for _ in range(2)))


def test_a_case_that_augments_is_certified_to_see_what_the_reference_sees(make_pipeline):
    pipeline = make_pipeline(images=TINY | {"augment": "crop_flip", "carved_images": 100, "loader_workers": 1})
    case = Case(model="tiny_net", strategy="ddp", gpu_count=2, batch_size=4)
    certificate = pipeline.certificate(case)
    assert certificate.granted and certificate.found == "bit-equal", certificate.causes
