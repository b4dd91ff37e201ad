"""Boosted trees as a stand-in for a game, with exact Shapley values and interactions.

A tree's leaf is the game that is worth its value where all players of P and none of Q are there. Its Shapley values and interactions have
closed forms (interventional TreeSHAP, Lundberg et al. 2020, against nobody), so a whole forest costs one pass over its leaves."""

import json
from typing import Any, NamedTuple

import numpy as np
import xgboost
from numpy.typing import NDArray
from scipy.special import betaln

from apportion.valuation.coalitions import Coalitions, Vector

ROUNDS = 300
SHAPE: dict[str, Any] = {
    "max_depth": 3,  # three players together are what the odd part has beside single ones
    "eta": 0.05,
    "min_child_weight": 2,
    "tree_method": "hist",
    "max_bin": 2,
    "base_score": 0.0,
    "nthread": 1,  # the same trees on any number of cores; and none of it is drawn at random, which names of players would decide
    "verbosity": 0,
}


class Forest(NamedTuple):
    """Trees as their leaves: a leaf is worth its value to the coalitions that hold every player `there` and no other that it names."""

    value: Vector  # (leaves,)
    leaf: NDArray[np.intp]  # (entries,) the leaf that names a player
    player: NDArray[np.intp]  # (entries,)
    there: NDArray[np.bool_]  # (entries,)

    def shapley(self, n: int) -> Vector:
        """Exact Shapley values (n,). Of p players that must be there and q that must not, each of the p gets value (p-1)! q! / (p+q)!
        and each of the q loses value p! (q-1)! / (p+q)!: the chance that it is the one to decide, all orders being equally likely."""
        p, q = self._named()
        chance = np.where(self.there, _beta(p, q + 1), -_beta(p + 1, q))
        return np.bincount(self.player, weights=chance * self.value[self.leaf], minlength=n).astype(np.float64)

    def interactions(self, n: int) -> Vector:
        """Exact Shapley interaction indices of all pairs (n, n), symmetric, 0 on the diagonal (Grabisch & Roubens 1999)."""
        p, q = self._named()
        one, other = _both(self.leaf)
        p, q, value = p[one], q[one], self.value[self.leaf[one]]
        a, b = self.there[one], self.there[other]
        chance = np.where(a & b, _beta(p - 1, q + 1), np.where(a | b, -_beta(p, q), _beta(p + 1, q - 1)))
        found = np.zeros((n, n))
        np.add.at(found, (self.player[one], self.player[other]), chance * value)
        return found + found.T

    def _named(self) -> tuple[Vector, Vector]:
        """For each entry, how many players its leaf wants there and how many not."""
        p = np.bincount(self.leaf, weights=self.there, minlength=len(self.value))
        q = np.bincount(self.leaf, weights=~self.there, minlength=len(self.value))
        return p[self.leaf].astype(np.float64), q[self.leaf].astype(np.float64)


class CrossFit(NamedTuple):
    """A forest for each fold of pairs, grown on the others. Predictions leave a constant out."""

    predicted: Vector  # (m,) each row by the forest that saw neither it nor its complement
    fitted: Vector  # (m,) each row by the mean of all forests
    forest: Forest  # the mean of all forests


def cross_fit(rows: Coalitions, y: Vector, fold: NDArray[np.intp], main: Vector) -> CrossFit:
    """Forests of what is left of y (m,) at rows (m, n) after main effects, main (folds, n): the credits that the other folds give.

    fold (m,) must have a coalition and its complement in one fold: one of them would tell the other."""
    predicted, fitted, grown = np.empty(len(y)), np.zeros(len(y)), []
    data = xgboost.DMatrix(rows.astype(np.float32))
    for k, effects in enumerate(main):
        part = fold == k
        left = y - rows @ effects
        booster, scale = _grow(rows[~part], left[~part])
        forest, value = _leaves(booster, scale)
        at = booster.predict(data, pred_leaf=True).astype(np.intp)  # predictions themselves would be in single precision
        everywhere = value[np.arange(at.shape[1]), at].sum(axis=1)
        predicted[part] = everywhere[part]
        fitted += everywhere / len(main)
        grown.append(forest._replace(value=forest.value / len(main)))
    return CrossFit(predicted, fitted, _together(grown))


def _grow(rows: Coalitions, y: Vector) -> tuple[xgboost.Booster, float]:
    """Trees for y less its mean, in units of its standard deviation, and that unit."""
    scale = float(y.std()) or 1.0
    data = xgboost.DMatrix(rows.astype(np.float32), label=(y - y.mean()) / scale)
    return xgboost.train(SHAPE, data, ROUNDS), scale


def _leaves(booster: xgboost.Booster, scale: float) -> tuple[Forest, Vector]:
    """Every leaf with the players on its path, and the values of all nodes by tree (trees, nodes).

    A split is at ½, so its left child lacks the player and its right child has it."""
    model = json.loads(bytes(booster.save_raw("json")))
    trees = model["learner"]["gradient_booster"]["model"]["trees"]
    nodes = np.zeros((len(trees), max(len(tree["left_children"]) for tree in trees)))
    value: list[float] = []
    entries: list[tuple[int, int, bool]] = []
    for k, tree in enumerate(trees):
        left, right, player, at = (tree[key] for key in ("left_children", "right_children", "split_indices", "split_conditions"))
        nodes[k, : len(at)] = scale * np.array(at)
        paths: list[tuple[int, dict[int, bool]]] = [(0, {})]
        while paths:
            node, path = paths.pop()
            if left[node] < 0:
                entries += [(len(value), i, there) for i, there in path.items()]
                value.append(nodes[k, node])
            else:
                paths += [(left[node], {**path, player[node]: False}), (right[node], {**path, player[node]: True})]
    leaf, who, there = np.array(entries, dtype=np.intp).reshape(-1, 3).T
    return Forest(np.array(value), leaf, who, there.astype(bool)), nodes


def _together(forests: list[Forest]) -> Forest:
    start = np.cumsum([0, *(len(forest.value) for forest in forests)])
    leaf = np.concatenate([forest.leaf + first for forest, first in zip(forests, start, strict=False)])
    value, player, there = (np.concatenate([getattr(forest, part) for forest in forests]) for part in ("value", "player", "there"))
    return Forest(value, leaf, player, there)


def _beta(a: Vector, b: Vector) -> Vector:
    """(a-1)! (b-1)! / (a+b-1)!; where a or b is 0 it is of a player that its leaf does not name, and not used."""
    return np.asarray(np.exp(betaln(np.maximum(a, 1), np.maximum(b, 1))), dtype=np.float64)


def _both(leaf: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All pairs of entries that name two players of one leaf; the entries of a leaf stand together."""
    depth = np.bincount(leaf).max(initial=0)
    near = [(np.arange(len(leaf) - k), np.arange(k, len(leaf))) for k in range(1, depth)]
    same = [(one[leaf[one] == leaf[other]], other[leaf[one] == leaf[other]]) for one, other in near]
    empty = np.empty(0, dtype=np.intp)
    return tuple(np.concatenate([empty, *(pair[k] for pair in same)]) for k in (0, 1))  # type: ignore[return-value]
