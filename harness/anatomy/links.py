"""What a collective costs over links of given latency and bandwidth, and presets of well-known links. Pure.

The model is Hockney's (Parallel Computing 20, 1994): a message of S bytes takes latency + S / bandwidth. Collectives
are rings (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69, 2009; the same factors as nccl-tests' busbw). Over
several nodes they are done in two levels, in the node and between nodes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from harness.errors import HarnessError, unknown


class ForecastError(HarnessError):
    """What a forecast was asked of makes no sense, or is not enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A way for messages, in each of two directions at once."""

    name: str
    latency_s: float
    """Of one message from a rank to the next, whatever its size."""
    bytes_per_s: float
    """What is achieved, in each direction; may be infinite."""
    nominal_bytes_per_s: float | None = None
    """What it is sold as, in each direction; None where that is not known."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise ForecastError(f"link {self.name}: latency of {self.latency_s} s; it must be 0 or more")
        for rate in (self.bytes_per_s, self.nominal_bytes_per_s):
            if rate is not None and not rate > 0:
                raise ForecastError(f"link {self.name}: {rate} bytes/s; a rate must be more than 0")

    @property
    def achieved(self) -> float | None:
        """What is achieved as a share of the nominal rate."""
        return self.bytes_per_s / self.nominal_bytes_per_s if self.nominal_bytes_per_s else None

    def at_rate(self, nominal_bytes_per_s: float, name: str) -> Link:
        """Return the like link of another nominal rate: the same share of it is achieved, at the same latency.

        Raises:
            ForecastError: this one's nominal rate is not known.
        """
        if self.achieved is None:
            raise ForecastError(f"link {self.name}: its nominal rate is not known, so there is no share to keep")
        return replace(
            self,
            name=name,
            bytes_per_s=self.achieved * nominal_bytes_per_s,
            nominal_bytes_per_s=nominal_bytes_per_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """How GPUs are joined."""

    node: Link
    """Between the GPUs of a node, to and from each."""
    by_kind: Mapping[str, Link] = field(default_factory=dict)
    """Instead of `node`, where a kind of collective was measured for itself."""
    gpus_per_node: int | None = None
    """None is one node of any size."""
    between: Link | None = None
    """Of one network port of a node."""
    ports_per_node: int = 1

    def __post_init__(self) -> None:
        if (self.gpus_per_node is None) != (self.between is None):
            raise ForecastError("a fabric of several nodes needs both: GPUs per node, and the link between nodes")
        if self.ports_per_node < 1 or (self.gpus_per_node is not None and self.gpus_per_node < 1):
            raise ForecastError(
                f"{self.gpus_per_node} GPUs and {self.ports_per_node} ports per node; at least 1 of each"
            )

    def at_rate(self, nominal_bytes_per_s: float, name: str) -> Fabric:
        """Return the like fabric with its slowest links, those between nodes or else all, at another nominal rate.

        Raises:
            ForecastError: their nominal rate is not known.
        """
        if self.between is not None:
            return replace(self, between=self.between.at_rate(nominal_bytes_per_s, name))
        by_kind = {kind: link.at_rate(nominal_bytes_per_s, name) for kind, link in self.by_kind.items()}
        return replace(self, node=self.node.at_rate(nominal_bytes_per_s, name), by_kind=by_kind)

    @property
    def words(self) -> str:
        """The fabric in words."""
        text = _words(self.node)
        for kind, link in self.by_kind.items():
            text += f"; {kind} {_words(link)}"
        if self.between is not None:
            ports = f"{self.ports_per_node} x " if self.ports_per_node > 1 else ""
            text += f"; between nodes of {self.gpus_per_node} GPUs {ports}{_words(self.between)}"
        return text


def _words(link: Link) -> str:
    of = f", {link.achieved:.0%} of nominal" if link.achieved is not None else ""
    return f"{link.name} ({link.bytes_per_s / 1e9:.3g} GB/s each way{of}, {link.latency_s * 1e6:.3g} us a message)"


def ring(kind: str, ranks: int) -> tuple[int, float]:
    """Return of a ring collective the messages after one another, and the share of its size S that each link carries.

    S is nccl-tests' size: of all-gather and reduce-scatter the whole over ranks. Broadcast and reduce go in chunks, so
    that all links of the chain carry the whole at once.

    Raises:
        ForecastError: the kind is not known, or there are no ranks.
    """
    if ranks < 1:
        raise ForecastError(f"a collective of {ranks} ranks; there must be at least 1")
    others = ranks - 1
    known = {
        "all_reduce": (2 * others, 2 * others / ranks),
        "all_gather": (others, others / ranks),
        "reduce_scatter": (others, others / ranks),
        "broadcast": (others, float(others > 0)),
        "reduce": (others, float(others > 0)),
    }
    if kind not in known:
        raise ForecastError(unknown("model of the collective", kind, known))
    return known[kind]


def seconds(kind: str, *, calls: float, size_bytes: float, ranks: int, fabric: Fabric) -> float:
    """Return the seconds of some calls of a collective, one after the other.

    Within a node a ring. Over m nodes of g GPUs: the ring of g in each node, and between nodes, for each of the g parts
    at the same time, the collective of m. Those share the node's ports, so that together they are one of the whole
    size over all ports. There an all-reduce is the faster of a ring and of a tree, which NCCL has for no other kind
    (double binary trees: 2 ceil(log2 m) messages, each port carries 2 S; Sanders et al., Parallel Computing 35, 2009).

    Args:
        kind: `all_reduce`, `all_gather`, `reduce_scatter`, `broadcast` or `reduce`.
        calls: how many; a mean may be broken.
        size_bytes: nccl-tests' size S, over all calls together.
        ranks: that take part.
        fabric: that joins them.

    Raises:
        ForecastError: the kind is not known, a number is negative, or the ranks do not fill their nodes.
    """
    if not (calls >= 0 and size_bytes >= 0):
        raise ForecastError(f"{kind}: {calls} calls of {size_bytes} bytes; neither can be negative")
    in_node = min(ranks, fabric.gpus_per_node or ranks)
    if ranks % in_node:
        raise ForecastError(f"{ranks} ranks do not fill nodes of {in_node} GPUs; ask for a multiple")
    total = _cost(ring(kind, in_node), fabric.by_kind.get(kind, fabric.node), calls, size_bytes)
    nodes = ranks // in_node
    if fabric.between is None or nodes == 1:
        return total
    between = replace(fabric.between, bytes_per_s=fabric.between.bytes_per_s * fabric.ports_per_node)
    ways = [ring(kind, nodes)]
    if kind == "all_reduce":
        ways.append((2 * math.ceil(math.log2(nodes)), 2.0))
    return total + min(_cost(way, between, calls, size_bytes) for way in ways)


def _cost(way: tuple[int, float], link: Link, calls: float, size_bytes: float) -> float:
    messages, share = way
    return calls * messages * link.latency_s + share * size_bytes / link.bytes_per_s


def fitted(
    kind: str,
    *,
    ranks: int,
    latency_s: float,
    algbw_bytes_per_s: float,
    name: str = "measured",
    nominal_bytes_per_s: float | None = None,
) -> Link:
    """Return the link that a sweep of a collective was run over.

    Args:
        kind: of the collective.
        ranks: in the sweep, at least 2.
        latency_s: of a whole call of size 0: the intercept of the line fitted to seconds over size S.
        algbw_bytes_per_s: the inverse of that line's slope.
        name: of the link.
        nominal_bytes_per_s: what it is known to be set to.

    Raises:
        ForecastError: the kind is not known, one rank, or figures that are no link's.
    """
    messages, share = ring(kind, ranks)
    if not messages:
        raise ForecastError("1 rank moves nothing, so no link can be seen; sweep with at least 2")
    return Link(
        name=name,
        latency_s=latency_s / messages,
        bytes_per_s=algbw_bytes_per_s * share,
        nominal_bytes_per_s=nominal_bytes_per_s,
    )


def _preset(name: str, *, gbit_per_s: float, achieved: float, latency_us: float) -> Link:
    nominal = gbit_per_s * 1e9 / 8
    return Link(name=name, latency_s=latency_us * 1e-6, bytes_per_s=achieved * nominal, nominal_bytes_per_s=nominal)


# Nominal rates. PCIe x16: 8, 16 and 32 GT/s a lane in 128b/130b coding (PCI-SIG base specifications 3.0, 4.0, 5.0).
# NVLink: 25 GB/s a link and direction, 6 links on V100, 12 on A100, 18 on H100, and 18 of 50 GB/s on B200 (NVIDIA's
# architecture papers). InfiniBand HDR and NDR over 4 lanes: 200 and 400 Gbit/s (IBTA). Ethernet by its name.
#
# Achieved shares. NVLink and PCIe: what NCCL reckons with (src/graph/topo.h): 20.0 of 25 GB/s a link on V100 and A100,
# 20.6 on H100, 40.1 of 50 on B200; PCI_BW 12.0 of 15.75 GB/s, taken for the later generations too. InfiniBand: 23.5 of
# 25 and 48.5 of 50 GB/s (SimAI, astra-sim-alibabacloud, calbusbw.h: CX6_BW, CX7_BW). Ethernet: TCP's payload in full
# frames, 1448 of 1538 bytes; a bound that 100 Gbit/s seldom meets with few sockets.
#
# Latencies, of one message of a ring: NCCL's table (src/graph/tuning.cc, hwLat, Ring, Simple): 3.4 us over NVLink, 5.7
# over PCIe, 14 over a network. TCP's is assumed: 30 us, about half a round trip between sockets of two hosts.
PRESETS: Mapping[str, Link] = {
    link.name: link
    for link in (
        _preset("pcie3", gbit_per_s=16 * 8 * 128 / 130, achieved=0.76, latency_us=5.7),
        _preset("pcie4", gbit_per_s=16 * 16 * 128 / 130, achieved=0.76, latency_us=5.7),
        _preset("pcie5", gbit_per_s=16 * 32 * 128 / 130, achieved=0.76, latency_us=5.7),
        _preset("nvlink2", gbit_per_s=8 * 6 * 25, achieved=0.80, latency_us=3.4),
        _preset("nvlink3", gbit_per_s=8 * 12 * 25, achieved=0.80, latency_us=3.4),
        _preset("nvlink4", gbit_per_s=8 * 18 * 25, achieved=0.824, latency_us=3.4),
        _preset("nvlink5", gbit_per_s=8 * 18 * 50, achieved=0.802, latency_us=3.4),
        _preset("hdr", gbit_per_s=200, achieved=0.94, latency_us=14.0),
        _preset("ndr", gbit_per_s=400, achieved=0.97, latency_us=14.0),
        _preset("10g", gbit_per_s=10, achieved=0.941, latency_us=30.0),
        _preset("25g", gbit_per_s=25, achieved=0.941, latency_us=30.0),
        _preset("100g", gbit_per_s=100, achieved=0.941, latency_us=30.0),
    )
}


def preset(name: str) -> Link:
    """Return a preset link.

    Raises:
        ForecastError: there is none of that name.
    """
    if name not in PRESETS:
        raise ForecastError(unknown("link", name, PRESETS))
    return PRESETS[name]


def fabric(text: str) -> Fabric:
    """Return the fabric that a person names: `nvlink4`, or of nodes `nvlink4*8+ndr*4`: 8 GPUs and 4 ports in each.

    Raises:
        ForecastError: it reads otherwise, or there is no such link.
    """
    found = re.fullmatch(r"(\w+)(?:\*([1-9]\d*)\+(\w+)(?:\*([1-9]\d*))?)?", text)
    if not found:
        raise ForecastError(f"{text!r} is no fabric; write nvlink4, or of nodes of 8 GPUs and 4 ports nvlink4*8+ndr*4")
    node, gpus, between, ports = found.groups()
    return Fabric(
        node=preset(node),
        gpus_per_node=int(gpus) if gpus else None,
        between=preset(between) if between else None,
        ports_per_node=int(ports or 1),
    )
