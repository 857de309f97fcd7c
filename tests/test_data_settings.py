"""Settings of splits and augmentation reach the datasets, and leave what was stored before them as it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from harness import profiles
from harness.errors import ProfileError
from harness.plugins import InputKind, Model
from harness.profiles import Profile, StudySettings
from harness.registry import discover
from harness.running.job import DataSettings
from tests.conftest import TINY

ROOT = Path(__file__).parents[1]
NET = Model(name="net", input=InputKind.IMAGES, build=lambda spec: None)
FINDER = Model(name="finder", input=InputKind.DETECTION, build=lambda spec: None)
LATER = {"test_images": 7, "carved_images": 20, "augment": "crop_flip", "normalise": "half"}


def settle(model=NET, **over) -> profiles.ModelSettings:
    kinds = {model.input.value: TINY | over}
    return Profile(name="made", about="", case_timeout_s=1, kinds=kinds).settings(model)


def test_identities_are_made_of_what_they_were_made_of_before_there_were_these_settings():
    assert not LATER.keys() & settle().facts.keys()
    assert settle().facts == {name: value for name, value in asdict(settle()).items() if name not in LATER}
    smoke = profiles.load(ROOT / "benches" / "profiles.toml")["smoke"]
    stored = json.loads(next((ROOT / "baselines").glob("*-core-*/0001_*.json")).read_text())
    found = {name: smoke.settings(model).facts for name, model in discover().models.items()}
    texts = {json.dumps(facts, sort_keys=True) for facts in found.values()}
    seen = {
        json.dumps(one["extra_info"]["shardbench"]["result"]["settings"], sort_keys=True)
        for one in stored["benchmarks"]
        if "shardbench" in one["extra_info"]
    }
    assert seen and seen <= texts


@pytest.mark.parametrize("name", LATER)
def test_each_of_them_is_part_of_an_identity_once_it_is_set(name):
    assert settle(**{name: LATER[name]}).facts == settle().facts | {name: LATER[name]}


@pytest.mark.parametrize("name", LATER)
def test_a_detector_has_none_of_them(name):
    with pytest.raises(ProfileError, match=f"model finder: {name} is a setting of classifiers; mend benches/profiles"):
        settle(FINDER, **{name: LATER[name]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("augment", "mirror"),
        ("normalise", "imagenet"),
        ("carved_images", 0),
        ("carved_images", 2.5),
        ("test_images", -1),
    ],
)
def test_a_value_that_there_is_not_is_named(name, value):
    with pytest.raises(ProfileError, match=f"profile 'made', model net: {name}: "):
        settle(**{name: value})


def test_they_reach_the_dataset(pipeline):
    data = pipeline.ranks.data(settle(**LATER))
    assert asdict(data).items() >= LATER.items()
    spec = data.spec
    assert {name: getattr(spec, name) for name in LATER} == LATER
    plain = DataSettings(name="digits", root=Path(), image_size=8).spec
    assert (plain.test_images, plain.carved_images, plain.augment, plain.normalise) == (None, None, "none", "dataset")


@pytest.mark.parametrize("name", LATER)
def test_a_study_that_sets_one_begins_with_the_same_weights_unless_pixels_mean_something_else(name):
    study = StudySettings(kinds={"images": {name: LATER[name]}})
    profile = Profile(name="made", about="", case_timeout_s=1, kinds={"images": TINY}, studies={"small": study})
    same = profile.for_study("small").begun_with(NET).facts == profile.begun_with(NET).facts
    assert same == (name != "normalise")
