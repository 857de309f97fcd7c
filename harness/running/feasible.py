"""Why a case cannot run here, as a sentence that says what would make it run; asked before torch is anywhere near."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from harness.case import Case, kind_of
from harness.machine.host import Host
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
    for owner in (strategy, model):
        if (refused := _refused(case, owner.name, owner.refuses)) is not None:
            return refused
    if host.device_kind not in strategy.devices:
        return f"{strategy.name} needs another device: {strategy.needs_device}"
    if host.device_kind == "cpu" and (refused := _refused(case, strategy.name, strategy.refuses_on_cpu)) is not None:
        return refused
    for owner in (strategy, model):
        for name in owner.requires:
            if find_spec(name) is None:
                return f"{owner.name} needs {name}, which is not installed: pip install -e . installs all it needs"
    if case.compiled and host.device_kind == "cpu" and (missing := _no_compiler()) is not None:
        return missing
    if strategy.hierarchy is not None and case.gpus_per_node is None:
        return (
            f"{strategy.name} treats the GPUs of a node unlike those of others: give it several nodes, "
            "with pernode<n> for the GPUs of each"
        )
    if case.nodes > max(1, len(host.nodes)) and not host.made_nodes:
        return (
            f"{case.nodes} nodes asked for, {max(1, len(host.nodes))} can be had: "
            f"--launcher slurm or torchrun with --nnodes {case.nodes}"
        )
    here = case.gpu_count if host.made_nodes else case.gpus_per_node or case.gpu_count
    if here > host.most_ranks:
        kind = "GPUs" if host.gpus else "ranks"
        return (
            f"{here} {kind} asked for, {host.most_ranks} can be had on {'a node' if host.nodes else 'this machine'}: "
            "run it on a larger one, or select fewer with -k"
        )
    return _data(settings, registry=registry, data_root=data_root, download=download)


def _refused(case: Case, owner: str, reasons: Mapping[str, str]) -> str | None:
    for token in case.options:
        if (reason := reasons.get(kind_of(token))) is not None:
            return f"{owner} has no {token}: {reason}"
    return None


def _no_compiler() -> str | None:
    """Return what torch.compile lacks to build kernels for a CPU, sought where torch 2.15's inductor does."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(next(iter(shlex.split(compiler)), "")) is None:
        return f"compile needs a C++ compiler, and {compiler!r} cannot be found: install g++, or name one in CXX"
    folder = sysconfig.get_path("include")
    if sys.platform == "linux" and not Path(folder, "Python.h").is_file():
        return f"compile needs Python's headers, and {folder} has none: install them (Debian: python3-dev)"
    return None


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
