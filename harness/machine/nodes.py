"""What one of several machines is: its processor and GPUs, how these are joined, and its ports to the network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One CUDA device as the driver names it."""

    name: str
    memory_bytes: int
    uuid: str = ""
    """As NVML names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One of several machines that ranks are spread over."""

    cpu: str
    cores: tuple[int, ...]
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    processor: dict[str, str] = field(default_factory=dict)
    links: tuple[str, ...] = ()
    """How its GPUs are joined, such as `0-1 NVLink`; pairs in order."""
    network: tuple[str, ...] = ()
    """Its ports that are up, such as `ethernet 10000 Mbit/s` or `infiniband 200 Gb/sec (4X HDR)`."""

    @property
    def devices(self) -> int:
        """How many devices can work without sharing: GPUs, or cores where there is no GPU."""
        return len(self.gpus) or len(self.cores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """How several nodes come together, as the command line says."""

    nodes: int = 0
    """0 leaves it to the launcher."""
    rdzv_endpoint: str = ""
    """Address and port on this machine at which other nodes join."""
    srun: str = ""
    """Further options of srun, as a shell would read them."""


_NODE: TypeAdapter[Node] = TypeAdapter(Node)
_NET = Path("/sys/class/net")
_INFINIBAND = Path("/sys/class/infiniband")
_LEVELS = {0: "same board", 10: "one PCIe switch", 20: "PCIe switches", 30: "PCIe host bridge", 40: "one socket"}
"""What two GPUs have in common, by NVML's nvmlGpuTopologyLevel_t; beyond these the machine alone."""


def node_from_json(data: Any) -> Node:
    """Return the node that plain JSON values tell of.

    Raises:
        ValueError: they tell of none.
    """
    return _NODE.validate_python(data)


def to_json(node: Node) -> dict[str, Any]:
    """Return what is stored of a node: nothing that names one among its like."""
    told: dict[str, Any] = _NODE.dump_python(node, mode="json")
    return told | {"gpus": [{"name": gpu.name, "memory_bytes": gpu.memory_bytes} for gpu in node.gpus]}


def unlike(node: Node, other: Node) -> bool:
    """Return whether two nodes differ in what decides their speed."""
    return _kind(node) != _kind(other)


def _kind(node: Node) -> tuple[Any, ...]:
    gpus = [(gpu.name, gpu.memory_bytes) for gpu in node.gpus]
    return node.cpu, node.processor, len(node.cores), gpus, node.links, node.network


def links(gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """Return how each pair of GPUs is joined, as NVML tells; nothing where it does not."""
    if len(gpus) < 2:
        return ()
    import pynvml

    found = []
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid) for gpu in gpus]
        for one, other in itertools.combinations(range(len(gpus)), 2):
            pair = handles[one], handles[other]
            if pynvml.nvmlDeviceGetP2PStatus(*pair, pynvml.NVML_P2P_CAPS_INDEX_NVLINK) == pynvml.NVML_P2P_STATUS_OK:
                way = "NVLink"
            else:
                way = _LEVELS.get(pynvml.nvmlDeviceGetTopologyCommonAncestor(*pair), "between sockets")
            found.append(f"{one}-{other} {way}")
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return ()
    return tuple(found)


def network() -> tuple[str, ...]:
    """Return the network ports that are up and at which rate, as the kernel tells."""
    found = []
    for port in sorted(_NET.iterdir()) if _NET.exists() else ():
        # Only what has hardware behind it: bridges and tunnels carry nothing of their own.
        if (port / "device").exists() and _read(port / "operstate") == "up":
            speed = _read(port / "speed")
            found.append(f"ethernet {speed} Mbit/s" if speed.isdigit() else "ethernet of unknown rate")
    for rate in sorted(_INFINIBAND.glob("*/ports/*/rate")) if _INFINIBAND.exists() else ():
        if "ACTIVE" in _read(rate.parent / "state"):
            found.append(f"infiniband {_read(rate)}")
    return tuple(found)


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
