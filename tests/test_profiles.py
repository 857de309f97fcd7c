"""A profile says how each model is trained; what it gets wrong is named, and never runs."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from harness import profiles
from harness.errors import ProfileError
from harness.plugins import InputKind, Model
from harness.registry import discover

PROFILES = Path(__file__).parents[1] / "benches" / "profiles.toml"
NET = Model(name="net", input=InputKind.IMAGES, build=lambda spec: None)

KIND = """
dataset = "cifar10"
embedded = "digits"
image_size = 16
epochs = 2
warmup_steps = 1
measured_steps = 4
batch_sizes = [8]
optimizer = { name = "sgd", arguments = { lr = 0.1, momentum = 0.9 } }
"""
WARM = """
[made.kinds.images.warm_start]
epochs = 3
batch_size = 32
optimizer = { name = "adamw", arguments = { lr = 0.001, weight_decay = 0.1 } }
"""


@pytest.fixture
def settings(tmp_path):
    """Return a function that reads a profile from its kind's table and a model's, and settles the model."""

    def settle(kind: str = KIND, more: str = "", model: Model = NET) -> profiles.ModelSettings:
        file = tmp_path / "profiles.toml"
        file.write_text(f'[made]\nabout = "made"\ncase_timeout_s = 60\n[made.kinds.images]\n{kind}\n{more}')
        return profiles.load(file)["made"].settings(model)

    return settle


def test_a_model_without_a_table_is_trained_as_its_kind_says(settings):
    found = settings()
    assert (found.dataset, found.embedded, found.epochs, found.batch_sizes) == ("cifar10", "digits", 2, (8,))
    assert found.optimizer.arguments == {"lr": 0.1, "momentum": 0.9}
    assert found.in_default_matrix
    assert found.warm_start is None


def test_a_models_table_overrides_key_by_key(settings):
    found = settings(more="[made.models.net]\nepochs = 9\n[made.models.other]\nimage_size = 99\n")
    assert (found.epochs, found.image_size, found.measured_steps) == (9, 16, 4)


def test_an_optimizer_is_replaced_as_a_whole(settings):
    found = settings(more='[made.models.net.optimizer]\nname = "adamw"\narguments = { lr = 0.5 }\n')
    assert found.optimizer.name == "adamw"
    assert found.optimizer.arguments == {"lr": 0.5}


def test_a_warm_start_is_overridden_key_by_key_and_its_optimizer_as_a_whole(settings):
    more = WARM + '[made.models.net.warm_start]\nepochs = 5\noptimizer = { name = "sgd", arguments = { lr = 0.5 } }\n'
    found = settings(more=more).warm_start
    assert (found.epochs, found.batch_size) == (5, 32)
    assert found.optimizer.name == "sgd"
    assert found.optimizer.arguments == {"lr": 0.5}


@pytest.mark.parametrize(
    "missing", [line.split(" =")[0] for line in KIND.split("\n") if line and "embedded" not in line]
)
def test_a_missing_key_is_named(settings, missing):
    kind = "\n".join(line for line in KIND.splitlines() if not line.startswith(missing))
    with pytest.raises(ProfileError, match=rf"profile 'made', model net: {missing}: .*; mend benches/profiles.toml"):
        settings(kind)


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ("epoch = 3", "epoch"),
        ("epochs = 1.5", "epochs"),
        ('epochs = "many"', "epochs"),
        ("batch_sizes = 8", "batch_sizes"),
        ('image_size = "large"', "image_size"),
        ("dataset = 7", "dataset"),
        ('in_default_matrix = "maybe"', "in_default_matrix"),
        ('optimizer = "sgd"', "optimizer"),
        ("optimizer = { name = 'sgd', lr = 0.1 }", "optimizer.lr"),
        ("optimizer = { name = 'sdg' }", "optimizer.name"),
        ("optimizer = { name = 'sgd', arguments = { lr = nan } }", "optimizer.arguments.lr"),
        ("optimizer = { name = 'sgd', arguments = { lr = inf } }", "optimizer.arguments.lr"),
        ("optimizer = { name = 'sgd', arguments = { lr = 'small' } }", "optimizer.arguments.lr"),
        ("warm_start = { epochs = 1 }", "warm_start.batch_size"),
    ],
)
def test_an_unknown_key_or_a_wrong_type_is_named(settings, table, place):
    with pytest.raises(ProfileError) as refused:
        settings(more=f"[made.models.net]\n{table}\n")
    assert str(refused.value).startswith(f"profile 'made', model net: {place}: ")


def test_a_warm_start_that_is_no_table_is_named_where_the_kind_has_one(settings):
    with pytest.raises(ProfileError, match="model net: warm_start: "):
        settings(more=f"{WARM}[made.models.net]\nwarm_start = 3\n")


@pytest.mark.parametrize(
    "table",
    [
        "epochs = -1",
        "warmup_steps = -1",
        "measured_steps = 0",
        "image_size = -16",
        "batch_sizes = [0]",
        "loader_workers = -1",
    ],
)
def test_a_number_that_no_run_can_have_is_named(settings, table):
    with pytest.raises(ProfileError, match=f"model net: {table.split()[0]}"):
        settings(more=f"[made.models.net]\n{table}\n")


@pytest.mark.parametrize(
    "text",
    [
        "made = [",
        "made = 1",
        "[made]\nabout = 'x'",
        "[made]\nabout = 'x'\ncase_timeout_s = nan",
        "[made]\nabout = 'x'\ncase_timeout_s = 'long'",
        "[made]\nname = 'other'\nabout = 'x'\ncase_timeout_s = 1",
        "[made]\nabout = 'x'\ncase_timeout_s = 1\nkind = {}",
        "[made]\nabout = 'x'\ncase_timeout_s = 1\nmodels = { net = 3 }",
        b"\xff\xfe",
        None,
    ],
    ids=["toml", "no-table", "no-timeout", "nan-timeout", "text-timeout", "name", "key", "model", "bytes", "no-file"],
)
def test_a_file_that_holds_no_profiles_is_refused_by_name(tmp_path, text):
    file = tmp_path / "profiles.toml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ProfileError, match=str(file)):
        profiles.load(file)


def test_the_default_goes_by_the_device_and_an_unknown_name_gets_a_suggestion():
    known = {name: profiles.Profile(name=name, about="", case_timeout_s=1) for name in ("smoke", "standard")}
    assert profiles.choose(known, None, device_kind="cpu").name == "smoke"
    assert profiles.choose(known, None, device_kind="cuda").name == "standard"
    assert profiles.choose(known, "smoke", device_kind="cuda").name == "smoke"
    with pytest.raises(ProfileError, match=r"no profile 'smok'; did you mean 'smoke'\?"):
        profiles.choose(known, "smok", device_kind="cpu")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "models.resnet81",
            "profile 'made': no model 'resnet81'; did you mean 'resnet18'?; mend benches/profiles.toml",
        ),
        ("kinds.image", "profile 'made': no input kind 'image'; did you mean 'images'?; mend benches/profiles.toml"),
    ],
)
def test_a_table_for_what_there_is_not_is_refused_with_a_suggestion(tmp_path, table, message):
    file = tmp_path / "profiles.toml"
    file.write_text(f"[made]\nabout = 'made'\ncase_timeout_s = 60\n[made.{table}]\nepochs = 9\n")
    with pytest.raises(ProfileError) as refused:
        profiles.refuse_unknown(profiles.load(file)["made"], models=["net", "resnet18"])
    assert str(refused.value).startswith(message)


def test_a_table_for_a_model_or_a_kind_that_there_is_is_not_refused():
    made = profiles.Profile(name="made", about="", case_timeout_s=1, kinds={"images": {}}, models={"net": {}})
    profiles.refuse_unknown(made, models=["net"])


def test_the_suites_own_profiles_are_the_three_that_are_promised():
    assert {"smoke", "standard", "paper"} <= set(profiles.load(PROFILES))


@pytest.mark.parametrize("name", tomllib.loads(PROFILES.read_text()))
def test_the_suites_own_profiles_settle_every_model_with_data_of_its_kind(name):
    profile, registry = profiles.load(PROFILES)[name], discover()
    for model in registry.models.values():
        found = profile.settings(model)
        assert registry.find("datasets", found.dataset).input is model.input
        if found.embedded is not None:
            embedded = registry.find("datasets", found.embedded)
            assert embedded.embedded
            assert embedded.input is model.input
    assert profile.models.keys() <= registry.models.keys()
    assert profile.kinds.keys() <= {kind.value for kind in InputKind}


@pytest.fixture
def files(tmp_path):
    """Return a function that writes files of profiles, one a text, and loads them in that order."""

    def read(*texts: str) -> dict[str, profiles.Profile]:
        paths = [tmp_path / f"{number}.toml" for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        return profiles.load(*paths)

    return read


OWN = f'[made]\nabout = "made"\ncase_timeout_s = 60\n[made.kinds.images]\n{KIND}\n'


def test_a_further_file_says_of_a_known_profile_what_is_otherwise(files):
    more = '[made.models.net]\nepochs = 9\noptimizer = { name = "adamw" }\n'
    plain, changed = files(OWN)["made"], files(OWN, more)["made"]
    other = Model(name="other", input=InputKind.IMAGES, build=lambda spec: None)
    assert (plain.settings(NET).epochs, changed.settings(NET).epochs) == (2, 9)
    assert changed.settings(NET).optimizer.arguments == {}  # of the other optimizer nothing is left
    assert changed.settings(other) == plain.settings(other)
    assert changed.about == "made"


def test_a_new_profile_may_begin_as_a_known_one_which_stays_as_it_is(files):
    found = files(OWN, '[mine]\nbased_on = "made"\nabout = "mine"\n[mine.kinds.images]\nepochs = 9\n')
    assert (found["mine"].name, found["mine"].about, found["mine"].case_timeout_s) == ("mine", "mine", 60)
    assert (found["mine"].settings(NET).epochs, found["mine"].settings(NET).image_size) == (9, 16)
    assert found["made"].settings(NET).epochs == 2


def test_a_profile_may_begin_as_one_above_it_in_the_same_file(files):
    assert files(OWN + '[mine]\nbased_on = "made"\n')["mine"].settings(NET).epochs == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[mine]\nbased_on = "mode"\n', r"based_on: no profile 'mode'; did you mean 'made'\?"),
        ("[mine]\nbased_on = 3\n", "based_on: no profile '3'"),
        ('[made]\nbased_on = "made2"\n', "there is a profile of that name"),
        ("[mine]\nabout = 'x'\n", "case_timeout_s"),
        ("mine = 3\n", "profile 'mine' in "),
        ('[made]\nkinds = "images"\n', "profile 'made' in "),
    ],
)
def test_what_a_further_file_gets_wrong_is_named_with_the_file(files, tmp_path, more, said):
    with pytest.raises(ProfileError, match=said) as refused:
        files(OWN, more)
    assert str(tmp_path / "1.toml") in str(refused.value)
