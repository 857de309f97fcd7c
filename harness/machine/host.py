"""What this machine is, asked without torch: its devices, cores, memory, library versions, and a name for its results.

The name is made of hardware alone, never of a host name, so that it may be published.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import psutil

from harness.case import Case
from harness.machine import nodes
from harness.machine.nodes import Gpu as Gpu
from harness.machine.nodes import Joining, Node

_VERSIONED = (
    "torch",
    "torchvision",
    "deepspeed",
    "fairscale",
    "transformers",
    "numpy",
    "pycocotools",
    "pytest-benchmark",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One machine, or several alike, as far as it decides what can run and what can be compared."""

    cpu: str
    cores: tuple[int, ...]
    """Cores this process may run on."""
    memory_bytes: int
    gpus: tuple[Gpu, ...]
    driver: str | None
    versions: dict[str, str]
    """Of Python and every library that has a part in the figures; absent ones are left out."""
    processor: dict[str, str] = field(default_factory=dict)
    """What the system tells of the processor beside its name; a name alone may stand for several generations."""
    nodes: tuple[Node, ...] = ()
    """Every node, where a launcher has others than this machine; what stands above is then the first's."""
    joining: Joining = field(default_factory=Joining)
    made_nodes: bool = False
    """Whether its launcher makes nodes of this one machine, as many as a case asks for."""

    @property
    def hardware(self) -> dict[str, str]:
        """What decides the machine's speed, by name of the fact; no fact names one machine among its like."""
        facts = self.processor | {
            "cpu": self.cpu,
            "cores": str(len(self.cores)),
            "memory": f"{_installed_gib(self.memory_bytes)} GiB",
        }
        if self.gpus:
            facts["gpus"] = ", ".join(f"{gpu.name} of {gpu.memory_bytes / 2**30:.0f} GiB" for gpu in self.gpus)
        if len(self.nodes) > 1:
            facts["nodes"] = str(len(self.nodes))
            for fact in ("links", "network"):
                facts[fact] = "; ".join(dict.fromkeys(", ".join(getattr(node, fact)) for node in self.nodes))
            if unlike := [place for place, node in enumerate(self.nodes) if nodes.unlike(node, self.nodes[0])]:
                facts["unlike the first node"] = ", ".join(map(str, unlike))
        return facts

    @property
    def hardware_digest(self) -> str:
        """Digest of `hardware`: times are compared only where it is the same."""
        return hashlib.sha256(json.dumps(self.hardware, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def software(self) -> dict[str, str]:
        """The versions, and the driver's major one: what figures without noise may depend on beside the case."""
        return self.versions | ({"driver": self.driver.partition(".")[0]} if self.driver else {})

    @property
    def device_kind(self) -> str:
        """`cuda` where there is a GPU, else `cpu`."""
        return "cuda" if self.gpus else "cpu"

    @property
    def devices(self) -> int:
        """How many devices can work without sharing: GPUs, or cores where there is no GPU."""
        return len(self.gpus) or len(self.cores)

    @property
    def most_ranks(self) -> int:
        """How many devices a case may ask for: on CPU four ranks run on any machine, sharing cores if they must."""
        return len(self.gpus) if self.gpus else max(4, len(self.cores))

    @property
    def devices_per_node(self) -> int:
        """How many devices every node has."""
        return min((node.devices for node in self.nodes), default=self.devices)

    def shares_cores(self, case: Case) -> bool:
        """Return whether ranks of a case would share cores, so that their time says little."""
        beside = case.gpu_count if self.made_nodes else case.gpus_per_node or case.gpu_count
        return not self.gpus and beside > len(self.cores)

    @property
    def name(self) -> str:
        """A folder name for the results of machines like this one, for example `4x-nvidia-rtx-a6000`."""
        nodes = f"{len(self.nodes)}-nodes-of-" if len(self.nodes) > 1 else ""
        if self.gpus:
            return f"{nodes}{len(self.gpus)}x-{_slug(self.gpus[0].name)}"
        return f"{nodes}{len(self.cores)}-core-{_slug(self.cpu)}"

    def describe(self) -> str:
        """One line for a person."""
        nodes = f"{len(self.nodes)} nodes, each " if len(self.nodes) > 1 else ""
        return nodes + self._describe_node()

    def _describe_node(self) -> str:
        memory = f"{self.memory_bytes / 2**30:.0f} GiB"
        torch = f"torch {self.versions.get('torch', 'not installed')}"
        if self.gpus:
            gpu = self.gpus[0]
            return f"{len(self.gpus)} x {gpu.name} ({gpu.memory_bytes / 2**30:.0f} GiB), {torch}, driver {self.driver}"
        return (
            f"no CUDA GPU: a GPU is one gloo rank on a core of {self.cpu}, {len(self.cores)} cores, {memory}, {torch}"
        )


def probe() -> Host:
    """Look at this machine; never touches CUDA, so that ranks can still be forked."""
    gpus, driver = _gpus()
    return Host(
        cpu=_cpu_name(),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        memory_bytes=psutil.virtual_memory().total,
        gpus=gpus,
        driver=driver,
        versions=_versions(),
        processor=_processor(),
    )


def probe_node() -> Node:
    """Look at this machine as one of several nodes; as light as `probe`."""
    host = probe()
    return Node(
        cpu=host.cpu,
        cores=host.cores,
        memory_bytes=host.memory_bytes,
        gpus=host.gpus,
        driver=host.driver,
        versions=host.versions,
        processor=host.processor,
        links=nodes.links(host.gpus),
        network=nodes.network(),
    )


def of_nodes(found: tuple[Node, ...], joining: Joining) -> Host:
    """Return the host that nodes are together."""
    first = found[0]
    return Host(
        cpu=first.cpu,
        cores=first.cores,
        memory_bytes=first.memory_bytes,
        gpus=first.gpus,
        driver=first.driver,
        versions=first.versions,
        processor=first.processor,
        nodes=found,
        joining=joining,
    )


def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return (), None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        found = tuple(
            Gpu(
                name=_text(pynvml.nvmlDeviceGetName(h)),
                memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(h).total),
                uuid=_text(pynvml.nvmlDeviceGetUUID(h)),
            )
            for h in handles
        )
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()
    return _visible(found), driver


def _visible(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA will see: those CUDA_VISIBLE_DEVICES lists, up to the first entry that names none."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return gpus
    if listed.startswith("MIG-"):
        return gpus[:1]  # of slices CUDA uses one
    seen: list[int] = []
    for entry in (entry.strip() for entry in listed.split(",")):
        named = [
            index
            for index, gpu in enumerate(gpus)
            if entry == str(index) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))
        ]
        if len(named) != 1 or named[0] in seen:
            break
        seen += named
    return tuple(gpus[index] for index in seen)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


_CPUINFO = Path("/proc/cpuinfo")
_PROCESSOR = {
    "family": ("cpu family", "CPU architecture"),
    "model": ("model", "CPU part"),
    "stepping": ("stepping", "CPU revision"),
    "cache": ("cache size",),
}
"""Facts about a processor, and what Linux calls them on x86 and on ARM."""


def _cpuinfo() -> dict[str, str]:
    """Return what Linux tells of the first core; nothing elsewhere."""
    if not _CPUINFO.exists():
        return {}
    first = _CPUINFO.read_text().partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _cpu_name() -> str:
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def _processor() -> dict[str, str]:
    told = _cpuinfo()
    facts = {fact: told[name] for fact, names in _PROCESSOR.items() for name in names if name in told}
    if "flags" in told:
        facts["hypervisor"] = "yes" if "hypervisor" in told["flags"].split() else "no"
    return facts


def _installed_gib(usable_bytes: int) -> int:
    """Return the memory that is installed, GiB, from what the system has of it.

    The kernel keeps up to a few percent for itself, another amount with each version, so it is rounded up to a
    sixteenth of its power of two: a new kernel makes no other machine.
    """
    gib = max(1, -(-usable_bytes // 2**30))
    step = max(1, (1 << gib.bit_length() - 1) // 16)
    return -(-gib // step) * step


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _slug(text: str) -> str:
    plain = re.sub(r"\((r|tm)\)|\bcpu\b|\bprocessor\b|@.*", " ", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
