"""Profiles: how much of which data each model trains on, read from `benches/profiles.toml`.

A profile has a table for each input kind, which every model of that kind starts from, and a table for each model that
differs from it; so a new model file needs no entry. What a profile says is part of a result's identity.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from harness.errors import ProfileError, unknown
from harness.job import OptimizerSettings
from harness.plugins import InputKind, Model

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

_Count = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(ge=1)]


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


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Profile:
    """One named set-up of the whole suite."""

    name: str
    about: str
    case_timeout_s: float
    kinds: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)

    def settings(self, model: Model) -> ModelSettings:
        """Return how this profile trains a model.

        Raises:
            ProfileError: a key is unknown, missing, or of a wrong type; the message names it.
        """
        merged = _merge(self.kinds.get(model.input.value, {}), self.models.get(model.name, {}))
        try:
            return _SETTINGS.validate_python(merged)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ProfileError(
                f"profile {self.name!r}, model {model.name}: {place}: {first['msg']}; mend benches/profiles.toml"
            ) from error


_SETTINGS = TypeAdapter(ModelSettings)


def load(path: Path) -> dict[str, Profile]:
    """Return the profiles of a file by name.

    Raises:
        ProfileError: the file cannot be read, is no TOML, or holds something else.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"profiles {path} cannot be read: {error}") from error
    profiles = {}
    for name, table in tables.items():
        try:
            profiles[name] = Profile(name=name, **table)
        except (TypeError, ValidationError) as error:
            raise ProfileError(f"profile {name!r} in {path}: {error}") from error
    return profiles


def choose(profiles: Mapping[str, Profile], name: str | None, *, device_kind: str) -> Profile:
    """Return the profile asked for, else `standard` with CUDA and `smoke` without.

    Raises:
        ProfileError: there is none of that name.
    """
    name = name or ("standard" if device_kind == "cuda" else "smoke")
    if name not in profiles:
        raise ProfileError(unknown("profile", name, profiles))
    return profiles[name]


def refuse_unknown(profile: Profile, *, models: Collection[str]) -> None:
    """Refuse a table for a model or an input kind that there is not, rather than never use it.

    Raises:
        ProfileError: there is one; the message suggests the nearest name.
    """
    for kind, tables, known in (
        ("input kind", profile.kinds, [kind.value for kind in InputKind]),
        ("model", profile.models, models),
    ):
        for name in tables:
            if name not in known:
                raise ProfileError(
                    f"profile {profile.name!r}: {unknown(kind, name, known)}; mend benches/profiles.toml, "
                    "or name the module that has it with --plugins"
                )


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        # An optimizer is one thing: half of one and half of another would be neither.
        both = key == "warm_start" and isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merge(base[key], value) if both else value
    return merged
