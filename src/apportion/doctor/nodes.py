"""Checks whether a node can run the pods of a pool: its platform, labels, taints and resources."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from apportion.config.cluster import Pool, Toleration, quantity
from apportion.doctor.checking import Answer, failed, ok, unknown, warning

PLATFORM = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
"""The platform of images where the pool's node_selector names no other, as labels of a node."""

BLOCKING = ("NoSchedule", "NoExecute")
"""Effects of taints that keep a pod without a toleration away."""

AUTOSCALER = "nothing, where an autoscaler starts the first node of the pool when a pod waits for it"


class Taint(NamedTuple):
    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}{'=' if self.value else ''}{self.value}:{self.effect}"


@dataclass(frozen=True)
class Node:
    """allocatable: amounts by resource; cpu in processors, memory in bytes."""

    name: str
    labels: dict[str, str]
    taints: tuple[Taint, ...]
    allocatable: dict[str, float]


class Mismatch(NamedTuple):
    """Why a pod of the pool cannot run on a node, or fails there, and how to change the pool or the node."""

    reason: str
    fix: str


def read(node: Any) -> Node:
    """A node from the Kubernetes client's model."""
    from kubernetes.utils import parse_quantity

    taints = [Taint(taint.key, taint.value or "", taint.effect) for taint in node.spec.taints or []]
    amounts = node.status.allocatable or {}
    allocatable = {name: float(parse_quantity(amount)) for name, amount in amounts.items()}
    return Node(node.metadata.name, dict(node.metadata.labels or {}), tuple(taints), allocatable)


def fit(name: str, pool: Pool, nodes: Sequence[Node]) -> Answer:
    """How many nodes can run the pods of the pool `name`; where none can, what the closest one lacks.

    The answer is unknown where the pool has no node: it may be scaled to zero, or its description wrong.
    """
    if not nodes:
        return unknown("the cluster has no nodes", AUTOSCALER)
    by_node = {node.name: mismatches(name, pool, node, nodes) for node in nodes}
    fitting = [node for node, reasons in by_node.items() if not reasons]
    if not fitting:
        return _none_fits(pool, nodes, by_node)
    more = " …" if len(fitting) > 3 else ""
    message = f"{_share(len(fitting), len(nodes))} can run its pods: {', '.join(fitting[:3])}{more}"
    # Kubernetes also sends pods to nodes of another platform, where they fail.
    other_platform = [
        node.name
        for node in nodes
        if by_node[node.name] and by_node[node.name] == _platform_mismatches(name, pool, node)
    ]
    if other_platform:
        reason, fix = by_node[other_platform[0]][0]
        others = ", ".join(other_platform[:3])
        return warning(f"{message}; but pods may also be sent to {others}, and fail there: {reason}", fix)
    return ok(message)


def _none_fits(pool: Pool, nodes: Sequence[Node], by_node: dict[str, list[Mismatch]]) -> Answer:
    """The closest node is one with the pool's accelerator, if any, and with the fewest mismatches."""
    has_accelerator = {
        node.name: pool.accelerator is None or node.allocatable.get(pool.accelerator, 0.0) > 0
        for node in nodes
    }
    closest = min(by_node, key=lambda node: (not has_accelerator[node], len(by_node[node]), node))
    reasons = "; ".join(mismatch.reason for mismatch in by_node[closest])
    fixes = "; ".join(mismatch.fix for mismatch in by_node[closest])
    message = f"none of {len(nodes)} nodes can run its pods; the closest is {closest}: {reasons}"
    if any(_belongs(pool, node) for node in nodes):
        return failed(message, fixes)
    return unknown(f"the pool has no node at the moment: {message}", f"{AUTOSCALER}; else {fixes}")


def _belongs(pool: Pool, node: Node) -> bool:
    """Whether a node is one of the pool, as far as its labels say or, where the pool names none, its
    accelerator."""
    if pool.node_selector:
        return all(node.labels.get(key) == value for key, value in pool.node_selector.items())
    return pool.accelerator is None or pool.accelerator in node.allocatable


def mismatches(name: str, pool: Pool, node: Node, nodes: Sequence[Node]) -> list[Mismatch]:
    """All reasons why pods of the pool cannot run on a node; `nodes` are all nodes of the cluster."""
    return [
        *_platform_mismatches(name, pool, node),
        *_label_mismatches(name, pool, node, nodes),
        *_taint_mismatches(name, pool, node),
        *_amount_mismatches(name, pool, node),
    ]


def _platform_mismatches(name: str, pool: Pool, node: Node) -> list[Mismatch]:
    """Kubernetes ignores the platform of an image unless a selector names it, and the pod then fails."""
    result = []
    for key, expected in PLATFORM.items():
        label = node.labels.get(key, expected)
        if key not in pool.node_selector and label != expected:
            fix = (
                f"name the platform of your images in cluster.pools.{name}.node_selector, as {key}: "
                f"{expected} or {label}"
            )
            result.append(Mismatch(f"{key} is {label}, and images are for {expected}", fix))
    return result


def _label_mismatches(name: str, pool: Pool, node: Node, nodes: Sequence[Node]) -> list[Mismatch]:
    result = []
    for key, value in pool.node_selector.items():
        if node.labels.get(key) != value:
            present = f"it has {node.labels[key]!r}" if key in node.labels else "it has none"
            number = sum(other.labels.get(key) == value for other in nodes)
            reason = f"label {key}={value}: {present}; {_share(number, len(nodes))} have it"
            fix = (
                f"change cluster.pools.{name}.node_selector, or kubectl label node {node.name} {key}={value}"
            )
            result.append(Mismatch(reason, fix))
    return result


def _taint_mismatches(name: str, pool: Pool, node: Node) -> list[Mismatch]:
    result = []
    for taint in node.taints:
        tolerated = any(_tolerates(toleration, taint) for toleration in pool.tolerations)
        if taint.effect in BLOCKING and not tolerated:
            result.append(Mismatch(f"taint {taint} is not tolerated", _toleration(name, taint)))
    return result


def _toleration(name: str, taint: Taint) -> str:
    """How to tolerate a taint, or what to check where it shows a problem of the node."""
    if taint.key.startswith("node.kubernetes.io/"):
        problem = taint.key.partition("/")[2]
        return f"check what is wrong with the node ({problem}): kubectl describe node"
    match = f"operator: Equal, value: {taint.value}" if taint.value else "operator: Exists"
    return f"add {{key: {taint.key}, {match}, effect: {taint.effect}}} to cluster.pools.{name}.tolerations"


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    """As Kubernetes matches them: a key or an effect of None matches all."""
    if toleration.effect not in (None, taint.effect) or toleration.key not in (None, taint.key):
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == taint.value


def _amount_mismatches(name: str, pool: Pool, node: Node) -> list[Mismatch]:
    requests = {"cpu": quantity(pool.cpu), "memory": quantity(pool.memory)}
    options = {"cpu": "cpu", "memory": "memory"}
    if pool.accelerator is not None:
        requests[pool.accelerator] = pool.accelerators
        options[pool.accelerator] = "accelerator"
    result = []
    for resource, requested in requests.items():
        allocatable = node.allocatable.get(resource, 0.0)
        if allocatable < requested:
            fix = f"request less, or another resource, in cluster.pools.{name} ({options[resource]})"
            if resource == pool.accelerator and not allocatable:
                fix = (
                    f"install the device plugin that provides {resource}, or change "
                    f"cluster.pools.{name}.accelerator"
                )
            amounts = f"{_amount(allocatable, resource)} of {_amount(requested, resource)} requested"
            result.append(Mismatch(f"{resource}: {amounts}", fix))
    return result


def _amount(number: float, resource: str) -> str:
    return f"{number / 2**30:.3g} Gi" if resource == "memory" else f"{number:g}"


def _share(some: int, total: int) -> str:
    return f"{some} of {total} nodes"
