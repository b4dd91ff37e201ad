"""Whether a node of the cluster can take the pods of a pool: what it runs, its labels, its taints, and what it has to give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from apportion.config import Pool, Toleration, quantity
from apportion.doctor.checking import Answer, failed, ok, warning

PLATFORM = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
"""What images are for where the pool's node_selector names no other; the kubelet labels its node so."""

BLOCKING = ("NoSchedule", "NoExecute")
ZERO = "a pool that an autoscaler starts from nothing has no node yet: then this is as it should be"


class Taint(NamedTuple):
    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}{'=' if self.value else ''}{self.value}:{self.effect}"


@dataclass(frozen=True)
class Node:
    name: str
    labels: dict[str, str]
    taints: tuple[Taint, ...]
    offers: dict[str, float]


class Miss(NamedTuple):
    """Why a node does not fit, and how either could be changed."""

    why: str
    mend: str


def read(node: Any) -> Node:
    """From the Kubernetes client's model."""
    from kubernetes.utils import parse_quantity

    taints = [Taint(taint.key, taint.value or "", taint.effect) for taint in node.spec.taints or []]
    offers = {name: float(parse_quantity(amount)) for name, amount in (node.status.allocatable or {}).items()}
    return Node(node.metadata.name, dict(node.metadata.labels or {}), tuple(taints), offers)


def fit(name: str, pool: Pool, nodes: Sequence[Node]) -> Answer:
    """How many nodes fit, or what the nearest lacks."""
    missing = {node.name: misses(name, pool, node, nodes) for node in nodes}
    fitting = [node for node, lacks in missing.items() if not lacks]
    if fitting:
        found = f"{_counted(len(fitting), len(nodes))} fit: {', '.join(fitting[:3])}{' …' if len(fitting) > 3 else ''}"
        if foreign := [node.name for node in nodes if missing[node.name] and missing[node.name] == _platform(name, pool, node)]:
            why, mend = missing[foreign[0]][0]
            return warning(f"{found}; but pods may go to {', '.join(foreign[:3])} too, and fail there: {why}", mend)
        return ok(found)
    if not nodes:
        return failed("the cluster has no nodes", ZERO)
    kind = {node.name: pool.accelerator is None or node.offers.get(pool.accelerator, 0.0) > 0 for node in nodes}
    nearest = min(missing, key=lambda node: (not kind[node], len(missing[node]), node))
    why, mend = ("; ".join(said) for said in zip(*missing[nearest], strict=True))
    return failed(f"none of {len(nodes)} nodes fits; nearest is {nearest}: {why}", f"{mend}. {ZERO[0].upper()}{ZERO[1:]}")


def misses(name: str, pool: Pool, node: Node, nodes: Sequence[Node]) -> list[Miss]:
    return [*_platform(name, pool, node), *_labels(name, pool, node, nodes), *_taints(name, pool, node), *_amounts(name, pool, node)]


def _platform(name: str, pool: Pool, node: Node) -> list[Miss]:
    """Kubernetes sends pods to any where no selector says otherwise, and no process starts there."""
    found = []
    for key, ours in PLATFORM.items():
        if key not in pool.node_selector and node.labels.get(key, ours) != ours:
            mend = f"say in cluster.pools.{name}.node_selector what images are for, as {key}: {ours}, or {node.labels[key]} if yours are"
            found.append(Miss(f"{key} is {node.labels[key]}, and images are for {ours}", mend))
    return found


def _labels(name: str, pool: Pool, node: Node, nodes: Sequence[Node]) -> list[Miss]:
    found = []
    for key, value in pool.node_selector.items():
        if node.labels.get(key) != value:
            has = f"it has {node.labels[key]!r}" if key in node.labels else "it has none"
            count = sum(other.labels.get(key) == value for other in nodes)
            mend = f"change cluster.pools.{name}.node_selector, or kubectl label node {node.name} {key}={value}"
            found.append(Miss(f"label {key}={value}: {has}; {_counted(count, len(nodes))} have it", mend))
    return found


def _taints(name: str, pool: Pool, node: Node) -> list[Miss]:
    blocking = [taint for taint in node.taints if taint.effect in BLOCKING and not any(_tolerates(t, taint) for t in pool.tolerations)]
    return [Miss(f"taint {taint} is not tolerated", _toleration(name, taint)) for taint in blocking]


def _toleration(name: str, taint: Taint) -> str:
    if taint.key.startswith("node.kubernetes.io/"):
        return f"see what is wrong with the node ({taint.key.partition('/')[2]}): kubectl describe node"
    how = f"operator: Equal, value: {taint.value}" if taint.value else "operator: Exists"
    return f"add {{key: {taint.key}, {how}, effect: {taint.effect}}} to cluster.pools.{name}.tolerations"


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect not in (None, taint.effect) or toleration.key not in (None, taint.key):
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == taint.value


def _amounts(name: str, pool: Pool, node: Node) -> list[Miss]:
    asked = {"cpu": quantity(pool.cpu), "memory": quantity(pool.memory)}
    options = {"cpu": "cpu", "memory": "memory"}
    if pool.accelerator is not None:
        asked[pool.accelerator], options[pool.accelerator] = pool.accelerators, "accelerator"
    found = []
    for what, amount in asked.items():
        offered = node.offers.get(what, 0.0)
        if offered < amount:
            mend = f"ask for less or other in cluster.pools.{name} ({options[what]})"
            if what == pool.accelerator and not offered:
                mend = f"install the device plugin that offers {what}, or change cluster.pools.{name}.accelerator"
            found.append(Miss(f"{what}: {_amount(offered, what)} of {_amount(amount, what)} asked for", mend))
    return found


def _amount(number: float, what: str) -> str:
    return f"{number / 2**30:.3g} Gi" if what == "memory" else f"{number:g}"


def _counted(some: int, of: int) -> str:
    return f"{some} of {of} nodes"
