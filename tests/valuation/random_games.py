"""Random games whose Shapley values are known in closed form, and how often an interval covers them.

`python tests/valuation/random_games.py` prints the coverage table of intervals.hc3 (about half a minute on one core)."""

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
    """Additive, pairwise and triple parts of like variance, the last two scaled by `interactions`; 2n pairs and 2n triples."""
    pairs = np.array([rng.choice(n, 2, replace=False) for _ in range(2 * n)])
    triples = np.array([rng.choice(n, min(3, n), replace=False) for _ in range(2 * n)])
    b, c = rng.normal(size=2 * n), 1.5 * rng.normal(size=2 * n)
    return Game(rng.normal(size=n), pairs, interactions * b, triples, interactions * c)


NOISE = {
    "even": lambda size, n: np.ones(len(size)),
    "small": lambda size, n: np.where(size <= n // 4, 5.0, 1.0),
    "ends": lambda size, n: np.where((size == 1) | (size == n - 1), 10.0, 1.0),
    "middle": lambda size, n: np.where(np.minimum(size, n - size) >= n // 3, 5.0, 1.0),
}
"""Where the noise of evaluation is larger: its standard deviation by coalition size, up to a factor."""


def played(g, n, m, rng, seed, noise, where="even"):
    """Coalitions (m, n) of the `leverage` design, their noisy values (m,), v0 and v1, and the scale SD(v) of the noise."""
    Z = draw("leverage", n, m, seed)
    v, ends = g.value(Z), g.value([[0] * n, [1] * n])
    spread, scale = NOISE[where](Z.sum(axis=1), n), v.std() or 1.0
    return Z, v + noise * scale * spread / np.sqrt(np.mean(spread**2)) * rng.normal(size=m), ends, scale


def coverage(
    n, m, games, seed=0, noise=0.5, end_seeds=0, interactions=1.0, level=0.95, where="even", off=0.0, intervals=hc3, end_noise=None
):
    """Share of (game, player) whose interval holds the exact value, median width over SD(v), share of games held for all players.

    `noise` is a multiple of SD(v) over the design, larger `where` NOISE says; `end_seeds` > 0 measures v0 and v1 with that noise, or
    `end_noise`, and that many seeds; v0 lies `off` SD(v) below the others' scale."""
    rng = np.random.default_rng(seed)
    held, width = np.empty((games, n), dtype=bool), np.empty(games)
    for j in range(games):
        g = game(n, rng, interactions)
        Z, y, ends, scale = played(g, n, m, rng, seed + j, noise, where)
        ends = list(ends - [off * scale, 0.0])
        truth = g.shapley() + off * scale / n
        if end_seeds:
            ends = list((ends + (end_noise or noise) * scale * rng.normal(size=(end_seeds, 2))).T)
        low, high = intervals(Z, y, *ends, level)
        held[j], width[j] = (low <= truth) & (truth <= high), np.mean(high - low) / scale
    return held.mean(), np.median(width), held.all(axis=1).mean()


def majorities(n, m, games, seed=0):
    """Share of (game, player) whose interval holds in weighted majorities without noise, and share of games without any interval."""
    rng, every = np.random.default_rng(seed), np.arange(2**n)[:, None] >> np.arange(n) & 1
    held, unknown = np.empty((games, n), dtype=bool), np.empty(games, dtype=bool)
    for j in range(games):
        votes = rng.pareto(1.0, size=n) + 0.1
        game = (every @ votes > votes.sum() * rng.uniform(0.4, 0.7)).astype(float)
        Z = draw("leverage", n, m, seed + j)
        (low, high), truth = hc3(Z, game[Z @ (1 << np.arange(n))], 0.0, 1.0), exact(game)
        held[j], unknown[j] = (low <= truth + 1e-12) & (truth - 1e-12 <= high), np.isinf(low).all()
    return held.mean(), unknown.mean()


def alike(n, rng):
    """A game in which every player has the same credit, whatever is stated about their order is false, and all is noise."""
    return Game(np.ones(n), np.zeros((0, 2), dtype=int), np.zeros(0), np.zeros((0, 3), dtype=int), np.zeros(0))


def stated(n, m, games, seed=0, noise=0.5, kind=game, where="even", level=0.95):
    """Of `ranks.order`: share of games with any false statement, with a rank outside its interval or a credit outside the band, and
    share of the true orders that are stated."""
    rng, found = np.random.default_rng(seed), np.empty((games, 4))
    for j in range(games):
        g = kind(n, rng)
        Z, y, ends, _ = played(g, n, m, rng, seed + j, noise, where)
        order, truth = ranks.order(Z, y, *ends, level), g.shapley()
        larger = truth[:, None] > truth + 1e-9
        place = 1 + larger.sum(axis=0)
        tied = n - larger.sum(axis=1)  # the last of the places that players alike share
        found[j] = (
            np.any(order.ahead & ~larger),
            np.any((order.lowest > place) | (order.highest < tied)),
            not np.all((order.low <= truth) & (truth <= order.high)),
            np.sum(order.ahead & larger) / max(1, larger.sum()),
        )
    return found.mean(axis=0)


def peeked(n, looks, games, spending=None, seed=0, noise=0.5, level=0.95):
    """Of looks at 95 % each, or as `spending` allows: share of (game, player) whose true credit no look's interval leaves out, and
    share of games of players alike in which no look states an order. So much is kept by whoever stops when there is a claim to make."""
    rng, most = np.random.default_rng(seed), looks[-1]
    credits = sequential.levels(looks, level, spending) if spending else np.full(len(looks), level)
    orders = 1 - sequential.spent(looks, level, spending) if spending else credits
    held, silent = np.ones((games, n), dtype=bool), np.ones(games, dtype=bool)
    for j in range(games):
        g = game(n, rng)
        Z, y, ends, _ = played(g, n, most, rng, seed + j, noise)
        noisy = rng.normal(size=most)
        for m, one, all_ in zip(looks, credits, orders, strict=True):
            low, high = hc3(Z[:m], y[:m], *ends, one)
            held[j] &= (low <= g.shapley()) & (g.shapley() <= high)
            silent[j] &= not ranks.order(Z[:m], noisy[:m], 0.0, 0.0, min(all_, 1 - 1e-12)).ahead.any()
    return held.mean(), silent.mean()


def error(estimate, design, n, m, noise, games, seed=0):
    """Median over games of the centred relative L2 error of an estimator."""
    rng, errors = np.random.default_rng(seed), []
    for j in range(games):
        g = game(n, rng)
        Z = draw(design, n, m, seed + j)
        v, (v0, v1) = g.value(Z), g.value([[0] * n, [1] * n])
        phi, truth = estimate(Z, v + noise * v.std() * rng.normal(size=m), v0, v1), g.shapley()
        gap = phi - truth
        errors.append(np.linalg.norm(gap - gap.mean()) / np.linalg.norm(truth - truth.mean()))
    return np.median(errors)


def main():
    out = sys.stdout.write
    out("  n    m  noise  ends  interactions  coverage  width/SD  all n held\n")
    cases = [(20, m, 0.5, ends, inter) for m in (100, 200, 500) for ends, inter in ((0, 1.0), (3, 1.0), (0, 0.3))]
    for n, m, noise, ends, inter in [*cases, (12, 48, 0.5, 0, 1.0), (12, 48, 0.5, 3, 1.0), (12, 48, 0.1, 0, 1.0), (12, 48, 0.1, 0, 0.3)]:
        held, width, both = coverage(n, m, 600, 1, noise, ends, inter)
        out(f"{n:3d} {m:4d}  {noise:5.1f} {ends:5d}  {inter:12.1f}  {held:8.3f}  {width:8.2f}  {both:10.2f}\n")
    for n, m, noise in [(20, 100, 0.1), (20, 500, 0.1), (50, 1000, 0.1)]:
        ours, theirs = error(leverage, "leverage", n, m, noise, 100), error(kernelshap, "shapley_kernel", n, m, noise, 100)
        out(f"median error n={n} m={m} noise={noise}: leverage {ours:.3f}, kernelshap on its own design {theirs:.3f}\n")


if __name__ == "__main__":
    main()
