"""Boosted trees as a surrogate of a game, with exact Shapley values of the surrogate.

A leaf of a tree is the game that has the leaf's value where all players of P and none of Q are present, and 0
elsewhere. Its Shapley values have a closed form (interventional TreeSHAP, Lundberg et al. 2020, with the
empty coalition as baseline), so a whole forest costs one pass over its leaves. See docs/methods.md, section
"Estimators".
"""

import json
from typing import Any, NamedTuple

import numpy as np
import xgboost
from numpy.typing import NDArray
from scipy.special import betaln

from apportion.valuation.coalitions import Coalitions, Vector

BOOSTING_ROUNDS = 300
BOOSTER_OPTIONS: dict[str, Any] = {
    "max_depth": 3,  # beside effects of single players the odd part has, first of all, those of three players
    "eta": 0.05,
    "min_child_weight": 2,
    "tree_method": "hist",
    "max_bin": 2,
    "base_score": 0.0,
    "nthread": 1,  # the same trees on any number of cores; nothing is drawn at random
    "verbosity": 0,
}


class Forest(NamedTuple):
    """Trees as the list of their leaves.

    A leaf has its value for the coalitions that hold all of its players with `present` and none of its
    others.
    """

    value: Vector  # (leaves,)
    leaf: NDArray[np.intp]  # (entries,) the leaf that an entry belongs to
    player: NDArray[np.intp]  # (entries,) a player on the path to that leaf
    present: NDArray[np.bool_]  # (entries,) whether the player must be present

    def shapley(self, n: int) -> Vector:
        """Exact Shapley values (n,).

        Where p players of a leaf must be present and q must not, each of the p gets value (p-1)! q! / (p+q)!
        and each of the q loses value p! (q-1)! / (p+q)!: the probability that it decides in a random order of
        arrival.
        """
        p, q = self._path_counts()
        weight = np.where(self.present, _beta(p, q + 1), -_beta(p + 1, q))
        credits = np.bincount(self.player, weights=weight * self.value[self.leaf], minlength=n)
        return credits.astype(np.float64)

    def _path_counts(self) -> tuple[Vector, Vector]:
        """For each entry, how many players must be present for its leaf, and how many must be absent."""
        p = np.bincount(self.leaf, weights=self.present, minlength=len(self.value))
        q = np.bincount(self.leaf, weights=~self.present, minlength=len(self.value))
        return p[self.leaf].astype(np.float64), q[self.leaf].astype(np.float64)


class CrossFit(NamedTuple):
    """A forest for each fold of pairs, trained on the other folds. Predictions are up to a constant."""

    predicted: Vector  # (m,) each row by the forest that was trained on neither it nor its complement
    fitted: Vector  # (m,) each row by the mean of all forests
    forest: Forest  # the mean of all forests


def cross_fit(rows: Coalitions, y: Vector, fold: NDArray[np.intp], main: Vector) -> CrossFit:
    """Forests for y (m,) at rows (m, n) after subtracting main effects.

    main (folds, n): for each fold, the credits that the other folds give. fold (m,): the fold of each row; a
    coalition and its complement must be in one fold, because either predicts the other.
    """
    predicted, fitted = np.empty(len(y)), np.zeros(len(y))
    forests = []
    data = xgboost.DMatrix(rows.astype(np.float32))
    for k, effects in enumerate(main):
        held_out = fold == k
        remainder = y - rows @ effects
        booster, scale = _train(rows[~held_out], remainder[~held_out])
        forest, value = _leaves(booster, scale)
        # The booster's own predictions would be in single precision.
        reached = booster.predict(data, pred_leaf=True).astype(np.intp)
        prediction = value[np.arange(reached.shape[1]), reached].sum(axis=1)
        predicted[held_out] = prediction[held_out]
        fitted += prediction / len(main)
        forests.append(forest._replace(value=forest.value / len(main)))
    return CrossFit(predicted, fitted, _concatenated(forests))


def _train(rows: Coalitions, y: Vector) -> tuple[xgboost.Booster, float]:
    """Trees for y less its mean, in units of its standard deviation, and that unit."""
    scale = float(y.std()) or 1.0
    data = xgboost.DMatrix(rows.astype(np.float32), label=(y - y.mean()) / scale)
    return xgboost.train(BOOSTER_OPTIONS, data, BOOSTING_ROUNDS), scale


def _leaves(booster: xgboost.Booster, scale: float) -> tuple[Forest, Vector]:
    """Every leaf with the players on its path, and the values of all nodes by tree (trees, nodes).

    Splits are at ½, so the left child lacks the player and the right child has it.
    """
    model = json.loads(bytes(booster.save_raw("json")))
    trees = model["learner"]["gradient_booster"]["model"]["trees"]
    nodes = np.zeros((len(trees), max(len(tree["left_children"]) for tree in trees)))
    value: list[float] = []
    entries: list[tuple[int, int, bool]] = []
    for k, tree in enumerate(trees):
        left, right = tree["left_children"], tree["right_children"]
        player, condition = tree["split_indices"], tree["split_conditions"]
        nodes[k, : len(condition)] = scale * np.array(condition)
        paths: list[tuple[int, dict[int, bool]]] = [(0, {})]
        while paths:
            node, path = paths.pop()
            if left[node] < 0:
                entries += [(len(value), i, present) for i, present in path.items()]
                value.append(nodes[k, node])
            else:
                paths.append((left[node], {**path, player[node]: False}))
                paths.append((right[node], {**path, player[node]: True}))
    leaf, who, present = np.array(entries, dtype=np.intp).reshape(-1, 3).T
    return Forest(np.array(value), leaf, who, present.astype(bool)), nodes


def _concatenated(forests: list[Forest]) -> Forest:
    start = np.cumsum([0, *(len(forest.value) for forest in forests)])
    leaf = np.concatenate([forest.leaf + first for forest, first in zip(forests, start, strict=False)])
    value = np.concatenate([forest.value for forest in forests])
    player = np.concatenate([forest.player for forest in forests])
    present = np.concatenate([forest.present for forest in forests])
    return Forest(value, leaf, player, present)


def _beta(a: Vector, b: Vector) -> Vector:
    """(a-1)! (b-1)! / (a+b-1)!. Where a or b is 0, the leaf has no such player and the result is not used."""
    return np.asarray(np.exp(betaln(np.maximum(a, 1), np.maximum(b, 1))), dtype=np.float64)
