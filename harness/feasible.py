"""Why a case cannot run here, as a sentence that says what would make it run; asked before torch is anywhere near."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from harness.case import Case
from harness.host import Host
from harness.profiles import ModelSettings
from harness.registry import Registry


def why_not(
    case: Case, *, host: Host, registry: Registry, settings: ModelSettings, data_root: Path | None, download: bool
) -> str | None:
    """Return None for a case that can run, else the reason it can not; what can never work comes first."""
    strategy = registry.find("strategies", case.strategy)
    model = registry.find("models", case.model)
    if model.input not in strategy.accepts:
        return f"{strategy.name} cannot train {model.name} on any machine: {strategy.cannot_split}"
    unsupported = [token for token in case.options if _option(token) not in strategy.options]
    if unsupported:
        return f"{strategy.name} has no {', '.join(unsupported)}: choose another strategy or leave the option out"
    if host.device_kind not in strategy.devices:
        return f"{strategy.name} needs another device: {strategy.needs_device}"
    for owner in (strategy, model):
        for name in owner.requires:
            if find_spec(name) is None:
                return f"{owner.name} needs {name}, which is not installed: pip install -e . installs all it needs"
    if case.gpu_count > host.most_ranks:
        kind = "GPUs" if host.gpus else "ranks"
        return (
            f"{case.gpu_count} {kind} asked for, {host.most_ranks} can be had on this machine: "
            "run it on a larger one, or select fewer with -k"
        )
    return _data(settings, registry=registry, data_root=data_root, download=download)


def _data(settings: ModelSettings, *, registry: Registry, data_root: Path | None, download: bool) -> str | None:
    if data_root is None:
        if settings.embedded is None:
            return f"this profile trains on {settings.dataset}: give its folder with --data-root"
        return None
    dataset = registry.find("datasets", settings.dataset)
    missing: str | None = dataset.missing(data_root, download)
    if missing is None:
        return None
    return f"{settings.dataset} is not under --data-root: {missing}; or leave --data-root out for the embedded data"


def _option(token: str) -> str:
    return "accum" if token.startswith("accum") else token
