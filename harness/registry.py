"""How the files that define strategies, models, datasets, metrics, launchers and studies are found.

The folder is the registry: every module-level value of the right type in `harness/<kind>/*.py` counts, and so does
every one in a module named by `--plugins`.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import PluginError, unknown
from harness.plugins import Dataset, InputKind, Launcher, Metric, Model, Strategy, Study

_KINDS: dict[str, type] = {
    "strategies": Strategy,
    "models": Model,
    "datasets": Dataset,
    "metrics": Metric,
    "launchers": Launcher,
    "studies": Study,
}
_NOUNS = {
    "strategies": "strategy",
    "models": "model",
    "datasets": "dataset",
    "metrics": "metric",
    "launchers": "launcher",
    "studies": "study",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Everything that can be named, by name."""

    strategies: Mapping[str, Strategy]
    models: Mapping[str, Model]
    datasets: Mapping[str, Dataset]
    metrics: Mapping[str, Metric]
    launchers: Mapping[str, Launcher]
    studies: Mapping[str, Study] = field(default_factory=dict)

    def find(self, kind: str, name: str) -> Any:
        """Return the plug-in of that kind and name.

        Raises:
            PluginError: there is none; the message suggests the nearest name.
        """
        named = getattr(self, kind)
        if name not in named:
            raise PluginError(unknown(_NOUNS[kind], name, named))
        return named[name]

    def scoring(self, kind: InputKind) -> list[Metric]:
        """Return the metrics that score what models of a kind predict, in the order of their columns; the first says
        which epoch of a training is its best.
        """
        own = [one for one in self.metrics.values() if one.scores is kind and one.score is not None]
        return sorted(own, key=lambda one: one.order)


def discover(extra: Sequence[str] = (), *, studies: bool = False) -> Registry:
    """Import every plug-in module and return what they define.

    Args:
        extra: names of further modules, as given to `--plugins`; they may define plug-ins of any kind.
        studies: whether studies are looked for too, which no rank needs.

    Raises:
        PluginError: a module fails to import, or two plug-ins of a kind have one name; the message names the file.
    """
    # A user's module is looked for in the folder the run was started in, too.
    if extra and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    kinds = {kind: type_ for kind, type_ in _KINDS.items() if studies or kind != "studies"}
    found: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    origin: dict[tuple[str, str], str] = {}
    for kind in kinds:
        folder = Path(__file__).parent / kind
        for info in sorted(pkgutil.iter_modules([str(folder)]), key=lambda i: i.name):
            module = _load(f"harness.{kind}.{info.name}")
            _collect(module, {kind: kinds[kind]}, found, origin)
    for name in extra:
        _collect(_load(name), kinds, found, origin)
    return Registry(**{kind: dict(sorted(named.items())) for kind, named in found.items()})


def _load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"plug-in module {name} cannot be imported: {type(error).__name__}: {error}; mend {_file_of(name)}"
        ) from error


def _file_of(name: str) -> str:
    try:
        spec = find_spec(name)
    except Exception:
        spec = None
    return spec.origin if spec and spec.origin else f"the name {name!r}, or the folder it is searched in"


def _collect(
    module: ModuleType,
    kinds: Mapping[str, type],
    found: dict[str, dict[str, Any]],
    origin: dict[tuple[str, str], str],
) -> None:
    for kind, type_ in kinds.items():
        for value in vars(module).values():
            for plugin in value if isinstance(value, tuple) else (value,):
                if not isinstance(plugin, type_):
                    continue
                name = plugin.name  # type: ignore[attr-defined]
                here = str(module.__file__)
                if found[kind].get(name, plugin) is not plugin:
                    raise PluginError(
                        f"two plug-ins in {kind} are named {name!r}: {origin[kind, name]} and {here}; rename one"
                    )
                found[kind][name] = plugin
                origin[kind, name] = here
