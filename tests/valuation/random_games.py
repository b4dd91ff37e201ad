"""Random games whose Shapley values are known in closed form, and how often intervals cover these.

`python tests/valuation/random_games.py` prints the coverage table of `intervals.hc3` (half a minute on one
core).
"""

import sys
from dataclasses import dataclass

import numpy as np

from apportion.valuation import ranks, sequential
from apportion.valuation.coalitions import draw
from apportion.valuation.intervals import hc3
from apportion.valuation.shapley import exact, kernelshap, leverage


@dataclass
class Game:
    """v(S) = sum of a over members + b over member pairs + c over member triples."""

    a: np.ndarray
    pairs: np.ndarray
    b: np.ndarray
    triples: np.ndarray
    c: np.ndarray

    def value(self, Z):
        Z = np.atleast_2d(Z).astype(float)
        return Z @ self.a + Z[:, self.pairs].prod(axis=2) @ self.b + Z[:, self.triples].prod(axis=2) @ self.c

    def shapley(self):
        phi = self.a.copy()
        np.add.at(phi, self.pairs, (self.b / 2)[:, None])
        np.add.at(phi, self.triples, (self.c / 3)[:, None])
        return phi


def game(n, rng, interactions=1.0):
    """A game with additive, pairwise and triple parts of similar variance.

    It has 2n pairs and 2n triples, which are scaled by `interactions`.
    """
    pairs = np.array([rng.choice(n, 2, replace=False) for _ in range(2 * n)])
    triples = np.array([rng.choice(n, min(3, n), replace=False) for _ in range(2 * n)])
    b, c = rng.normal(size=2 * n), 1.5 * rng.normal(size=2 * n)
    return Game(rng.normal(size=n), pairs, interactions * b, triples, interactions * c)


NOISE = {
    "even": lambda size, n: np.ones(len(size)),
    "small": lambda size, n: np.where(size <= n // 4, 5.0, 1.0),
    "extremes": lambda size, n: np.where((size == 1) | (size == n - 1), 10.0, 1.0),
    "middle": lambda size, n: np.where(np.minimum(size, n - size) >= n // 3, 5.0, 1.0),
}
"""Relative standard deviation of the noise of evaluation, by coalition size."""


def sampled(g, n, m, rng, seed, noise, where="even"):
    """Coalitions (m, n) of `leverage`, their noisy values (m,), (v0, v1), and the standard deviation of v."""
    Z = draw("leverage", n, m, seed)
    v = g.value(Z)
    endpoints = g.value([[0] * n, [1] * n])
    spread = NOISE[where](Z.sum(axis=1), n)
    scale = v.std() or 1.0
    y = v + noise * scale * spread / np.sqrt(np.mean(spread**2)) * rng.normal(size=m)
    return Z, y, endpoints, scale


def coverage(
    n,
    m,
    games,
    seed=0,
    noise=0.5,
    endpoint_seeds=0,
    interactions=1.0,
    level=0.95,
    where="even",
    off=0.0,
    intervals=hc3,
    endpoint_noise=None,
):
    """How often intervals cover the exact values, and how wide they are.

    Returns the share of (game, player) whose interval contains the exact value, the median width over SD(v),
    and the share of games in which all intervals do. `noise` is a multiple of SD(v) over the design, and
    depends on size as NOISE[where] says. With `endpoint_seeds` > 0, v0 and v1 are measured with so many seeds
    and `endpoint_noise`, by default `noise`. v0 lies `off` SD(v) below the scale of the other values.
    """
    rng = np.random.default_rng(seed)
    covered, width = np.empty((games, n), dtype=bool), np.empty(games)
    for j in range(games):
        g = game(n, rng, interactions)
        Z, y, endpoints, scale = sampled(g, n, m, rng, seed + j, noise, where)
        endpoints = list(endpoints - [off * scale, 0.0])
        truth = g.shapley() + off * scale / n
        if endpoint_seeds:
            errors = (endpoint_noise or noise) * scale * rng.normal(size=(endpoint_seeds, 2))
            endpoints = list((endpoints + errors).T)
        low, high = intervals(Z, y, *endpoints, level)
        covered[j] = (low <= truth) & (truth <= high)
        width[j] = np.mean(high - low) / scale
    return covered.mean(), np.median(width), covered.all(axis=1).mean()


def majorities(n, m, games, seed=0):
    """Intervals in weighted majority games without noise.

    Returns the share of (game, player) whose interval contains the exact value, and the share of games in
    which all intervals are infinite.
    """
    rng = np.random.default_rng(seed)
    every = np.arange(2**n)[:, None] >> np.arange(n) & 1
    covered, unknown = np.empty((games, n), dtype=bool), np.empty(games, dtype=bool)
    for j in range(games):
        votes = rng.pareto(1.0, size=n) + 0.1
        values = (every @ votes > votes.sum() * rng.uniform(0.4, 0.7)).astype(float)
        Z = draw("leverage", n, m, seed + j)
        low, high = hc3(Z, values[Z @ (1 << np.arange(n))], 0.0, 1.0)
        truth = exact(values)
        covered[j] = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
        unknown[j] = np.isinf(low).all()
    return covered.mean(), unknown.mean()


def equal_game(n, rng):
    """A game in which every player has the same credit: any statement about their order is false."""
    return Game(
        np.ones(n), np.zeros((0, 2), dtype=int), np.zeros(0), np.zeros((0, 3), dtype=int), np.zeros(0)
    )


def order_errors(n, m, games, seed=0, noise=0.5, kind=game, where="even", level=0.95):
    """How often `ranks.order` is wrong.

    Returns the share of games with any false statement, with any rank outside its interval, and with any
    credit outside the band, and the share of the true orders that are stated.
    """
    rng, results = np.random.default_rng(seed), np.empty((games, 4))
    for j in range(games):
        g = kind(n, rng)
        Z, y, endpoints, _ = sampled(g, n, m, rng, seed + j, noise, where)
        order, truth = ranks.order(Z, y, *endpoints, level), g.shapley()
        larger = truth[:, None] > truth + 1e-9
        place = 1 + larger.sum(axis=0)
        tied = n - larger.sum(axis=1)  # the last of the places that players with equal credits share
        results[j] = (
            np.any(order.ahead & ~larger),
            np.any((order.lowest > place) | (order.highest < tied)),
            not np.all((order.low <= truth) & (truth <= order.high)),
            np.sum(order.ahead & larger) / max(1, larger.sum()),
        )
    return results.mean(axis=0)


def repeated_looks(n, looks, games, spending=None, seed=0, noise=0.5, level=0.95):
    """How often all looks together are right, with 95 % at each look or with a spending function.

    Returns the share of (game, player) whose true credit is in the intervals of all looks, and the share of
    games of players with equal credits in which no look states an order. That is the level of a procedure
    that stops at the first look with a claim.
    """
    rng, most = np.random.default_rng(seed), looks[-1]
    credits = sequential.levels(looks, level, spending) if spending else np.full(len(looks), level)
    orders = 1 - sequential.spent(looks, level, spending) if spending else credits
    covered, silent = np.ones((games, n), dtype=bool), np.ones(games, dtype=bool)
    for j in range(games):
        g = game(n, rng)
        Z, y, endpoints, _ = sampled(g, n, most, rng, seed + j, noise)
        pure_noise = rng.normal(size=most)
        for m, credit_level, order_level in zip(looks, credits, orders, strict=True):
            low, high = hc3(Z[:m], y[:m], *endpoints, credit_level)
            covered[j] &= (low <= g.shapley()) & (g.shapley() <= high)
            order = ranks.order(Z[:m], pure_noise[:m], 0.0, 0.0, min(order_level, 1 - 1e-12))
            silent[j] &= not order.ahead.any()
    return covered.mean(), silent.mean()


def error(estimate, design, n, m, noise, games, seed=0):
    """Median over games of the centred relative L2 error of an estimator."""
    rng, errors = np.random.default_rng(seed), []
    for j in range(games):
        g = game(n, rng)
        Z = draw(design, n, m, seed + j)
        v = g.value(Z)
        v0, v1 = g.value([[0] * n, [1] * n])
        phi = estimate(Z, v + noise * v.std() * rng.normal(size=m), v0, v1)
        truth = g.shapley()
        difference = phi - truth
        errors.append(np.linalg.norm(difference - difference.mean()) / np.linalg.norm(truth - truth.mean()))
    return np.median(errors)


def main():
    out = sys.stdout.write
    out("  n    m  noise  seeds  interactions  coverage  width/SD  all n covered\n")
    cases = []
    for m in (100, 200, 500):
        cases += [(20, m, 0.5, 0, 1.0), (20, m, 0.5, 3, 1.0), (20, m, 0.5, 0, 0.3)]
    cases += [(12, 48, 0.5, 0, 1.0), (12, 48, 0.5, 3, 1.0), (12, 48, 0.1, 0, 1.0), (12, 48, 0.1, 0, 0.3)]
    for n, m, noise, seeds, interactions in cases:
        single, width, joint = coverage(n, m, 600, 1, noise, seeds, interactions)
        out(f"{n:3d} {m:4d}  {noise:5.1f} {seeds:6d}  {interactions:12.1f}")
        out(f"  {single:8.3f}  {width:8.2f}  {joint:13.2f}\n")
    for n, m, noise in [(20, 100, 0.1), (20, 500, 0.1), (50, 1000, 0.1)]:
        of_leverage = error(leverage, "leverage", n, m, noise, 100)
        of_kernelshap = error(kernelshap, "shapley_kernel", n, m, noise, 100)
        out(f"median error n={n} m={m} noise={noise}: ")
        out(f"leverage {of_leverage:.3f}, kernelshap {of_kernelshap:.3f}\n")


def dealt(Z, sets, rng):
    """The set of each row (m,), as `planning.coalitions.seeds_of` deals them: pairs of each size to the sets
    in turn, from a random start."""
    n = Z.shape[1]
    size = np.minimum(Z[::2].sum(axis=1), n - Z[::2].sum(axis=1))
    earlier = np.array([np.sum(size[:pair] == k) for pair, k in enumerate(size)])
    return np.repeat((rng.integers(sets, size=n + 1)[size] + earlier) % sets, 2)


def set_effects(kind, Z, of_set, rng):
    """What the sets add to the value of each row, (m,), with an expected variance of 1 over coalitions."""
    n = Z.shape[1]
    shape = game(n, rng)
    every_fourth = np.arange(n) % 4 == 0
    parts = {
        "additive": lambda: Z * 1.0,
        "interactions": lambda: np.hstack(
            [Z, Z[:, shape.pairs].all(axis=2), 1.5 * Z[:, shape.triples].all(axis=2)]
        ),
        "uneven": lambda: Z * np.where(every_fourth, 3.0, 1.0),
        "one direction": lambda: (Z @ rng.choice([-1.0, 1.0], size=n))[:, None],
        "average": lambda: Z / Z.sum(axis=1, keepdims=True),
    }[kind]()
    parts = parts / np.sqrt(parts.var(axis=0).sum())
    return np.sum(parts * rng.normal(size=(of_set.max() + 1, parts.shape[1]))[of_set], axis=1)


if __name__ == "__main__":
    main()
