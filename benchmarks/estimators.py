"""How far each estimator's credits are from the truth, on random games whose Shapley values are known.

    .venv/bin/python benchmarks/estimators.py                     # the table of METHODS, about ten minutes on one core
    .venv/bin/python benchmarks/estimators.py --harder            # the same with pairs and triples twice as strong
    .venv/bin/python benchmarks/estimators.py offscale speed

Median over games of |centred credits - centred truth| / |centred truth|. Games: additive with pairs and triples (random_games.game of
the tests); for 258 players additive with a quarter of n times the square root of the share of players. Noise is in standard deviations of
the value. `kernelshap` is the paper's solver on the paper's design; shapiq's estimators draw coalitions of their own, as many, of the
same game with noise of the same size.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import shapiq
from numpy.typing import NDArray

from apportion.valuation.coalitions import draw, size_shares
from apportion.valuation.shapley import kernelshap, leverage, tree_residual

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "valuation"))
from random_games import Game, game  # type: ignore[import-not-found]

Array = NDArray[np.float64]
CASES = {(20, 100, 0.1): 60, (20, 500, 0.1): 40, (50, 1000, 0.1): 24, (50, 200, 1.0): 24, (258, 600, 0.1): 6, (258, 1000, 0.1): 6}
ASKED = {(20, 100): (0.77, 0.28), (20, 500): (0.32, 0.085), (50, 1000): (0.26, 0.11)} | {
    (50, 200): (1.70, 0.77), (258, 600): (2.50, 0.63), (258, 1000): (1.80, 0.48)
}  # fmt: skip
OURS = {"kernelshap": (kernelshap, "shapley_kernel"), "leverage": (leverage, "leverage"), "tree_residual": (tree_residual, "leverage")}
THEIRS = {"KernelSHAP": shapiq.KernelSHAP, "SVARM": shapiq.SVARM, "permutation": shapiq.PermutationSamplingSV}


class SizeGame:
    """v(S) = sum of a over members + n/4 times the square root of the share of players."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.a, self.n = rng.normal(size=n), n

    def value(self, Z: NDArray[np.bool_]) -> Array:
        rows = np.atleast_2d(Z).astype(np.float64)
        return np.asarray(rows @ self.a + 0.25 * self.n * np.sqrt(rows.mean(axis=1)))

    def shapley(self) -> Array:
        return np.asarray(self.a + 0.25)


def played(n: int, rng: np.random.Generator, strength: float) -> "Game | SizeGame":
    return SizeGame(n, rng) if n > 100 else game(n, rng, strength)


def centred(phi: Array) -> Array:
    return phi - phi.mean()


def off(phi: Array, truth: Array) -> float:
    return float(np.linalg.norm(centred(phi - truth)) / np.linalg.norm(centred(truth)))


def ours(g: "Game | SizeGame", name: str, n: int, m: int, noise: float, seed: int) -> Array:
    estimate, design = OURS[name]
    Z = draw(design, n, m, seed)
    v, (v0, v1) = g.value(Z), g.value(np.array([[False] * n, [True] * n]))
    return estimate(Z, v + noise * v.std() * np.random.default_rng([seed, 1]).normal(size=m), v0, v1)


def theirs(g: "Game | SizeGame", name: str, n: int, m: int, noise: float, seed: int) -> Array:
    """One of shapiq's estimators with m evaluations of its own choice beside nobody and everybody, which are without noise as for us."""
    scale, rng = noise * g.value(draw("leverage", n, 200, seed)).std(), np.random.default_rng([seed, 1])

    def value(Z: NDArray[np.bool_]) -> Array:
        rows = np.atleast_2d(Z)
        proper = rows.any(axis=1) & ~rows.all(axis=1)
        return np.asarray(g.value(rows) + scale * proper * rng.normal(size=len(rows)))

    found = THEIRS[name](n, random_state=seed).approximate(m + 2, value)
    return np.array([found[(i,)] for i in range(n)])


def table(strength: float) -> None:
    names = [*OURS, *(f"shapiq {name}" for name in THEIRS)]
    print("  n     m noise games  asked (paper's)  " + "  ".join(f"{name:>18}" for name in names))
    for (n, m, noise), games in CASES.items():
        rng, errors = np.random.default_rng(0), []
        for seed in range(games):
            g = played(n, rng, strength)
            mine = [off(ours(g, name, n, m, noise, seed), g.shapley()) for name in OURS]
            errors.append(mine + [off(theirs(g, name, n, m, noise, seed), g.shapley()) for name in THEIRS])
        paper, most = ASKED[n, m]
        found = "  ".join(f"{value:18.3f}" for value in np.median(errors, axis=0))
        print(f"{n:3} {m:5} {noise:5} {games:5}  {most:5} ({paper:5.2f})     {found}", flush=True)


def plain(Z: NDArray[np.bool_], y: Array, v0: float, v1: float) -> Array:
    """Leverage SHAP as published: the constrained weighted fit and nothing beside it."""
    m, n = Z.shape
    size = Z.sum(axis=1)
    w = (size_shares("shapley_kernel", n, m) / np.maximum(size_shares("leverage", n, m), np.finfo(float).tiny))[size]
    U = Z - size[:, None] / n
    share = (v1 - v0) / n
    return np.asarray(share + np.linalg.pinv((U.T * w) @ U) @ (U.T @ (w * (y - v0 - size * share))))


def offscale() -> None:
    """What fitting functions of coalition size beside the credits is worth where nobody's value lies off the scale."""
    print("  n    m  noise  v0 off by   published  leverage  tree_residual")
    for n, m, noise, far in [(12, 48, 0.5, far) for far in (0, 5, 20)] + [(20, 100, 0.1, 0), (20, 500, 0.1, 0), (20, 500, 0.1, 20)]:
        rng, found = np.random.default_rng(0), []
        for seed in range(60):
            g, Z = game(n, rng), draw("leverage", n, m, seed)
            v, (v0, v1) = g.value(Z), g.value([[0] * n, [1] * n])
            data = (Z, v + noise * v.std() * rng.normal(size=m), float(v0 - far * v.std()), float(v1))
            found.append([off(fit(*data), g.shapley()) for fit in (plain, leverage, tree_residual)])
        print(f"{n:3} {m:4} {noise:6} {far:7} SD " + " ".join(f"{value:10.3f}" for value in np.median(found, axis=0)), flush=True)


def speed() -> None:
    """Seconds on one core (set OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1), best of three, and the process's memory at its peak."""
    cases = [("leverage", leverage, 258, 1000), ("tree_residual", tree_residual, 258, 1000), ("leverage", leverage, 10_000, 2000)]
    for name, estimate, n, m in cases:
        Z = draw("leverage", n, m, 0)
        y, taken = Z @ np.random.default_rng(0).normal(size=n), []
        for _ in range(3):
            start = time.perf_counter()
            estimate(Z, y, 0.0, 1.0)
            taken.append(time.perf_counter() - start)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:14} n = {n:6} m = {m:5}: {min(taken):6.2f} s, peak of the process so far {memory:.2f} GiB", flush=True)


PARTS: dict[str, Callable[[], None]] = {"offscale": offscale, "speed": speed}


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("parts", nargs="*", metavar="|".join(PARTS), help="instead of the table")
    told.add_argument("--harder", action="store_true", help="pairs and triples twice as strong")
    asked = told.parse_args()
    for part in asked.parts:
        PARTS[part]()
    if not asked.parts:
        table(2.0 if asked.harder else 1.0)


if __name__ == "__main__":
    main()
