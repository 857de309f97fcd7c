"""Profiles: how much of which data each model trains on, read from `benches/profiles.toml`.

A profile has a table for each input kind, which every model of that kind starts from, and a table for each model that
differs from it; so a new model file needs no entry. A study may have tables of its own in a profile, which then say how
large it is and differ from the rest in the same way. What a profile says is part of a result's identity.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from harness.errors import ProfileError, unknown
from harness.plugins import Augmentation, InputKind, Model, Normalisation
from harness.running.job import OptimizerSettings

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

_Count = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(ge=1)]

_FOR_CLASSIFIERS = ("test_images", "carved_images", "augment", "normalise")
_MEND = "mend benches/profiles.toml, or the file that --profiles names"
_CAME_LATER = _FOR_CLASSIFIERS
"""Settings that there were none of when the first results were stored, whose identities are to stay."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class WarmStart:
    """Weights trained once per machine on images that no case trains or validates on, and cached."""

    epochs: _Positive
    batch_size: _Positive
    """Over all ranks."""
    optimizer: OptimizerSettings


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class ModelSettings:
    """How a profile trains one model."""

    dataset: str
    """Used when `--data-root` is given."""
    embedded: str | None = None
    """Used without `--data-root`; None where the profile means real data only."""
    image_size: _Count
    """Pixels; 0 keeps each image's own size, for detection."""
    train_images: _Positive | None = None
    val_images: _Positive | None = None
    test_images: _Positive | None = None
    carved_images: _Positive | None = None
    """So many training images are validated on, and what is validated on otherwise is left for the test."""
    augment: Augmentation = "none"
    normalise: Normalisation = "dataset"
    epochs: _Positive
    warmup_steps: _Count
    measured_steps: _Positive
    batch_sizes: tuple[_Positive, ...]
    """Batches per GPU, one case each."""
    optimizer: OptimizerSettings
    loader_workers: _Count = 0
    in_default_matrix: bool = True
    """Whether a run that does not name the model includes it."""
    pretrained: bool = False
    """Whether to start from public weights where they are at hand."""
    warm_start: WarmStart | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """All settings, as identities are made of them: of those that came later, none that is at its default."""
        plain = {one.name: one.default for one in fields(type(self)) if one.name in _CAME_LATER}
        return {name: value for name, value in asdict(self).items() if name not in plain or value != plain[name]}


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class StudySettings:
    """How large a profile makes a study."""

    as_published: bool = False
    """Whether it is the study as it was published, and not in small."""
    about: str = ""
    """In which ways it is small, for whoever reads its tables."""
    stands_in: dict[str, str] = field(default_factory=dict)
    """For a model of the study the one that is trained in its place."""
    gpu_counts: tuple[_Positive, ...] = ()
    """Of its cases; empty leaves them to the study."""
    batch_divisor: _Positive = 1
    """What the batches that the study itself names are divided by."""
    least_batch: _Positive = 1
    """Of what is left of them: BatchNorm over too few values trains nothing."""
    processes: _Positive = 3
    """Of each case, from whose scatter the intervals of its speed come."""
    process_s: Annotated[float, Field(gt=0)] = 1.0
    """Seconds that each of them measures."""
    when_named: tuple[str, ...] = ()
    """Words of case ids that are too heavy here unless -k, -m or a test id has them."""
    kinds: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)

    def model(self, name: str) -> str:
        """Return the model that is trained where the study means this one."""
        return self.stands_in.get(name, name)

    def batch(self, published: int) -> int:
        """Return the batch per GPU that is trained where the study means this one."""
        return max(self.least_batch, published // self.batch_divisor)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Profile:
    """One named set-up of the whole suite."""

    name: str
    about: str
    case_timeout_s: float
    kinds: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    studies: dict[str, StudySettings] = field(default_factory=dict)

    def settings(self, model: Model) -> ModelSettings:
        """Return how this profile trains a model.

        Raises:
            ProfileError: a key is unknown, missing, or of a wrong type; the message names it.
        """
        return self._settled(model, self._tables(model))

    def begun_with(self, model: Model) -> ModelSettings:
        """Return the settings that a model's warm start is named by: those of a plain run, for a study's too, as far as
        the study begins with the same images and the same training.
        """
        own = self.settings(model)
        plain = self._settled(model, Profile._tables(self, model))
        return replace(plain, **{name: getattr(own, name) for name in _OF_WARM_START})

    def for_study(self, name: str) -> StudyProfile:
        """Return this profile as a study is run under it: its results are apart from those of plain runs."""
        facts = {key: getattr(self, key) for key in ("about", "case_timeout_s", "kinds", "models", "studies")}
        return StudyProfile(name=f"{self.name}-{name}", study=self.studies.get(name, StudySettings()), **facts)

    def _tables(self, model: Model) -> Iterator[Mapping[str, Any]]:
        """Yield what differs from what came before it."""
        yield self.kinds.get(model.input.value, {})
        yield self.models.get(model.name, {})

    def _settled(self, model: Model, tables: Iterator[Mapping[str, Any]]) -> ModelSettings:
        merged: dict[str, Any] = {}
        for table in tables:
            merged = _merge(merged, table)
        if model.input is InputKind.DETECTION and (strange := [name for name in _FOR_CLASSIFIERS if name in merged]):
            raise ProfileError(
                f"profile {self.name!r}, model {model.name}: {strange[0]} is a setting of classifiers; {_MEND}"
            )
        try:
            return _SETTINGS.validate_python(merged)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ProfileError(
                f"profile {self.name!r}, model {model.name}: {place}: {first['msg']}; {_MEND}"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class StudyProfile(Profile):
    """A profile under which one study is run."""

    study: StudySettings

    def _tables(self, model: Model) -> Iterator[Mapping[str, Any]]:
        yield from Profile._tables(self, model)
        yield self.study.kinds.get(model.input.value, {})
        yield self.study.models.get(model.name, {})


_SETTINGS = TypeAdapter(ModelSettings)
_MAY_BE_NONE = ("embedded", "train_images", "val_images", "warm_start")
_OF_WARM_START = ("dataset", "embedded", "image_size", "normalise", "warm_start", "pretrained")
"""What weights depend on that are trained before any case, of all that is settled."""


def load(path: Path, *more: Path) -> dict[str, Profile]:
    """Return the profiles of a file by name, with what further files add to them or say otherwise, key by key.

    A profile that is new in a further file may begin as an earlier one, which its `based_on` names.

    Raises:
        ProfileError: a file cannot be read, is no TOML, or holds something else.
    """
    tables: dict[str, Any] = {}
    profiles: dict[str, Profile] = {}
    for file in (path, *more):
        try:
            added = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ProfileError(f"profiles {file} cannot be read: {error}") from error
        for name, table in added.items():
            try:
                tables[name] = _laid_over(_base(name, table, tables), table)
                profiles[name] = Profile(name=name, **tables[name])
            except (TypeError, ValidationError, ProfileError) as error:
                raise ProfileError(f"profile {name!r} in {file}: {error}") from error
    return profiles


def _base(name: str, table: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables that a profile begins with; its own word for them is taken out."""
    based_on = table.pop("based_on", name) if isinstance(table, dict) else name
    if based_on != name and name in known:
        raise ProfileError(f"there is a profile of that name, so it is not based on {based_on!r}; leave based_on out")
    if based_on != name and based_on not in known:
        raise ProfileError(f"based_on: {unknown('profile', str(based_on), known)}")
    base: dict[str, Any] = known.get(based_on, {})
    return base


def _laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return tables with others laid over them; an optimizer is replaced whole."""

    def both(key: str) -> bool:
        return key != "optimizer" and isinstance(base.get(key), Mapping) and isinstance(over[key], Mapping)

    return {**base, **{key: _laid_over(base[key], over[key]) if both(key) else over[key] for key in over}}


def choose(profiles: Mapping[str, Profile], name: str | None, *, device_kind: str) -> Profile:
    """Return the profile asked for, else `standard` with CUDA and `smoke` without.

    Raises:
        ProfileError: there is none of that name.
    """
    name = name or ("standard" if device_kind == "cuda" else "smoke")
    if name not in profiles:
        raise ProfileError(unknown("profile", name, profiles))
    return profiles[name]


def refuse_unknown(profile: Profile, *, models: Collection[str], studies: Collection[str] = ()) -> None:
    """Refuse a table for a model, an input kind or a study that there is not, rather than never use it.

    Raises:
        ProfileError: there is one; the message suggests the nearest name.
    """
    kinds = [kind.value for kind in InputKind]
    named: list[tuple[str, Collection[str], Collection[str]]] = [
        ("input kind", profile.kinds, kinds),
        ("model", profile.models, models),
        ("study", profile.studies, studies),
    ]
    for study in profile.studies.values():
        stands_in = (*study.stands_in, *study.stands_in.values())
        named += [("input kind", study.kinds, kinds), ("model", (*study.models, *stands_in), models)]
    for kind, tables, known in named:
        for name in tables:
            if name not in known:
                raise ProfileError(
                    f"profile {profile.name!r}: {unknown(kind, name, known)}; mend benches/profiles.toml, "
                    "or name the module that has it with --plugins"
                )


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if value is False and key in _MAY_BE_NONE:  # TOML has no word for none
            merged[key] = None
            continue
        # An optimizer is one thing: half of one and half of another would be neither.
        both = key == "warm_start" and isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merge(base[key], value) if both else value
    return merged
